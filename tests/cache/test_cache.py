"""The assets dir: what is checked in it, and what is cleared away."""

import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from trees import snapshot, write_tree

import modelkit_assets as ma


@pytest.fixture
def file(tmp_path):
    (tmp_path / "file").write_text("1")
    return tmp_path / "file"


def test_too_little_free_space_is_said_before_the_first_byte(
    store, provider, manager, assets_dir, file
):
    provider.new(file, "x")
    name = "modelkit-assets/x/0.0.meta"
    manifest = json.loads(store.read_object(name))
    size = shutil.disk_usage(assets_dir).free + (10 << 30)
    manifest["files"][0]["size"] = size
    store.write_object(name, json.dumps(manifest).encode())
    with pytest.raises(ma.AssetsDirError, match=f"{size} bytes are needed"):
        manager.fetch_asset("x")
    assert not list(assets_dir.rglob("data"))
    assert not (assets_dir / "x").exists()


@pytest.mark.parametrize(("age_s", "kept"), [(3600, True), (25 * 3600, False)])
def test_staging_that_nobody_holds_is_reclaimed_after_a_day(
    provider, manager, assets_dir, file, age_s, kept
):
    provider.new(file, "x")
    staging = assets_dir / ".cache" / "staging" / "other@0.0@abc~999999999~host~1"
    staging.mkdir(parents=True)
    (staging / "data").write_text("of a download that was killed")
    then = time.time() - age_s
    os.utime(staging, (then, then))
    manager.fetch_asset("x")
    assert staging.exists() is kept


def test_a_lock_file_that_is_replaced_is_waited_for_anew(
    provider, manager, assets_dir, file, monkeypatch
):
    """A process that deletes lock files, as modelkit may, must not let two in."""
    provider.new(file, "x")
    open_, opened = os.open, []

    def open_and_replace(path, *args, **kwargs):
        descriptor = open_(path, *args, **kwargs)
        if str(path).endswith(".lock"):
            opened.append(os.fstat(descriptor).st_ino)
            if len(opened) == 1:
                os.rename(path, f"{path}.old")
                os.close(open_(path, os.O_CREAT | os.O_WRONLY))
        return descriptor

    monkeypatch.setattr(os, "open", open_and_replace)
    manager.fetch_asset("x")
    assert len(opened) == 2
    assert os.stat(assets_dir / ".cache" / "x.lock").st_ino == opened[1]


def test_a_relative_store_stays_where_it_was(tmp_path, file, monkeypatch):
    (tmp_path / "bucket").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    provider = ma.StorageProvider(provider="local", bucket="bucket")
    monkeypatch.chdir(tmp_path / "elsewhere")
    provider.new(file, "x")
    assert (tmp_path / "bucket" / "modelkit-assets" / "x.versions").is_file()
    assert snapshot(tmp_path / "elsewhere") == {}


# ------------------------------------------------------------------- damaged copies

TREE = {"a": b"one", "sub/b": b"two" * 1000, "sub/c": b""}
SPOILINGS = {
    "truncated": lambda path: os.truncate(path, 10),
    "empty": lambda path: os.truncate(path, 0),
    "longer": lambda path: os.truncate(path, 9999),
    "missing": os.unlink,
    "a folder": lambda path: (os.unlink(path), os.mkdir(path)),
}
STATES = ("absent", "unmarked", "unproved", "damaged", "whole")


@pytest.fixture
def copies(provider, manager, tmp_path):
    """A cached file asset and a cached folder, and of each a file in it."""
    tree = write_tree(tmp_path / "tree", TREE)
    provider.new(tree, "folder")
    provider.new(tree / "sub" / "b", "file")
    paths = {name: manager.fetch_asset(name) for name in ("file", "folder")}
    return {"file": paths["file"], "folder": os.path.join(paths["folder"], "sub", "b")}


@pytest.mark.parametrize("spoil", SPOILINGS.values(), ids=SPOILINGS)
@pytest.mark.parametrize("spec", ["file:0.0", "folder:0.0", "folder:0.0[sub/b]"])
def test_a_copy_of_another_size_is_noticed_and_repaired(
    copies, manager, assets_dir, spec, spoil
):
    path = copies[spec.partition(":")[0]]
    spoil(path)
    info = manager.fetch_asset(spec, return_info=True)
    assert not info["from_cache"]
    with open(path, "rb") as file:
        assert file.read() == TREE["sub/b"]
    assert manager.fetch_asset(spec, return_info=True)["from_cache"]
    assert os.listdir(assets_dir / ".cache" / "staging") == []


@pytest.mark.parametrize("spec", ["file:0.0", "folder:0.0", "folder:0.0[sub/b]"])
def test_without_a_store_a_copy_of_another_size_is_an_error(
    copies, assets_dir, spec, monkeypatch
):
    monkeypatch.delenv("MODELKIT_STORAGE_PROVIDER")
    path = copies[spec.partition(":")[0]]
    os.truncate(path, 10)
    with pytest.raises(ma.AssetIntegrityError) as caught:
        ma.AssetsManager().fetch_asset(spec)
    error = caught.value
    assert (error.object_name, error.expected, error.got) == (path, "3000 bytes", 10)


@pytest.mark.parametrize("spec", ["file:0.0", "folder:0.0[sub/b]"])
def test_damage_that_comes_after_a_hit_is_noticed_too(copies, manager, spec):
    assert manager.fetch_asset(spec, return_info=True)["from_cache"]
    os.truncate(copies[spec.partition(":")[0]], 10)
    assert not manager.fetch_asset(spec, return_info=True)["from_cache"]


def test_a_part_is_served_though_another_is_damaged(copies, manager):
    os.truncate(copies["folder"], 10)
    assert manager.fetch_asset("folder:0.0[a]", return_info=True)["from_cache"]
    assert not manager.fetch_asset("folder:0.0[sub]", return_info=True)["from_cache"]


@pytest.mark.parametrize("marker", [b"{", b"[]", b'{"files": [{}]}', b"\0" * 100])
def test_a_spoilt_marker_is_written_anew(copies, manager, assets_dir, marker):
    path = assets_dir / "folder" / "0.0" / ".SUCCESS"
    before = path.read_bytes()
    path.write_bytes(marker)
    manager.fetch_asset("folder:0.0")
    assert path.read_bytes() == before


def test_an_empty_marker_is_believed_where_the_digests_are_right(
    copies, manager, assets_dir
):
    """As modelkit leaves it, or a power cut; once proved, its marker is ours."""
    marker = assets_dir / "folder" / "0.0" / ".SUCCESS"
    before = marker.read_bytes()
    marker.write_bytes(b"")
    assert manager.fetch_asset("folder:0.0", return_info=True)["from_cache"]
    assert json.loads(marker.read_bytes()).keys() == json.loads(before).keys()


@pytest.mark.parametrize("damage", [b"", b"\0"], ids=["empty", "zeros"])
def test_what_a_power_cut_left_is_not_believed_by_its_empty_marker(
    copies, manager, assets_dir, damage
):
    folder = assets_dir / "folder" / "0.0"
    (folder / ".SUCCESS").write_bytes(b"")
    file = next(one for one in sorted(folder.iterdir()) if one.name != ".SUCCESS")
    right = file.read_bytes()
    file.write_bytes(damage * len(right))
    assert not manager.fetch_asset("folder:0.0", return_info=True)["from_cache"]
    assert file.read_bytes() == right


def test_on_a_read_only_disk_an_empty_marker_is_proved_once(
    copies, provider, assets_dir, monkeypatch
):
    marker = assets_dir / "folder" / "0.0" / ".SUCCESS"
    marker.write_bytes(b"")
    manager = ma.AssetsManager(assets_dir, storage_provider=provider)

    def refuse(*_):
        raise PermissionError(13, "Read-only file system")

    monkeypatch.setattr(os, "makedirs", refuse)
    assert manager.fetch_asset("folder:0.0", return_info=True)["from_cache"]
    assert marker.read_bytes() == b""
    monkeypatch.setattr(provider, "_read_manifest", refuse)
    assert manager.fetch_asset("folder:0.0", return_info=True)["from_cache"]


def test_an_empty_marker_is_believed_of_a_version_that_the_store_does_not_have(
    copies, manager, assets_dir
):
    folder = assets_dir / "folder"
    (folder / "0.0").rename(folder / "7.0")
    (folder / "7.0" / ".SUCCESS").write_bytes(b"")
    before = snapshot(assets_dir)
    assert manager.fetch_asset("folder:7.0") == str(folder / "7.0")
    assert snapshot(assets_dir) == before
    for path in (folder / "7.0").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    with pytest.raises(ma.AssetDoesNotExistError):
        manager.fetch_asset("folder:7.0")


def test_without_a_store_an_empty_marker_beside_empty_files_is_not_believed(
    copies, assets_dir, offline
):
    """One empty file among others may be the asset's own, as of modelkit's."""
    folder = assets_dir / "folder" / "0.0"
    (assets_dir / "file" / ".0.0.SUCCESS").write_bytes(b"")
    (folder / ".SUCCESS").write_bytes(b"")
    assert offline("file:0.0") == copies["file"]
    assert offline("folder:0.0") == str(folder)
    for path in (Path(copies["file"]), *folder.rglob("*")):
        if path.is_file():
            path.write_bytes(b"")
    for spec in ("file:0.0", "folder:0.0"):
        with pytest.raises(ma.AssetIntegrityError, match="a power cut"):
            offline(spec)


def test_what_to_do_with_a_copy_is_a_table():
    table = {
        (state, provider, force): ma._decide_fetch(state, provider, force)
        for state in STATES
        for provider in (False, True)
        for force in (False, True)
        if provider or not force
    }
    downloads = {(state, True, True) for state in STATES}
    downloads |= {("absent", True, False), ("damaged", True, False)}
    fails = {("absent", False, False), ("damaged", False, False)}
    hits = {(state, False, False) for state in ("unmarked", "unproved", "whole")}
    hits |= {("whole", True, False)}
    assert table == {
        **dict.fromkeys(downloads, "download"),
        **dict.fromkeys(fails, "fail"),
        **dict.fromkeys(hits, "hit"),
        ("unmarked", True, False): "check",
        ("unproved", True, False): "check",
    }


# ------------------------------------------------------------------- paths and versions


@pytest.fixture
def offline(assets_dir, monkeypatch):
    """Return a function that fetches without a store."""

    def fetch(spec):
        with monkeypatch.context() as context:
            context.delenv("MODELKIT_STORAGE_PROVIDER", raising=False)
            return ma.AssetsManager().fetch_asset(spec)

    return fetch


@pytest.mark.parametrize("version", ["1.0", "2021-11-14T18-00-00Z"])
@pytest.mark.parametrize("system", [None, "major_minor", "simple_date"])
def test_a_folder_that_holds_versions_is_no_path(
    assets_dir, offline, monkeypatch, version, system
):
    write_tree(assets_dir, {f"x/{version}/a": b"1", "x/notes": b"", "plain/a": b"1"})
    if system:
        monkeypatch.setenv("MODELKIT_ASSETS_VERSIONING_SYSTEM", system)
    for spec in ("x", str(assets_dir / "x"), "x[notes]"):
        with suppress(ma.ModelkitAssetsError):
            assert offline(spec).startswith(str(assets_dir / "x" / version))
    assert offline("plain") == str(assets_dir / "plain")
    assert offline("plain[a]") == str(assets_dir / "plain" / "a")


def test_with_a_store_a_folder_that_holds_versions_is_no_path_either(
    provider, manager, assets_dir
):
    write_tree(assets_dir, {"x/1.0/a": b"1", "plain/a": b"1"})
    for spec in ("x", str(assets_dir / "x"), "x[1.0]"):
        with pytest.raises((ma.AssetDoesNotExistError, ma.InvalidNameError)):
            manager.fetch_asset(spec)
    assert manager.fetch_asset("plain") == str(assets_dir / "plain")


def test_with_a_store_nothing_below_the_current_folder_is_meant(
    provider, manager, offline, tmp_path, monkeypatch
):
    here = write_tree(tmp_path / "here", {"x/a": b"1"})
    monkeypatch.chdir(here)
    for spec in ("x", "x/a", "x[a]"):
        with pytest.raises(ma.AssetDoesNotExistError):
            manager.fetch_asset(spec)
        assert offline(spec).startswith(str(here / "x"))
    assert manager.fetch_asset(str(here / "x")) == str(here / "x")


# ------------------------------------------------------------------- progress


def test_a_managers_function_is_told_of_downloads(provider, assets_dir, tmp_path):
    provider.new(write_tree(tmp_path / "tree", TREE), "x")
    told = []
    manager = ma.AssetsManager(storage_provider=provider, on_progress=told.append)
    manager.fetch_asset("x")
    downloading = [one for one in told if one.action == "downloading"]
    size = sum(map(len, TREE.values()))
    last = ma.Progress("downloading", "x:0.0", size, size, len(TREE), len(TREE))
    assert downloading and downloading[-1] == last
    assert [one.done for one in downloading] == sorted(one.done for one in downloading)


def test_what_a_managers_function_raises_stops_the_download(
    provider, assets_dir, tmp_path
):
    class Enough(Exception):
        pass

    def stop(progress):
        if progress.done:
            raise Enough

    provider.new(write_tree(tmp_path / "tree", TREE), "x")
    manager = ma.AssetsManager(storage_provider=provider, on_progress=stop)
    with pytest.raises(Enough):
        manager.fetch_asset("x")
    assert not (assets_dir / "x").exists()
    manager.on_progress = None
    assert manager.fetch_asset("x")


@pytest.mark.parametrize("before", ["an empty marker", "another store's copy"])
def test_a_kill_while_a_file_is_replaced_never_marks_what_was_there(
    provider, manager, assets_dir, file, tmp_path, monkeypatch, before
):
    """Its bytes are others', and as many."""
    provider.new(file, "x")
    path, marker = assets_dir / "x/0.0", assets_dir / "x/.0.0.SUCCESS"
    if before == "an empty marker":
        path.parent.mkdir()
        path.write_text("2")
        marker.touch()
    else:
        (tmp_path / "other").mkdir()
        (tmp_path / "two").write_text("2")
        other = ma.StorageProvider(provider="local", bucket=tmp_path / "other")
        other.new(tmp_path / "two", "x")
        ma.AssetsManager(storage_provider=other).fetch_asset("x")

    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ma, "_swap_in", die)
        with pytest.raises(KeyboardInterrupt):
            manager.fetch_asset("x:0.0", force_download=True)
    assert Path(manager.fetch_asset("x:0.0")).read_text() == "1"


def test_an_interrupt_between_lock_and_work_lets_go_of_it(
    provider, assets_dir, file, monkeypatch
):
    provider.new(file, "x")
    manager = ma.AssetsManager(timeout=0.2, storage_provider=provider)
    try_lock = ma._try_lock

    def interrupt(*about):
        try_lock(*about)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ma, "_try_lock", interrupt)
        with pytest.raises(KeyboardInterrupt) as caught:
            manager.fetch_asset("x")
    assert manager.fetch_asset("x")
    del caught  # which holds on to all that was at work


def test_a_part_that_no_disk_can_hold_is_not_there(provider, manager, tmp_path):
    provider.new(write_tree(tmp_path / "folder", {"a": b"1"}), "x")
    manager.fetch_asset("x")
    with pytest.raises(ma.AssetDoesNotExistError):
        manager.fetch_asset(f"x:0.0[{'y' * 300}]")


def test_a_pipe_in_a_copy_of_modelkits_holds_nobody_up(
    store, provider, assets_dir, tmp_path
):
    provider.new(write_tree(tmp_path / "folder", {"a": b"1"}), "x")
    name = "modelkit-assets/x/0.0.meta"
    manifest = json.loads(store.read_object(name))
    del manifest["files"]
    store.write_object(name, json.dumps(manifest).encode())
    copy = write_tree(assets_dir / "x/0.0", {"a": b"1", ".SUCCESS": b""})
    os.mkfifo(copy / "pipe")
    command = [sys.executable, ma.__file__, "fetch", "x:0.0"]
    assert subprocess.check_output(command, timeout=60, text=True) == f"{copy}\n"
