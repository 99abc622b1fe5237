"""Hostile stores, names and markers: one of our errors, and nothing outside changes."""

import json
import ntpath
import os
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from manifests import DATE, DOCUMENT, JSON
from stores import LocalStore
from trees import read_tree, snapshot, write_tree

import modelkit_assets as ma

VERSIONS, META = "modelkit-assets/x.versions", "modelkit-assets/x/0.0.meta"
SECRET = b"nobody may read this"

# --------------------------------------------------------------------- documents

VERSION = st.sampled_from(
    ["0.0", "0.1", "1", "9" * 18 + ".0", "2021-11-14T18-00-00Z", "../0.0", "", "0.0 "]
)
LISTING = st.fixed_dictionaries(
    {"versions": st.lists(VERSION | JSON, max_size=4) | JSON},
    optional={"its own": JSON},
)
# from where a download is staged, five levels lead out of the assets dir
OUTSIDE = ["../" * 5 + "canary", "../" * 5 + "new", "../" * 5 + "new/file", "../x"]
PART = st.sampled_from([*OUTSIDE, "a", "b/c", "/x", ".SUCCESS", "CON", "a/.", "a\\b"])
OF_PARTS = st.fixed_dictionaries(
    {
        "push_date": st.just(DATE),
        "is_directory": st.booleans(),
        "contents": st.lists(PART, max_size=3),
    },
    optional={"empty_directories": st.lists(PART, max_size=2)},
)


def as_bytes(documents):
    return documents.map(lambda document: json.dumps(document).encode()) | st.binary()


@pytest.fixture
def store(make_store):
    store = make_store(LocalStore)
    store.write_object(VERSIONS, b'{"versions": ["0.0"]}')
    store.write_object(
        META, b'{"is_directory": false, "push_date": "%s"}' % DATE.encode()
    )
    store.write_object("modelkit-assets/x/0.0", b"data")
    return store


def attempt(function, *args, **named):
    """Return what a function returns, or which of our errors it raises."""
    try:
        return function(*args, **named)
    except ma.ModelkitAssetsError as error:
        assert "\n" not in str(error)
        assert len(str(error)) < 5000
        return error


def check_reading(store, folder, source):
    """Do all that reads a store, whatever is in it."""
    before, failed = store.read_objects(), ma.ModelkitAssetsError
    provider = ma.StorageProvider()
    assets_dir = Path(tempfile.mkdtemp(dir=folder))
    manager = ma.AssetsManager(assets_dir, 0, provider)
    attempt(provider.get_versions_info, "x")
    attempt(provider.get_asset_meta, "x", "0.0")
    attempt(lambda: list(provider.iterate_assets()))
    attempt(ma._find_copy, manager, ma.AssetSpec("x", version="0.0"))
    for spec in ("x", "x:0", "x:0.0", "x:0.0[a]"):
        got = attempt(manager.fetch_asset, spec)
        if not isinstance(got, failed):
            assert Path(got).resolve().is_relative_to(assets_dir / "x")
    marked = list(assets_dir.glob("x/**/*.SUCCESS"))
    assert bool(marked) == (assets_dir / "x").exists()
    assert {path.name for path in assets_dir.iterdir()} <= {".cache", "x"}
    assert store.read_objects() == before
    done = attempt(provider.update, source, "x")
    after = store.read_objects()
    listing = before.pop(VERSIONS), after.pop(VERSIONS)
    assert before.items() <= after.items(), "an object was replaced or deleted"
    if isinstance(done, failed):
        assert listing[0] == listing[1]
    else:
        assert done in json.loads(listing[1])["versions"]
    for name in after.keys() - before.keys():
        os.unlink(store.bucket / name)


@pytest.mark.parametrize(
    ("name", "documents"),
    [(VERSIONS, LISTING), (META, DOCUMENT), (META, OF_PARTS)],
    ids=["versions", "manifest", "paths"],
)
def test_whatever_an_object_holds_reading_it_raises_our_errors_alone(
    tmp_path, store, name, documents
):
    source = write_tree(tmp_path / "source", {"a": b"1"})
    folder = write_tree(tmp_path / "folder", {"canary": SECRET})
    whole, before = store.read_objects(), snapshot(source)

    @settings(max_examples=60)
    @given(as_bytes(documents))
    def check(data):
        store.write_object(name, data)
        check_reading(store, folder, source)
        store.write_object(VERSIONS, whole[VERSIONS])
        others = {path.name for path in folder.iterdir() if path.name[:3] != "tmp"}
        assert others == {"canary"}
        assert (folder / "canary").read_bytes() == SECRET

    check()
    assert {path.name for path in tmp_path.iterdir()} == {"source", "folder"}
    assert snapshot(source) == before


@pytest.mark.parametrize("key", ["contents", "empty_directories"])
@pytest.mark.parametrize("path", [*OUTSIDE, "/x", "a/../" * 6 + "canary"])
def test_no_path_of_a_manifest_leads_outside(tmp_path, store, key, path):
    folder = write_tree(tmp_path / "folder", {"canary": SECRET, "assets_dir/": b""})
    manifest = {"push_date": DATE, "is_directory": True, "contents": [], key: [path]}
    store.write_object(META, json.dumps(manifest).encode())
    before, manager = snapshot(folder), ma.AssetsManager(folder / "assets_dir")
    with pytest.raises(ma.AssetIntegrityError):
        manager.fetch_asset("x:0.0")
    assert snapshot(folder) == before


@given(as_bytes(DOCUMENT))
def test_whatever_a_marker_holds_a_hit_is_a_hit_or_damaged(data):
    with tempfile.TemporaryDirectory() as folder:
        write_tree(Path(folder), {"x/0.0/a": b"1", "x/0.0/.SUCCESS": data})
        before, manager = snapshot(Path(folder)), ma.AssetsManager(folder)
        got = attempt(manager.fetch_asset, "x:0.0")
        assert got == f"{folder}/x/0.0" or isinstance(got, ma.AssetIntegrityError)
        attempt(ma._find_copy, manager, ma.AssetSpec("x", version="0.0"))
        assert snapshot(Path(folder)) == before


# --------------------------------------------------------------------- names

SEGMENT = st.sampled_from(
    ["..", ".", "", "x", "0.0", "canary", "sub", "~", "*", "%2e%2e", "C:", "C:canary",
     "CON", "aux.txt", "com1.", "x.", "x ", ".. ", "...", "\0", "x\0", "..\0", "\n",
     "．．", "\u2024\u2024", "..\u200b", "\u202e..", "\ufeff..", "\ud800", "é",
     "/\ud800", "e\u0301", ".SUCCESS", ".cache", "0.0.meta", "x.versions",
     ".modelkit-assets.lock"]
)  # fmt: skip
SEPARATOR = st.sampled_from(["/", "/", "/", "\\", "//", "／", "\u2215", "\u29f8"])
ROOT = st.sampled_from(
    ["", "", "", "/", "//", "\\\\?\\C:\\", "file:///", "../", "..\\"]
)
HOSTILE = st.builds(
    lambda root, first, rest: root + first + "".join(map("".join, rest)),
    ROOT, SEGMENT, st.lists(st.tuples(SEPARATOR, SEGMENT), max_size=5),
)  # fmt: skip


@pytest.fixture
def world(tmp_path, monkeypatch):
    """Folders that may change, and canaries wherever an escape would come out."""
    world = tmp_path / "1" / "2"
    for name in ("assets_dir", "bucket/modelkit-assets", "destination", "current"):
        (world / name).mkdir(parents=True)
    for at in (tmp_path, tmp_path / "1", world, world / "current"):
        write_tree(at, {"canary": SECRET, "x/0.0": SECRET, "sub/canary": SECRET})
    (world / "bucket" / "canary").write_bytes(SECRET)
    write_tree(world / "source", {"a": b"1"})
    monkeypatch.chdir(world / "current")
    return world


def snapshot_around(world, *free):
    """Return all of the world but what lies in the folders that may change."""
    found = snapshot(world.parent.parent)
    free = [f"{world / name}/" for name in free]
    return {
        path: (mode, data)
        for path, (mode, _, data) in found.items()
        if not any(path.startswith(folder) for folder in free)
    }


def check_names(world, use, *free):
    """Check use(text) for hostile texts, and for some that would meet a canary."""
    before = snapshot_around(world, *free)
    ready = [f"{up}{name}" for up in ("../", "../../", "../../../", "x/../../", "")
             for name in ("canary", "x/0.0", "sub/canary", "x")]  # fmt: skip
    ready += [text.replace("/", "\\") for text in ready]
    ready += [str(world / "canary"), str(world.parent / "x/0.0")]

    @settings(max_examples=150)
    @given(HOSTILE | st.sampled_from(ready))
    def check(text):
        use(text)
        assert snapshot_around(world, *free) == before

    for text in ready:
        use(text)
        assert snapshot_around(world, *free) == before, text
    check()


def make_provider(world):
    return ma.StorageProvider(provider="local", bucket=world / "bucket", timeout_s=0)


def test_no_name_or_part_makes_a_fetch_leave_the_assets_dir(world):
    provider = make_provider(world)
    provider.new(world / "source", "x")
    manager = ma.AssetsManager(world / "assets_dir", 0, provider)
    inside = (world / "assets_dir").resolve()

    def use(text):
        for spec in (f"{text}:0.0", f"x:0.0[{text}]", f"{text}:0.0[{text}]"):
            got = attempt(manager.fetch_asset, spec)
            if isinstance(got, str):
                assert Path(got).resolve().is_relative_to(inside)
        attempt(lambda: manager.fetch_asset(ma.AssetSpec("x", version=text)))
        # a text alone may be a path, as the design has it: then it is no more than that
        got = attempt(manager.fetch_asset, text)
        if isinstance(got, str) and not Path(got).is_relative_to(inside):
            assert os.path.isabs(text) or Path(got).is_relative_to(Path.cwd())

    check_names(world, use, "assets_dir")


def test_no_name_or_version_makes_a_download_leave_its_destination(world):
    provider = make_provider(world)
    provider.new(world / "source", "x")

    def use(text):
        attempt(provider.download, text, "0.0", world / "destination")
        attempt(provider.download, "x", text, world / "destination")
        attempt(provider.get_versions_info, text)
        attempt(provider.get_asset_meta, text, text)

    check_names(world, use, "destination")


def test_no_name_or_version_makes_a_push_leave_the_prefix(world):
    provider = make_provider(world)

    def use(text):
        attempt(provider.push, world / "source", text, "0.0")
        attempt(provider.push, world / "source", "x", text)
        attempt(provider.new, world / "source", text)
        attempt(provider.update, world / "source", "x", text)

    check_names(world, use, "bucket/modelkit-assets")


def test_no_object_name_makes_a_local_store_leave_its_folder(world):
    driver = ma.LocalDriver(world / "bucket" / "modelkit-assets")
    source = str(world / "source" / "a")

    def check(data):
        assert SECRET not in bytes(data)

    def use(text):
        for method in (
            lambda: driver.write_object(b"1", text),
            lambda: driver.write_object(b"2", text, if_match=""),
            lambda: driver.upload_object(source, text, lambda size: None),
            lambda: driver.copy_object(text, "copy"),
            lambda: driver.copy_object("x", text),
            lambda: check(b"".join(driver.iterate_bytes(text))),
            lambda: check(driver.read_object(text)[0]),
            lambda: driver.stat_object(text),
            lambda: list(driver.iterate_objects(text)),
            lambda: driver.delete_object(text),
        ):
            with suppress(OSError, ValueError):  # what the contract allows
                method()

    check_names(world, use, "bucket/modelkit-assets")


def test_what_a_source_is_called_never_leads_outside(world):
    provider = make_provider(world)
    segments = SEGMENT.filter(lambda name: "\0" not in name)
    names = st.lists(segments, min_size=1, max_size=3).map("\\".join)

    @settings(max_examples=60)
    @given(st.lists(names, min_size=1, max_size=3, unique=True))
    def check(names):
        source = Path(tempfile.mkdtemp(dir=world / "current"))
        for name in names:
            with suppress(OSError, UnicodeError):  # what no file here can be called
                (source / name).write_bytes(name.encode("utf-8", "replace"))
        name = f"s/{source.name.strip('_')}".replace("_", "-")
        version = attempt(provider.new, source, name)
        if isinstance(version, str):
            got = provider.download(name, version, world / "destination")["path"]
            assert Path(got).is_relative_to(world / "destination")
            assert read_tree(Path(got)) == read_tree(source)
            for name in os.listdir(source):
                path = ntpath.normpath(ntpath.join("c:\\asset", name))
                assert path == f"c:\\asset\\{name}"
        else:
            assert not (world / "bucket" / "modelkit-assets" / name).exists()

    free = ("destination", "bucket/modelkit-assets", "current")
    before = snapshot_around(world, *free)
    check()
    assert snapshot_around(world, *free) == before
