"""modelkit 0.1.3 and this program, by the names that both have, and what they publish.

Imported only where modelkit is installed: the group `modelkit`.
"""

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import filelock
import modelkit.assets.cli
import modelkit.assets.manager
import modelkit.assets.remote
import pytest
from click.testing import CliRunner
from trees import read_tree, write_tree

import modelkit_assets as ma

NAME, PREFIX = "nlp/thing", "modelkit-assets"


class Side(NamedTuple):
    """One of the two programs, by the names that both have."""

    module: str
    AssetsManager: Any
    StorageProvider: Any
    lock_error: type


OURS = Side(
    "modelkit_assets", ma.AssetsManager, ma.StorageProvider, ma.AssetLockTimeoutError
)
MODELKIT = Side(
    "modelkit.assets.manager",
    modelkit.assets.manager.AssetsManager,
    modelkit.assets.remote.StorageProvider,
    filelock.Timeout,
)
SIDES = [pytest.param(OURS, id="ours"), pytest.param(MODELKIT, id="modelkit")]


def make_content(kind, label):
    """Return what a version holds: bytes, or {path: bytes}."""
    if kind == "file":
        return label.encode() * 1000
    return {
        "config.json": b"{}",
        "empty.txt": b"",
        "nested/deep/a b.txt": b"a b",
        "nested/deep/vocab.txt": label.encode() * 1000,
        "nested/data.bin": bytes(range(256)),
    }


def write(path, content):
    path.write_bytes(content) if isinstance(content, bytes) else write_tree(
        path, content
    )
    return str(path)


def read(path):
    return read_tree(path) if os.path.isdir(path) else Path(path).read_bytes()


def put_in_store(store, kind, versions):
    """Write what modelkit lays out for these versions, past both programs."""
    objects = {f"{NAME}.versions": json.dumps({"versions": versions[::-1]}).encode()}
    for version in versions:
        content = make_content(kind, version)
        meta = {"push_date": "2021-11-14T18:00:00+00:00", "is_directory": False}
        if kind == "file":
            objects[f"{NAME}/{version}"] = content
        else:
            meta.update(is_directory=True, contents=sorted(content))
            objects.update(
                {f"{NAME}/{version}/{part}": content[part] for part in content}
            )
        objects[f"{NAME}/{version}.meta"] = json.dumps(meta).encode()
    for name, data in objects.items():
        store.write_object(f"{PREFIX}/{name}", data)


def run_command(side, command, *arguments):
    """Run `new` or `update` of one of the two, and agree to what it asks."""
    if side is OURS:
        assert ma.main([command, *arguments, "--yes"]) == 0
    else:
        cli = modelkit.assets.cli.assets_cli
        runner, arguments = CliRunner(), [command, *arguments]
        done = runner.invoke(cli, arguments, input="y\n", catch_exceptions=False)
        assert done.exit_code == 0, done.output


def list_versions(store):
    return json.loads(store.read_object(f"{PREFIX}/{NAME}.versions"))["versions"]


def fetch(side, assets_dir, spec, **how):
    manager = side.AssetsManager(str(assets_dir))
    return manager.fetch_asset(spec, return_info=True, **how)
