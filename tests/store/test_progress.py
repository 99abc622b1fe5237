"""How far the work is, as a callback is told, and what one that raises does."""

import os
import pickle
import shutil
import sys
import threading
import time
from pathlib import Path

import pytest
from commands import publish_as_modelkit
from stores import AzuriteStore, GcsStore, LocalStore, MotoStore
from stub_server import Faulty, nth, reset
from trees import read_tree, write_tree

import modelkit_assets as ma

MIB = 1 << 20
FILES = {"a": bytes(3000), "b/c": b"12345", "empty": b"", "large": bytes(300_000)}
SIZE = sum(map(len, FILES.values()))
KINDS = [
    pytest.param(LocalStore, id="local"),
    *(
        pytest.param(kind, marks=pytest.mark.server, id=kind.kind.__name__)
        for kind in (MotoStore, GcsStore, AzuriteStore)
    ),
]


@pytest.fixture(params=KINDS)
def store(request, make_store):
    return make_store(request.param)


@pytest.fixture
def source(tmp_path):
    return write_tree(tmp_path / "source", FILES)


class Told(list):
    """A callback that keeps what it is told, and checks what holds at any time."""

    def __init__(self):
        super().__init__()
        self._calling = threading.Lock()

    def __call__(self, progress):
        assert self._calling.acquire(blocking=False), "two calls at once"
        try:
            last = self[-1] if self else None
            if last and last[:2] == progress[:2]:
                assert last.done <= progress.done
                assert last.files_done <= progress.files_done
                assert (last.size, last.files) == (progress.size, progress.files)
            assert 0 <= progress.done <= (progress.size or sys.maxsize)
            assert 0 <= progress.files_done <= progress.files
            self.append(progress)
        finally:
            self._calling.release()

    def take(self):
        """Return the last that was told of each action, and forget all."""
        last = {}
        for progress in self:
            last[progress.action] = progress
        self.clear()
        return list(last.values())


@pytest.fixture
def told():
    return Told()


COUNT = len(FILES)


def ends(action, asset, size=SIZE, files=COUNT):
    return ma.Progress(action, asset, size, size, files, files)


# ------------------------------------------------------------- what a callback is told


def test_a_publication_and_a_fetch_tell_each_byte_and_file(
    store, source, assets_dir, told, small_parts
):
    provider = ma.StorageProvider(on_progress=told)
    provider.new(source, "x")
    hashed = ends("hashing", str(source))
    assert told.take() == [hashed, ends("uploading", "x:0.0")]
    (source / "a").write_bytes(b"another")
    size = SIZE - len(FILES["a"]) + len(b"another")
    provider.update(source, "x")
    assert told.take() == [
        ends("hashing", str(source), size),
        ends("uploading", "x:0.1", size),  # what the store copies itself, too
    ]
    manager = ma.AssetsManager(on_progress=told)
    manager.fetch_asset("x:0.0")
    assert told[0].done == 0
    assert len({one.done for one in told}) > 3
    assert told.take() == [ends("downloading", "x:0.0")]
    manager.fetch_asset("x:0.1")  # most of it is copied from 0.0
    assert told.take() == [ends("downloading", "x:0.1", size)]
    manager.fetch_asset("x:0.1")
    assert told == []  # a hit is no work
    assert manager.verify("x:0.1") == []
    assert told.take() == [ends("checking", "x:0.1", size)]
    provider.download("x", "0.0", assets_dir.parent / "elsewhere")
    assert told.take() == [ends("downloading", "x:0.0")]
    manager.fetch_asset("x:0.0[b]", force_download=True)
    assert told.take()[-1].action == "downloading"


def test_a_pack_is_packed_uploaded_and_downloaded(store, source, assets_dir, told):
    provider = ma.StorageProvider(on_progress=told)
    provider.new(source, "x", pack=True)
    size = len(store.read_object(provider.get_object_name("x", "0.0")))
    assert told.take() == [
        ends("packing", str(source)),  # and hashed on its way
        ends("uploading", "x:0.0", size, 1),
    ]
    ma.AssetsManager(on_progress=told).fetch_asset("x")
    assert told.take() == [ends("downloading", "x:0.0")]


def test_a_file_is_one_file(store, source, assets_dir, told):
    ma.StorageProvider().new(source / "a", "x")
    ma.AssetsManager(on_progress=told).fetch_asset("x")
    assert told.take() == [ends("downloading", "x:0.0", len(FILES["a"]), 1)]


@pytest.mark.parametrize("kind", KINDS[1:])
def test_a_large_upload_is_told_while_it_goes_on(make_store, tmp_path, told, kind):
    make_store(kind)
    size = 20 * MIB
    path = tmp_path / "large"
    path.write_bytes(bytes(size))
    ma.StorageProvider(on_progress=told).new(path, "x")
    seen = {one.done for one in told if one.action == "uploading"}
    assert len(seen) > 2  # a driver may tell of each part
    assert told.take()[-1] == ends("uploading", "x:0.0", size, 1)


def test_what_an_interrupted_publication_has_uploaded_counts(
    store, source, told, monkeypatch
):
    provider = ma.StorageProvider()
    monkeypatch.setattr(provider, "_commit", stop)
    with pytest.raises(Stop):
        provider.new(source, "x")
    ma.StorageProvider(on_progress=told).new(source, "x")
    assert told.take()[-1] == ends("uploading", "x:0.0")


class Stop(Exception):
    """Somebody's own error."""


def stop(*_, **__):
    raise Stop


def test_what_a_stopped_fetch_has_downloaded_counts(
    store, source, assets_dir, told, small_parts, monkeypatch
):
    monkeypatch.setenv("MODELKIT_STORAGE_WORKERS", "1")
    ma.StorageProvider().new(source, "x")

    def stop_late(progress):
        if progress.done > 200_000:
            raise Stop

    with pytest.raises(Stop):
        ma.AssetsManager(on_progress=stop_late).fetch_asset("x")
    ma.AssetsManager(on_progress=told).fetch_asset("x")
    jumps = [two.done - one.done for one, two in zip(told, told[1:])]
    assert max(jumps) >= small_parts  # the chunks that had come
    assert told.take() == [ends("downloading", "x:0.0")]


def test_the_size_of_what_modelkit_published_is_the_stores(
    store, source, assets_dir, told
):
    publish_as_modelkit(store, source)
    ma.AssetsManager(on_progress=told).fetch_asset("x")
    assert told.take() == [ends("downloading", "x:0.0")]


def test_a_file_that_came_wrong_does_not_count_beyond_the_whole(
    local, source, assets_dir, told
):
    ma.StorageProvider().new(source, "x")
    path = "modelkit-assets/x/0.0/large"
    local.write_object(path, bytes(299_999) + b"!")
    with pytest.raises(ma.AssetIntegrityError):
        ma.AssetsManager(on_progress=told).fetch_asset("x")
    assert told.take()[-1].done == SIZE  # and Told has looked at all


@pytest.mark.server
@pytest.mark.parametrize("kind", [MotoStore, GcsStore, AzuriteStore])
def test_a_retry_in_the_middle_of_an_upload_counts_nothing_twice(
    make_proxied_store, stub, tmp_path, told, kind
):
    make_proxied_store(kind)
    size = 40 * MIB
    path = tmp_path / "large"
    path.write_bytes(bytes(size))
    is_part = lambda request: request.is_write and len(request.body) > MIB  # noqa: E731
    fault = Faulty(stub.script, reset, nth(2, is_part))
    stub.script = fault
    ma.StorageProvider(on_progress=told).new(path, "x")
    assert fault.hits
    assert told.take()[-1] == ends("uploading", "x:0.0", size, 1)


class Again:
    """A driver in whose uploads each attempt but the last breaks in the middle."""

    def __init__(self, driver, *broken):
        self._driver, self._broken, self.attempts = driver, list(broken), 0

    def __getattr__(self, name):
        return getattr(self._driver, name)

    def upload_object(self, path, name, advance, *, if_match=""):
        self.attempts += 1
        for error in self._broken[:1]:
            advance(os.path.getsize(path) - 1)
            advance(-1000)  # as an SDK does that begins a part again
            del self._broken[0]
            raise error
        self._driver.upload_object(path, name, advance, if_match=if_match)


def test_each_attempt_at_an_upload_begins_at_nothing(local, source, told):
    provider = ma.StorageProvider(on_progress=told)
    provider.driver = Again(provider.driver, ConnectionError("a"), TimeoutError("b"))
    provider.new(source / "large", "x")
    assert provider.driver.attempts == 3
    assert told.take()[-1] == ends("uploading", "x:0.0", 300_000, 1)


def test_a_manager_tells_of_downloads_though_its_provider_was_given(
    local, source, assets_dir
):
    ours, others = [], []
    provider = ma.StorageProvider(on_progress=others.append)
    provider.new(source, "x")
    others.clear()
    manager = ma.AssetsManager(storage_provider=provider, on_progress=ours.append)
    manager.fetch_asset("x")
    assert ours == others
    assert ours[-1] == ends("downloading", "x:0.0")
    others.clear()
    manager = ma.AssetsManager(storage_provider=provider, on_progress=others.append)
    manager.fetch_asset("x", force_download=True)
    assert others.count(ours[0]) == ours.count(ours[0])  # and each is told once


def test_what_lies_there_without_a_marker_is_checked(local, source, assets_dir, told):
    ma.StorageProvider().new(source, "x")
    shutil.copytree(source, assets_dir / "x" / "0.0")
    ma.AssetsManager(on_progress=told).fetch_asset("x")
    (checked,) = told.take()
    assert checked[:1] + checked[2:] == ends("checking", "")[:1] + ends("", "")[2:]


def test_callbacks_are_left_behind_when_pickled(local, assets_dir, source):
    manager = ma.AssetsManager(on_progress=lambda progress: stop())
    provider = manager.storage_provider
    assert pickle.loads(pickle.dumps(provider)).new(source, "x") == "0.0"
    copy = pickle.loads(pickle.dumps(manager))
    path = copy.fetch_asset("x")
    assert read_tree(Path(path)) == FILES
    assert copy.verify("x") == []
    assert manager.on_progress  # the one that was pickled keeps its own


# ------------------------------------------------------------- a callback that raises

RAISED = [Stop("mine"), ConnectionError("mine"), ValueError("mine"), OSError("mine")]


def raise_at(action, error, beyond=0):
    def on_progress(progress):
        if progress.action == action and progress.done > beyond:
            raise error

    return on_progress


@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize(
    ("action", "pack"),
    [("hashing", False), ("uploading", False), ("packing", True), ("uploading", True)],
)
def test_a_callback_that_raises_stops_a_publication_before_it_is_listed(
    local, source, action, pack, error
):
    provider = ma.StorageProvider(on_progress=raise_at(action, error))
    threads = threading.active_count()
    with pytest.raises(type(error)) as raised:
        provider.new(source, "x", pack=pack)
    assert raised.value is error
    assert threading.active_count() == threads
    assert "modelkit-assets/x.versions" not in local.list_objects()
    if action == "hashing":
        assert local.list_objects() == []
    provider.on_progress = None
    assert provider.new(source, "x", pack=pack) == "0.0"


@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
def test_a_callback_that_raises_stops_a_fetch_and_nothing_is_visible(
    local, source, assets_dir, error
):
    ma.StorageProvider().new(source, "x")
    manager = ma.AssetsManager(on_progress=raise_at("downloading", error))
    with pytest.raises(type(error)) as raised:
        manager.fetch_asset("x")
    assert raised.value is error
    assert [path.name for path in assets_dir.iterdir()] == [".cache"]
    path = ma.AssetsManager().fetch_asset("x")
    assert read_tree(Path(path)) == FILES
    manager.on_progress = raise_at("checking", error)
    with pytest.raises(type(error)) as raised:
        manager.verify("x")
    assert raised.value is error


@pytest.mark.server
@pytest.mark.parametrize("error", RAISED[:2], ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("kind", [MotoStore, GcsStore, AzuriteStore])
def test_a_callback_that_raises_is_not_taken_for_a_failure_of_the_store(
    make_store, tmp_path, assets_dir, kind, error
):
    """Which it would be in the middle of a request, and be tried again for minutes."""
    store = make_store(kind)
    path = tmp_path / "large"
    path.write_bytes(bytes(20 * MIB))
    begun = time.monotonic()
    on_progress = raise_at("uploading", error, MIB)
    with pytest.raises(type(error)) as raised:
        ma.StorageProvider(on_progress=on_progress).new(path, "x")
    assert raised.value is error
    assert store.list_objects() == ["modelkit-assets/x/0.0.meta"]
    assert ma.StorageProvider().new(path, "x") == "0.0"
    manager = ma.AssetsManager(on_progress=raise_at("downloading", error, MIB))
    with pytest.raises(type(error)) as raised:
        manager.fetch_asset("x")
    assert raised.value is error
    assert time.monotonic() - begun < 60  # and not MODELKIT_STORAGE_TIMEOUT_S
