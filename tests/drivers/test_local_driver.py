"""A plain folder as a store: the contract of all drivers, and what is its own."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress

import pytest
from contract import DriverContract, increment, upload

import modelkit_assets
from modelkit_assets import ConfigurationError, LocalDriver, StorageProvider

PROCESSES, INCREMENTS = 8, 50
SPAWN = multiprocessing.get_context("spawn")


class TestLocalDriver(DriverContract):
    @pytest.fixture(autouse=True)
    def bucket(self, tmp_path):
        self.tmp_path, self.folder = tmp_path, tmp_path / "bucket"
        self.folder.mkdir()

    @pytest.fixture
    def driver(self, bucket):
        return LocalDriver(str(self.folder))

    def put(self, name, data):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def get(self, name):
        path = self.folder / name
        return path.read_bytes() if path.is_file() else None

    def make_driver_on_missing_bucket(self):
        folder = self.tmp_path / self.missing_bucket
        folder.mkdir()
        driver = LocalDriver(str(folder))
        folder.rmdir()
        return driver

    def get_expected_uri(self, name):
        return str(self.folder / name)


@pytest.fixture
def bucket(tmp_path):
    folder = tmp_path / "bucket"
    folder.mkdir()
    return folder


@pytest.fixture
def driver(bucket):
    return LocalDriver(str(bucket))


def snapshot(folder):
    """Return each file below a folder, with what changes when it is touched."""
    return {
        str(path.relative_to(folder)): (
            path.stat().st_ino,
            path.stat().st_mtime_ns,
            path.read_bytes(),
        )
        for path in folder.rglob("*")
        if path.is_file()
    }


def share(barrier):
    count.barrier = barrier


def count(driver, width):
    count.barrier.wait(60)
    return increment(driver, "a/counter", INCREMENTS, width)


@pytest.mark.attack
@pytest.mark.parametrize("width", [1, 8], ids=["growing", "of one size"])
def test_of_8_processes_that_count_none_loses_an_increment(bucket, driver, width):
    driver.write_object(json.dumps({"counter": f"{0:>{width}}"}).encode(), "a/counter")
    barrier = SPAWN.Barrier(PROCESSES)
    with ProcessPoolExecutor(PROCESSES, SPAWN, share, (barrier,)) as pool:
        done = [pool.submit(count, driver, width) for _ in range(PROCESSES)]
        written = [value for future in done for value in future.result(60)]
    total = PROCESSES * INCREMENTS
    assert sorted(written) == list(range(1, total + 1))
    counter = json.loads((bucket / "a/counter").read_bytes())["counter"]
    assert int(counter) == total


NEIGHBOURS = [
    "n/o.tmp", "n/o.lock", "n/.o", "n/o~", "n/o.part", "n/.o.tmp", "n/tmp", "n/.lock",
    "n/ob", "n/abc", "n/[o]", "n/*", "n/?", "o", "n.tmp/o", "n/sub/o", ".n/o",
]  # fmt: skip


OPERATIONS = {
    "write": lambda driver, name, _: driver.write_object(b"new", name),
    "swap": lambda driver, name, _: driver.write_object(
        b"new", name, if_match=driver.stat_object(name)[1]
    ),
    "create": lambda driver, name, _: driver.write_object(b"new", name, if_match=""),
    "stale": lambda driver, name, _: driver.write_object(
        b"new", name, if_match="stale"
    ),
    "upload": lambda driver, name, source: upload(driver, source, name),
    "copy": lambda driver, name, _: driver.copy_object("n/warm", name),
    "delete": lambda driver, name, _: driver.delete_object(name),
    "stat": lambda driver, name, _: driver.stat_object(name),
    "read": lambda driver, name, _: driver.read_object(name),
    "list": lambda driver, name, _: list(driver.iterate_objects("n")),
}


@pytest.mark.parametrize("name", ["n/o", "n/*", "n/?", "n/[o]", "n/new"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_only_the_object_named_is_touched(bucket, driver, tmp_path, operation, name):
    source = tmp_path / "source"
    source.write_bytes(b"uploaded")
    for neighbour in [*NEIGHBOURS, "n/o"]:
        (bucket / neighbour).parent.mkdir(parents=True, exist_ok=True)
        (bucket / neighbour).write_bytes(neighbour.encode())
    etag = driver.write_object(b"", "n/warm", if_match="")
    driver.write_object(b"", "n/warm", if_match=etag)  # leaves what it locks with
    before = snapshot(bucket)
    with suppress(FileExistsError, FileNotFoundError):
        OPERATIONS[operation](driver, name, str(source))
    after = snapshot(bucket)
    before.pop(name, None)
    after.pop(name, None)
    assert after == before


def test_a_failed_write_leaves_nothing_behind(bucket, driver, tmp_path):
    (tmp_path / "source").write_bytes(b"uploaded")
    etag = driver.write_object(b"", "a/b", if_match="")
    driver.write_object(b"1", "a/b", if_match=etag)  # leaves what it locks with
    before = snapshot(bucket)
    for fail in (
        lambda: driver.write_object(b"2", "a/b", if_match=""),
        lambda: driver.write_object(b"2", "a/b", if_match="stale"),
        lambda: upload(driver, tmp_path / "missing", "a/c"),
        lambda: upload(driver, tmp_path, "a/c"),
        lambda: upload(driver, tmp_path / "source", "a/b"),
        lambda: driver.copy_object("a/missing", "a/c"),
        lambda: driver.copy_object("a/b", "a/b"),
    ):
        with pytest.raises(OSError):
            fail()
        assert snapshot(bucket) == before


@pytest.mark.parametrize(
    "name",
    ["../out", "a/../../out", "/out", "a//b", "", ".", "a/..", "C:/out", "..\\out"],
)
def test_no_name_leads_out_of_the_store(bucket, driver, tmp_path, name):
    source = tmp_path / "source"
    source.write_bytes(b"uploaded")
    before = snapshot(tmp_path)
    for leave in (
        lambda: driver.read_object(name),
        lambda: driver.stat_object(name),
        lambda: driver.write_object(b"", name),
        lambda: upload(driver, source, name),
        lambda: list(driver.iterate_bytes(name)),
        lambda: driver.copy_object(name, "n/copy"),
        lambda: driver.delete_object(name),
    ):
        with pytest.raises(ValueError):
            leave()
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("prefix", ["..", "../outside", "n/../../outside"])
def test_no_prefix_lists_what_is_outside_the_store(driver, tmp_path, prefix):
    driver.write_object(b"", "n/o")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_bytes(b"")
    with suppress(ValueError):
        assert list(driver.iterate_objects(prefix)) == []


def test_a_listing_bears_what_comes_and_goes_meanwhile(bucket, driver):
    for name in ("0", "5", "9"):
        driver.write_object(b"", f"a/{name}/stays")
    stop = threading.Event()

    def come_and_go():
        while not stop.is_set():
            for i in range(20):
                driver.write_object(b"", f"a/{i % 10}/x/{i}")
                driver.write_object(b"", f"a/{i % 10}-{i}")
            for i in range(20):
                shutil.rmtree(bucket / "a" / str(i % 10) / "x", ignore_errors=True)
                driver.delete_object(f"a/{i % 10}-{i}")

    thread = threading.Thread(target=come_and_go)
    thread.start()
    try:
        for _ in range(100):
            listed = [name for name, _, _ in driver.iterate_objects("a")]
            assert {"a/0/stays", "a/5/stays", "a/9/stays"} <= set(listed)
            assert len(listed) == len(set(listed))
            assert all(name.startswith("a/") for name in listed)
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("make", ["missing", "file"])
def test_a_missing_folder_is_a_wrong_setting_and_a_missing_file(tmp_path, make):
    folder = tmp_path / make
    if make == "file":
        folder.write_bytes(b"")
    driver = LocalDriver(str(folder))  # which opens nothing yet
    for use in (
        lambda: driver.stat_object("a"),
        lambda: driver.read_object("a"),
        lambda: list(driver.iterate_bytes("a")),
        lambda: list(driver.iterate_objects("")),
        lambda: driver.write_object(b"", "a/b"),
        lambda: upload(driver, __file__, "a"),
    ):
        for error in (ConfigurationError, FileNotFoundError):
            with pytest.raises(error, match="MODELKIT_STORAGE_BUCKET") as caught:
                use()
            assert str(folder) in str(caught.value)
    assert list(tmp_path.iterdir()) == ([folder] if make == "file" else [])


@pytest.mark.parametrize("operation", ["write", "create", "upload"])
class TestAnObjectInTheWay:
    @pytest.mark.parametrize("name", ["a/b", "a/b/c", "a/b/c/d"])
    def test_an_object_below_an_object_is_an_error(
        self, bucket, driver, operation, name
    ):
        (bucket / "a").write_bytes(b"object")
        self.check(bucket, driver, operation, name)

    def test_an_object_above_objects_is_an_error(self, bucket, driver, operation):
        (bucket / "a").mkdir()
        (bucket / "a" / "b").write_bytes(b"object")
        self.check(bucket, driver, operation, "a")

    def check(self, bucket, driver, operation, name):
        source = bucket.parent / "source"
        source.write_bytes(b"uploaded")
        before = list(driver.iterate_objects("")), snapshot(bucket)
        with pytest.raises(OSError):
            OPERATIONS[operation](driver, name, str(source))
        after = list(driver.iterate_objects("")), snapshot(bucket)
        assert after[0] == before[0]
        assert {path: after[1].get(path) for path in before[1]} == before[1]


def test_an_object_below_an_object_is_no_failed_condition(bucket, driver):
    (bucket / "a").write_bytes(b"object")
    with pytest.raises(OSError) as caught:
        driver.write_object(b"new", "a/b", if_match="")
    assert not isinstance(caught.value, FileExistsError)


KILLED_UPLOAD = """
import sys
sys.path.insert(0, sys.argv[1])
import modelkit_assets
driver = modelkit_assets.LocalDriver(sys.argv[2])
driver.upload_object(sys.argv[3], "a/big", lambda size: None)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX")
def test_a_killed_upload_is_never_visible_nor_in_the_way(bucket, driver, tmp_path):
    source = tmp_path / "source"
    with open(source, "wb") as file:
        file.truncate(8 << 30)  # a hole: it takes no room, and long to copy
    core = os.path.dirname(sys.modules["modelkit_assets"].__file__)
    command = [sys.executable, "-c", KILLED_UPLOAD, core, str(bucket), str(source)]
    with subprocess.Popen(command) as process:
        try:
            deadline = time.monotonic() + 30
            while not any(path.stat().st_size for path in bucket.rglob("*/*")):
                assert process.poll() is None and time.monotonic() < deadline
        finally:
            process.kill()
    try:
        assert process.returncode == -signal.SIGKILL
        assert any(path.stat().st_size for path in bucket.rglob("*/*"))
        assert list(driver.iterate_objects("a")) == []
        with pytest.raises(FileNotFoundError):
            driver.stat_object("a/big")
        assert not (bucket / "a/big").exists()
        provider = StorageProvider(provider="local", bucket=str(bucket), prefix="a")
        assert list(provider.iterate_assets()) == []
        source.write_bytes(b"whole")
        upload(driver, source, "a/big")
        assert (bucket / "a/big").read_bytes() == b"whole"
        assert [name for name, _, _ in driver.iterate_objects("a")] == ["a/big"]
    finally:
        shutil.rmtree(bucket)
        source.unlink()


FORK = """
import os, sys, threading
import modelkit_assets

driver = modelkit_assets.LocalDriver(sys.argv[1])
etag = driver.write_object(b"0", "other", if_match="")
stop = threading.Event()

def write(etag):
    while not stop.is_set():
        etag = driver.write_object(os.urandom(8), "other", if_match=etag)

writer = threading.Thread(target=write, args=(etag,))
writer.start()
for number in range(20):
    child = os.fork()
    if not child:
        etag = driver.write_object(b"1", f"own-{number}", if_match="")
        driver.write_object(b"2", f"own-{number}", if_match=etag)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
stop.set()
writer.join()
"""


def test_a_process_forked_during_a_write_can_write_too(bucket):
    root = os.path.dirname(os.path.abspath(modelkit_assets.__file__))
    command = [sys.executable, "-c", FORK, str(bucket)]
    subprocess.run(command, cwd=root, check=True, timeout=60)


@pytest.mark.parametrize(("age_s", "stays"), [(3600, True), (25 * 3600, False)])
def test_what_a_killed_push_left_goes_with_the_next_after_a_day(tmp_path, age_s, stays):
    driver = LocalDriver(str(tmp_path))
    driver.write_object(b"1", "a/b/c")
    for folder in ("", "a", "a/b"):
        left = tmp_path / folder / ".modelkit-assets.0123456789ab"
        left.write_bytes(b"half")
        then = time.time() - age_s
        os.utime(left, (then, then))
        (tmp_path / folder / ".modelkit-assets.lock").touch()
        os.utime(tmp_path / folder / ".modelkit-assets.lock", (then, then))
    LocalDriver(str(tmp_path)).write_object(b"2", "a/b/d")
    assert len(list(tmp_path.rglob("*0123456789ab"))) == 3 * stays
    assert len(list(tmp_path.rglob("*.lock"))) == 3
    assert driver.read_object("a/b/c")[0] == b"1"


def test_an_object_that_is_called_much_like_what_is_staged_is_one(tmp_path):
    """As of a folder in which an interrupted `fetch --to` left something."""
    driver = LocalDriver(str(tmp_path))
    for name in ("a/.modelkit-assets.staging", "a/.modelkit-assets.0123456789abc"):
        driver.write_object(b"1", name)
        os.utime(tmp_path / name, (0, 0))
    LocalDriver(str(tmp_path)).write_object(b"2", "a/b")
    assert len(list(driver.iterate_objects("a"))) == 3


def test_a_look_at_a_folder_leaves_no_file_open(tmp_path):
    driver = LocalDriver(str(tmp_path))
    driver.write_object(b"1", "a/b")
    before = os.listdir("/proc/self/fd")
    for _ in range(10):
        with pytest.raises(FileNotFoundError):
            driver.stat_object("a")
    assert len(os.listdir("/proc/self/fd")) == len(before)
