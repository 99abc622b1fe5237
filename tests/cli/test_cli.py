"""The command line, as a script meets it: stdout, stderr and exit codes."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from commands import BARE, COMMANDS, CORE, MORTAL, answer, fails, ok, run
from trees import copy_data, read_tree, snapshot, write_tree


@pytest.fixture
def source(tmp_path):
    return write_tree(tmp_path / "source", {"vocab.txt": b"a b", "deep/w.bin": b"1234"})


@pytest.fixture
def published(source, store):
    ok("new", source, "nlp/bert", "--yes")
    ok("update", source / "vocab.txt", "nlp/bert", "--yes")
    ok("new", source / "vocab.txt", "nlp/vocab", "--yes")


def test_the_whole_main_job_runs_on_a_bare_python(source, store, assets_dir):
    assert ok("new", source, "nlp/bert", "--yes") == "nlp/bert:0.0\n"
    assert ok("update", source, "nlp/bert", "--yes") == "nlp/bert:0.1\n"
    assert ok("update", source, "nlp/bert:0", "-y") == "nlp/bert:0.2\n"
    assert ok("update", source, "nlp/bert", "--bump-major", "-y") == "nlp/bert:1.0\n"
    assert ok("list") == "nlp/bert  1.0 0.2 0.1 0.0\n"
    assert ok("resolve", "nlp/bert", "nlp/bert:0[vocab.txt]") == (
        "nlp/bert:1.0\nnlp/bert:0.2[vocab.txt]\n"
    )
    paths = ok("fetch", "nlp/bert:0", "nlp/bert:1.0[deep/w.bin]").splitlines()
    assert paths == [
        f"{assets_dir}/nlp/bert/0.2",
        f"{assets_dir}/nlp/bert/1.0/deep/w.bin",
    ]
    assert read_tree(Path(paths[0])) == read_tree(source)
    assert f"{assets_dir}/nlp/bert/0.2" in ok("info", "nlp/bert:0")


def test_options_stand_for_their_variables(tmp_path, source, monkeypatch):
    for folder in ("bucket", "cache"):
        (tmp_path / folder).mkdir()
    where = ["--provider", "local", "--bucket", tmp_path / "bucket"]
    ok("new", source, "x", "--yes", *where, "--storage-prefix", "mine",
       "--versioning", "simple_date")  # fmt: skip
    assert (tmp_path / "bucket" / "mine" / "x.versions").is_file()
    where += ["--prefix", "mine"]
    version = json.loads(ok("list", "--json", *where))[0]["version"]
    path = ok("fetch", "x", *where, "--assets-dir", tmp_path / "cache")
    assert path == f"{tmp_path}/cache/x/{version}\n"


def test_json_is_one_document(published, source, assets_dir):
    versions = [{"name": "nlp/bert", "version": one} for one in ("0.1", "0.0")]
    assert json.loads(ok("list", "nlp/b*", "--json")) == versions
    assert json.loads(ok("resolve", "nlp/bert", "--json")) == ["nlp/bert:0.1"]
    for from_cache in (False, True):
        assert json.loads(ok("fetch", "nlp/bert:0.0", "--json")) == [
            {
                "spec": "nlp/bert:0.0",
                "path": f"{assets_dir}/nlp/bert/0.0",
                "version": "0.0",
                "from_cache": from_cache,
            }
        ]
    info = json.loads(ok("info", "nlp/bert:0.0", "--json"))
    assert info["path"] == f"{assets_dir}/nlp/bert/0.0"
    assert [file["size"] for file in info["manifest"]["files"]] == [4, 3]
    done = json.loads(ok("update", source, "nlp/bert", "--dry-run", "--json"))
    assert done == {"name": "nlp/bert", "version": "0.2", "dry_run": True}


def test_specs_are_read_from_a_file(published, assets_dir, tmp_path):
    (tmp_path / "assets.txt").write_text(
        "# what we need\nnlp/bert:0.0[vocab.txt]  # the words\n\n  nlp/vocab\n"
    )
    assert ok("resolve", "nlp/bert", "-r", tmp_path / "assets.txt") == (
        "nlp/bert:0.1\nnlp/bert:0.0[vocab.txt]\nnlp/vocab:0.0\n"
    )
    assert ok("fetch", "-r", tmp_path / "assets.txt").splitlines() == [
        f"{assets_dir}/nlp/bert/0.0/vocab.txt",
        f"{assets_dir}/nlp/vocab/0.0",
    ]
    assert "missing.txt" in fails(2, "fetch", "-r", tmp_path / "missing.txt")


def test_download_fetches_again_what_is_cached(published, assets_dir):
    path = Path(ok("fetch", "nlp/vocab").strip())
    path.write_text("b a")  # of the same size, which is all that a hit looks at
    ok("fetch", "nlp/vocab")
    assert path.read_text() == "b a"
    ok("fetch", "nlp/vocab", "--download")
    assert path.read_text() == "a b"


def test_a_pinned_hit_needs_neither_store_nor_lock_nor_write(
    published, store, assets_dir
):
    path = ok("fetch", "nlp/bert:0.0")
    for lock in assets_dir.rglob("*.lock"):
        lock.unlink()
    store.bucket.rename(store.bucket.with_name("gone"))
    before = snapshot(assets_dir)
    assert ok("fetch", "nlp/bert:0.0") == path
    assert ok("fetch", "nlp/bert:0.0[vocab.txt]").endswith("0.0/vocab.txt\n")
    assert snapshot(assets_dir) == before
    assert "MODELKIT_STORAGE_BUCKET" in fails(2, "fetch", "nlp/bert:0.1")
    assert "MODELKIT_STORAGE_BUCKET" in fails(2, "fetch", "nlp/bert")


def test_a_read_only_assets_dir_serves_hits_and_names_itself_on_a_miss(
    published, assets_dir
):
    path = ok("fetch", "nlp/bert:0.0")
    for folder in [assets_dir, *assets_dir.rglob("*")]:
        folder.chmod(0o555 if folder.is_dir() else 0o444)
    try:
        assert ok("fetch", "nlp/bert:0.0", command=MORTAL) == path
        assert str(assets_dir) in fails(1, "fetch", "nlp/vocab:0.0", command=MORTAL)
    finally:
        for folder in [assets_dir, *assets_dir.rglob("*")]:
            folder.chmod(0o755)


def test_an_unreadable_source_is_refused(source, store):
    (source / "vocab.txt").chmod(0)
    text = fails(2, "new", source, "nlp/bert", "--yes", command=MORTAL)
    assert "Permission denied" in text
    assert "vocab.txt" in text
    assert store.read_objects() == {}


def test_pre_downloaded_mode_serves_what_is_there(tmp_path):
    assets_dir = copy_data("assets_dir", tmp_path / "assets_dir")
    (assets_dir / "plain.txt").write_text("no asset, but a path")
    where = ["--assets-dir", assets_dir]
    before = snapshot(assets_dir)
    assert ok("fetch", "nlp/tokenizer", *where) == f"{assets_dir}/nlp/tokenizer/10.0\n"
    assert ok("fetch", "nlp/tokenizer:0", *where) == f"{assets_dir}/nlp/tokenizer/0.1\n"
    assert ok("fetch", "plain.txt", *where) == f"{assets_dir}/plain.txt\n"
    absolute = assets_dir / "nlp" / "bert"
    assert ok("fetch", absolute, *where) == f"{absolute}\n"
    assert ok("fetch", "nlp", *where, cwd=tmp_path) == f"{assets_dir}/nlp\n"
    relative = ok("fetch", "assets_dir/plain.txt", *where, cwd=tmp_path)
    assert relative == f"{assets_dir}/plain.txt\n"
    assert "10.0, 0.1" in fails(3, "fetch", "nlp/tokenizer:3.0", *where)
    assert "download again" in fails(
        2, "fetch", "nlp/tokenizer:0", "--download", *where
    )
    for command in (["list"], ["new", tmp_path, "x", "-y"], ["update", tmp_path, "x"]):
        assert "MODELKIT_STORAGE_PROVIDER" in fails(2, *command)
    assert snapshot(assets_dir) == before


@pytest.mark.parametrize(
    ("code", "text", "args"),
    [
        (3, "'nlp/brt' does not exist", ["fetch", "nlp/brt"]),
        (3, "the latest are 0.1, 0.0", ["fetch", "nlp/bert:0.7"]),
        (3, "versions are: 0", ["fetch", "nlp/bert:4"]),
        (3, "no such part", ["fetch", "nlp/bert:0.0[missing]"]),
        (2, "invalid asset spec", ["fetch", "nlp/bert:0.0[../../x]"]),
        (2, "invalid asset spec", ["fetch", "nlp/bert["]),
        (2, "invalid asset name", ["fetch", "../etc/passwd"]),
        (2, "invalid asset name", ["resolve", "nlp//bert"]),
        (2, "invalid asset version", ["fetch", "nlp/bert:latest"]),
        (2, "give a SPEC", ["fetch"]),
        (3, "publish it first", ["update", "SOURCE", "nlp/brt", "--yes"]),
        (3, "versions are: 0", ["update", "SOURCE", "nlp/bert:4", "--yes"]),
        (2, "NAME or NAME:MAJOR", ["update", "SOURCE", "nlp/bert:0.4", "--yes"]),
        (1, "already exists", ["new", "SOURCE", "nlp/bert", "--yes"]),
        (2, "NAME alone", ["new", "SOURCE", "nlp/new:1.0", "--yes"]),
        (2, "looks like a version", ["new", "SOURCE", "yolo/1.0", "--yes"]),
        (2, "looks like a version", ["new", "SOURCE", "2021-11-14T18-00-00Z", "-y"]),
        (2, "No such file", ["new", "missing", "nlp/new", "--yes"]),
        (2, "--yes", ["new", "SOURCE", "nlp/new"]),
        (2, "--yes", ["update", "SOURCE", "nlp/bert"]),
        (2, "az, gcs, http, local, s3", ["list", "--provider", "s4"]),
        (2, "MODELKIT_STORAGE_PREFIX", ["list", "--prefix", "../x"]),
        (2, "unknown versioning", ["fetch", "nlp/bert", "--versioning", "no.such:One"]),
    ],
)
def test_bad_input_gets_one_line_and_changes_nothing(
    published, source, store, assets_dir, code, text, args
):
    before = store.read_objects(), snapshot(assets_dir)
    args = [source if arg == "SOURCE" else arg for arg in args]
    assert text in fails(code, *args)
    assert (store.read_objects(), snapshot(assets_dir)) == before


@pytest.mark.parametrize("command", COMMANDS)
def test_bad_usage_is_exit_code_2(command):
    assert run(command, "--no-such-option").returncode == 2
    assert run().returncode == 2


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help_with_an_example(command):
    text = ok(command, "--help")
    assert f"example: modelkit_assets {command}" in " ".join(text.split())


def test_a_traceback_is_shown_on_request_alone(published):
    assert "Traceback" in run("fetch", "nlp/brt", "-v").stderr


@pytest.mark.parametrize("text", ["y\n", "Y\n", "yes\n"])
def test_a_prompt_agrees_to_yes(source, store, text):
    done = answer(text, "new", source, "nlp/new")
    assert (done.returncode, done.stdout) == (0, "nlp/new:0.0\n")
    assert "[y/N]" in done.stderr


@pytest.mark.parametrize("text", ["n\n", "\n", "YES\n", "yesyes\n", "\x04"])
def test_a_prompt_declines_all_else(source, store, text):
    done = answer(text, "new", source, "nlp/new")
    assert (done.returncode, done.stdout) == (1, "")
    assert store.read_objects() == {}


def test_local_copies_are_deleted_when_agreed(published, assets_dir):
    ok("fetch", "nlp/bert:0.0", "nlp/bert:0.1", "nlp/vocab:0.0")
    before = snapshot(assets_dir)
    for command in (["remove", "nlp/bert"], ["prune", "--keep", "1"]):
        assert "--yes" in fails(2, *command)
        done = answer("n\n", *command)
        assert (done.returncode, done.stdout) == (1, "")
        assert "nlp/bert:0.0" in done.stderr
    assert ok("remove", "nlp/bert", "--dry-run") == "nlp/bert:0.1\nnlp/bert:0.0\n"
    assert ok("prune", "--keep", "1", "--dry-run") == "nlp/bert:0.0\n"
    assert snapshot(assets_dir) == before
    assert answer("y\n", "prune", "--keep", "1").stdout == "nlp/bert:0.0\n"
    assert json.loads(ok("remove", "nlp/bert", "-y", "--json")) == ["nlp/bert:0.1"]
    assert ok("prune", "--keep", "1", "--yes") == ""
    assert "no copy" in fails(3, "remove", "nlp/bert", "--yes")
    assert "nlp/vocab" in fails(2, "remove", "nlp/vocab:0", "--yes")
    assert "1 version" in fails(2, "prune", "--keep", "0", "--yes")
    assert [path.name for path in (assets_dir / "nlp").iterdir()] == ["vocab"]
    assert (assets_dir / "nlp/vocab/0.0").read_text() == "a b"


@pytest.mark.parametrize("how", [["-m", "modelkit_assets"], [str(CORE)]])
def test_it_runs_as_module_and_as_script(how):
    command = [sys.executable, *how]
    assert "fetch" in ok("--help", command=command, cwd=CORE.parent)


def test_a_reader_that_leaves_is_no_traceback(published):
    command = " ".join([*BARE, "list"])
    done = subprocess.run(
        f"{command} | true", shell=True, capture_output=True, text=True
    )
    assert "Traceback" not in done.stderr


def test_an_interrupted_fetch_leaves_nothing_visible_and_can_be_completed(
    tmp_path, store, assets_dir
):
    with open(tmp_path / "large", "wb") as file:
        file.truncate(1 << 30)
    # a busy machine takes so long that it is told how far it is
    ok("new", tmp_path / "large", "large", "--yes", "--quiet")
    pipe = subprocess.PIPE
    fetch = subprocess.Popen(
        [*BARE, "fetch", "large", "--quiet"], stdout=pipe, stderr=pipe,
        # a shell that runs the tests in the background has it ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    staging = assets_dir / ".cache" / "staging"
    while not list(staging.glob("*/work/data")):
        assert fetch.poll() is None
    fetch.send_signal(signal.SIGINT)
    output, errors = fetch.communicate()
    assert (fetch.returncode, output) == (130, b"")
    assert errors == b"modelkit_assets: error: interrupted\n"
    assert [path.name for path in assets_dir.iterdir()] == [".cache"]
    path = Path(ok("fetch", "large", "--quiet").strip())
    assert path.stat().st_size == 1 << 30
    assert list(staging.iterdir()) == []


def test_a_users_system_gets_the_classes_of_the_script(tmp_path, source, store):
    (tmp_path / "mine.py").write_text(
        "import modelkit_assets\n"
        "class Mine(modelkit_assets.MajorMinorAssetsVersioningSystem):\n"
        "    @classmethod\n"
        "    def get_initial_version(cls): return '7.0'\n"
        "    @classmethod\n"
        "    def check_version_valid(cls, version):\n"
        "        raise modelkit_assets.InvalidVersionError(version, 'mine')\n"
    )
    script = tmp_path / "modelkit_assets.py"
    script.write_bytes(CORE.read_bytes())
    command = [sys.executable, str(script)]
    args = ["x:1.0", "--versioning", "mine:Mine"]
    assert "mine" in fails(2, "fetch", *args, command=command)


FULL_DISK = pytest.mark.skipif(
    not Path("/dev/full").exists(), reason="there is no /dev/full"
)


@FULL_DISK
@pytest.mark.parametrize(
    "command",
    [["list"], ["list", "--json"], ["new", "SOURCE", "y", "--yes"], ["fetch", "x:0"]],
    ids=" ".join,
)
def test_output_that_cannot_be_written_is_one_error(published, assets_dir, command):
    source = str(assets_dir.parent / "source")
    command = [source if one == "SOURCE" else one for one in command]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*BARE, *command], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode in (1, 3)
    assert done.stderr.count("\n") == 1, done.stderr
    assert "error" in done.stderr


def test_a_pipe_that_nobody_reads_is_no_noise(published):
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([*BARE, "list"], stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_without_an_output_has_its_code(
    tmp_path, store, assets_dir, number, code
):
    with open(tmp_path / "large", "wb") as file:
        file.truncate(4 << 30)
    command = [*BARE, "new", str(tmp_path / "large"), "large", "--yes", "--quiet"]
    publication = subprocess.Popen(
        command, stderr=subprocess.PIPE,
        preexec_fn=lambda: (signal.signal(number, signal.SIG_DFL), os.close(1)),
    )  # fmt: skip
    loaded = Path(f"/proc/{publication.pid}/maps")
    while "hashlib" not in loaded.read_text():  # it is about to hash
        assert publication.poll() is None
    publication.send_signal(number)
    _, errors = publication.communicate()
    assert publication.returncode == code, errors
    assert errors.count(b"\n") == 1


@pytest.mark.parametrize(
    "command",
    [["new"], ["fetch", "--bad", "x"], ["prune", "--keep", "x"], ["no-such"]],
    ids=" ".join,
)
def test_wrong_usage_is_a_document_too(command):
    done = run(*command, "--json")
    assert (done.returncode, done.stdout) == (2, "")
    found = json.loads(done.stderr)
    assert found["exit_code"] == 2 and found["error"]
    assert run(*command).stderr.startswith("usage: ")


def test_a_size_without_end_is_an_error(store, assets_dir):
    assert "--max-size" in fails(2, "prune", "--dry-run", "--max-size", "9" * 400)
