"""Local copies are deleted, and nothing else ever is."""

import functools
import json
import shutil
from contextlib import suppress
from pathlib import Path

import attacks
import harness
import pytest
from stores import LocalStore
from trees import File, Tree, list_entries, read_bytes, read_files, snapshot, write_tree

import modelkit_assets as ma

NAME = "nlp/model"
FOLDER: Tree = {"a": File(b"one"), "sub/b": File(b"two" * 999, executable=True)}
FILE: Tree = {"": File(b"weights" * 999)}
TREES = {"file": FILE, "folder": FOLDER}
ONE_WORKER = {"MODELKIT_STORAGE_WORKERS": "1"}


@pytest.fixture(params=TREES.values(), ids=TREES)
def tree(request):
    return request.param


@pytest.fixture
def store(tmp_path, tree):
    """A store with two versions of one asset."""
    store = tmp_path / "store"
    store.mkdir()
    source = write_tree(tmp_path / "source", tree)
    provider = harness.make_provider(store)
    provider.new(str(source), NAME)
    provider.update(str(source), NAME)
    return store


@pytest.fixture
def assets_dir(tmp_path, store):
    """An assets dir with copies of both."""
    folder = tmp_path / "assets"
    folder.mkdir()
    for version in ("0.0", "0.1"):
        fetch(store, folder, version)
    return folder


def fetch(store: Path, assets_dir: Path, version: str = "0.0") -> str:
    make = functools.partial(harness.make_provider, store)
    return harness.fetch(make, assets_dir, f"{NAME}:{version}")


def remove(assets_dir: Path) -> list:
    return ma.AssetsManager(assets_dir, 10).remove(f"{NAME}:0.0")


def prune(assets_dir: Path) -> list:
    return ma.AssetsManager(assets_dir, 10).prune(1)


deletions = pytest.mark.parametrize("delete", [remove, prune])


def check(assets_dir: Path, store: Path, tree: Tree) -> None:
    """Check that each reader sees 0.1, and of 0.0 all or nothing."""
    for seen in (
        harness.read_assets_dir_as_modelkit(assets_dir),
        harness.read_ours(assets_dir, [(NAME, "0.0"), (NAME, "0.1")]),
    ):
        assert seen.pop((NAME, "0.1")) in (tree, read_bytes(tree))
        assert all(one in (tree, read_bytes(tree)) for one in seen.values())


@deletions
def test_the_others_stay(assets_dir, tree, delete):
    assert list(map(str, delete(assets_dir))) == [f"{NAME}:0.0"]
    seen = harness.read_assets_dir_as_modelkit(assets_dir)
    assert seen == {(NAME, "0.1"): read_bytes(tree)}
    assert not [one for one in list_entries(assets_dir) if "0.0" in one]
    assert list((assets_dir / ".cache" / "staging").iterdir()) == []


@attacks.parametrize(
    ("delete", "after"), [(remove, False), (remove, True), (prune, False)]
)
def test_a_killed_deletion_leaves_all_or_nothing_and_can_be_completed(
    store, assets_dir, tree, delete, after
):
    deaths = 0
    for _, folder in harness.each_death(assets_dir, delete, after):
        deaths += 1
        check(folder, store, tree)
        with suppress(ma.AssetDoesNotExistError):  # it had come so far
            delete(folder)
        seen = harness.read_assets_dir_as_modelkit(folder)
        assert seen == {(NAME, "0.1"): read_bytes(tree)}
        assert fetch(store, folder) == str(folder / NAME / "0.0")
        check(folder, store, tree)
        assert list((folder / ".cache" / "staging").iterdir()) == []
    assert deaths > 5


@pytest.mark.attack
def test_a_deletion_that_overtakes_a_fetch_harms_neither(store, assets_dir, tree):
    operation = functools.partial(fetch_again, store)
    overtaken = 0
    for folder, _, outcome in harness.each_overtaking(
        assets_dir, operation, functools.partial(try_to, remove), flock=False,
        environ=ONE_WORKER,
    ):  # fmt: skip
        overtaken += 1
        assert outcome.get() == str(folder / NAME / "0.0")
        check(folder, store, tree)
        fetch(store, folder)
        assert read_files(folder / NAME / "0.0") == tree
    assert overtaken > 10


def fetch_again(store: Path, assets_dir: Path) -> str:
    make = functools.partial(harness.make_provider, store)
    return harness.fetch(make, assets_dir, f"{NAME}:0.0", force=True)


def try_to(delete, assets_dir: Path) -> None:
    with suppress(ma.AssetDoesNotExistError, ma.AssetLockTimeoutError):
        delete(assets_dir)


@pytest.mark.attack
@pytest.mark.parametrize("again", [False, True], ids=["fetch", "forced"])
def test_a_fetch_that_overtakes_a_deletion_harms_neither(
    store, assets_dir, tree, again
):
    overtake = functools.partial(fetch_again if again else fetch, store)
    overtaken = 0
    for folder, path, outcome in harness.each_overtaking(
        assets_dir, remove, overtake, flock=False
    ):
        overtaken += 1
        assert path == str(folder / NAME / "0.0")
        outcome.get()
        check(folder, store, tree)
        fetch(store, folder)
        assert read_files(folder / NAME / "0.0") == tree
    assert overtaken > 5


def fetch_often(store: Path, assets_dir: Path, tree: Tree) -> int:
    """Fetch and read again and again; return how often what was fetched was whole."""
    whole = 0
    for _ in range(40):
        path = fetch(store, assets_dir)
        try:
            for part, data in read_bytes(tree).items():
                assert Path(path, *filter(None, [part])).read_bytes() == data
            whole += 1
        except FileNotFoundError:
            pass  # deleted in between
    return whole


def delete_often(delete, assets_dir: Path) -> None:
    for _ in range(40):
        try_to(delete, assets_dir)


@attacks.parametrize("flock", [True, False], ids=["flock", "no_flock"])
@deletions
def test_fetches_and_deletions_at_once_harm_nobody(
    store, assets_dir, tree, delete, flock
):
    calls = [(fetch_often, store, assets_dir, tree)] * 4
    calls += [(delete_often, delete, assets_dir)] * 4
    outcomes = harness.run_together(calls, flock=flock)
    assert sum(outcome.get() or 0 for outcome in outcomes) > 10
    check(assets_dir, store, tree)
    fetch(store, assets_dir)
    assert read_files(assets_dir / NAME / "0.0") == tree
    assert list((assets_dir / ".cache" / "staging").iterdir()) == []


# ------------------------------------------------------------------- what is owned


@pytest.fixture
def local(make_store, tmp_path):
    """A configured store with assets of every kind, and an assets dir among others."""
    store = make_store(LocalStore)
    provider = ma.StorageProvider()
    source = write_tree(tmp_path / "src", {"a": b"1", "b/c": b"2", "empty/": b""})
    for name in ("one", "deep/er/two"):
        for method in (provider.new, provider.update, provider.update):
            method(source, name)
    provider.new(source / "a", "file")
    provider.update(source / "a", "file")
    return store


# what else people keep in the folders that we work in, at the names that we use
OTHERS = {
    "README": b"", "one/notes.txt": b"", "one/9.9": b"unmarked", "other/1.0/x": b"1",
    "other/1.0.meta": b"1", ".cache/other/data": b"", ".cache/pip/wheel": b"2",
    "deep/er/.hidden": b"3", "deep/er/two/1.x/y": b"4", "deep/.7.7.SUCCESS": b"",
    ".git/config": b"5", "one/not-a-version/.SUCCESS": b"", "file/.modelkit": b"6",
    "empty/": b"",
}  # fmt: skip


def test_nothing_but_copies_and_staging_is_ever_deleted(
    local, assets_dir_of_others, tmp_path
):
    before = keep(tmp_path)
    manager = ma.AssetsManager()
    specs = ("one", "one:0.0", "deep/er/two:0", "deep/er/two:0.0[b/c]", "file:0.0")
    for spec in (*specs, "file"):
        manager.fetch_asset(spec)
        manager.fetch_asset(spec, force_download=True)
    provider = manager.storage_provider
    for name in ("one", "file"):
        provider.update(tmp_path / "src", name)
    provider.new(tmp_path / "src", "new")
    provider.download("one", "0.0", tmp_path / "destination")
    manager.fetch_asset("one")
    for spec in ("one:0.0", "other", "other:1.0", "one:9.9", "new"):
        try_to(lambda spec: ma.AssetsManager().remove(spec), spec)
    manager.prune(1)
    try_to(lambda _: manager.remove("file"), None)
    after = keep(tmp_path)
    for path, state in before.items():
        if not path.endswith((".versions", "CACHEDIR.TAG", ".lock")):
            assert after[path] == state, path
    left = dict(manager._cache.iterate_copies())
    assert left == {"deep/er/two": ["0.2"], "one": ["0.3"]}


@pytest.fixture
def assets_dir_of_others(tmp_path, monkeypatch):
    folder = write_tree(tmp_path / "assets", OTHERS)
    monkeypatch.setenv("MODELKIT_ASSETS_DIR", str(folder))
    return folder


def keep(folder: Path) -> dict:
    """Return a snapshot, without the times of folders, in which we write."""
    return {
        path: (mode, time if data is not None else 0, data)
        for path, (mode, time, data) in snapshot(folder).items()
    }


def test_every_kind_of_other_file_would_be_missed(assets_dir_of_others):
    before = keep(assets_dir_of_others)
    for name in OTHERS:
        path = assets_dir_of_others / name.rstrip("/")
        path.rmdir() if name.endswith("/") else path.unlink()
        assert before != (before := keep(assets_dir_of_others))


def test_the_store_is_never_deleted_from(local, assets_dir_of_others, monkeypatch):
    objects = set(local.list_objects())
    ma.AssetsManager().fetch_asset("one")
    manager = ma.AssetsManager()
    manager.remove("one")
    manager.prune(1)
    ma.StorageProvider().update(assets_dir_of_others / "README", "one")
    assert objects < set(local.list_objects())


# ------------------------------------------------------------------- what is said


def test_what_would_be_deleted_is_said_and_stays(local, tmp_path, monkeypatch):
    (tmp_path / "dir").mkdir()
    manager = ma.AssetsManager(tmp_path / "dir")
    for version in ("0.0", "0.1", "0.2"):
        manager.fetch_asset(f"one:{version}")
    before = snapshot(tmp_path / "dir")
    assert list(map(str, manager.remove("one:0.1", dry_run=True))) == ["one:0.1"]
    assert list(map(str, manager.prune(1, dry_run=True))) == ["one:0.1", "one:0.0"]
    assert len(manager.remove("one", dry_run=True)) == 3
    assert snapshot(tmp_path / "dir") == before
    assert list(map(str, manager.prune(2))) == ["one:0.0"]
    assert list(map(str, manager.remove("one"))) == ["one:0.2", "one:0.1"]


@pytest.mark.parametrize("spec", ["one:0", "one[a]", "one:0.0[a]", "one:"])
def test_a_deletion_is_told_which_version(local, tmp_path, spec):
    with pytest.raises(ma.InvalidAssetSpecError):
        ma.AssetsManager(tmp_path).remove(spec)


@pytest.mark.parametrize("spec", ["one", "one:0.0", "absent", "other:1.0"])
def test_what_has_no_copy_cannot_be_deleted(local, assets_dir_of_others, spec):
    with pytest.raises(ma.AssetDoesNotExistError, match="no copy"):
        ma.AssetsManager().remove(spec)


@pytest.mark.parametrize("keep", [0, -1])
def test_prune_keeps_one_at_least(local, tmp_path, keep):
    with pytest.raises(ma.ConfigurationError):
        ma.AssetsManager(tmp_path).prune(keep)


def test_a_marker_of_another_kind_of_version_is_no_copy(tmp_path):
    for version in ("latest", "1", "v1.0"):
        path = tmp_path / "one" / version
        path.mkdir(parents=True)
        (path / ".SUCCESS").write_text(json.dumps({}))
    before = snapshot(tmp_path)
    assert ma.AssetsManager(tmp_path).prune(1) == []
    assert snapshot(tmp_path) == before
    shutil.rmtree(tmp_path / "one")


def test_versions_of_two_systems_in_one_cache_are_listed_removed_and_pruned(
    tmp_path, monkeypatch
):
    """As where a team has moved from one versioning system to the other."""
    assets_dir, store = tmp_path / "assets", tmp_path / "store"
    for folder in (assets_dir, store):
        folder.mkdir()
    source = write_tree(tmp_path / "source", FILE)
    provider = harness.make_provider(store)
    dates = ["2021-11-14T18-00-00Z", "2021-11-15T18-00-00Z"]
    versions = ["0.0", "0.1", *dates]
    manager = ma.AssetsManager(assets_dir, 5, provider)
    for version in versions:
        provider.push(str(source), NAME, version)
        manager.fetch_asset(f"{NAME}:{version}")  # each looks for what it can reuse
    listed = [copy.version for copy in manager.iterate_copies()]
    assert listed == ["0.1", "0.0", *dates[::-1]]
    assert [one.version for one in manager.prune(3)] == [dates[0]]
    assert {one.version for one in manager.remove(NAME)} == {"0.0", "0.1", dates[1]}
    assert list(manager.iterate_copies()) == []
