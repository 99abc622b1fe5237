"""Disks that are full or read-only: one clear error, and nothing half-written."""

import errno
import functools
import json
import os
import pwd
import resource
import subprocess
import sys
import tracemalloc
from contextlib import contextmanager, suppress
from pathlib import Path

import attacks
import pytest
from commands import MORTAL, fails, ok
from harness import (
    make_provider,
    read_assets_dir_as_modelkit,
    read_ours,
    read_store_as_modelkit,
)
from trees import list_entries, read_bytes, read_files, snapshot, write_tree

import modelkit_assets as ma

PAGE = 4096  # bytes, in which a tmpfs counts
SMALL = {"a": b"1", "b": b"2"}
LARGE = {"a": b"1", "b": bytes(64 * PAGE)}
PAGES = 65  # that the large one takes
KEY = ("x", "0.0")
CANNOT = "cannot write to the assets dir: "


def mount(folder, *options):
    """Mount a tmpfs, or skip the test where one cannot."""
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", *options, "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no mount here")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"one cannot mount here: {error.stderr.strip()}")


@pytest.fixture
def disk(tmp_path):
    """A folder that is a disk of 2 MiB."""
    folder = tmp_path / "disk"
    mount(folder, "-o", "size=2m")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


class Room:
    """How much may be written: so many pages of a disk, or bytes of a file."""

    def __init__(self, disk=None):
        self.disk = disk

    def limit(self, number):
        """Leave so much room; return the settings for the processes it is for."""
        if not self.disk:
            limit = functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE)
            return {"preexec_fn": functools.partial(limit, (number, number))}
        free = os.statvfs(self.disk).f_bfree
        (self.disk / "filler").write_bytes(bytes((free - number) * PAGE))
        assert os.statvfs(self.disk).f_bfree == number
        return {}

    def free(self):
        if self.disk:
            (self.disk / "filler").unlink()

    @property
    def reason(self):
        return "No space left on device" if self.disk else "File too large"

    def says_so(self, text):
        """Tell whether a message says that there is no room, seen before or then."""
        return self.reason in text or bool(self.disk) and "bytes are needed" in text


@pytest.fixture(params=["disk", "file"])
def room(request):
    return Room(request.getfixturevalue("disk") if request.param == "disk" else None)


@pytest.fixture
def assets_dir(room, tmp_path, monkeypatch):
    folder = (room.disk or tmp_path) / "assets_dir"
    folder.mkdir()
    monkeypatch.setenv("MODELKIT_ASSETS_DIR", str(folder))
    return folder


def publish(tmp_path, store, files, name="x", sizes=False):
    """Publish files, by default as modelkit does: no manifest tells their sizes."""
    source = write_tree(tmp_path / f"source-{name}", files)
    ok("new", source, name, "--yes")
    if not sizes:
        meta = f"modelkit-assets/{name}/0.0.meta"
        manifest = json.loads(store.read_object(meta))
        del manifest["files"]
        store.write_object(meta, json.dumps(manifest).encode())
    return read_files(source)


def read(assets_dir):
    """Return what the assets dir alone holds, in pre-downloaded mode."""
    with pytest.MonkeyPatch.context() as context:
        context.delenv("MODELKIT_STORAGE_PROVIDER")
        return read_ours(assets_dir, [KEY])


def check_nothing_is_visible(assets_dir):
    assert read(assets_dir) == {}
    assert read_assets_dir_as_modelkit(assets_dir) == {}
    assert all(entry.endswith("/") for entry in list_entries(assets_dir))


def check_it_completes(room, assets_dir, tree, *options):
    room.free()
    assert ok("fetch", "x", *options) == f"{assets_dir}/x/0.0\n"
    assert read(assets_dir) == {KEY: tree}
    assert read_assets_dir_as_modelkit(assets_dir) == {KEY: read_bytes(tree)}
    assert list((assets_dir / ".cache" / "staging").iterdir()) == []


# where it becomes full: the files, the pages of a disk and the bytes of a file left
FULL = {
    "the tag of the cache": (LARGE, 0, 0),
    "the lock": (LARGE, 1, 44),  # which holds a hint only: it is said of the data
    "the data": (LARGE, 2 + PAGES // 2, 32 * PAGE),
    "the marker": (SMALL, 2 + 2, 200),
}


@pytest.mark.parametrize(("files", "pages", "size"), FULL.values(), ids=FULL)
def test_a_fetch_that_fills_the_disk_shows_nothing_and_completes_later(
    tmp_path, store, room, assets_dir, files, pages, size
):
    tree = publish(tmp_path, store, files)
    settings = room.limit(pages if room.disk else size)
    text = fails(1, "fetch", "x", **settings)
    assert CANNOT in text and room.says_so(text)
    assert str(assets_dir) in text
    check_nothing_is_visible(assets_dir)
    assert room.says_so(fails(1, "fetch", "x", **settings))
    check_nothing_is_visible(assets_dir)
    check_it_completes(room, assets_dir, tree)


@pytest.mark.attack
@pytest.mark.parametrize("files", [{"b": LARGE["b"]}, LARGE], ids=["one", "two"])
def test_a_copy_that_a_full_disk_keeps_from_being_replaced_stays(
    tmp_path, store, room, assets_dir, files
):
    tree = publish(tmp_path, store, files)
    path = ok("fetch", "x")
    settings = room.limit(PAGES // 2 if room.disk else 32 * PAGE)
    assert CANNOT in fails(1, "fetch", "x", "--download", **settings)
    assert ok("fetch", "x:0.0", **settings) == path
    assert read(assets_dir) == {KEY: tree}
    check_it_completes(room, assets_dir, tree, "--download")


@pytest.mark.parametrize("room", ["file"], indirect=True)
def test_what_was_right_before_the_disk_was_full_is_not_downloaded_again(
    tmp_path, store, room, assets_dir
):
    tree = publish(tmp_path, store, LARGE, sizes=True)
    assert CANNOT in fails(1, "fetch", "x", **room.limit(32 * PAGE))
    (kept,) = assets_dir.glob(".cache/staging/*/work/data/a")
    inode = kept.stat().st_ino
    check_it_completes(room, assets_dir, tree)
    assert (assets_dir / "x" / "0.0" / "a").stat().st_ino == inode


def test_a_disk_without_room_for_what_the_manifest_says_is_not_begun_to_be_filled(
    tmp_path, store, disk
):
    publish(tmp_path, store, LARGE, sizes=True)
    room = Room(disk)
    room.limit(PAGES // 2)
    (disk / "assets_dir").mkdir()
    text = fails(1, "fetch", "x", "--assets-dir", disk / "assets_dir")
    needed, free = (
        64 * PAGE + 1,
        (PAGES // 2 - 2) * PAGE,
    )  # but for the tag and the lock
    assert f"{needed} bytes are needed, {free} are free" in text
    assert os.statvfs(disk).f_bfree * PAGE == free


AGAIN = """
import resource, sys
sys.path.insert(0, sys.argv[1])
import modelkit_assets

manager = modelkit_assets.AssetsManager(timeout=0)
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
try:
    manager.fetch_asset("x")
except modelkit_assets.AssetsDirError:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    print(manager.fetch_asset("x"))
"""


@pytest.mark.parametrize("room", ["file"], indirect=True)
def test_a_process_that_met_a_full_disk_holds_no_lock_afterwards(
    tmp_path, store, room, assets_dir
):
    publish(tmp_path, store, SMALL)
    publish(tmp_path, store, SMALL, name="other")
    ok("fetch", "other")  # leaves the tag, so that the lock is what is written first
    command = [sys.executable, "-c", AGAIN, str(Path(ma.__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == (f"{assets_dir}/x/0.0\n", "")


# where it becomes full: the object that is named, the files, pages and bytes left
FULL_STORE = {
    "the claim": ("x/0.0.meta", LARGE, 0, 100),
    "the data": ("x/0.0/b", LARGE, 1 + PAGES // 2, 32 * PAGE),
    "the commit": ("x.versions", SMALL, 1 + 2, 2000),
}


@pytest.fixture
def bucket(room, tmp_path, monkeypatch):
    folder = (room.disk or tmp_path) / "bucket"
    folder.mkdir()
    monkeypatch.setenv("MODELKIT_STORAGE_PROVIDER", "local")
    monkeypatch.setenv("MODELKIT_STORAGE_BUCKET", str(folder))
    return folder


@attacks.parametrize(
    ("name", "files", "pages", "size"), FULL_STORE.values(), ids=FULL_STORE
)
def test_a_push_that_fills_the_store_lists_nothing_and_completes_later(
    tmp_path, bucket, room, name, files, pages, size
):
    store, versions = bucket / "modelkit-assets", bucket / "modelkit-assets/x.versions"
    store.mkdir()  # as another program may have made it, with keys that are its own
    versions.write_text(json.dumps({"versions": [], "its own": "x" * 3000}))
    source, before = write_tree(tmp_path / "source", files), versions.read_bytes()
    tree, settings = read_files(source), room.limit(pages if room.disk else size)
    text = fails(1, "new", source, "x", "--yes", **settings)
    assert f"'modelkit-assets/{name}': " in text
    assert room.reason in text
    assert versions.read_bytes() == before
    assert read_store_as_modelkit(store) == {}
    assert dict(make_provider(bucket).iterate_assets()) == {"x": []}
    left = [path.name for path in bucket.rglob(".modelkit-assets*")]
    assert set(left) <= {".modelkit-assets.lock"}
    (tmp_path / "reader").mkdir()
    seen = read_ours(tmp_path / "reader", [KEY], make_provider(bucket))
    assert seen == ({KEY: tree} if name == "x.versions" else {})  # whole, or not at all
    room.free()
    assert ok("new", source, "x", "--yes") == "x:0.0\n"
    assert read_store_as_modelkit(store) == {KEY: read_bytes(tree)}
    (tmp_path / "later").mkdir()
    assert read_ours(tmp_path / "later", [KEY], make_provider(bucket)) == {KEY: tree}


def test_a_disk_that_is_mounted_read_only_serves_hits_and_says_so_on_a_miss(
    tmp_path, store, disk, monkeypatch
):
    publish(tmp_path, store, LARGE)
    publish(tmp_path, store, SMALL, name="y")
    monkeypatch.setenv("MODELKIT_ASSETS_DIR", str(disk))
    path = ok("fetch", "x")
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    before = snapshot(disk)
    assert ok("fetch", "x:0.0", "x", "x:0.0[b]") == f"{path}{path}{path[:-1]}/b\n"
    for args in (["y"], ["y:0.0"], ["x", "--download"]):
        done = fails(1, "fetch", *args)
        assert f"{CANNOT}Read-only file system: '{disk}/.cache/" in done
    assert snapshot(disk) == before


@pytest.mark.parametrize("room", ["file"], indirect=True)
@pytest.mark.parametrize("locked", ["x", "y"])
def test_a_cache_folder_that_is_not_writable_is_named_on_a_miss_alone(
    tmp_path, store, assets_dir, locked
):
    publish(tmp_path, store, SMALL)
    publish(tmp_path, store, SMALL, name="y")
    path, own = ok("fetch", "x"), assets_dir / ".cache"
    for folder in [own, *own.rglob("*")]:
        folder.chmod(0o555 if folder.is_dir() else 0o444)
    try:
        assert ok("fetch", "x:0.0", "x", command=MORTAL) == path * 2
        args = ["x", "--download"] if locked == "x" else ["y"]
        text = fails(1, "fetch", *args, command=MORTAL)
        assert f"{CANNOT}Permission denied: '{own}/{locked}.lock'" in text
        assert read_assets_dir_as_modelkit(assets_dir).keys() == {KEY}
    finally:
        for folder in [own, *own.rglob("*")]:
            folder.chmod(0o755)


@pytest.mark.parametrize("room", ["file"], indirect=True)
def test_a_store_that_is_not_writable_is_read_and_refuses_a_push(
    tmp_path, store, assets_dir, room
):
    tree = publish(tmp_path, store, SMALL)
    objects = store.read_objects()
    folders = [path for path in store.bucket.rglob("*") if path.is_dir()]
    for folder in folders:
        folder.chmod(0o555)
    try:
        ok("fetch", "x", command=MORTAL)
        assert read(assets_dir) == {KEY: tree}
        args = ["update", tmp_path / "source-x", "x", "--yes"]
        text = fails(4, *args, command=MORTAL)
        assert "'modelkit-assets/x/0.1.meta' was refused: " in text
        assert store.read_objects() == objects
    finally:
        for folder in folders:
            folder.chmod(0o755)


@pytest.mark.parametrize("room", ["file"], indirect=True)
@pytest.mark.parametrize("locked", [".", "x", "x/0.0"])
def test_a_part_that_cannot_be_added_says_so_at_once(
    tmp_path, store, assets_dir, locked
):
    publish(tmp_path, store, SMALL, sizes=True)
    if locked != ".":
        ok("fetch", "x[a]")
    folder = assets_dir / locked
    folder.chmod(0o555)
    try:
        before = snapshot(assets_dir / "x")
        text = fails(1, "fetch", "x[b]", command=MORTAL, timeout=10)
        assert f"{CANNOT}Permission denied: " in text
        assert snapshot(assets_dir / "x") == before
    finally:
        folder.chmod(0o755)
    ok("fetch", "x[b]")


@pytest.mark.parametrize("spec", ["x:0.0", "x", "x:0.0[a]"])
def test_anothers_copy_that_may_not_be_read_is_one_line_that_says_whose_it_is(
    tmp_path, store, assets_dir, monkeypatch, spec
):
    publish(tmp_path, store, SMALL)
    path = Path(ok("fetch", "x").strip())
    owner = pwd.getpwuid(os.getuid()).pw_name
    folder = path.parent if spec == "x" else path
    folder.chmod(0)  # as under umask 077, to anybody else
    if spec == "x":  # which is resolved without a store
        monkeypatch.delenv("MODELKIT_STORAGE_PROVIDER")
    try:
        text = fails(1, "fetch", spec, command=MORTAL)
    finally:
        folder.chmod(0o755)
    assert f"Permission denied: '{folder}" in text
    assert f"belongs to {owner}" in text


def test_a_hit_needs_little_memory(tmp_path, store, assets_dir):
    publish(tmp_path, store, SMALL)
    ok("fetch", "x")
    manager = ma.AssetsManager(assets_dir, storage_provider=None)
    tracemalloc.start()
    manager.fetch_asset("x:0.0")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


# --------------------------------------------------- as Windows does, which is not here


@contextmanager
def windows():
    """A system that keeps no bit of an executable, and renames nothing that is open."""
    rename = os.rename

    def rename_what_is_closed(old, new):
        for number in os.listdir("/proc/self/fd"):
            with suppress(FileNotFoundError):
                if os.readlink(f"/proc/self/fd/{number}").startswith(f"{old}/"):
                    raise PermissionError(errno.EACCES, "Access is denied", old)
        rename(old, new)

    with pytest.MonkeyPatch.context() as patch:  # not for long, as pytest asks, too
        patch.setattr(os, "name", "nt")
        patch.setattr(os, "rename", rename_what_is_closed)
        patch.setattr(ma, "_TAKEN", (FileNotFoundError, PermissionError))
        yield patch


@pytest.fixture
def copy(provider, tmp_path, assets_dir):
    """A manager that may fetch x:0.0, which is executable."""
    (tmp_path / "run.sh").write_text("1")
    (tmp_path / "run.sh").chmod(0o755)
    provider.new(tmp_path / "run.sh", "x")
    return ma.AssetsManager(storage_provider=provider)


def die(*_):
    raise KeyboardInterrupt


def test_staging_of_a_killed_fetch_is_taken_over(copy, assets_dir):
    with windows() as patch:
        bring = ma._Download.bring
        patch.setattr(ma._Download, "bring", die)
        with suppress(KeyboardInterrupt):
            copy.fetch_asset("x")
        patch.setattr(ma._Download, "bring", bring)
        left = len(os.listdir(assets_dir / ".cache/staging"))
        path = copy.fetch_asset("x")
    assert left == 1 and path == str(assets_dir / "x/0.0")
    assert not os.listdir(assets_dir / ".cache/staging")


def test_no_bit_says_that_a_file_is_executable(copy):
    os.chmod(copy.fetch_asset("x"), 0o644)
    assert copy.verify("x")
    with windows():
        wrong = copy.verify("x")
    assert wrong == []


def test_a_list_of_versions_that_is_read_is_replaced_later(tmp_path):
    driver = ma.LocalDriver(tmp_path)
    etag, error = driver.write_object(b"1", "a"), None

    def refuse(*_):
        raise PermissionError(errno.EACCES, "Access is denied")

    with windows() as patch:
        patch.setattr(os, "replace", refuse)
        try:
            driver.write_object(b"2", "a", if_match=etag)
        except OSError as caught:
            error = caught
    assert isinstance(error, ConnectionError)  # which is worth another attempt
    driver.write_object(b"2", "a", if_match=etag)
