"""What the core promises of a local store holds on each server, killed at any step."""

import functools
import itertools
import json
import logging

import attacks
import harness
import pytest
from stores import SERVER_STORES, AzuriteStore, GcsStore, MotoStore, RcloneStore
from trees import read_tree, write_tree

import modelkit_assets as ma

pytestmark = pytest.mark.server

PROVIDER = "modelkit_assets:StorageProvider"
ATOMIC_STORES = [
    pytest.param(store, id=store.kind.__name__)
    for store in (MotoStore, AzuriteStore, GcsStore)
]


@attacks.parametrize("after", [False, True], ids=["just_before", "just_after"])
@attacks.parametrize("kind", SERVER_STORES)
def test_a_killed_publication_is_never_half_visible_and_can_be_completed(
    tmp_path, make_store, assets_dir, kind, after
):
    store = make_store(kind)
    files = {"a": b"1" * 1000, "b/c": b"2", "empty/": b""}
    source = write_tree(tmp_path / "source", files)
    provider, manager = ma.StorageProvider(), ma.AssetsManager()
    setup = {
        "driver": functools.partial(ma._load_driver, store.provider),
        "among": harness.STEPS_OF_DRIVER,
        "after": after,
        "environ": {**store.environ, "MODELKIT_STORAGE_WORKERS": "1"},
    }
    for step in itertools.count(1):
        name = f"killed/at-{step}"
        call = (harness.publish, PROVIDER, "new", source, name)
        outcome = harness.run(*call, die_at=step, **setup)
        if not outcome.killed:
            assert outcome.get() == "0.0"
            break
        if name in dict(provider.iterate_assets()):
            assert read_tree(manager.fetch_asset(name)) == files
        else:
            assert provider.new(source, name) == "0.0"
            assert read_tree(manager.fetch_asset(name)) == files
        assert provider.get_versions_info(name) == ["0.0"]
    assert step > 8
    below = f"{provider.prefix}/killed/at-1"
    assert sorted(n for n in store.list_objects() if n.startswith(below + "/")) == [
        f"{below}/0.0.meta",
        f"{below}/0.0/a",
        f"{below}/0.0/b/c",
    ]


def publish_and_read_log(tmp_path, caplog):
    (tmp_path / "file").write_text("1")
    provider = ma.StorageProvider()
    with caplog.at_level(logging.WARNING, logger="modelkit_assets"):
        provider.new(tmp_path / "file", "x")
        provider.update(tmp_path / "file", "x")
    assert provider.get_versions_info("x") == ["0.1", "0.0"]
    return [record.getMessage() for record in caplog.records]


def test_a_store_that_ignores_conditions_is_told_of_once(tmp_path, make_store, caplog):
    store = make_store(RcloneStore)
    (warning,) = publish_and_read_log(tmp_path, caplog)
    assert "ignores conditional writes" in warning
    assert "concurrent publishers" in warning
    objects = store.read_objects()  # nothing was lost, nothing left behind
    assert sorted(objects) == [
        "modelkit-assets/x.versions",
        "modelkit-assets/x/0.0",
        "modelkit-assets/x/0.0.meta",
        "modelkit-assets/x/0.1",
        "modelkit-assets/x/0.1.meta",
    ]
    assert json.loads(objects["modelkit-assets/x/0.0.meta"])["format"] == 1


@attacks.parametrize("kind", ATOMIC_STORES)
def test_a_store_that_honours_conditions_is_not_told_of(
    tmp_path, make_store, caplog, kind
):
    make_store(kind)
    assert publish_and_read_log(tmp_path, caplog) == []


def test_a_store_that_ignores_conditions_never_replaces_what_is_there(
    tmp_path, make_store
):
    store = make_store(RcloneStore)
    (tmp_path / "file").write_text("1")
    ma.StorageProvider().new(tmp_path / "file", "x")
    before = store.read_objects()
    (tmp_path / "file").write_text("2")
    provider = ma.StorageProvider()
    for publish in (
        lambda: provider.new(tmp_path / "file", "x"),
        lambda: provider.update(tmp_path / "file", "x", "0.0"),
    ):
        with pytest.raises(ma.AssetAlreadyExistsError):
            publish()
    assert store.read_objects() == before
