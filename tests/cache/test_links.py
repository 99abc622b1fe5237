"""Links that somebody planted in the assets dir or in a local store lead nowhere."""

import os
from contextlib import suppress

import pytest
from trees import snapshot, write_tree

import modelkit_assets as ma

CANARY = b"belongs to somebody else"


@pytest.fixture
def outside(tmp_path):
    """What links lead to: a folder of somebody else's, which looks like an asset."""
    folder = tmp_path / "outside"
    tree = {"a": CANARY, "x.lock": CANARY, "0.0": CANARY, "0.0.meta": CANARY}
    tree.update({".SUCCESS": b"", ".0.0.SUCCESS": b"", "data/a": CANARY})
    return write_tree(folder, tree)


@pytest.fixture
def source(tmp_path):
    return write_tree(tmp_path / "source", {"a": b"1", "sub/b": b"2"})


@pytest.fixture
def published(provider, source):
    provider.new(source, "dir/x")
    provider.new(source / "a", "dir/y")


def plant(link, target):
    """Put a link where a file or folder is, or may come to be."""
    link.parent.mkdir(parents=True, exist_ok=True)
    if link.exists():
        link.rename(link.with_name(f"{link.name}-moved"))
    link.symlink_to(target)


def attempt(function, *args, **settings):
    """Do it, or fail with one of our errors; return which."""
    try:
        function(*args, **settings)
    except ma.ModelkitAssetsError as error:
        return error


# ------------------------------------------------------------------- assets dir

# links in the assets dir: where they are, and what of `outside` they lead to
LINKS = {
    "dir": "",
    "dir/x": "",
    "dir/x/0.0": "",
    "dir/x/0.0/sub": "",
    "dir/x/0.0/a": "a",
    "dir/x/0.0/.SUCCESS": "a",
    "dir/y/0.0": "a",
    "dir/y/.0.0.SUCCESS": "a",
    ".cache": "",
    ".cache/dir": "",
    ".cache/dir/x.lock": "x.lock",
    ".cache/CACHEDIR.TAG": "absent",
    ".cache/staging": "",
}


def work(manager, name):
    """Do all that works on an asset's local copy."""
    for spec in (name, f"{name}:0.0", f"{name}[a]", f"{name}:0.0[sub/b]"):
        attempt(manager.fetch_asset, spec)
        attempt(manager.fetch_asset, spec, force_download=True)
    attempt(manager.remove, f"{name}:0.0")
    attempt(manager.prune, 1)
    attempt(manager.fetch_asset, name)


@pytest.mark.parametrize("cached", [False, True], ids=["empty", "cached"])
@pytest.mark.parametrize("link", LINKS)
def test_nothing_is_touched_behind_a_link_in_the_assets_dir(
    published, manager, assets_dir, outside, link, cached
):
    if cached:
        manager.fetch_asset("dir/x")
        manager.fetch_asset("dir/y")
    plant(assets_dir / link, outside / LINKS[link])
    before = snapshot(outside)
    for name in ("dir/x", "dir/y"):
        work(manager, name)
        work(ma.AssetsManager(), name)
    assert snapshot(outside) == before


@pytest.mark.parametrize(
    "link", ["dir", "dir/x", "dir/x/0.0", "dir/x/0.0/a", "dir/x/0.0/sub"]
)
@pytest.mark.parametrize("provider_is_set", [True, False], ids=["store", "offline"])
@pytest.mark.parametrize("spec", ["dir/x:0.0", "dir/x:0.0[a]", "dir/x:0.0[sub/b]"])
def test_nothing_is_served_from_behind_a_link(
    published, manager, assets_dir, tmp_path, link, spec, provider_is_set, monkeypatch
):
    manager.fetch_asset("dir/x")
    behind = tmp_path / "behind"
    (assets_dir / link).rename(behind)
    plant(assets_dir / link, behind)
    if not provider_is_set:
        monkeypatch.delenv("MODELKIT_STORAGE_PROVIDER")
    served = []
    error = attempt(lambda: served.append(ma.AssetsManager().fetch_asset(spec)))
    assert served or isinstance(error, ma.AssetIntegrityError)
    for path in served:  # downloaded anew, or never below the link
        assert os.path.realpath(path).startswith(f"{assets_dir}{os.sep}")


def test_a_path_below_the_assets_dir_stays_there(assets_dir, outside, monkeypatch):
    plant(assets_dir / "linked", outside)
    for spec in ("linked", "linked[a]", "linked/a", "linked:0.0"):
        with pytest.raises(ma.AssetsManagerError):
            ma.AssetsManager().fetch_asset(spec)


def test_a_link_that_stays_inside_is_followed(published, manager, assets_dir):
    manager.fetch_asset("dir/x")
    plant(assets_dir / "other", assets_dir / "dir")
    path = manager.fetch_asset("other/x:0.0[a]")
    assert path == str(assets_dir / "other" / "x" / "0.0" / "a")


def test_an_assets_dir_may_be_a_link_itself(published, assets_dir, tmp_path):
    plant(tmp_path / "link", assets_dir)
    path = ma.AssetsManager(tmp_path / "link").fetch_asset("dir/x[a]")
    assert path == str(tmp_path / "link" / "dir" / "x" / "0.0" / "a")


@pytest.mark.parametrize("inner", ["data", "data/sub", "data/a"])
def test_a_killed_downloads_staging_with_links_is_not_taken_over(
    published, provider, manager, assets_dir, outside, inner
):
    manifest = provider._read_manifest("dir/x", "0.0")
    with manager._cache.staging("dir/x", "0.0", manifest[:3]) as folder:
        left = os.path.basename(os.path.dirname(folder))
    key = left.partition("~")[0]
    killed = assets_dir / ".cache" / "staging" / f"{key}~0123456789ab"
    killed.mkdir()
    (killed / "lock").touch()
    plant(killed / "work" / inner, outside / ("" if inner != "data/a" else "a"))
    before = snapshot(outside)
    path = manager.fetch_asset("dir/x")
    assert snapshot(outside) == before
    assert not os.path.islink(os.path.join(path, "sub"))
    assert not killed.exists()


# ------------------------------------------------------------------- local store

STORE_LINKS = {
    "modelkit-assets": "",
    "modelkit-assets/dir": "",
    "modelkit-assets/dir/x": "",
    "modelkit-assets/dir/x/0.0": "",
    "modelkit-assets/dir/x/0.0/a": "a",
    "modelkit-assets/dir/x/0.0.meta": "a",
    "modelkit-assets/dir/x/0.1": "",
    "modelkit-assets/dir/x/0.1.meta": "absent",
    "modelkit-assets/dir/x.versions": "a",
    "modelkit-assets/dir/.modelkit-assets.lock": "absent",
    "modelkit-assets/dir/y/0.0": "a",
    "modelkit-assets/dir/z": "",
    "modelkit-assets/dir/z.versions": "absent",
}


@pytest.mark.parametrize("link", STORE_LINKS)
def test_nothing_is_touched_or_read_behind_a_link_in_the_store(
    published, provider, manager, store, source, outside, tmp_path, link
):
    plant(store.bucket / link, outside / STORE_LINKS[link])
    before = snapshot(outside)
    for name in ("dir/x", "dir/y"):
        attempt(provider.update, source, name)
        attempt(provider.push, source, name, "3.0")
        attempt(manager.fetch_asset, f"{name}:0.0")
        attempt(provider.download, name, "0.0", tmp_path / "destination")
    attempt(provider.new, source, "dir/z")
    attempt(lambda: list(provider.iterate_assets()))
    with suppress(PermissionError):
        provider.driver.delete_object(link + "/0.0.meta")
    assert snapshot(outside) == before
    for folder in (manager.assets_dir, tmp_path / "destination"):
        for path, _, files in os.walk(folder):
            for file in files:
                with open(os.path.join(path, file), "rb") as data:
                    assert CANARY not in data.read()


def test_a_link_in_the_store_is_refused_by_name(published, store, manager, outside):
    plant(store.bucket / "modelkit-assets/dir/x/0.0.meta", outside / "a")
    with pytest.raises(ma.StorageAccessError, match="a link leads .*0.0.meta"):
        manager.fetch_asset("dir/x:0.0")


def test_a_store_may_be_a_link_itself(published, store, tmp_path, assets_dir):
    plant(tmp_path / "link", store.bucket)
    provider = ma.StorageProvider(provider="local", bucket=tmp_path / "link")
    assert dict(provider.iterate_assets()) == {"dir/x": ["0.0"], "dir/y": ["0.0"]}
    manager = ma.AssetsManager(assets_dir, storage_provider=provider)
    assert manager.fetch_asset("dir/x").endswith("0.0")


def test_links_are_not_listed(published, store, provider, outside):
    for name in ("dir2", "x.versions", "dir/l.versions"):
        plant(store.bucket / "modelkit-assets" / name, outside)
    assert dict(provider.iterate_assets()) == {"dir/x": ["0.0"], "dir/y": ["0.0"]}


def test_a_pipe_as_lock_is_an_error_and_one_as_tag_is_left_alone(
    published, manager, assets_dir
):
    own = assets_dir / ".cache"
    (own / "dir").mkdir(parents=True)
    os.mkfifo(own / "dir" / "x.lock")
    os.mkfifo(own / "CACHEDIR.TAG")
    with pytest.raises(ma.AssetsDirError, match="the lock is not a plain file"):
        manager.fetch_asset("dir/x")
    assert manager.fetch_asset("dir/y")
    assert not (assets_dir / "dir" / "x").exists()
