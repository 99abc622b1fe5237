"""What `list` says, to a person and to a program."""

import json
import os
from pathlib import Path

import pytest
from commands import BARE, MORTAL, Terminal, fails, ok, run
from trees import copy_data, read_tree, snapshot, write_tree

import modelkit_assets as ma


def test_the_columns_of_a_list_are_aligned(published):
    assert ok("list") == "nlp/bert  0.1 0.0\nx         0.0\n"
    assert ok("list", "n*") == "nlp/bert  0.1 0.0\n"
    done = run("list", "y*")
    assert (done.returncode, done.stdout) == (0, "")
    assert "no such assets below" in done.stderr


@pytest.fixture
def many(store, source):
    provider = ma.StorageProvider()
    for name, number in {"many": 30, "two": 2}.items():
        provider.new(source / "vocab.txt", name)
        for _ in range(number - 1):
            provider.update(source / "vocab.txt", name)


ALL = [f"0.{minor}" for minor in range(30)][::-1]


@pytest.mark.parametrize("columns", [1, 10, 30, 31, 60, 200])
def test_versions_are_cut_to_the_width_of_a_terminal_with_their_number(many, columns):
    with Terminal([*BARE, "list"], columns, both=True) as terminal:
        assert terminal.end()[0] == 0
    lines = terminal.text.decode().splitlines()
    assert [line.split()[0] for line in lines] == ["many", "two"]
    shown = [word for word in lines[0].split() if word[:2] == "0."]
    assert shown == ALL[: len(shown)] != []
    is_cut = len(shown) < 30
    assert lines[0].endswith(" ... (30 versions)") == is_cut == (columns < 200)
    assert len(lines[0]) <= columns or len(shown) == 1
    if columns >= 30:  # where another version would not have fitted
        assert len(lines[0]) <= columns
        assert not is_cut or len(lines[0]) + len(f" {ALL[len(shown)]}") > columns


def test_nothing_is_cut_for_a_program(many, monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    assert ok("list") == f"many  {' '.join(ALL)}\ntwo   0.1 0.0\n"
    document = json.loads(ok("list", "--json"))
    assert [one["version"] for one in document if one["name"] == "many"] == ALL


@pytest.mark.parametrize(
    ("room", "text"),
    [
        (None, "1.10 1.9 1.8"),
        (12, "1.10 1.9 1.8"),
        (11, "1.10 ... (3 versions)"),
        (25, "1.10 1.9 1.8"),
        (1, "1.10 ... (3 versions)"),
        (-5, "1.10 ... (3 versions)"),
    ],
)
def test_as_many_versions_as_fit_are_shown(room, text):
    assert ma._fit_versions(["1.10", "1.9", "1.8"], room) == text
    assert ma._fit_versions(["2021-11-14T18-00-00Z"], room) == "2021-11-14T18-00-00Z"
    assert ma._fit_versions([], room) == ""


def read_manifest(store, name):
    return json.loads(store.read_object(f"modelkit-assets/{name}.meta"))


def write_manifest(store, name, **changes):
    manifest = {**read_manifest(store, name), **changes}
    manifest = {key: value for key, value in manifest.items() if value is not None}
    data = json.dumps(manifest).encode()
    store.write_object(f"modelkit-assets/{name}.meta", data)


DATE = "2026-11-22T01:02:03+00:00"


@pytest.fixture
def dated(published, store):
    """Published at known times by known people; and some that say less."""
    provider, source = published, store.bucket.parent / "source"
    write_tree(source, {"a": b"1"})
    for number in range(4):
        provider.new(source, f"y{number}")
    common = {"push_date": DATE, "pushed_by": "me@here"}
    for name in ("nlp/bert/0.0", "nlp/bert/0.1", "x/0.0"):
        write_manifest(store, name, **common)
    write_manifest(store, "y0/0.0", push_date=DATE, pushed_by=None, files=None)
    store.write_object("modelkit-assets/y1/0.0.meta", b"rubbish")
    (store.bucket / "modelkit-assets/y2/0.0.meta").unlink()
    hostile = {"\x1b[2J\n": ["a"]}
    write_manifest(store, "y3/0.0", push_date="2026-11-22T01:02:03", pushed_by=hostile)


def test_a_long_list_says_when_how_large_how_many_files_and_who(dated):
    assert ok("list", "--long").splitlines() == [
        "nlp/bert:0.1  2026-11-22 01:02     3 B  1 file   me@here",
        "nlp/bert:0.0  2026-11-22 01:02  2.0 kB  2 files  me@here",
        "x:0.0         2026-11-22 01:02  2.0 kB  2 files  me@here",
        "y0:0.0        2026-11-22 01:02       -  1 file   -",
        "y1:0.0        -                      -  -        -",
        "y2:0.0        -                      -  -        -",
        "y3:0.0        2026-11-22 01:02     1 B  1 file   {'\\x1b[2J\\n': ['a']}",
    ]
    assert ok("list", "-l", "y2") == "y2:0.0  -  -  -  -\n"


def test_a_long_list_is_a_document_too(dated):
    document = json.loads(ok("list", "--long", "--json"))
    keys = {"name", "version", "push_date", "size", "files", "pushed_by", "metadata"}
    assert all(one.keys() == keys for one in document)
    assert document[1] == {
        "name": "nlp/bert",
        "version": "0.0",
        "push_date": DATE,
        "size": 2003,
        "files": 2,
        "pushed_by": "me@here",
        "metadata": {},
    }
    assert [document[4][key] for key in ("size", "files", "push_date")] == [None] * 3


def test_control_characters_of_a_manifest_are_not_shown(published, store):
    write_manifest(store, "x/0.0", pushed_by="\x1b]0;title\x07me\nyou")
    (line,) = ok("list", "--long", "x").splitlines()
    assert line.endswith("?]0;title?me?you")


def test_a_long_list_fails_where_a_manifest_is_refused(published, store):
    """Which is not to be taken for one that is not there."""
    path = store.bucket / "modelkit-assets/nlp/bert/0.0.meta"
    path.chmod(0)
    assert "was refused" in fails(4, "list", "--long", command=MORTAL)


def test_local_copies_are_listed_with_size_and_date(published, assets_dir, monkeypatch):
    assert "no such copies" in run("list", "--local").stderr
    ok("fetch", "nlp/bert:0.0[vocab.txt]", "nlp/bert:0.1", "x")
    folder = copy_data("assets_dir", assets_dir)
    for path in folder.rglob("*"):
        if path.name.endswith((".SUCCESS", ".partial")):
            os.utime(path, (1_700_000_000, 1_700_000_000))
    monkeypatch.delenv("MODELKIT_STORAGE_PROVIDER")  # no store is asked
    before = snapshot(assets_dir)
    lines = ok("list", "--local").splitlines()
    date = "2023-11-14 22:13"
    assert [line.split() for line in lines if "bert:" in line or line[0] == "x"] == [
        ["nlp/bert:0.1", *date.split(), "3", "B", "whole"],
        ["nlp/bert:0.0", *date.split(), "3", "B", "in", "part"],
        ["x:0.0", *date.split(), "2.0", "kB", "whole"],
    ]
    assert len({line.index(date) for line in lines}) == 1  # aligned
    assert len({line.index("B  ") for line in lines}) == 1
    document = json.loads(ok("list", "--local", "--json"))
    assert len(document) == len(lines)
    for copy in document:
        expected = sum(map(len, read_any(Path(copy["path"])).values()))
        assert copy["size"] == expected, copy  # markers, ours or modelkit's, are none
        assert copy["date"] == "2023-11-14T22:13:20+00:00"
        assert copy["is_partial"] == ((copy["name"], copy["version"]) == PARTIAL)
    assert json.loads(ok("list", "x", "--local", "--json")) == [
        {
            "name": "x",
            "version": "0.0",
            "path": f"{assets_dir}/x/0.0",
            "size": 2003,
            "date": "2023-11-14T22:13:20+00:00",
            "is_partial": False,
        }
    ]
    assert snapshot(assets_dir) == before


PARTIAL = ("nlp/bert", "0.0")


def read_any(path):
    tree = {"": path.read_bytes()} if path.is_file() else read_tree(path)
    tree.pop(".modelkit-assets.partial", None)
    return tree


STRAYS = {
    "._top": b"\x00\x05\x16\x07",  # as a Mac leaves them beside files
    "a-": b'{"versions": ["0.0"]}',
    "no json": b"{",
    "rubbish": b"\xff\xfe",
    "listless": b"{}",
}


def test_a_stray_object_is_passed_over_and_named(published, store):
    before = json.loads(ok("list", "--json"))
    for name, data in STRAYS.items():
        store.write_object(f"modelkit-assets/{name}.versions", data)
    done = run("list", "--json")
    assert (done.returncode, json.loads(done.stdout)) == (0, before)
    for name in STRAYS:
        assert f"passing over '{name}.versions'" in done.stderr
    assert ok("fetch", "nlp/bert:0.0")


def test_what_a_store_says_cannot_speak_to_a_terminal(published, store):
    meta = "modelkit-assets/nlp/bert/0.0.meta"
    manifest = json.loads(store.read_object(meta))
    manifest["pushed_by"] = "\x1b[2Jnobody\r"
    manifest["push_date"] = "0001-01-01T00:00:00+14:00"  # no date in UTC
    store.write_object(meta, json.dumps(manifest).encode())
    for command in (["info", "nlp/bert:0.0"], ["list", "--long"]):
        text = ok(*command)
        assert "\x1b" not in text and "\r" not in text
        assert "?[2Jnobody?" in text
