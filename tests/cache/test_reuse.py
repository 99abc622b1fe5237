"""What is at hand, in the cache or in the store, is not moved again."""

from __future__ import annotations

import functools
import hashlib
import os

import harness
import pytest
from harness import NAME
from stores import AzuriteStore, GcsStore, LocalStore, MotoStore, RcloneStore
from trees import File, Tree, read_bytes, read_files, write_tree

import modelkit_assets as ma

BIG = hashlib.shake_128(b"big").digest(300_000)
FIRST: Tree = {
    "big": File(BIG),
    "bin/run": File(b"#!/bin/sh\n", executable=True),
    "config": File(b'{"v": 1}'),
    "empty": File(b""),
    "old": File(b"old"),
}
SECOND: Tree = {
    "config": File(b'{"v": 2}'),
    "empty": File(b""),
    "moved/big": File(BIG),  # in another folder
    "run.sh": File(b"#!/bin/sh\n", executable=True),
    "run.txt": File(b"#!/bin/sh\n"),  # the same bytes, but not executable
}


@pytest.fixture
def fetch(local, assets_dir, log):
    """Return a function that fetches a spec, and says what was downloaded for it."""
    provider = harness.make_recording_provider(local.bucket, log)
    manager = ma.AssetsManager(assets_dir, 10, provider)

    def fetch(spec, **how):
        log.write_text("")
        path = manager.fetch_asset(spec, **how)
        return path, sorted(one.part for one in harness.read_log(log))

    return fetch


# ------------------------------------------------------------------- in the cache


@pytest.mark.parametrize("pack", [False, True], ids=["unpacked", "packed"])
def test_a_file_that_another_version_has_is_not_downloaded(publish, fetch, pack):
    publish(FIRST)
    publish(SECOND, pack=pack)
    assert len(fetch(f"{NAME}:0.0")[1]) == 4
    path, downloaded = fetch(f"{NAME}:0.1")
    assert downloaded == (["0.1"] if pack else ["0.1/config"])
    assert read_files(path) == SECOND, "with the executable bits of its own"


def test_a_file_asset_is_reused_too(publish, fetch):
    publish({"": File(BIG)}, {"": File(b"2")}, {"": File(BIG)})
    assert fetch(f"{NAME}:0.0")[1] == ["0.0"]
    assert fetch(f"{NAME}:0.2")[1] == []
    assert read_files(fetch(NAME)[0]) == {"": File(BIG)}


def test_a_large_file_is_reused_too(publish, fetch, small_parts):
    publish(FIRST, SECOND)
    fetch(f"{NAME}:0.0")
    assert fetch(f"{NAME}:0.1")[1] == ["0.1/config"]


def test_a_copy_is_a_file_of_its_own(publish, fetch):
    publish(FIRST, SECOND)
    first, second = fetch(f"{NAME}:0.0")[0], fetch(f"{NAME}:0.1")[0]
    one, other = os.path.join(first, "big"), os.path.join(second, "moved/big")
    assert os.stat(one).st_ino != os.stat(other).st_ino
    assert os.stat(one).st_nlink == os.stat(other).st_nlink == 1
    with open(one, "r+b") as file:
        file.write(b"changed")
    assert read_files(second) == SECOND


SPOILINGS = {
    "another byte": lambda path: _write(path, 1000, b"\0"),
    "longer": lambda path: _write(path, len(BIG), b"more"),
    "shorter": lambda path: os.truncate(path, 1000),
    "gone": os.unlink,
    "a folder": lambda path: (os.unlink(path), os.mkdir(path)),
}


def _write(path, at, data):
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(data)


@pytest.mark.parametrize("large", [False, True], ids=["small", "large"])
@pytest.mark.parametrize("spoil", SPOILINGS.values(), ids=SPOILINGS)
def test_what_was_spoilt_in_the_cache_is_downloaded(
    publish, fetch, spoil, large, request
):
    if large:
        request.getfixturevalue("small_parts")
    publish(FIRST, SECOND)
    first = fetch(f"{NAME}:0.0")[0]
    spoil(os.path.join(first, "big"))
    path, downloaded = fetch(f"{NAME}:0.1")
    assert read_files(path) == SECOND
    assert {"0.1/config", "0.1/moved/big"} == set(downloaded)


def test_what_grows_while_it_is_copied_is_noticed(
    publish, fetch, small_parts, monkeypatch
):
    publish(FIRST, SECOND)
    path = fetch(f"{NAME}:0.0")[0]
    copy_bytes = ma._copy_bytes

    def grow_and_copy(source, target, size, advance):
        with open(os.path.join(path, "big"), "ab") as file:
            file.write(b"more")
        copy_bytes(source, target, size, advance)

    monkeypatch.setattr(ma, "_copy_bytes", grow_and_copy)
    assert read_files(fetch(f"{NAME}:0.1")[0]) == SECOND


@pytest.mark.parametrize("pack", [False, True], ids=["unpacked", "packed"])
def test_of_a_large_file_of_which_one_chunk_changed_one_chunk_comes(
    publish, fetch, log, small_parts, pack
):
    chunk, changed = small_parts, bytearray(BIG)
    changed[2 * chunk + 7] ^= 1
    publish({"big": File(BIG), "x": File(b"x")})
    publish({"big": File(bytes(changed)), "x": File(b"x")}, pack=pack)
    fetch(f"{NAME}:0.0")
    path, _ = fetch(f"{NAME}:0.1")
    assert read_files(path)["big"].data == changed
    (moved,) = harness.read_log(log)
    assert (moved.part, moved.size) == ("0.1" if pack else "0.1/big", chunk)
    assert pack or moved.start == 2 * chunk


def test_of_a_damaged_copy_only_the_damaged_file_is_downloaded(publish, fetch):
    publish(FIRST)
    path = fetch(NAME)[0]
    os.truncate(os.path.join(path, "config"), 1)
    assert fetch(NAME) == (path, ["0.0/config"])
    assert read_files(path) == FIRST
    assert fetch(NAME) == (path, [])


def test_a_forced_download_takes_nothing_from_the_cache(publish, fetch):
    publish(FIRST, FIRST)
    fetch(f"{NAME}:0.0")
    fetch(f"{NAME}:0.1")
    assert len(fetch(f"{NAME}:0.1", force_download=True)[1]) == 4


@pytest.mark.parametrize("partial", ["0.0", "0.2"])
def test_a_partial_copy_lends_just_what_it_has(publish, fetch, partial):
    """Nor does it hide, before or after it in order, the copy that has the rest."""
    publish(FIRST, FIRST, FIRST, SECOND)
    fetch(f"{NAME}:0.1")
    path = fetch(f"{NAME}:{partial}[config]")[0]
    os.unlink(os.path.join(os.path.dirname(path), "..", "0.1", "config"))
    assert fetch(f"{NAME}:0.3")[1] == ["0.3/config"]


def test_a_link_in_the_cache_lends_nothing(publish, fetch, tmp_path):
    publish(FIRST, SECOND)
    first = fetch(f"{NAME}:0.0")[0]
    os.rename(os.path.join(first, "big"), tmp_path / "big")
    os.symlink(tmp_path / "big", os.path.join(first, "big"))
    path, downloaded = fetch(f"{NAME}:0.1")
    assert read_files(path) == SECOND
    assert "0.1/moved/big" in downloaded


# ------------------------------------------------------------------- in the store


@pytest.fixture
def calls(monkeypatch):
    """What was copied or uploaded, by the name of the object."""

    def write_down(provider):
        found = {"copy_object": [], "upload_object": []}
        for name in found:
            method = getattr(provider.driver, name)

            def call(source, target, *args, method=method, log=found[name], **how):
                method(source, target, *args, **how)
                log.append(target.partition(f"{NAME}/")[2])

            setattr(provider.driver, name, call)
        return found

    return write_down


@pytest.mark.parametrize(
    "kind",
    [
        LocalStore,
        *(
            pytest.param(kind, marks=pytest.mark.server)
            for kind in (MotoStore, RcloneStore, AzuriteStore, GcsStore)
        ),
    ],
)
def test_what_the_version_before_has_is_copied_within_the_store(
    make_store, tmp_path, assets_dir, calls, kind
):
    store = make_store(kind)
    provider = ma.StorageProvider()
    provider.new(write_tree(tmp_path / "first", FIRST), NAME)
    moved = calls(provider)
    source = write_tree(tmp_path / "second", SECOND)
    assert provider.update(source, NAME) == "0.1"
    copied = set(moved["copy_object"])  # which a local store does by an upload
    assert [one for one in moved["upload_object"] if one not in copied] == [
        "0.1/config"
    ]
    assert sorted(moved["copy_object"]) == [
        "0.1/empty", "0.1/moved/big", "0.1/run.sh", "0.1/run.txt",
    ]  # fmt: skip
    for name, file in SECOND.items():
        assert store.read_object(f"modelkit-assets/{NAME}/0.1/{name}") == file.data
    assert read_files(ma.AssetsManager().fetch_asset(NAME)) == SECOND


@pytest.mark.parametrize(
    "error",
    [
        PermissionError("no"), ValueError("no"), FileNotFoundError("no"),
        OSError("too large"), ConnectionError("now and then"),
        NotImplementedError("no"),
    ],
    ids=repr,
)  # fmt: skip
def test_what_cannot_be_copied_is_uploaded(
    local, publish, tmp_path, assets_dir, monkeypatch, error
):
    publish(FIRST)
    monkeypatch.setenv("MODELKIT_STORAGE_TIMEOUT_S", "0.01")
    provider, uploaded = ma.StorageProvider(), []
    upload = provider.driver.upload_object

    def refuse(source, target):
        raise error

    def upload_object(path, target, advance, **how):
        uploaded.append(target)
        upload(path, target, advance, **how)

    provider.driver.copy_object = refuse
    provider.driver.upload_object = upload_object
    provider.update(write_tree(tmp_path / "second", SECOND), NAME)
    assert len(uploaded) == len(SECOND)
    assert read_files(ma.AssetsManager().fetch_asset(NAME)) == SECOND


def test_nothing_is_copied_out_of_a_pack(local, publish, tmp_path, calls):
    publish(FIRST, pack=True)
    provider = ma.StorageProvider()
    moved = calls(provider)
    provider.update(write_tree(tmp_path / "second", SECOND), NAME)
    assert moved["copy_object"] == [] and len(moved["upload_object"]) == len(SECOND)


def update(source, store):
    make = functools.partial(harness.make_provider, store)
    return harness.publish(make, "update", source, NAME)


@pytest.mark.attack
@pytest.mark.parametrize("after", [False, True], ids=["just_before", "just_after"])
def test_an_update_that_copies_may_die_at_every_step(tmp_path, after):
    template = tmp_path / "store"
    template.mkdir()
    source = write_tree(tmp_path / "first", FIRST)
    harness.make_provider(template).new(source, NAME)
    source = write_tree(tmp_path / "second", SECOND)
    operation, deaths = functools.partial(update, source), 0
    for _, store in harness.each_death(
        template, operation, after,
        environ={"MODELKIT_STORAGE_WORKERS": "1"},
        among=harness.STEPS_OF_DRIVER + ("copy_file_range", "link", "replace"),
    ):  # fmt: skip
        deaths += 1
        if "0.1" not in harness.make_provider(store).get_versions_info(NAME):
            assert update(source, store) == "0.1"
        seen = harness.read_store_as_modelkit(store / "modelkit-assets")
        assert seen == {
            (NAME, "0.0"): read_bytes(FIRST),
            (NAME, "0.1"): read_bytes(SECOND),
        }
    assert deaths > 10


def test_what_was_altered_in_the_store_is_replaced_without_copying(
    local, tmp_path, assets_dir, capsys
):
    provider = ma.StorageProvider()
    source = write_tree(tmp_path / "first", FIRST)
    provider.new(source, NAME)
    name = f"modelkit-assets/{NAME}/0.0/config"
    local.write_object(name, b"?" * len(local.read_object(name)))
    provider.update(source, NAME)  # which copies it
    with pytest.raises(ma.AssetIntegrityError):
        ma.AssetsManager().fetch_asset(NAME)
    assert ma.main(["update", str(source), NAME, "--yes", "--no-copy"]) == 0
    assert read_files(ma.AssetsManager().fetch_asset(NAME)) == FIRST
    assert provider.update(source, NAME, copy=False) == "0.3"
