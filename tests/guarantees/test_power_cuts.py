"""A power cut at any moment: what is published is there, what is cached is right."""

from __future__ import annotations

import fcntl
import functools
import os
import shutil
import struct
import subprocess
from pathlib import Path

import attacks
import harness
import powercut
import pytest
from harness import NAME
from trees import File, Tree, read_files, write_tree

import modelkit_assets as ma

ONE_WORKER = {"MODELKIT_STORAGE_WORKERS": "1"}
FILE: Tree = {"": File(b"weights " * 5000)}
FOLDER: Tree = {
    "config.json": File(b'{"layers": 2}'),
    "deep/er/vocab.txt": File(b"a\nb\n"),
    "run.sh": File(b"echo run\n" * 4000, executable=True),
}
OTHER: Tree = {**FOLDER, "config.json": File(b'{"layers": 3}')}
trees = attacks.parametrize("tree", [FILE, FOLDER], ids=["file", "folder"])


def publish(method: str, source: Path, store: Path) -> str:
    make = functools.partial(harness.make_provider, store)
    return harness.publish(make, method, source, NAME)


def fetch(store: Path, spec: str, force: bool, assets_dir: Path) -> str:
    make = functools.partial(harness.make_provider, store)
    return harness.fetch(make, assets_dir, spec, force)


def read(store: Path, assets_dir: Path) -> dict[str, Tree]:
    """Return all that a reader with an empty assets dir finds published."""
    assets_dir.mkdir()
    provider = harness.make_provider(store)
    manager = ma.AssetsManager(assets_dir, 5, provider)
    found = {}
    for name, versions in provider.iterate_assets():
        assert name == NAME
        for version in versions:
            found[version] = read_files(manager.fetch_asset(f"{name}:{version}"))
    shutil.rmtree(assets_dir)
    return found


@trees
@attacks.parametrize("method", ["new", "update"])
def test_a_commit_that_was_reported_survives_and_nothing_is_half_there(
    tmp_path: Path, tree: Tree, method: str
) -> None:
    template, published = tmp_path / "store", dict[str, Tree]()
    template.mkdir()
    if method == "update":
        publish("new", write_tree(tmp_path / "earlier", OTHER), template)
        published["0.0"] = OTHER
    version = "0.1" if published else "0.0"
    operation = functools.partial(
        publish, method, write_tree(tmp_path / "source", tree)
    )
    ends = 0
    for cut, store, is_reported in powercut.each_cut(
        template, operation, environ=ONE_WORKER
    ):
        found = read(store, tmp_path / "assets")
        whole = {**published, version: tree}
        assert found in ((whole,) if is_reported else (published, whole)), cut
        ends += is_reported
        # and the next push gets through
        assert publish("update" if found else "new", tmp_path / "source", store)
    assert ends == len(powercut.CUTS)


class Start:
    """What is in the assets dir before a fetch."""

    COLD, REPLACED, PART, MODELKITS = "cold", "replaced", "part", "modelkits"


STARTS = [Start.COLD, Start.REPLACED, Start.PART, Start.MODELKITS]


@attacks.parametrize(
    ("tree", "start"),
    [(FILE, Start.COLD), (FILE, Start.REPLACED), *((FOLDER, one) for one in STARTS)],
    ids=["file-cold", "file-replaced", *(f"folder-{one}" for one in STARTS)],
)
def test_what_a_cut_leaves_of_a_copy_is_never_served_unless_it_is_right(
    tmp_path: Path, tree: Tree, start: str
) -> None:
    store, template = tmp_path / "store", tmp_path / "assets"
    store.mkdir()
    template.mkdir()
    publish("new", write_tree(tmp_path / "source", tree), store)
    path = template / NAME / "0.0"
    if start in (Start.REPLACED, Start.PART):
        part = "[config.json]" if start == Start.PART else ""
        fetch(store, f"{NAME}:0.0{part}", False, template)
    if start == Start.MODELKITS:
        write_tree(path, tree)
        (path / ".SUCCESS").touch()
    operation = functools.partial(fetch, store, f"{NAME}:0.0", start == Start.REPLACED)
    served = 0
    for cut, assets_dir, is_reported in powercut.each_cut(
        template, operation, environ=ONE_WORKER
    ):
        served += serves_offline(assets_dir, tree)
        got = fetch(store, f"{NAME}:0.0", False, assets_dir)
        assert read_files(got) == tree, (cut, is_reported)
        assert serves_offline(assets_dir, tree)
    assert served


def serves_offline(assets_dir: Path, tree: Tree) -> bool:
    """Tell whether a copy with a marker is served without a store; it is right then."""
    manager = ma.AssetsManager(assets_dir)
    assert manager.storage_provider is None
    if not list(manager.iterate_copies()):
        return False  # data alone is what somebody put there, as in an image
    try:
        path = manager.fetch_asset(f"{NAME}:0.0")
    except (ma.LocalAssetDoesNotExistError, ma.AssetIntegrityError):
        return False
    assert read_files(path) == tree
    return True


# ------------------------------------------------------------------- a real disk

_SHUTDOWN, _NO_LOG_FLUSH = 0x8004587D, 2  # FS_IOC_SHUTDOWN, of linux/fs.h


class Disk:
    """An ext4 file system on a loop device, whose power can be cut."""

    def __init__(self, folder: Path, options: str) -> None:
        self._image, self.path = folder / "image", folder / "disk"
        self._options = f"loop,{options}"
        self.path.mkdir()
        with open(self._image, "wb") as file:
            file.truncate(96 << 20)
        subprocess.run(["mkfs.ext4", "-q", self._image], check=True)
        self._mount()

    def _mount(self) -> None:
        command = ["mount", "-o", self._options, self._image, self.path]
        subprocess.run(command, check=True, capture_output=True)

    def cut(self) -> None:
        """Cut the power, and start the machine again."""
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            flag = struct.pack("I", _NO_LOG_FLUSH)
            fcntl.ioctl(descriptor, _SHUTDOWN, flag)
        finally:
            os.close(descriptor)
        self.close()
        self._mount()

    def close(self) -> None:
        # what we had left open would keep it
        subprocess.run(["umount", self.path], check=True)


@pytest.fixture(params=["defaults", "noauto_da_alloc,data=writeback"])
def disk(tmp_path: Path, request: pytest.FixtureRequest) -> Disk:
    try:
        disk = Disk(tmp_path, request.param)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no ext4 on a loop device: {error}")
    request.addfinalizer(disk.close)
    return disk


@attacks.parametrize("tree", [FILE, FOLDER], ids=["file", "folder"])
def test_on_a_real_disk_a_cut_after_each_step_loses_nothing_that_was_reported(
    disk: Disk, tmp_path: Path, tree: Tree
) -> None:
    sources = [write_tree(tmp_path / "one", OTHER), write_tree(tmp_path / "two", tree)]
    store, assets_dir = disk.path / "store", disk.path / "assets"
    store.mkdir()
    assets_dir.mkdir()
    os.sync()  # up to here, it is the test's own
    publish("new", sources[0], store)
    disk.cut()
    assert read(store, tmp_path / "reader") == {"0.0": OTHER}
    publish("update", sources[1], store)
    disk.cut()
    assert read(store, tmp_path / "reader") == {"0.0": OTHER, "0.1": tree}
    for spec, content in ((f"{NAME}:0.0", OTHER), (f"{NAME}:0.1", tree)):
        fetch(store, spec, False, assets_dir)
        disk.cut()
        manager = ma.AssetsManager(assets_dir)
        for copy in manager.iterate_copies():
            assert manager.verify(f"{NAME}:{copy.version}") == []
        assert read_files(fetch(store, spec, False, assets_dir)) == content
        fetch(store, spec, True, assets_dir)
        disk.cut()
        assert read_files(fetch(store, spec, False, assets_dir)) == content
