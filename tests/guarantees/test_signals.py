"""SIGTERM ends like Ctrl-C, soon and whatever comes next, and leaves things clean."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import BARE, CORE, ok
from stores import MotoStore
from stub_server import forward

MIB = 1 << 20
SLOW = """
import os, time, modelkit_assets

class Driver(modelkit_assets.LocalDriver):
    "A folder whose data come a little at a time."

    def iterate_bytes(self, name, start=0, length=None, if_match=None):
        for data in super().iterate_bytes(name, start, length, if_match):
            for at in range(0, len(data), 1000):
                time.sleep(0.01)
                yield data[at : at + 1000]

    def upload_object(self, path, name, advance, *, if_match=""):
        def slowly(size):
            for _ in range(1000):
                time.sleep(0.01)
                advance(0)
            advance(size)

        super().upload_object(path, name, slowly, if_match=if_match)
"""
CODES = {signal.SIGTERM: (143, "terminated"), signal.SIGINT: (130, "interrupted")}
SECOND = [None, signal.SIGINT, signal.SIGTERM]


def start(command, **environ):
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, stdout=pipe, stderr=pipe, env={**os.environ, **environ},
        # a shell that runs the tests in the background has it ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


def end(process, first, second=None):
    """Send the signals, and return what it then says; it ends within 3 s."""
    process.send_signal(first)
    begun = time.monotonic()
    while second and process.poll() is None and time.monotonic() < begun + 0.3:
        process.send_signal(second)
        time.sleep(0.005)
    output, errors = process.communicate(timeout=20)
    assert time.monotonic() - begun < 3
    # of two that are there at once, Python handles the lower number first
    allowed = [CODES[one] for one in {first, second or first}]
    assert output == b""
    assert (process.returncode, errors) in [
        (code, f"modelkit_assets: error: {word}\n".encode()) for code, word in allowed
    ]


@pytest.fixture
def slow(tmp_path, local, assets_dir, monkeypatch):
    """The command of a copy of the core whose store takes its time."""
    folder = tmp_path / "program"
    (folder / "drivers").mkdir(parents=True)
    shutil.copy(CORE, folder)
    (folder / "drivers" / "slow.py").write_text(SLOW)
    (tmp_path / "data").write_bytes(bytes(2 * MIB))
    (tmp_path / "folder").mkdir()
    for number in range(100):
        (tmp_path / "folder" / str(number)).write_bytes(b"1")
    ok("new", tmp_path / "data", "x", "--yes")
    monkeypatch.setenv("MODELKIT_STORAGE_PROVIDER", "slow")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    return [*BARE[:-1], str(folder / "modelkit_assets.py")]


@pytest.mark.parametrize("first", CODES, ids=lambda one: one.name)
@pytest.mark.parametrize("second", SECOND, ids=["alone", "SIGINT", "SIGTERM"])
def test_a_fetch_ends_and_keeps_what_came(slow, assets_dir, first, second):
    staging = assets_dir / ".cache" / "staging"
    with start([*slow, "fetch", "x"]) as fetch:
        while not [one for one in staging.glob("*/work/data") if one.stat().st_size]:
            assert fetch.poll() is None
        end(fetch, first, second)
    assert [one.name for one in assets_dir.iterdir()] == [".cache"]
    (kept,) = staging.glob("*/work/data")
    assert kept.stat().st_size


def test_process_1_of_a_container_ends_too(slow, assets_dir):
    """There, a signal that nobody handles does nothing."""
    command = ["unshare", "--pid", "--fork", *slow, "fetch", "x"]
    if subprocess.run([*command[:3], "true"], capture_output=True).returncode:
        pytest.skip("no process may be the first here")
    staging = assets_dir / ".cache" / "staging"
    with start(command) as outer:
        while not [one for one in staging.glob("*/work/data") if one.stat().st_size]:
            assert outer.poll() is None
        children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text()
        os.kill(int(children), signal.SIGTERM)
        _, errors = outer.communicate(timeout=20)
    assert (outer.returncode, errors) == (143, b"modelkit_assets: error: terminated\n")


@pytest.mark.parametrize("first", CODES, ids=lambda one: one.name)
@pytest.mark.parametrize("pack", [[], ["--pack"]], ids=["files", "pack"])
def test_a_publication_ends_and_nothing_is_listed(slow, tmp_path, local, first, pack):
    command = [*slow, "new", str(tmp_path / "folder"), "y", "--yes", "-q", *pack]
    with start(command) as new:
        while not any("/y/0.0.meta" in name for name in local.list_objects()):
            assert new.poll() is None
        end(new, first)
    assert not [one for one in local.list_objects() if one.endswith("y.versions")]
    assert list((tmp_path / "temporary").iterdir()) == []


@pytest.mark.server
def test_a_multipart_upload_under_way_is_aborted(
    make_store, stub, tmp_path, monkeypatch, assets_dir
):
    store = make_store(MotoStore)
    monkeypatch.setenv("S3_ENDPOINT", stub.endpoint)
    pass_on, stalled = forward(store.server.endpoint), []

    def script(request):
        if request.method == "PUT" and "partNumber" in request.path:
            stalled.append(request)
            time.sleep(30 if len(stalled) > 2 else 0)  # as on a slow link
        return pass_on(request)

    stub.script = script
    with open(tmp_path / "large", "wb") as file:
        file.truncate(100 * MIB)
    python = [BARE[0], str(CORE)]
    with start([*python, "new", str(tmp_path / "large"), "x", "--yes"]) as new:
        while len(stalled) < 4:
            assert new.poll() is None, new.communicate()
            time.sleep(0.01)
        end(new, signal.SIGTERM)
    uploads = store.client.list_multipart_uploads(Bucket=store.bucket)
    assert not uploads.get("Uploads")


TWICE = """
import os, signal, sys, time
sys.path.insert(0, sys.argv[1])
import modelkit_assets as ma

ma._TORN_S = 0.3

def send(number):
    try:
        os.kill(os.getpid(), number)
        time.sleep(0.01)
    except KeyboardInterrupt as error:
        return error.args
    return "ignored"

with ma._signals():
    print(send(signal.SIGTERM), send(signal.SIGINT))
    deadline = time.monotonic() + 30
    while (answer := send(signal.SIGINT)) == "ignored" and time.monotonic() < deadline:
        pass
    print(answer)
"""


def test_a_second_interrupt_is_ignored_and_one_much_later_is_not():
    """As Python may lose the first, in what it calls itself."""
    command = [sys.executable, "-c", TWICE, str(CORE.parent)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout == "('terminated', 143) ignored\n()\n", done.stderr
