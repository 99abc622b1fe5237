"""Publishers of one content, one of which hangs meanwhile, and stores with damage."""

from __future__ import annotations

import functools
import json
import shutil
from contextlib import suppress
from pathlib import Path

import attacks
import harness
import pytest
from harness import NAME
from trees import File, Tree, read_files, write_tree

import modelkit_assets as ma

ONE_WORKER = {"MODELKIT_STORAGE_WORKERS": "1"}
TREE: Tree = {"a": File(b"a" * 3000), "b": File(b"b" * 2000), "c/d": File(b"d")}
# of the same sizes, so that nothing but the digests tells them apart
LATER: Tree = {"a": File(b"A" * 3000), "b": File(b"B" * 2000), "c/d": File(b"D")}
LARGER: Tree = {**TREE, "b": File(b"b" * 9000)}


def publish(source: Path, store: Path) -> str:
    make = functools.partial(harness.make_provider, store)
    return harness.publish(make, "new", source, NAME)


def read(store: Path, version: str, assets_dir: Path) -> Tree:
    """Return what a reader with an empty assets dir gets."""
    assets_dir.mkdir()
    manager = ma.AssetsManager(assets_dir, 5, harness.make_provider(store))
    tree = read_files(manager.fetch_asset(f"{NAME}:{version}"))
    shutil.rmtree(assets_dir)
    return tree


def name_contents(store: Path, version: str) -> dict[str, str]:
    """Return the etags of a version's objects, by name."""
    objects = ma.LocalDriver(store).iterate_objects(f"modelkit-assets/{NAME}/{version}")
    return {name: etag for name, _, etag in objects}


@attacks.parametrize("later", [LATER, LARGER], ids=["same sizes", "other sizes"])
def test_a_twin_that_goes_on_after_its_source_changed_harms_no_listed_version(
    tmp_path: Path, later: Tree
) -> None:
    """A hung CI job, and its re-run: the one goes on when the other has published."""
    template, source = tmp_path / "store", tmp_path / "source"
    template.mkdir()
    write_tree(source, TREE)

    def overtake(store: Path) -> tuple[str, dict[str, str]]:
        version = "0.0"
        with suppress(ma.AssetAlreadyExistsError):  # where the other was through
            version = publish(source, store)
        shutil.rmtree(source)
        write_tree(source, later)
        return version, name_contents(store, version)

    overtaken = 0
    for store, (version, before), outcome in harness.each_overtaking(
        template, functools.partial(publish, source), overtake, environ=ONE_WORKER
    ):
        overtaken += 1
        versions = dict(harness.make_provider(store).iterate_assets())[NAME]
        assert version in versions
        # nor are they replaced by equal bytes, which a fetch under way would notice
        assert name_contents(store, version) == before
        assert read(store, version, tmp_path / "reader") == TREE
        if not outcome.error and outcome.value != version:
            assert read(store, outcome.value, tmp_path / "reader") in (TREE, later)
        shutil.rmtree(source)
        write_tree(source, TREE)
    assert overtaken > 10


@pytest.mark.parametrize("damage", [b"", b"a" * 2999, b"a" * 3001])
def test_an_update_does_not_copy_damage_on(tmp_path: Path, damage: bytes) -> None:
    store = tmp_path / "store"
    store.mkdir()
    source = write_tree(tmp_path / "source", TREE)
    publish(source, store)
    (store / "modelkit-assets" / NAME / "0.0" / "a").write_bytes(damage)
    assert harness.make_provider(store).update(source, NAME) == "0.1"
    assert read(store, "0.1", tmp_path / "reader") == TREE


@pytest.mark.parametrize("left", [b"", b"a" * 2999, b"a" * 3001])
def test_what_is_wrong_in_a_version_that_is_not_listed_is_replaced(
    tmp_path: Path, left: bytes
) -> None:
    store = tmp_path / "store"
    store.mkdir()
    source = write_tree(tmp_path / "source", TREE)
    publish(source, store)
    (store / "modelkit-assets" / f"{NAME}.versions").unlink()
    (store / "modelkit-assets" / NAME / "0.0" / "a").write_bytes(left)
    assert publish(source, store) == "0.0"
    assert read(store, "0.0", tmp_path / "reader") == TREE


def test_no_path_of_a_file_assets_manifest_leads_out(tmp_path: Path) -> None:
    store, assets_dir = tmp_path / "store", tmp_path / "assets"
    for folder in (store, assets_dir):
        folder.mkdir()
    publish(write_tree(tmp_path / "source", {"": File(b"1")}), store)
    meta = store / "modelkit-assets" / NAME / "0.0.meta"
    manifest = json.loads(meta.read_bytes())
    manifest["empty_directories"] = ["vocab.txt/../../../../ESCAPED"]
    meta.write_bytes(json.dumps(manifest).encode())
    manager = ma.AssetsManager(assets_dir, 5, harness.make_provider(store))
    with pytest.raises(ma.AssetIntegrityError):
        manager.fetch_asset(NAME)
    assert not list(tmp_path.rglob("ESCAPED"))
