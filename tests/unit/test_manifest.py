"""Manifests: modelkit's and ours are read, and a bad one is never believed."""

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from manifests import DATE, DOCUMENT, JSON, SHA
from trees import MODELKIT_DATA

from modelkit_assets import (
    AssetIntegrityError,
    AssetsManager,
    Manifest,
    ManifestFile,
    StorageProvider,
)

MODELKIT_METAS = sorted(MODELKIT_DATA.glob("store/**/*.meta"))

OTHER_SHA = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

FILE = {
    "push_date": DATE,
    "is_directory": False,
    "files": [{"path": "", "size": 3, "sha256": SHA}],
    "pushed_by": "ann@host",
    "format": 1,
}
DIRECTORY = {
    "push_date": DATE,
    "is_directory": True,
    "contents": ["a b.txt", "é/[x]*"],
    "files": [
        {"path": "a b.txt", "size": 3, "sha256": SHA},
        {"path": "é/[x]*", "size": 0, "sha256": OTHER_SHA, "executable": True},
    ],
    "empty_directories": ["empty", "é/also"],
    "pushed_by": "ann@host",
    "format": 1,
}


def read(document):
    return Manifest.from_json(json.dumps(document).encode(), "a/0.0.meta")


def of_contents(*paths, **more):
    return {"push_date": DATE, "is_directory": True, "contents": list(paths), **more}


def of_entry(**changes):
    entry = {"path": "", "size": 3, "sha256": SHA, **changes}
    entry = {key: value for key, value in entry.items() if value != "absent"}
    return {**FILE, "files": [entry]}


def without(document, key):
    return {name: value for name, value in document.items() if name != key}


def test_modelkits_manifests_are_found():
    assert len(MODELKIT_METAS) == 7


@pytest.mark.parametrize("path", MODELKIT_METAS, ids=lambda path: path.stem)
def test_modelkits_manifests_are_read_as_they_are(path):
    document = json.loads(path.read_bytes())
    manifest = Manifest.from_json(path.read_bytes(), path.name)
    assert manifest.is_directory == document["is_directory"]
    assert [file.path for file in manifest.files] == document.get("contents", [""])
    assert {(file.size, file.sha256) for file in manifest.files} == {(None, None)}
    assert manifest.document == document


def test_a_manifest_of_a_file_asset_has_one_entry():
    manifest = read(FILE)
    assert not manifest.is_directory
    assert manifest.files == (ManifestFile("", 3, SHA, False),)


def test_a_manifest_of_a_directory_has_files_and_empty_directories():
    manifest = read(DIRECTORY)
    assert manifest.is_directory
    assert manifest.files == (
        ManifestFile("a b.txt", 3, SHA, False),
        ManifestFile("é/[x]*", 0, OTHER_SHA, True),
    )
    assert manifest.empty_directories == ("empty", "é/also")


@pytest.mark.parametrize("document", [FILE, DIRECTORY, of_contents("a"), of_contents()])
def test_keys_that_we_do_not_know_are_kept(document):
    document = {**document, "colour": {"sky": ["blue"]}}
    manifest = read(document)
    assert manifest.document == document
    assert json.loads(manifest.to_json()) == document
    assert Manifest.from_json(manifest.to_json(), "again") == manifest


@pytest.mark.parametrize(
    "date", [DATE, "2021-11-15T17:31:06Z", "2021-11-15T17:31:06.031508+00:00"]
)
def test_the_dates_that_were_ever_written_are_read(date):
    assert read({**FILE, "push_date": date}).document["push_date"] == date


@pytest.mark.parametrize(
    "data",
    [b"", b" ", b"{", b"not json", b"\xff\xfe", b"null", b"1", b'"text"', b"[]", b"{}",
     b"[" * 100_000, b'{"a":' * 100_000, b"\0" * 100],
    ids=lambda data: repr(data[:10]),
)  # fmt: skip
def test_what_is_no_json_object_is_an_integrity_error(data):
    with pytest.raises(AssetIntegrityError, match="a/0.0.meta") as caught:
        Manifest.from_json(data, "a/0.0.meta")
    assert caught.value.object_name == "a/0.0.meta"


BAD = {
    "no push_date": without(FILE, "push_date"),
    "no is_directory": without(FILE, "is_directory"),
    "no contents": without(DIRECTORY, "contents"),
    "push_date a number": {**FILE, "push_date": 1637000000},
    "push_date no date": {**FILE, "push_date": "yesterday"},
    "push_date empty": {**FILE, "push_date": ""},
    "is_directory a text": {**FILE, "is_directory": "false"},
    "is_directory a number": {**FILE, "is_directory": 0},
    "is_directory null": {**FILE, "is_directory": None},
    "contents a text": {**of_contents(), "contents": "ab"},
    "contents an object": {**of_contents(), "contents": {"a": 1}},
    "contents null": {**of_contents(), "contents": None},
    "contents hold a number": of_contents("a", 1),
    "contents hold null": of_contents(None),
    "contents hold a list": of_contents(["a"]),
    "path empty": of_contents(""),
    "path ..": of_contents(".."),
    "path above": of_contents("../a"),
    "path above in the middle": of_contents("a/../../b"),
    "path absolute": of_contents("/etc/passwd"),
    "path with a drive": of_contents("C:/a"),
    "path with a drive and no slash": of_contents("C:a"),
    "path with backslashes": of_contents("..\\a"),
    "path of a device": of_contents("a/NUL"),
    "path with NUL": of_contents("a\0b"),
    "path with a lone surrogate": of_contents("\ud800"),
    "path twice": of_contents("a", "a"),
    "path a file and a folder": of_contents("a", "a/b"),
    "path a file and a folder above": of_contents("a/b/c", "a"),
    "path of the marker": of_contents(".SUCCESS"),
    "path below the marker": of_contents(".SUCCESS/a"),
    "files a text": {**FILE, "files": "ab"},
    "files a number": {**FILE, "files": 1},
    "files null": {**FILE, "files": None},
    "files an object": of_contents(files={}),
    "files hold a text": {**FILE, "files": ["a"]},
    "files hold null": {**FILE, "files": [None]},
    "files none for a file": {**FILE, "files": []},
    "files two for a file": {**FILE, "files": FILE["files"] * 2},
    "files are not the contents": {**DIRECTORY, "contents": ["a b.txt"]},
    "files are other than the contents": {**DIRECTORY, "contents": ["a b.txt", "b"]},
    "entry without path": of_entry(path="absent"),
    "entry without size": of_entry(size="absent"),
    "entry without sha256": of_entry(sha256="absent"),
    "entry of a file with a path": of_entry(path="a"),
    "size negative": of_entry(size=-1),
    "size a fraction": of_entry(size=1.5),
    "size a text": of_entry(size="3"),
    "size a bool": of_entry(size=True),
    "size null": of_entry(size=None),
    "size that no store holds": of_entry(size=1 << 60),
    "sha256 short": of_entry(sha256=SHA[:-1]),
    "sha256 long": of_entry(sha256=SHA + "0"),
    "sha256 upper-case": of_entry(sha256=SHA.upper()),
    "sha256 a path": of_entry(sha256="../" * 21 + "a"),
    "sha256 with a newline": of_entry(sha256=SHA + "\n"),
    "sha256 null": of_entry(sha256=None),
    "executable a text": of_entry(executable="yes"),
    "executable a number": of_entry(executable=1),
    "empty_directories a text": of_contents("a", empty_directories="bc"),
    "empty_directories an object": of_contents("a", empty_directories={"b": 1}),
    "empty_directories a number": of_contents("a", empty_directories=1),
    "empty_directories hold a number": of_contents("a", empty_directories=[1]),
    "empty directory above": of_contents("a", empty_directories=[".."]),
    "empty directory absolute": of_contents("a", empty_directories=["/tmp/a"]),
    "empty directory twice": of_contents("a", empty_directories=["b", "b"]),
    "empty directory is a file": of_contents("a", empty_directories=["a"]),
    "empty directory below a file": of_contents("a", empty_directories=["a/b"]),
    "empty directory is not empty": of_contents("a/b", empty_directories=["a"]),
    "newer format": {**FILE, "format": 2},
    "format a text": {**FILE, "format": "1"},
    "format null": {**FILE, "format": None},
    "unknown pack": {**DIRECTORY, "pack": "zip"},
}


@pytest.mark.parametrize("document", BAD.values(), ids=BAD)
def test_a_bad_manifest_is_an_integrity_error(document):
    with pytest.raises(AssetIntegrityError, match="a/0.0.meta"):
        read(document)


def test_a_marker_name_below_the_top_is_a_file_as_any_other():
    assert read(of_contents("a/.SUCCESS")).files[0].path == "a/.SUCCESS"


def check_any(data):
    try:
        manifest = Manifest.from_json(data, "a/0.0.meta")
    except AssetIntegrityError:
        return
    assert Manifest.from_json(manifest.to_json(), "again")[:3] == manifest[:3]


@given(st.binary())
def test_any_bytes_are_a_manifest_or_an_integrity_error(data):
    check_any(data)


@given(JSON | DOCUMENT)
def test_any_json_is_a_manifest_or_an_integrity_error(document):
    check_any(json.dumps(document).encode())


@pytest.mark.parametrize(
    "is_directory, files, empty",
    [
        (False, [ManifestFile("", 3, SHA)], []),
        (False, [ManifestFile("", 0, OTHER_SHA, True)], []),
        (
            True,
            [ManifestFile("a", 3, SHA), ManifestFile("b/c d", 0, OTHER_SHA, True)],
            [],
        ),
        (True, [ManifestFile("a", 3, SHA)], ["b", "c/d"]),
    ],
)
def test_a_manifest_that_is_written_is_read_back(is_directory, files, empty):
    manifest = Manifest.create(is_directory, files, empty)
    again = Manifest.from_json(manifest.to_json(), "a/0.0.meta")
    assert again == manifest
    assert again[:3] == (is_directory, tuple(files), tuple(empty))


def test_what_is_written_is_laid_out_as_the_design_says():
    files = [ManifestFile("a", 3, SHA), ManifestFile("b/c", 0, OTHER_SHA, True)]
    document = json.loads(Manifest.create(True, files, ["d"]).to_json())
    assert document.pop("push_date").endswith("+00:00")
    assert "@" in document.pop("pushed_by")
    assert document == {
        "is_directory": True,
        "contents": ["a", "b/c"],
        "files": [
            {"path": "a", "size": 3, "sha256": SHA},
            {"path": "b/c", "size": 0, "sha256": OTHER_SHA, "executable": True},
        ],
        "empty_directories": ["d"],
        "format": 1,
    }


@pytest.mark.parametrize(
    "other, is_same",
    [
        ({**DIRECTORY, "push_date": "2022-01-01T00:00:00+00:00"}, True),
        ({**DIRECTORY, "pushed_by": "bob@elsewhere"}, True),
        ({**DIRECTORY, "empty_directories": []}, False),
        (of_contents("a b.txt", "é/[x]*"), False),
        (FILE, False),
    ],
)
def test_only_the_same_files_are_the_same_content(other, is_same):
    assert read(DIRECTORY)._has_same_content(read(other)) is is_same


def test_files_without_digests_are_never_the_same_content():
    assert not read(of_contents("a"))._has_same_content(read(of_contents("a")))


@pytest.fixture
def modelkits_folders(tmp_path):
    for folder in ("store", "assets_dir"):
        shutil.copytree(MODELKIT_DATA / folder, tmp_path / folder)
    return tmp_path / "store", tmp_path / "assets_dir"


@pytest.mark.parametrize("spec", ["nlp/tokenizer:10.0", "nlp/bert/base:0.0"])
def test_an_empty_marker_is_just_as_good(modelkits_folders, spec):
    store, assets_dir = modelkits_folders
    provider = StorageProvider(provider="local", bucket=store)
    manager = AssetsManager(assets_dir, storage_provider=provider)
    for file in store.rglob("*"):  # nothing can be downloaded
        if file.is_file() and file.suffix not in (".meta", ".versions"):
            file.unlink()
    for _ in range(2):
        info = manager.fetch_asset(spec, return_info=True)
        assert info["from_cache"]
        assert Path(info["path"]) == assets_dir / spec.replace(":", "/")
        shutil.rmtree(store, ignore_errors=True)  # from now on its marker is ours
        manager = AssetsManager(assets_dir, storage_provider=provider)


@pytest.mark.parametrize("key, value", [("chunks", None), ("chunks", []), ("parts", 5)])
def test_what_is_empty_and_of_another_type_is_refused(key, value):
    file = {"path": "a", "size": 1, "sha256": "0" * 64}
    document = {"push_date": "2026-11-28T00:00:00+00:00", "is_directory": True}
    document.update(contents=["a"], files=[file])
    (file if key == "chunks" else document)[key] = value
    with pytest.raises(AssetIntegrityError):
        Manifest.from_json(json.dumps(document).encode(), "m")
