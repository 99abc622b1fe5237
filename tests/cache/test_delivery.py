"""`fetch --to`: an asset's content in a folder, or file, of the user's own."""

import json
import os
import subprocess
import sys

import pytest
from trees import read_files, write_tree

import modelkit_assets as ma

TREE = {"vocab.txt": b"a b", "deep/w.bin": bytes(range(256)) * 300, "none/": b""}
RUN = {"run.sh": (b"#!/bin/sh\n", True)}


@pytest.fixture
def published(provider, tmp_path):
    """x:0.0, a folder; y:0.0, a file; both uncached."""
    source = write_tree(tmp_path / "source", TREE)
    (source / "run.sh").write_bytes(b"#!/bin/sh\n")
    (source / "run.sh").chmod(0o755)
    provider.new(source, "x")
    provider.new(source / "vocab.txt", "nlp/y")
    return source


@pytest.fixture
def to(tmp_path):
    return tmp_path / "models" / "mine"


def check_nothing_else(to):
    assert [path.name for path in to.parent.iterdir()] == [to.name]
    assert not list(to.rglob(".modelkit-assets*"))


@pytest.mark.parametrize("is_cached", [False, True])
@pytest.mark.parametrize("pack", [False, True])
def test_a_folder_has_just_the_content(
    provider, manager, assets_dir, published, to, is_cached, pack
):
    provider.update(published, "x", pack=pack)
    if is_cached:
        manager.fetch_asset("x")
    info = manager.fetch_asset("x", return_info=True, to=to)
    assert info == {"path": str(to), "version": "0.1", "from_cache": is_cached}
    assert read_files(to) == read_files(published)
    assert os.access(to / "run.sh", os.X_OK)
    check_nothing_else(to)
    assert (assets_dir / "x").exists() is is_cached  # else straight there


def test_what_is_there_is_the_users_own(manager, published, to):
    path = manager.fetch_asset("x")
    manager.fetch_asset("x", to=to)
    (to / "vocab.txt").write_text("mine")
    with open(os.path.join(path, "vocab.txt")) as file:
        assert file.read() == "a b"


@pytest.mark.parametrize("is_cached", [False, True])
def test_a_file_or_a_part_is_put_as_it_is(manager, published, to, is_cached):
    if is_cached:
        manager.fetch_asset("x")
        manager.fetch_asset("nlp/y")
    assert manager.fetch_asset("nlp/y", to=to) == str(to)
    assert to.read_text() == "a b"
    check_nothing_else(to)
    folder = to.with_name("folder")
    manager.fetch_asset("x[deep]", to=folder)
    assert read_files(folder) == {"w.bin": (TREE["deep/w.bin"], False)}
    # into a folder that is there, by its own name
    assert manager.fetch_asset("nlp/y", to=folder) == str(folder / "y")
    part = manager.fetch_asset("x[vocab.txt]", to=folder)
    assert part == str(folder / "vocab.txt")
    assert sorted(os.listdir(folder)) == ["vocab.txt", "w.bin", "y"]


def test_a_folder_that_is_there_and_empty_may_be_a_disk(manager, published, to):
    to.mkdir(parents=True)
    inode = to.stat().st_ino
    manager.fetch_asset("x", to=to)
    assert read_files(to) == read_files(published)
    assert to.stat().st_ino == inode  # it was not replaced
    check_nothing_else(to)


def test_what_is_right_there_already_is_left(manager, published, to):
    manager.fetch_asset("x", to=to)
    before = {path: path.stat().st_ino for path in to.rglob("*")}
    info = manager.fetch_asset("x", return_info=True, to=to)
    assert info["from_cache"]
    assert {path: path.stat().st_ino for path in to.rglob("*")} == before


@pytest.mark.parametrize("spoil", ["more", "changed", "less", "file"])
def test_what_is_something_else_is_refused_and_left(manager, published, to, spoil):
    manager.fetch_asset("x", to=to)
    if spoil == "more":
        (to / "mine").write_text("1")
    elif spoil == "changed":
        (to / "vocab.txt").write_text("a c")
    elif spoil == "less":
        (to / "vocab.txt").unlink()
    else:
        to = to.with_name("file")
        to.write_text("1")
    before = read_files(to)
    with pytest.raises(ma.ConfigurationError, match="is there, and is not x:0.0"):
        manager.fetch_asset("x", to=to)
    assert read_files(to) == before


def test_a_wrong_byte_is_never_put_there(store, manager, published, to):
    store.write_object("modelkit-assets/x/0.0/vocab.txt", b"a c")
    with pytest.raises(ma.AssetIntegrityError):
        manager.fetch_asset("x", to=to)
    assert not to.exists()


DIE = """
import os, sys
sys.path.insert(0, sys.argv[1])
import modelkit_assets as ma

number, rename = int(sys.argv[3]), os.rename

def dying(source, target):
    global number
    if str(source).startswith(os.path.dirname(sys.argv[2])):
        number -= 1
        if not number:
            os._exit(9)
    rename(source, target)

os.rename = dying
ma.AssetsManager().fetch_asset("x", to=sys.argv[2])
"""


@pytest.mark.parametrize("is_there", [False, True])
def test_a_killed_one_is_completed_by_the_next(
    manager, published, to, is_there, tmp_path
):
    if is_there:
        to.mkdir(parents=True)
    code = 9
    for number in range(1, 20):
        here = os.path.dirname(ma.__file__)
        command = [sys.executable, "-c", DIE, here, str(to), str(number)]
        code = subprocess.run(command).returncode
        if not is_there:
            assert not to.exists() or read_files(to) == read_files(published)
        assert code in (0, 9)
        if code == 0:
            break
    assert code == 0
    assert number > is_there  # it was killed, where it renames one by one
    assert read_files(to) == read_files(published)
    check_nothing_else(to)


def test_an_interrupted_download_goes_on(store, manager, published, to, monkeypatch):
    """What came is not brought again."""
    driver, asked = manager.storage_provider.driver, []
    iterate = type(driver).iterate_bytes

    def fail_on_the_last(self, name, *args, **how):
        asked.append(name)
        if name.endswith("vocab.txt") and len(asked) < 5:
            raise PermissionError("403")
        return iterate(self, name, *args, **how)

    monkeypatch.setattr(type(driver), "iterate_bytes", fail_on_the_last)
    manager._workers = manager.storage_provider.workers = 1
    with pytest.raises(ma.StorageAccessError):
        manager.fetch_asset("x", to=to)
    assert not to.exists()
    assert len(asked) == 3
    asked += [""] * 5
    manager.fetch_asset("x", to=to)
    assert asked[8:] == ["modelkit-assets/x/0.0/vocab.txt"]
    assert read_files(to) == read_files(published)


def test_without_a_store_it_is_copied(manager, published, assets_dir, to):
    manager.fetch_asset("x")
    offline = ma.AssetsManager(assets_dir, offline=True)
    assert offline.storage_provider is None
    offline.fetch_asset("x", to=to)
    assert read_files(to) == read_files(published)
    with pytest.raises(ma.AssetDoesNotExistError):
        offline.fetch_asset("nlp/y", to=to.with_name("other"))
    # and of what an image has, which nothing marks
    (assets_dir / "x" / "0.0" / ".SUCCESS").unlink()
    ma.AssetsManager(assets_dir, offline=True).fetch_asset("x", to=to.with_name("two"))
    assert read_files(to.with_name("two")) == read_files(published)


def test_the_command_takes_one_spec(manager, published, to, capsys):
    assert ma.main(["fetch", "x", "nlp/y", "--to", str(to)]) == 2
    assert "--to takes one SPEC" in capsys.readouterr().err
    assert ma.main(["fetch", "x", "--to", str(to), "--json"]) == 0
    (info,) = json.loads(capsys.readouterr().out)
    assert info["path"] == str(to)


def test_a_folder_that_may_not_be_written_is_one_error(manager, published, tmp_path):
    with pytest.raises(ma.AssetsDirError, match="file"):
        (tmp_path / "file").write_text("1")
        manager.fetch_asset("x", to=tmp_path / "file" / "below")


def test_two_at_once_both_have_it(manager, published, to):
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); import modelkit_assets as m; "
    )
    program += "m.AssetsManager().fetch_asset('x', to=sys.argv[2])"
    command = [sys.executable, "-c", program, os.path.dirname(ma.__file__), str(to)]
    both = [subprocess.Popen(command) for _ in range(4)]
    assert [one.wait(60) for one in both] == [0] * 4
    assert read_files(to) == read_files(published)
    check_nothing_else(to)


def test_what_a_user_has_there_is_never_overwritten(manager, published, to):
    """Nor where staging lies there, as of an interrupted delivery of something else."""
    (to / ".modelkit-assets.staging").mkdir(parents=True)
    (to / "vocab.txt").write_text("mine")
    with pytest.raises(ma.ConfigurationError, match="is there, and is not"):
        manager.fetch_asset("x", to=to)
    assert (to / "vocab.txt").read_text() == "mine"


def test_two_assets_are_not_mixed(provider, manager, published, to, tmp_path):
    other = write_tree(tmp_path / "other", {"vocab.txt": b"other", "z": b"1"})
    provider.new(other, "other")
    to.mkdir(parents=True)
    here = os.path.dirname(ma.__file__)
    number = 0
    while not set(os.listdir(to)) - {".modelkit-assets.staging"}:
        number += 1  # until it has renamed its first entry
        command = [sys.executable, "-c", DIE, here, str(to), str(number)]
        assert subprocess.run(command).returncode == 9
    with pytest.raises(ma.ConfigurationError, match="is there, and is not other:0.0"):
        manager.fetch_asset("other", to=to)
    manager.fetch_asset("x", to=to)  # which completes it
    assert read_files(to) == read_files(published)
    with pytest.raises(ma.ConfigurationError, match="is there, and is not other:0.0"):
        manager.fetch_asset("other", to=to)


def test_planted_staging_is_refused(manager, published, to, tmp_path):
    victim = write_tree(tmp_path / "victim", {"data/a": b"1", "lock": b"2"})
    to.parent.mkdir()
    (to.parent / ".modelkit-assets.mine").symlink_to(victim)
    with pytest.raises(ma.AssetsDirError, match="destination: it is no folder of ours"):
        manager.fetch_asset("x", to=to)
    assert read_files(victim) == {"data/a": (b"1", False), "lock": (b"2", False)}


def test_a_cached_copy_that_was_altered_is_not_put_there(manager, published, to):
    path = manager.fetch_asset("x")
    with open(os.path.join(path, "vocab.txt"), "w") as file:
        file.write("a c")
    with pytest.raises(ma.AssetIntegrityError, match="fetch --download x:0.0"):
        manager.fetch_asset("x", to=to)
    assert not to.exists()
    manager.fetch_asset("x", force_download=True, to=to)
    assert read_files(to) == read_files(published)


def test_a_link_is_followed_to_where_it_leads(manager, published, to, tmp_path):
    (tmp_path / "real").mkdir()
    to.parent.mkdir()
    to.symlink_to("../real")
    for _ in range(2):
        assert manager.fetch_asset("x", to=to) == str(to)
    assert read_files(tmp_path / "real") == read_files(published)
    assert to.is_symlink()


def test_what_modelkit_published_may_be_put_there_twice(
    store, manager, published, to, assets_dir
):
    name = "modelkit-assets/x/0.0.meta"
    manifest = json.loads(store.read_object(name))
    del manifest["files"], manifest["empty_directories"]
    store.write_object(name, json.dumps(manifest).encode())
    for _ in range(2):
        manager.fetch_asset("x", to=to)
    (to / ".modelkit-assets.staging").mkdir()  # as of another process, at work there
    manager.fetch_asset("x", to=to)
    (to / "vocab.txt").write_text("longer")
    with pytest.raises(ma.ConfigurationError, match="is there, and is not"):
        manager.fetch_asset("x", to=to)


def test_a_marker_inside_a_part_is_a_file_of_it(provider, manager, to, tmp_path):
    source = write_tree(tmp_path / "source", {"sub/.SUCCESS": b"1", "sub/a": b"2"})
    provider.new(source, "x")
    for _ in range(2):
        manager.fetch_asset("x[sub]", to=to)
        manager.fetch_asset("x")
    assert sorted(os.listdir(to)) == [".SUCCESS", "a"]


def test_what_a_listener_raises_is_left_as_it_is(store, published, assets_dir, to):
    class OurError(OSError):
        pass

    def stop(progress):
        raise OurError("mine")

    with pytest.raises(OurError):
        ma.AssetsManager(on_progress=stop).fetch_asset("x", to=to)
    assert not to.exists()
    with pytest.raises(ma.ConfigurationError, match="`to` is empty"):
        ma.AssetsManager().fetch_asset("x", to="")


FULL = """
import resource, sys
sys.path.insert(0, sys.argv[1])
import modelkit_assets as ma

resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
try:
    ma.AssetsManager().fetch_asset("x", to=sys.argv[2])
except ma.AssetsDirError as error:
    print(error)
"""


def test_a_full_disk_is_told_as_the_destinations(manager, published, to):
    manager.fetch_asset("x")
    command = [sys.executable, "-c", FULL, os.path.dirname(ma.__file__), str(to)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "cannot write to the destination: File too large" in done.stdout, done.stderr
    assert not to.exists()


@pytest.mark.parametrize("before", ["folder", "nothing", "file"])
def test_what_a_user_writes_meanwhile_is_never_overwritten(
    store, published, assets_dir, to, provider, before
):
    mine = to / "vocab.txt"
    to.parent.mkdir()
    if before == "folder":
        to.mkdir()

    def write(progress):
        if before == "file" and not to.exists():
            to.write_text("mine")
        elif before != "file" and not mine.exists():
            to.mkdir(exist_ok=True)
            mine.write_text("mine")

    manager = ma.AssetsManager(storage_provider=provider, on_progress=write)
    with pytest.raises((ma.ConfigurationError, ma.AssetsDirError)):
        manager.fetch_asset("x" if before != "file" else "x[vocab.txt]", to=to)
    assert (to if before == "file" else mine).read_text() == "mine"


@pytest.mark.parametrize(
    "change",
    [
        lambda to: (to / "deep/notes.txt").write_text("mine"),
        lambda to: (to / "deep/w.bin").write_bytes(b"mine"),
        lambda to: (to / "vocab.txt").write_text("mine"),
    ],
    ids=["added", "edited", "come"],
)
def test_what_a_user_changed_since_an_interrupt_is_left(
    manager, published, to, monkeypatch, change
):
    """In a folder that was there, in which one entry is renamed after the other."""
    to.mkdir(parents=True)
    rename = os.rename

    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:

        def rename_once(old, new):
            rename(old, new)
            if str(new).startswith(str(to)):
                patch.setattr(os, "rename", die)
                patch.setattr(os, "link", die)

        patch.setattr(os, "rename", rename_once)
        with pytest.raises(KeyboardInterrupt):
            manager.fetch_asset("x", to=to)
    assert (to / "deep").exists() and not (to / "vocab.txt").exists()
    change(to)
    names = [name for name in read_files(to) if name[0] != "."]
    before = [(name, (to / name).read_bytes()) for name in names]
    with pytest.raises(ma.ConfigurationError, match="is there, and is not"):
        manager.fetch_asset("x", to=to)
    assert [(name, (to / name).read_bytes()) for name in names] == before


def test_the_root_of_a_disk_has_what_is_lost_and_found(manager, published, to):
    (to / "lost+found").mkdir(parents=True, mode=0o700)
    for _ in range(2):
        manager.fetch_asset("x", to=to)
    (to / "lost+found").rmdir()
    assert read_files(to) == read_files(published)


def test_what_lies_there_and_is_no_file_is_not_it(store, manager, published, to):
    name = "modelkit-assets/x/0.0.meta"
    manifest = json.loads(store.read_object(name))
    del manifest["files"], manifest["empty_directories"]
    store.write_object(name, json.dumps(manifest).encode())
    to.mkdir(parents=True)
    (to / "link").symlink_to("nowhere")
    with pytest.raises(ma.ConfigurationError, match="is there, and is not"):
        manager.fetch_asset("x", to=to)


def test_who_hashes_under_the_lock_shows_that_it_goes_on(
    manager, published, to, monkeypatch
):
    """As the one of several that comes to the lock when all is done."""
    manager.fetch_asset("x", to=to)
    answers, is_there = iter([False]), ma._Delivery._is_there
    find_right, lock, touched = ma._find_right, to / ".modelkit-assets.staging/lock", []

    def look(*about):
        return next(answers) if not touched and not lock.exists() else is_there(*about)

    def find(*about):
        os.utime(lock, (0, 0))
        found = find_right(*about)
        touched.append(lock.stat().st_mtime > 0)
        return found

    monkeypatch.setattr(ma, "_HEARTBEAT_S", 0)
    monkeypatch.setattr(ma._Delivery, "_is_there", look)
    monkeypatch.setattr(ma, "_find_right", find)
    manager.fetch_asset("x", to=to)
    assert touched == [True]
