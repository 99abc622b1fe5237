"""Names that some disks take for one, and those that ours in `.cache` must not meet."""

import json
import logging

import pytest
from trees import write_tree

import modelkit_assets as ma


@pytest.fixture
def file(tmp_path):
    (tmp_path / "file").write_text("1")
    return tmp_path / "file"


@pytest.fixture
def ignore_case(assets_dir, monkeypatch):
    """Let the assets dir be on a disk that ignores case.

    None can be mounted here: each path below it is written small instead.
    """
    local_path = ma._local_path

    def fold(root, part):
        below = root.startswith(str(assets_dir))
        return local_path(root, part.casefold() if below else part)

    return lambda: monkeypatch.setattr(ma, "_local_path", fold)


@pytest.mark.parametrize("other", ["nlp/Bert", "NLP/bert", "nlp/BERT"])
@pytest.mark.parametrize("dry_run", [False, True])
def test_an_asset_whose_name_differs_in_case_alone_is_refused(
    store, provider, file, other, dry_run
):
    provider.new(file, "nlp/bert")
    before = store.list_objects()
    with pytest.raises(ma.AssetAlreadyExistsError, match="choose another name"):
        provider.new(file, other, dry_run=dry_run)
    assert store.list_objects() == before
    assert provider.update(file, "nlp/bert") == "0.1"
    assert provider.new(file, "nlp/bert2") == "0.0"


def put_both(store, file):
    """Put two assets into a store that differ in case alone, as older programs may."""
    provider = ma.StorageProvider()
    provider.new(file, "nlp/bert")
    for name, data in store.read_objects().items():
        store.write_object(name.replace("bert", "Bert"), data)
    changed = file.with_name("changed")
    changed.write_text("2")
    provider.update(changed, "nlp/Bert")
    return provider


def test_one_asset_is_never_served_for_another_on_a_disk_that_ignores_case(
    store, manager, assets_dir, file
):
    put_both(store, file)
    (assets_dir / "nlp").mkdir()
    (assets_dir / "nlp" / "Bert").symlink_to("bert")  # as such a disk takes them
    assert manager.fetch_asset("nlp/bert:0.0")
    for _ in range(2):  # a fresh process, and one that has seen it
        with pytest.raises(ma.AssetsDirError, match="copy of 'nlp/bert'.*'nlp/Bert'"):
            ma.AssetsManager(assets_dir).fetch_asset("nlp/Bert:0.0")
    assert manager.fetch_asset("nlp/bert:0.0", return_info=True)["from_cache"]
    # nor without a store
    offline = ma.AssetsManager(assets_dir, storage_provider=None)
    offline.storage_provider = None
    with pytest.raises(ma.AssetsDirError, match="takes for"):
        offline.fetch_asset("nlp/Bert:0.0")


@pytest.mark.parametrize("pair", [("Model.bin", "model.bin"), ("A/x", "a/X")])
def test_files_that_the_disk_takes_for_one_are_an_error_and_no_hit(
    store, provider, manager, assets_dir, tmp_path, ignore_case, pair
):
    folder = write_tree(tmp_path / "folder", {"other": b"0", pair[0]: b"1"})
    provider.new(folder, "x")
    name = "modelkit-assets/x/0.0.meta"
    manifest = json.loads(store.read_object(name))
    entry = next(one for one in manifest["files"] if one["path"] == pair[0])
    manifest["files"].append({**entry, "path": pair[1]})
    manifest["contents"].append(pair[1])
    store.write_object(name, json.dumps(manifest).encode())
    store.write_object(f"modelkit-assets/x/0.0/{pair[1]}", b"1")
    ignore_case()
    for _ in range(2):
        with pytest.raises(ma.AssetsDirError, match="two names in the asset for one"):
            manager.fetch_asset("x:0.0")
    assert not (assets_dir / "x" / "0.0").exists()


@pytest.mark.parametrize(
    "one, other",
    [
        ("a", "a.lock/b"),
        ("a", "a.LOCK/b"),
        ("a.lock", "a.lock.lock/b"),
        ("x", "CACHEDIR.TAG/x"),
        ("x", "cachedir.tag/x"),
        ("x", "staging/x"),
    ],
)
def test_no_asset_is_in_the_way_of_ours_in_the_cache(
    provider, manager, assets_dir, file, one, other
):
    for order in ((one, other), (other, one)):
        for name in order:
            if name not in dict(provider.iterate_assets()):
                provider.new(file, name)
            manager.fetch_asset(name, force_download=True)
    own = assets_dir / ".cache"
    assert (own / "CACHEDIR.TAG").is_file()
    assert {path.name for path in (own / "staging").iterdir()} == set()


@pytest.mark.parametrize("name", ["a", "nlp/bert", "x.lock"])
def test_locks_lie_where_modelkit_has_them(name):
    assert ma._name_lock(name) == f"{name}.lock"


@pytest.fixture
def other_store(provider, file, tmp_path):
    """A second store, with other bytes under the name that the first one has."""
    provider.new(file, "x")
    (tmp_path / "second").mkdir()
    (tmp_path / "other").write_text("22")
    second = ma.StorageProvider(provider="local", bucket=tmp_path / "second")
    second.new(tmp_path / "other", "x")
    return second


def test_a_hit_on_a_copy_from_another_store_is_said_once(
    manager, assets_dir, other_store, caplog
):
    path = manager.fetch_asset("x:0.0")
    assert not caplog.records
    other = ma.AssetsManager(assets_dir, storage_provider=other_store)
    for _ in range(2):
        with caplog.at_level(logging.WARNING):
            assert other.fetch_asset("x:0.0") == path
    (record,) = caplog.records
    first, second = (one._cache.store for one in (manager, other))
    assert f"is from {first!r}, and {second!r} is configured" in record.getMessage()
    caplog.clear()
    other.fetch_asset("x:0.0", force_download=True)
    ma.AssetsManager(assets_dir, storage_provider=other_store).fetch_asset("x:0.0")
    assert not caplog.records
    with open(path) as file:
        assert file.read() == "22"


def test_verify_and_info_say_which_store_a_copy_is_from(
    manager, assets_dir, other_store, capsys, monkeypatch
):
    manager.fetch_asset("x:0.0")
    monkeypatch.setenv("MODELKIT_STORAGE_BUCKET", other_store.driver.bucket)
    monkeypatch.setenv("MODELKIT_ASSETS_DIR", str(assets_dir))
    assert ma.main(["verify", "x:0.0"]) == 0
    assert capsys.readouterr().err.count(f"is from {manager._cache.store!r}") == 1
    assert ma.main(["info", "x:0.0"]) == 0
    assert f"copied_from: {manager._cache.store}\n" in capsys.readouterr().out


@pytest.mark.parametrize("origin", [1, None, [], {}, {"store": 1, "name": []}, "x"])
def test_a_marker_may_say_anything_of_its_origin(
    manager, provider, assets_dir, file, origin
):
    provider.new(file, "x")
    manager.fetch_asset("x")
    marker = assets_dir / "x" / ".0.0.SUCCESS"
    document = json.loads(marker.read_text())
    assert document["copy_of"] == {"store": manager._cache.store, "name": "x"}
    marker.write_text(json.dumps({**document, "copy_of": origin}))
    ma.AssetsManager(assets_dir).fetch_asset("x:0.0")
