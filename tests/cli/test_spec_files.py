"""Files of specs: `fetch -r`, `resolve -r -o`, and what is said of a wrong line."""

import json
import subprocess
import threading
import time
from pathlib import Path

import pytest
from commands import BARE, fails, ok, run

import modelkit_assets as ma


@pytest.fixture
def listed(tmp_path):
    """Return a function that writes a file of specs, and returns it."""

    def write(text, name="assets.txt"):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


@pytest.mark.parametrize("command", ["fetch", "resolve"])
def test_an_error_names_file_line_and_spec(published, assets_dir, listed, command):
    path = listed("# mine\nx\n\nnlp/brt  # misspelt\n")
    done = run(command, "-r", path)
    assert done.returncode == 3
    assert (
        f"error: '{path}', line 4, 'nlp/brt': 'nlp/brt' does not exist: " in done.stderr
    )
    assert "is it 'nlp/bert'?" in done.stderr


@pytest.mark.parametrize("command", ["fetch", "resolve"])
@pytest.mark.parametrize("text", ["", "\n  \n# nothing\n"])
def test_a_file_without_specs_is_an_error(published, assets_dir, listed, command, text):
    path = listed(text)
    assert f"there is no spec in '{path}'" in fails(2, command, "-r", path)


def test_a_lock_file_is_written_whole_or_not_at_all(published, assets_dir, listed):
    specs, lock = listed("nlp/bert\nx\n"), listed("before\n", "assets.lock")
    assert ok("resolve", "-r", specs, "-o", lock) == ""
    assert lock.read_text() == "nlp/bert:0.1\nx:0.0\n"
    assert ok("resolve", "-r", lock) == lock.read_text()
    specs.write_text("nlp/bert\nno/such\n")
    fails(3, "resolve", "-r", specs, "-o", lock)
    assert lock.read_text() == "nlp/bert:0.1\nx:0.0\n"
    assert {path.name for path in lock.parent.glob("*asset*")} >= {lock.name}
    assert not list(lock.parent.glob(".modelkit-assets*"))
    folder = lock.parent / "folder"
    folder.mkdir()
    assert "cannot write" in fails(2, "resolve", "x", "-o", folder)


def test_specs_come_from_standard_input(published, assets_dir):
    import subprocess

    from commands import BARE

    def say(text, *args):
        command = [*BARE, *args, "-r", "-"]
        return subprocess.run(command, input=text, capture_output=True, text=True)

    assert say("nlp/bert\n# no\nx:0.0\n", "resolve").stdout == "nlp/bert:0.1\nx:0.0\n"
    assert "standard input, line 2, 'no/such': " in say("x\nno/such", "fetch").stderr
    assert "there is no spec in standard input" in say("", "fetch").stderr


def test_several_are_brought_side_by_side_and_printed_in_order(
    published, assets_dir, call, monkeypatch
):
    """Each waits until another one is under way, too."""
    names = [f"many/{number}" for number in range(6)]
    for name in names:
        published.new(__file__, name)
    together, seen = threading.Barrier(2, timeout=20), []
    iterate = ma.LocalDriver.iterate_bytes

    def meet(self, name, *args, **how):
        seen.append(name)
        together.wait()
        return iterate(self, name, *args, **how)

    monkeypatch.setattr(ma.LocalDriver, "iterate_bytes", meet)
    code, out, _ = call("fetch", *names)
    assert code == 0
    assert out.splitlines() == [f"{assets_dir}/{name}/0.0" for name in names]
    assert len(seen) == 6


def test_no_more_requests_run_at_once_than_one_fetch_would_have(
    published, assets_dir, call, monkeypatch, tmp_path
):
    folder = tmp_path / "folder"
    folder.mkdir()
    for number in range(8):
        (folder / str(number)).write_text(str(number))
    names = [f"many/{number}" for number in range(6)]
    for name in names:
        published.new(folder, name)
    running, most, counting = 0, 0, threading.Lock()
    iterate = ma.LocalDriver.iterate_bytes

    def count(self, name, *args, **how):
        nonlocal running, most
        with counting:
            running += 1
            most = max(most, running)
        time.sleep(0.01)
        yield from iterate(self, name, *args, **how)
        with counting:
            running -= 1

    monkeypatch.setattr(ma.LocalDriver, "iterate_bytes", count)
    monkeypatch.setenv("MODELKIT_STORAGE_WORKERS", "3")
    assert call("fetch", *names)[0] == 0
    assert 1 < most <= 3


def test_those_before_the_one_that_failed_are_printed(published, assets_dir):
    done = run("fetch", "x:0.0", "nlp/bert:0.0", "no/such:1.0")
    assert done.returncode == 3
    paths = [f"{assets_dir}/x/0.0", f"{assets_dir}/nlp/bert/0.0"]
    assert done.stdout.splitlines() == paths[: len(done.stdout.splitlines())]
    assert "'no/such:1.0' does not exist" in done.stderr


def test_the_same_asset_may_be_asked_for_twice(published, assets_dir):
    specs = ["x:0.0", "x:0.0", "x:0.0[vocab.txt]", "nlp/bert:0.0[deep]"]
    lines = ok("fetch", *specs).splitlines()
    path = f"{assets_dir}/x/0.0"
    assert lines == [path, path, f"{path}/vocab.txt", f"{assets_dir}/nlp/bert/0.0/deep"]


def test_a_failure_is_a_document_too(published, assets_dir, listed):
    done = run("fetch", "no/such", "--json")
    assert (done.returncode, done.stdout) == (3, "")
    document = json.loads(done.stderr)
    assert document["exit_code"] == 3
    assert document["error"].startswith("'no/such' does not exist")


def test_offline_asks_no_store(published, cached, monkeypatch):
    monkeypatch.setenv("MODELKIT_STORAGE_BUCKET", "/no/such")
    path = f"{cached}/nlp/bert/0.1\n"
    assert ok("fetch", "nlp/bert", "--offline") == path
    monkeypatch.setenv("MODELKIT_ASSETS_OFFLINE", "1")
    assert ok("fetch", "nlp/bert") == path
    assert ok("resolve", "nlp/bert") == "nlp/bert:0.1\n"
    assert "not asked, as MODELKIT_ASSETS_OFFLINE is set" in ok("doctor")
    assert "or we are offline" in fails(3, "fetch", "nlp/bert:9.0")
    monkeypatch.setenv("MODELKIT_ASSETS_OFFLINE", "perhaps")
    assert "MODELKIT_ASSETS_OFFLINE must be true or false" in fails(2, "fetch", "x")


@pytest.mark.parametrize("provider", ["local", "gcs"])
def test_an_endpoint_is_for_stores_that_have_one(local, call, provider):
    code, _, err = call("list", "--provider", provider, "--endpoint", "http://x")
    assert code == 2
    assert f"the provider {provider} takes no endpoint" in err


def test_who_waits_for_a_slot_goes_on_all_the_same(
    published, assets_dir, call, monkeypatch, tmp_path
):
    """A small asset waits behind a large one, and others wait for the small one."""
    monkeypatch.setenv("MODELKIT_STORAGE_WORKERS", "2")
    monkeypatch.setenv("MODELKIT_ASSETS_TIMEOUT_S", "1")
    patience = property(lambda self: 1.0)
    monkeypatch.setattr(ma._RetryingDriver, "patience_s", patience)
    for number in range(2):
        published.new(__file__, f"large/{number}")
    published.new(__file__, "small")
    iterate = ma.LocalDriver.iterate_bytes

    def come_slowly(self, name, *args, **how):
        for data in iterate(self, name, *args, **how):
            if "large" in name:
                for at in range(0, len(data), 500):
                    time.sleep(0.15)
                    yield data[at : at + 500]
            else:
                yield data

    monkeypatch.setattr(ma.LocalDriver, "iterate_bytes", come_slowly)
    waiter = threading.Timer(0.5, lambda: found.append(call("fetch", "small")[0]))
    found = []
    waiter.start()
    code, _, err = call("fetch", "large/0", "large/1", "small")
    waiter.join()
    assert (code, found) == (0, [0]), err


def test_a_pipe_or_a_link_stays_what_it_is(published, assets_dir, tmp_path):
    lock, link = tmp_path / "lock", tmp_path / "link"
    lock.write_text("before")
    lock.chmod(0o640)
    link.symlink_to(lock)
    ok("resolve", "x", "-o", link)
    assert link.is_symlink()
    assert lock.read_text() == "x:0.0\n"
    assert lock.stat().st_mode & 0o777 == 0o640
    assert ok("resolve", "x", "-o", "/dev/stdout") == "x:0.0\n"


def test_all_files_of_specs_are_read(published, assets_dir, tmp_path):
    (tmp_path / "one").write_text("nlp/bert:0.0\n")
    (tmp_path / "two").write_text("nlp/bert:0.1\n")
    names = ok("fetch", "x", "-r", tmp_path / "two", "-r", tmp_path / "one").split()
    assert [Path(name).name for name in names] == ["0.0", "0.1", "0.0"]
    (tmp_path / "one").write_text("missing\n")
    assert "missing" in fails(
        3, "resolve", "-r", tmp_path / "one", "-r", tmp_path / "two"
    )


@pytest.mark.parametrize("name", ["-", "/dev/stdout"])
def test_standard_output_is_never_replaced(published, assets_dir, tmp_path, name):
    with open(tmp_path / "log", "w") as log:
        log.write("first\n")
        log.flush()
        command = [*BARE, "resolve", "nlp/bert:0.0", "-o", name]
        subprocess.run(command, stdout=log, check=True, cwd=tmp_path)
        log.write("last\n")
    assert (tmp_path / "log").read_text().split() == ["first", "nlp/bert:0.0", "last"]
    assert not (tmp_path / "-").exists()
