"""What `list`, `verify`, `doctor`, help and suggestions say, and sources by URL."""

import functools
import json
import os
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import pytest
from stores import STORES, AzuriteStore, GcsStore, LocalStore, MotoStore
from stub_server import AZURE, GCS, PROTOCOLS, S3, SILENCE, Faulty, nth, reply
from test_cli import BARE, COMMANDS, CORE, MORTAL, answer, fails, ok, run
from test_progress import Terminal, publish_as_modelkit
from trees import copy_data, read_tree, snapshot, write_tree

import modelkit_assets as ma

FILES = {"vocab.txt": b"a b", "deep/w.bin": bytes(2000), "none/": b""}


@pytest.fixture
def store(make_store):
    return make_store(LocalStore)


@pytest.fixture
def source(tmp_path):
    return write_tree(tmp_path / "source", FILES)


@pytest.fixture
def published(source, store, assets_dir):
    """nlp/bert:0.0 and 0.1, a folder and a file; x:0.0, a pack."""
    provider = ma.StorageProvider()
    provider.new(source, "nlp/bert")
    provider.update(source / "vocab.txt", "nlp/bert")
    provider.new(source, "x", pack=True)
    return provider


@pytest.fixture
def call(capsys):
    """Return a function that runs a command in this process, where SDKs are loaded."""

    def call(*args):
        code = ma.main([str(arg) for arg in args])
        return (code, *capsys.readouterr())

    return call


# ------------------------------------------------------------------------------- list


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
    assert json.loads(ok("list", "--json"))["many"] == ALL


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
    assert ma.fit_versions(["1.10", "1.9", "1.8"], room) == text
    assert ma.fit_versions(["2021-11-14T18-00-00Z"], room) == "2021-11-14T18-00-00Z"
    assert ma.fit_versions([], room) == ""


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
    keys = {"name", "version", "push_date", "size", "files", "pushed_by"}
    assert all(one.keys() == keys for one in document)
    assert document[1] == {
        "name": "nlp/bert",
        "version": "0.0",
        "push_date": DATE,
        "size": 2003,
        "files": 2,
        "pushed_by": "me@here",
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


# ----------------------------------------------------------------------------- verify


@pytest.fixture
def cached(published, assets_dir):
    ok("fetch", "nlp/bert:0.0", "nlp/bert:0.1", "x")
    return assets_dir


def verify(code, *args, **settings):
    """Run `verify`, which must change nothing; return stdout and stderr."""
    folder = Path(os.environ["MODELKIT_ASSETS_DIR"])
    before = snapshot(folder)
    done = run("verify", *args, **settings)
    assert done.returncode == code, done
    assert snapshot(folder) == before
    return done.stdout, done.stderr


RIGHT = "right       {}\n"
WRONG = "wrong       {}\n"
UNKNOWN = "no digests  {}\n"


def test_what_is_right_is_called_right(cached):
    specs = ["nlp/bert:0.1", "nlp/bert:0.0", "x:0.0"]
    assert verify(0) == ("".join(map(RIGHT.format, specs)), "")
    assert verify(0, "nlp/bert") == ("".join(map(RIGHT.format, specs[:2])), "")
    assert verify(0, "nlp/bert:0") == (RIGHT.format("nlp/bert:0.1"), "")
    part = "nlp/bert:0.0[vocab.txt]"
    assert verify(0, part, "x") == (RIGHT.format(part) + RIGHT.format(specs[2]), "")
    document = json.loads(verify(0, "x", "--json")[0])
    assert document == [{"spec": "x:0.0", "state": "right", "wrong": []}]


def damage(how, path):
    if how == "another byte":  # and the same size
        path.write_bytes(b"x" + path.read_bytes()[1:])
    elif how == "longer":
        path.write_bytes(path.read_bytes() + b"x")
    elif how == "missing":
        path.unlink()
    elif how == "a folder":
        path.unlink()
        path.mkdir()
    elif how == "a link to elsewhere":
        target = path.rename(path.parents[5] / "elsewhere")
        path.symlink_to(target)


HOW = ["another byte", "longer", "missing", "a folder", "a link to elsewhere"]


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("offline", [False, True])
def test_what_is_wrong_is_named(cached, monkeypatch, how, offline):
    path = cached / "nlp/bert/0.0/deep/w.bin"
    damage(how, path)
    if offline:
        monkeypatch.delenv("MODELKIT_STORAGE_PROVIDER")
    specs = ["nlp/bert:0.1", "nlp/bert:0.0", "x:0.0"]
    lines = [(WRONG if spec == specs[1] else RIGHT).format(spec) for spec in specs]
    output, errors = verify(6)
    assert output == "".join(lines)
    assert errors == (
        f"modelkit_assets: '{path}' is not what was published: "
        "`fetch --download nlp/bert:0.0` replaces it\n"
    )
    if offline:
        return
    assert verify(6, "nlp/bert:0.0[deep]")[1].startswith(f"modelkit_assets: '{path}'")
    assert verify(0, "nlp/bert:0.0[vocab.txt]")[1] == ""
    document = json.loads(verify(6, "nlp/bert:0.0", "--json")[0])
    wrong = {"spec": "nlp/bert:0.0", "state": "wrong", "wrong": [str(path)]}
    assert document == [wrong]
    run("fetch", "--download", "nlp/bert:0.0")  # as the hint says
    verify(0)


@pytest.mark.parametrize("how", ["link", "marker"])
def test_a_copy_that_cannot_be_looked_at_is_wrong_and_the_others_are_looked_at(
    cached, tmp_path, how
):
    path = cached / "nlp/bert/0.0"
    if how == "link":
        path.rename(tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere")
    else:
        (path / ".SUCCESS").write_bytes(b"rubbish")
    output, errors = verify(6)
    assert output.splitlines()[1] == "wrong       nlp/bert:0.0"
    assert output.count("right ") == 2
    assert str(path) in errors
    assert errors.count("\n") == 1
    assert json.loads(verify(6, "--json")[0])[1]["state"] == "wrong"


def test_of_a_copy_in_part_what_is_there_is_looked_at(published, assets_dir):
    ok("fetch", "nlp/bert:0.0[vocab.txt]")
    assert verify(0, "nlp/bert:0.0")[0] == RIGHT.format("nlp/bert:0.0")
    assert verify(0)[0] == RIGHT.format("nlp/bert:0.0")
    path = assets_dir / "nlp/bert/0.0/vocab.txt"
    path.write_bytes(b"b a")
    assert str(path) in verify(6)[1]
    assert "no such part" in verify(3, "nlp/bert:0.0[nothing]")[1]


def test_what_modelkit_published_has_no_digests(store, source, assets_dir):
    publish_as_modelkit(store, source)
    ok("fetch", "x")  # with a marker of ours, which has the digests that came
    assert verify(0)[0] == RIGHT.format("x:0.0")
    (assets_dir / "x/0.0/.SUCCESS").write_bytes(b"")
    assert verify(1)[0] == UNKNOWN.format("x:0.0")
    write_tree(assets_dir, {"y/0.0": b"1", "y/.0.0.SUCCESS": b""})
    expected = UNKNOWN.format("x:0.0")
    assert verify(1, "x")[0] == expected


def test_modelkits_marker_is_as_good_where_the_store_knows_the_digests(
    cached, monkeypatch
):
    for marker in cached.rglob("*.SUCCESS"):
        marker.write_bytes(b"")
    assert verify(0)[0].count("right ") == 3
    damage("another byte", cached / "nlp/bert/0.1")
    assert verify(6)[0].splitlines()[0] == "wrong       nlp/bert:0.1"
    monkeypatch.delenv("MODELKIT_STORAGE_PROVIDER")
    assert verify(1)[0].count("no digests ") == 3


def test_what_came_with_an_image_may_have_no_marker_and_is_then_unknown(
    tmp_path, monkeypatch
):
    folder = write_tree(tmp_path / "assets", {"x/0.0": b"1"})
    monkeypatch.setenv("MODELKIT_ASSETS_DIR", str(folder))
    assert verify(0) == ("", "")
    assert verify(1, "x:0.0")[0] == UNKNOWN.format("x:0.0")
    assert verify(1, "x")[0] == UNKNOWN.format("x:0.0")
    assert "x" in verify(3, "y")[1]


def test_what_is_not_there_cannot_be_verified(cached):
    assert "has no copy of it" in verify(3, "nlp/bert:0.7")[1]
    assert "is it 'nlp/bert'?" in verify(3, "nlp/brt")[1]
    assert "invalid asset spec" in verify(2, "nlp/bert[")[1]


# ------------------------------------------------------------------------ suggestions


@pytest.mark.parametrize("command", ["fetch", "resolve", "info", "verify"])
def test_a_misspelt_name_suggests_near_ones(published, command):
    text = fails(3, command, "nlp/brt")
    assert "'nlp/brt' does not exist: " in text
    assert text.endswith("; is it 'nlp/bert'?\n")
    assert "is it" not in fails(3, command, "quite/another")


@pytest.mark.parametrize("command", ["fetch", "info"])
def test_a_missing_version_lists_those_there_are(published, command):
    text = fails(3, command, "nlp/bert:0.7")
    assert text.endswith("'nlp/bert:0.7' does not exist: the latest are 0.1, 0.0\n")
    assert "the major versions are: 0\n" in fails(3, command, "nlp/bert:4")
    text = fails(3, command, "nlp/brt:0.0")
    assert text.endswith("the latest are none; is it 'nlp/bert'?\n")


def test_several_near_names_are_suggested(published, source):
    published.new(source, "nlp/berta")
    text = fails(3, "fetch", "nlp/bertx")
    assert {"'nlp/bert'", "'nlp/berta'"} <= set(text.rstrip("?\n").split())


def test_a_missing_part_suggests_no_asset(published):
    text = fails(3, "fetch", "nlp/bert:0.0[vocab]")
    assert text.endswith("the asset has no such part\n")


def test_offline_those_that_are_cached_are_suggested(cached, monkeypatch):
    monkeypatch.delenv("MODELKIT_STORAGE_PROVIDER")
    for command in ("fetch", "resolve", "info", "verify"):
        assert "is it 'nlp/bert'?" in fails(3, command, "nlp/brt")
    assert "whose versions of it are: 0.1, 0.0" in fails(3, "fetch", "nlp/bert:0.7")
    assert "is it 'nlp/bert'?" in fails(3, "fetch", "nlp/brt:0.0")


def test_where_nothing_can_be_listed_the_error_is_the_same(published, store):
    expected = fails(3, "fetch", "quite/another").replace("quite/another", "nlp/brt")
    folder = store.bucket / "modelkit-assets"
    folder.chmod(0o311)
    try:
        assert "was refused" in fails(4, "list", command=MORTAL)
        assert fails(3, "fetch", "nlp/brt", command=MORTAL) == expected
    finally:
        folder.chmod(0o755)


@pytest.mark.server
def test_a_store_that_fails_on_a_listing_is_not_asked_for_long(
    make_proxied_store, stub, assets_dir, call
):
    make_proxied_store(MotoStore)
    stub.script = Faulty(stub.script, reply(S3.fail(503, "SlowDown")), is_list)
    begun = time.monotonic()
    code, _, errors = call("fetch", "nlp/brt")
    assert (code, "does not exist" in errors, "is it" in errors) == (3, True, False)
    assert time.monotonic() - begun < 30


# ----------------------------------------------------------------------------- doctor


def examine(*args, command=BARE, **settings):
    """Run `doctor` as a process; return its exit code, and its checks by name."""
    done = run("doctor", "--json", *args, command=command, **settings)
    assert done.stderr == "", done.stderr
    return read_checks(done.returncode, done.stdout)


def read_checks(code, output):
    document = json.loads(output)
    assert document.keys() == {"settings", "checks"}
    for one in document["settings"]:
        assert one.keys() == {"setting", "value", "from"}
    for one in document["checks"]:
        assert one.keys() == {"check", "state", "detail", "code"}
        assert one["state"] == ("failed" if one["code"] else "ok")
        assert one["detail"]
    codes = [one["code"] for one in document["checks"] if one["code"]]
    assert code == next(iter(codes), 0)
    return code, {one["check"]: one for one in document["checks"]}


def find_failures(checks):
    return [name for name, one in checks.items() if one["code"]]


def fails_alone(name, code, *texts, found):
    """Check that a check, and no other, failed with that code; return what it says."""
    got, checks = found
    assert (got, find_failures(checks)) == (code, [name]), checks
    for text in texts:
        assert text in checks[name]["detail"], checks[name]
    return checks


READS = ["versioning", "provider", "SDK", "list", "read", "assets dir"]


@pytest.fixture(params=STORES)
def any_store(request, make_store):
    return make_store(request.param)


def test_a_setup_that_works_is_well(any_store, assets_dir, source, call):
    code, checks = read_checks(*call("doctor", "--json")[:2])
    assert (code, list(checks)) == (0, READS)
    assert "is empty" in checks["list"]["detail"]
    assert "nothing to read" in checks["read"]["detail"]
    assert any_store.list_objects() == []
    ma.StorageProvider().new(source, "x")
    before = any_store.read_objects()
    code, checks = read_checks(*call("doctor", "--json")[:2])
    assert (code, list(checks)) == (0, READS)
    assert "is empty" not in checks["list"]["detail"]
    assert "can be read" in checks["read"]["detail"]
    assert "are free" in checks["assets dir"]["detail"]
    assert any_store.read_objects() == before
    assert list(assets_dir.iterdir()) == []


def test_on_request_a_probe_is_published_and_removed(any_store, assets_dir, call):
    code, checks = read_checks(*call("doctor", "--write", "--json")[:2])
    assert list(checks) == [*READS[:-1], "write", "assets dir"]
    if any_store.honours_conditions:
        assert code == 0
        assert "conditional writes are honoured" in checks["write"]["detail"]
    else:
        text = "ignores conditional writes"
        fails_alone("write", 1, text, "publish from one place", found=(code, checks))
    assert any_store.list_objects() == []


def test_the_settings_are_shown_with_where_they_are_from(store, assets_dir, tmp_path):
    environ = {
        **os.environ,
        "STORAGE_PROVIDER": "local",
        "MODELKIT_STORAGE_PROVIDER": "",
        "MODELKIT_STORAGE_TIMEOUT_S": "7",
    }
    options = ["--prefix", "mine", "--bucket", store.bucket]
    lines = ok("doctor", *options, env=environ).splitlines()
    rows = {words[0]: words[1:] for words in map(str.split, lines) if words}
    assert rows["MODELKIT_ASSETS_DIR"] == [str(assets_dir), "environment"]
    assert rows["MODELKIT_STORAGE_PROVIDER"] == [
        "local",
        "environment,",
        "STORAGE_PROVIDER",
    ]
    assert rows["MODELKIT_STORAGE_BUCKET"] == [str(store.bucket), "--bucket"]
    assert rows["MODELKIT_STORAGE_PREFIX"] == ["mine", "--prefix"]
    assert rows["MODELKIT_STORAGE_TIMEOUT_S"] == ["7", "environment"]
    assert rows["MODELKIT_STORAGE_WORKERS"] == ["16", "default"]
    assert "ok      provider: local" in lines


def test_without_a_store_only_the_assets_dir_is_looked_at(assets_dir):
    code, checks = examine()
    assert (code, list(checks)) == (0, ["versioning", "provider", "assets dir"])
    assert "pre-downloaded mode" in checks["provider"]["detail"]
    found = examine("--write")  # which cannot be done
    fails_alone("provider", 2, "MODELKIT_STORAGE_PROVIDER", found=found)


SETTINGS = [
    ("assets dir", "MODELKIT_ASSETS_DIR", "/no/such/folder", "MODELKIT_ASSETS_DIR"),
    ("assets dir", "MODELKIT_ASSETS_TIMEOUT_S", "soon", "must be a number"),
    ("provider", "MODELKIT_STORAGE_TIMEOUT_S", "-1", "0 or more, not '-1'"),
    ("provider", "MODELKIT_STORAGE_WORKERS", "0", "must be a whole number"),
    ("provider", "MODELKIT_STORAGE_FORCE_DOWNLOAD", "perhaps", "true or false"),
    ("provider", "MODELKIT_STORAGE_PREFIX", "../x", "must be a path below"),
    ("provider", "MODELKIT_STORAGE_PROVIDER", "s9", "az, gcs, local, s3"),
    ("provider", "MODELKIT_STORAGE_BUCKET", "", "MODELKIT_STORAGE_BUCKET is not set"),
    ("provider", "MODELKIT_STORAGE_BUCKET", "/no/such/folder", "create it, or set"),
    ("versioning", "MODELKIT_ASSETS_VERSIONING_SYSTEM", "a:B", "use major_minor"),
]


@pytest.mark.parametrize(("check", "variable", "value", "text"), SETTINGS)
def test_a_setting_that_is_wrong_is_named_once(
    store, assets_dir, monkeypatch, check, variable, value, text
):
    monkeypatch.setenv(variable, value)
    fails_alone(check, 2, text, variable, found=examine())


def test_an_assets_dir_inside_the_store_is_wrong(store, monkeypatch):
    folder = store.bucket / "modelkit-assets/cache"
    folder.mkdir(parents=True)
    monkeypatch.setenv("MODELKIT_ASSETS_DIR", str(folder))
    fails_alone("assets dir", 2, "must not be the same folder", found=examine())


@pytest.mark.parametrize(
    ("provider", "settings", "text"),
    [
        ("az", {}, "AZURE_STORAGE_CONNECTION_STRING is not set"),
        ("s3", {"AWS_ACCESS_KEY_ID": "a"}, "AWS_SECRET_ACCESS_KEY is not set"),
        ("s3", {"S3_ENDPOINT": "localhost"}, "S3_ENDPOINT must be http(s)://HOST"),
        (
            "gcs",
            {"GOOGLE_APPLICATION_CREDENTIALS": "/no"},
            "no credentials file: '/no'",
        ),
    ],
)
def test_a_drivers_setting_that_is_wrong_is_named(
    assets_dir, monkeypatch, provider, settings, text
):
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    found = examine("--provider", provider, "--bucket", "b")
    fails_alone("provider", 2, text, found=found)


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda one: one.provider)
def test_an_sdk_that_is_missing_is_named_with_the_command_that_installs_it(
    assets_dir, monkeypatch, protocol
):
    for name, value in protocol.environ("http://127.0.0.1:1").items():
        monkeypatch.setenv(name, value)
    found = examine("--provider", protocol.provider, "--bucket", "b")
    checks = fails_alone("SDK", 2, f"pip install {protocol.package}", found=found)
    assert list(checks) == ["versioning", "provider", "SDK", "assets dir"]


@pytest.mark.server
def test_a_profile_that_does_not_exist_is_named(
    assets_dir, monkeypatch, require_sdk, call
):
    require_sdk(S3)
    for name, value in {**S3.bare_environ(), "AWS_DEFAULT_PROFILE": "nobody's"}.items():
        monkeypatch.setenv(name, value)
    code, output, _ = call("doctor", "--json", "--provider", "s3", "--bucket", "b")
    found = read_checks(code, output)
    fails_alone("SDK", 2, "nobody's", "AWS_DEFAULT_PROFILE", found=found)


@pytest.mark.server
def test_credentials_that_are_nowhere_are_asked_for(
    assets_dir, monkeypatch, require_sdk, call
):
    for protocol, variable in ((S3, "AWS_ACCESS_KEY_ID"), (GCS, "GOOGLE_APPL")):
        require_sdk(protocol)
        for name, value in protocol.bare_environ().items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("HOME", str(assets_dir))
        where = ["--provider", protocol.provider, "--bucket", "b"]
        code, checks = read_checks(*call("doctor", "--json", *where)[:2])
        (failed,) = find_failures(checks)
        assert (code, failed in ("SDK", "list")) == (2, True)
        assert variable in checks[failed]["detail"]


SERVERS = [
    pytest.param(kind, protocol, marks=pytest.mark.server, id=protocol.provider)
    for kind, protocol in ((MotoStore, S3), (GcsStore, GCS), (AzuriteStore, AZURE))
]


@pytest.mark.parametrize(("kind", "protocol"), SERVERS)
def test_a_bucket_that_is_missing_is_named(
    make_store, assets_dir, monkeypatch, call, kind, protocol
):
    make_store(kind)
    monkeypatch.setenv("MODELKIT_STORAGE_BUCKET", "no-such-bucket")
    found = read_checks(*call("doctor", "--json")[:2])
    fails_alone("list", 2, "MODELKIT_STORAGE_BUCKET", found=found)


def is_list(request):
    path = request.path
    is_gcs = "/o?" in path and "alt=media" not in path
    return request.method == "GET" and (
        "list-type=" in path or "comp=list" in path or is_gcs
    )


def is_read(request):
    return request.method == "GET" and not is_list(request)


def is_write(request):
    return request.is_write


def is_delete(request):
    return request.method == "DELETE"


REFUSED = {"list": is_list, "read": is_read, "write": is_write}


@pytest.mark.parametrize(("kind", "protocol"), SERVERS)
@pytest.mark.parametrize("check", REFUSED)
def test_what_is_refused_is_told_from_what_is_not(
    make_proxied_store, stub, assets_dir, source, call, kind, protocol, check
):
    store = make_proxied_store(kind)
    ma.StorageProvider().new(source, "x")
    before = store.read_objects()
    fault = reply(protocol.fail(403, "AccessDenied"))
    stub.script = Faulty(stub.script, fault, REFUSED[check])
    found = read_checks(*call("doctor", "--write", "--json")[:2])
    checks = fails_alone(check, 4, "was refused", "credentials", found=found)
    names = ["versioning", "provider", "SDK", *REFUSED]
    assert list(checks)[:-1] == names[: names.index(check) + 1]  # and no further
    assert store.read_objects() == before


@pytest.mark.parametrize(("kind", "protocol"), SERVERS)
def test_a_probe_that_may_not_be_deleted_is_named_and_publishing_works(
    make_proxied_store, stub, assets_dir, call, kind, protocol
):
    store = make_proxied_store(kind)
    fault = reply(protocol.fail(403, "AccessDenied"))
    stub.script = Faulty(stub.script, fault, is_delete)
    found = read_checks(*call("doctor", "--write", "--json")[:2])
    (probe,) = store.list_objects()
    texts = [probe, "may not be deleted, which publishing does not need"]
    fails_alone("write", 4, *texts, "delete it by hand", found=found)


@pytest.mark.parametrize(("kind", "protocol"), SERVERS)
@pytest.mark.parametrize("number", [2, 3, 4])
def test_the_probe_is_removed_where_a_later_write_fails(
    make_proxied_store, stub, assets_dir, call, kind, protocol, number
):
    store = make_proxied_store(kind)
    fault = reply(protocol.fail(403, "AccessDenied"))
    stub.script = Faulty(stub.script, fault, nth(number, is_write))
    found = read_checks(*call("doctor", "--write", "--json")[:2])
    fails_alone("write", 4, "was refused", found=found)
    assert store.list_objects() == []


@pytest.mark.parametrize(("kind", "protocol"), SERVERS)
def test_a_failure_that_passes_is_none_and_one_that_stays_is(
    make_proxied_store, stub, assets_dir, call, monkeypatch, kind, protocol
):
    """Which is not to be taken for an empty store."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    make_proxied_store(kind)
    whole, fault = stub.script, reply(protocol.fail(*protocol.slow_down))
    stub.script = once = Faulty(whole, fault, nth(1, is_list))
    code, checks = read_checks(*call("doctor", "--json")[:2])
    assert (code, find_failures(checks)) == (0, [])
    assert once.hits
    stub.script = Faulty(whole, fault, is_list)
    found = read_checks(*call("doctor", "--json")[:2])
    texts = ["the store fails on", protocol.slow_down[1]]
    fails_alone("list", 5, *texts, found=found)


@pytest.mark.server
@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda one: one.provider)
def test_a_store_that_cannot_be_reached_is_called_so_soon(
    assets_dir, monkeypatch, require_sdk, call, protocol
):
    require_sdk(protocol)
    for name, value in protocol.environ("http://127.0.0.1:1").items():
        monkeypatch.setenv(name, value)
    begun = time.monotonic()
    where = ["--provider", protocol.provider, "--bucket", "bucket"]
    found = read_checks(*call("doctor", "--json", *where)[:2])
    fails_alone("list", 5, "onnect", "127.0.0.1", found=found)
    assert time.monotonic() - begun < 40


@pytest.mark.server
@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda one: one.provider)
def test_a_store_that_does_not_answer_is_not_waited_for(
    stub, assets_dir, monkeypatch, require_sdk, call, protocol
):
    """The SDKs would wait for a minute, and then again."""
    require_sdk(protocol)
    for name, value in protocol.environ(stub.endpoint).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(ma, "_DOCTOR_PATIENCE_S", 1.5)
    stub.script = lambda request: SILENCE
    begun = time.monotonic()
    where = ["--provider", protocol.provider, "--bucket", "bucket"]
    found = read_checks(*call("doctor", "--json", *where)[:2])
    fails_alone("list", 5, "there is no answer", found=found)
    assert time.monotonic() - begun < 20


STUCK = """
import os, time, modelkit_assets

class Driver(modelkit_assets.LocalDriver):
    "A folder in which nothing goes on once an object was written."

    def write_object(self, data, name, *, if_match=None):
        super().write_object(data, name, if_match=if_match)
        time.sleep(60)
"""


def test_the_probe_is_removed_on_an_interrupt(tmp_path, store, assets_dir):
    folder = tmp_path / "program"
    write_tree(folder, {"drivers/stuck.py": STUCK.encode()})
    shutil.copy(CORE, folder)
    core = str(folder / "modelkit_assets.py")
    command = [*BARE[:-1], core, "doctor", "--write", "--provider", "stuck"]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, stdout=pipe, stderr=pipe,
        # a shell that runs the tests in the background has it ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as doctor:  # fmt: skip
        while not store.list_objects():
            assert doctor.poll() is None, doctor.communicate()
        doctor.send_signal(signal.SIGINT)
        output, errors = doctor.communicate(timeout=30)
    assert (doctor.returncode, output) == (130, b"")
    assert errors == b"modelkit_assets: error: interrupted\n"
    assert store.list_objects() == []


def test_an_assets_dir_that_cannot_be_written_is_wrong_unless_there_is_no_store(
    store, assets_dir, monkeypatch
):
    assets_dir.chmod(0o555)
    try:
        text = "cannot write to the assets dir: Permission denied"
        fails_alone("assets dir", 1, text, found=examine(command=MORTAL))
        monkeypatch.delenv("MODELKIT_STORAGE_PROVIDER")
        code, checks = examine(command=MORTAL)
        assert code == 0
        assert "cannot be written (Permission denied)" in checks["assets dir"]["detail"]
        assets_dir.chmod(0)  # which serves nothing
        found = examine(command=MORTAL)
        fails_alone("assets dir", 1, "Permission denied", str(assets_dir), found=found)
    finally:
        assets_dir.chmod(0o755)


def test_an_assets_dir_that_is_full_is_wrong(store, assets_dir):
    limit = functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (0, 0))
    found = examine(preexec_fn=limit)
    fails_alone("assets dir", 1, "File too large", found=found)


SECRET = "S3CR3T"
SECRETS = {
    "AWS_ACCESS_KEY_ID": f"AKID{SECRET}",
    "AWS_SECRET_ACCESS_KEY": f"{SECRET}/key",
    "AWS_SESSION_TOKEN": f"{SECRET}/token",
    "AZURE_STORAGE_CONNECTION_STRING": f"AccountName=a;AccountKey={SECRET};x",
}
HIDDEN = {
    "s3": {"S3_ENDPOINT": f"https://me:{SECRET}/x@127.0.0.1:1/"},
    "gcs": {"GOOGLE_APPLICATION_CREDENTIALS": f'{{"private_key": "{SECRET}"}}'},
    "az": {},
    "local": {},
}


@pytest.mark.parametrize("provider", HIDDEN)
@pytest.mark.parametrize("is_hidden", [False, True])
@pytest.mark.parametrize("options", [[], ["--json", "-v"]], ids=str)
def test_no_secret_is_shown(assets_dir, provider, is_hidden, options):
    """Neither where it belongs, nor where somebody put it by mistake."""
    hidden = HIDDEN[provider] if is_hidden else {"S3_ENDPOINT": "http://127.0.0.1:1"}
    environ = {**os.environ, **SECRETS, **hidden, "AWS_MAX_ATTEMPTS": "1"}
    where = ["--provider", provider, "--bucket", "b", "--write"]
    done = run("doctor", *where, *options, env=environ)
    shown = done.stdout + done.stderr
    assert done.returncode == 2  # for one reason or another
    assert "MODELKIT_STORAGE_PROVIDER" in shown
    assert SECRET not in shown
    assert shown.count("***") == {"s3": 3, "az": 1}.get(provider, 0) + bool(
        is_hidden and hidden
    )


# --------------------------------------------------------------------- sources by URL

OBJECTS = {
    "models/bert/vocab.txt": b"a b",
    "models/bert/deep/er/w.bin": bytes(3000),
    "models/bert/empty": b"",
    "models/bert-large": b"large",
    "top": b"t",
}
BERT = {"vocab.txt": b"a b", "deep/er/w.bin": bytes(3000), "empty": b""}
SCHEMES = {"s3": MotoStore, "gs": GcsStore, "az": AzuriteStore}


@pytest.fixture(params=[pytest.param(one, marks=pytest.mark.server) for one in SCHEMES])
def origin(request, make_store):
    """A store with objects that are no assets, and its URL; another is configured."""
    store = make_store(SCHEMES[request.param])
    store.url = f"{request.param}://{store.bucket}"
    for name, data in OBJECTS.items():
        store.write_object(name, data)
    return store


@pytest.fixture
def target(origin, make_store):
    return make_store(LocalStore)


@pytest.fixture
def temp(tmp_path, monkeypatch):
    """The folder for temporary files, which ours must be gone from."""
    folder = tmp_path / "temp" / "below"
    folder.mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert list(folder.parent.rglob("*")) == [folder]


def publish(call, url, code=0, *options):
    got, output, errors = call("new", url, "x", "--yes", *options)
    assert got == code, errors
    return output if not code else errors


@pytest.mark.parametrize(
    ("path", "tree"),
    [
        ("/top", b"t"),
        ("/models/bert/deep/er/w.bin", bytes(3000)),
        ("/models/bert/empty", b""),
        ("/models/bert", BERT),
        ("/models/bert/", BERT),
        ("//models/bert", BERT),
        ("/models/bert/deep", {"er/w.bin": bytes(3000)}),
        ("", OBJECTS),
        ("/", OBJECTS),
    ],
)
def test_an_object_or_all_below_a_prefix_is_published(
    origin, target, temp, assets_dir, call, path, tree
):
    before = origin.read_objects()
    assert publish(call, origin.url + path) == "x:0.0\n"
    copy = Path(ma.AssetsManager().fetch_asset("x"))
    assert (read_tree(copy) if copy.is_dir() else copy.read_bytes()) == tree
    assert origin.read_objects() == before


def test_what_is_an_object_and_a_prefix_is_the_object_unless_it_ends_in_a_slash(
    origin, target, temp, assets_dir, call
):
    origin.write_object("both", b"object")
    origin.write_object("both/below", b"below")
    origin.write_object("both/", b"")  # which stands for a folder in some tools
    publish(call, f"{origin.url}/both")
    assert call("update", f"{origin.url}/both/", "x", "--yes")[:2] == (0, "x:0.1\n")
    manager = ma.AssetsManager()
    assert Path(manager.fetch_asset("x:0.0")).read_bytes() == b"object"
    assert read_tree(Path(manager.fetch_asset("x:0.1"))) == {"below": b"below"}
    text = publish(call, origin.url, 2, "--prefix", "other")
    assert "a path that is both a file and a folder" in text


@pytest.mark.parametrize("path", ["/nothing", "/models/ber", "/top/"])
def test_where_nothing_is_nothing_is_published(origin, target, temp, call, path):
    text = publish(call, origin.url + path, 2)
    assert f"'{origin.url}{path}': there is no such object, and none below it" in text
    assert target.list_objects() == []


@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_is_no_url_of_a_store_is_a_path(store, scheme):
    for url in (f"{scheme}://", f"{scheme}:/b/x", "https://example.com/x"):
        assert "No such file" in fails(2, "new", url, "x", "--yes")


HOSTILE = ["a/../b", "x:y", "..", "../../x", "a//b", "a/CON", "a\\..\\b"]


@pytest.mark.parametrize("name", HOSTILE)
def test_an_object_that_no_file_can_be_called_after_is_refused(
    origin, target, temp, call, name
):
    hold(origin, f"bad/{name}")
    assert "the path" in publish(call, f"{origin.url}/bad", 2)
    assert "the path" in publish(call, f"{origin.url}/bad/{name}", 2)
    assert target.list_objects() == []


def hold(store, name):
    """Let a store have such an object, or skip the test where the server cannot."""
    with suppress(Exception):  # of any SDK
        store.write_object(name, b"evil")
    if name not in store.list_objects():
        pytest.skip("the server holds no such name")


def test_a_url_that_no_file_can_be_called_after_is_refused(origin, target, temp, call):
    for prefix in ("a/..", "..", "a/x:", "a/CON", "x:y", "../../x"):
        assert "the path" in publish(call, f"{origin.url}/{prefix}", 2)
        assert "the path" in publish(call, f"{origin.url}/{prefix}/", 2)
    assert target.list_objects() == []


def test_a_dry_run_from_a_url_changes_nothing(origin, target, temp, call):
    assert publish(call, f"{origin.url}/models/bert", 0, "--dry-run") == "x:0.0\n"
    assert target.list_objects() == []


def test_a_publication_that_is_declined_has_downloaded_nothing(
    store, stub, monkeypatch
):
    for name, value in S3.environ(stub.endpoint).items():
        monkeypatch.setenv(name, value)
    done = answer("n\n", "new", "s3://bucket/x", "x")  # of a Python without boto3
    assert (done.returncode, done.stdout) == (1, "")
    assert "declined, nothing was published" in done.stderr
    assert "Publish 's3://bucket/x' as the new asset 'x'" in done.stderr
    assert stub.requests == []


@pytest.mark.server
def test_what_lies_in_one_kind_of_store_is_published_in_another(
    make_store, temp, assets_dir, call
):
    origins = {scheme: make_store(kind) for scheme, kind in SCHEMES.items()}
    for scheme, origin in origins.items():
        origin.write_object("some/thing", scheme.encode())
    for number, (scheme, origin) in enumerate(origins.items()):  # into az, the last
        url = f"{scheme}://{origin.bucket}/some/thing"
        assert call("new", url, f"x{number}", "--yes")[0] == 0
        path = ma.AssetsManager().fetch_asset(f"x{number}")
        assert Path(path).read_text() == scheme
    meta = "modelkit-assets/x0/0.0.meta"
    assert meta in origins["az"].list_objects()
    assert meta not in origins["s3"].list_objects()


@pytest.mark.server
def test_a_source_that_is_refused_or_gone_is_an_error_of_its_own(
    make_proxied_store, make_store, stub, temp, call
):
    origin = make_proxied_store(MotoStore)
    origin.write_object("some/thing", b"data")
    url, script = f"s3://{origin.bucket}/some", stub.script
    target = make_store(LocalStore)
    fault = reply(S3.fail(403, "AccessDenied"))
    for choose in (is_list, is_read):
        stub.script = Faulty(script, fault, choose)
        assert "was refused" in publish(call, url, 4)
    stub.script = script
    assert "MODELKIT_STORAGE_BUCKET" in publish(call, "s3://no-such-bucket/x", 2)
    assert target.list_objects() == []


# ------------------------------------------------------------------------------- help


def find_parsers(chosen=None):
    parser = ma._get_main_parser(chosen)
    (commands,) = (one for one in parser._actions if isinstance(one.choices, dict))
    return parser, commands.choices


def test_every_option_of_every_command_has_help():
    parser, commands = find_parsers()
    assert sorted(commands) == sorted(COMMANDS)
    for name, command in commands.items():
        for action in (*command._actions, *parser._actions[:2]):
            assert action.help, (name, action)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_example_of_each_command_is_one_of_it(name):
    parser, commands = find_parsers()
    program, *args = shlex.split(commands[name].epilog.partition("example: ")[2])
    args = args[: args.index(">")] if ">" in args else args
    options = parser.parse_args(args)
    assert (program, args[0]) == ("modelkit_assets", name)
    assert options.run.__name__ == f"_run_{name}"


def test_a_command_makes_its_own_arguments_alone():
    _, commands = find_parsers("fetch")
    sizes = {name: len(command._actions) for name, command in commands.items()}
    assert {name for name, size in sizes.items() if size > 1} == {"fetch"}
    _, commands = find_parsers(None)
    assert all(len(command._actions) > 1 for command in commands.values())


@pytest.mark.parametrize("columns", [1, 20, 80, 300])
def test_help_fits_any_terminal(columns):
    for args in (["--help"], ["list", "--help"]):
        with Terminal([*BARE, *args], columns, both=True) as terminal:
            assert terminal.end()[0] == 0
        lines = terminal.text.decode().splitlines()
        assert "usage: modelkit_assets" in " ".join(" ".join(lines).split())
        assert columns < 80 or max(map(len, lines)) <= columns


def test_options_come_after_the_command():
    for args in (["-v", "fetch", "x"], ["--json", "list"], ["fetsh", "x"], ["--", "x"]):
        done = run(*args)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("usage: modelkit_assets")
    assert "'fetch'" in run("fetsh", "x").stderr  # all that there are
    assert run("fetch", "x", "-v", "--provider").returncode == 2


def test_the_main_help_names_all_commands_and_exit_codes():
    text = ok("--help")
    assert all(f"\n    {name} " in text for name in COMMANDS)
    assert "130 interrupted" in " ".join(text.split())


def test_main_takes_the_arguments_of_the_process(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["x", "list", "--local"])
    monkeypatch.setenv("MODELKIT_ASSETS_DIR", str(tmp_path))
    assert ma.main() == 0
    assert "no such copies" in capsys.readouterr().err
