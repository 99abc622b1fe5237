"""Bad input meets one clear error, and nothing is lost or written."""

import errno
import fcntl
import os
import socket

import pytest
from stores import LocalStore
from trees import snapshot, write_tree

import modelkit_assets as ma


@pytest.fixture
def store(make_store):
    return make_store(LocalStore)


@pytest.fixture
def file(tmp_path):
    (tmp_path / "file").write_text("1")
    return tmp_path / "file"


def make_nothing(path):
    pass


def make_empty_folder(path):
    (path / "nested").mkdir(parents=True)


def make_broken_link(path):
    write_tree(path, {"a": b"1"})
    (path / "broken").symlink_to("missing")


def make_link_loop(path):
    write_tree(path, {"deep/a": b"1"})
    (path / "deep" / "loop").symlink_to(path)


def make_link_to_itself(path):
    write_tree(path, {"a": b"1"})
    (path / "self").symlink_to("self")


def make_socket(path):
    path.mkdir()
    here = os.getcwd()
    os.chdir(path)  # the path of a socket may be no longer than 107 bytes
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
    os.chdir(here)


def make_pipe(path):
    write_tree(path, {"a": b"1"})
    os.mkfifo(path / "pipe")


def make_reserved_name(path):
    write_tree(path, {".SUCCESS": b"not a marker", "a": b"1"})


def make_undecodable_name(path):
    write_tree(path, {"a": b"1"})
    with open(os.fsencode(path) + b"/\xff", "wb"):
        pass


def make_device_name(path):
    write_tree(path, {"aux.txt": b"1"})


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (make_nothing, "No such file"),
        (make_empty_folder, "holds no files"),
        (make_broken_link, "broken"),
        (make_link_loop, "leads back"),
        (make_link_to_itself, "self"),
        (make_socket, "neither a file nor a folder"),
        (make_pipe, "neither a file nor a folder"),
        (make_reserved_name, "markers have that name"),
        (make_undecodable_name, "cannot be kept everywhere"),
        (make_device_name, "cannot be kept everywhere"),
    ],
)
def test_an_unfit_source_is_refused(tmp_path, store, provider, make, text):
    make(tmp_path / "source")
    with pytest.raises(ma.InvalidSourceError, match=text) as caught:
        provider.new(tmp_path / "source", "x")
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    assert store.read_objects() == {}


MEETING = {
    "case": ["Model.bin", "model.bin"],
    "case of a folder": ["Data/a", "data/b"],
    "a dot": ["a", "a."],
    "a space": ["a", "a "],
    "accents": ["\u00e9", "e\u0301"],
    "the marker": [".success", "a"],
}


@pytest.mark.parametrize("names", MEETING.values(), ids=MEETING)
@pytest.mark.parametrize("pack", [False, True])
def test_names_that_some_disks_take_for_one_are_refused(local, tmp_path, names, pack):
    source = write_tree(tmp_path / "source", dict.fromkeys(names, b"1"))
    with pytest.raises(ma.InvalidSourceError, match="for one name"):
        ma.StorageProvider().new(source, "x", pack=pack)
    assert local.list_objects() == []


VERSIONS = "modelkit-assets/x.versions"
META = "modelkit-assets/x/0.0.meta"
DATE = b'"push_date": "2021-11-14T18:00:00+00:00"'


@pytest.mark.parametrize(
    ("name", "data"),
    [
        (VERSIONS, b""),
        (VERSIONS, b"\xff\xfe"),
        (VERSIONS, b"[]"),
        (VERSIONS, b"{}"),
        (VERSIONS, b'{"versions": "0.0"}'),
        (VERSIONS, b'{"versions": [0]}'),
        (VERSIONS, b'{"versions": ["../../0.0"]}'),
        (META, b""),
        (META, b"null"),
        (META, b"{}"),
        (META, b'{"is_directory": false}'),
        (META, b'{"is_directory": true, %s}' % DATE),
        (META, b'{"is_directory": true, "contents": ["../x"], %s}' % DATE),
        (META, b'{"is_directory": true, "contents": ["/etc/x"], %s}' % DATE),
        (META, b'{"is_directory": true, "contents": ["C:\\\\x"], %s}' % DATE),
        (META, b'{"is_directory": false, "push_date": "yesterday"}'),
        (META, b"[" * 100_000),
    ],
)
def test_a_broken_object_is_named_and_nothing_is_fetched(
    store, provider, manager, assets_dir, file, name, data
):
    provider.new(file, "x")
    store.write_object(name, data)
    objects = store.read_objects()
    with pytest.raises(ma.AssetIntegrityError, match=name) as caught:
        manager.fetch_asset("x")
    assert "\n" not in str(caught.value)
    if name == VERSIONS:
        with pytest.raises(ma.AssetIntegrityError, match=name):
            provider.update(file, "x")
    assert store.read_objects() == objects
    assert snapshot(assets_dir) == {}


@pytest.mark.parametrize("part", ["../0.0", "..", "a/../../x", "C:x", "a\\..\\..", "."])
def test_a_sub_part_stays_inside_its_asset(provider, manager, file, part):
    provider.new(file, "x")
    with pytest.raises(ma.InvalidAssetSpecError):
        manager.fetch_asset(f"x:0.0[{part}]")


@pytest.mark.parametrize("name", ["yolo/1.0", "1.0", "a/2021-11-14T18-00-00Z/b"])
def test_a_name_that_a_store_has_is_read_though_none_may_be_new(
    store, provider, manager, file, name
):
    with pytest.raises(ma.InvalidNameError, match="looks like a version"):
        provider.new(file, name)
    store.write_object(f"modelkit-assets/{name}.versions", b'{"versions": ["0.0"]}')
    store.write_object(
        f"modelkit-assets/{name}/0.0.meta", b'{"is_directory": false, %s}' % DATE
    )
    store.write_object(f"modelkit-assets/{name}/0.0", b"old")
    with open(manager.fetch_asset(name), "rb") as read:
        assert read.read() == b"old"
    assert [name for name, _ in provider.iterate_assets()] == [name]


@pytest.mark.parametrize("name", ["x.versions", "x/0.0.meta", "x/.0.0.SUCCESS/y"])
def test_a_new_name_never_lies_where_another_assets_objects_do(provider, file, name):
    with pytest.raises(ma.InvalidNameError, match="looks like"):
        provider.new(file, name)


def test_a_folder_where_an_object_belongs_is_an_error_at_once(store, provider, file):
    (store.bucket / "modelkit-assets" / "x.versions").mkdir(parents=True)
    with pytest.raises(ma.StorageDriverError, match="is a folder"):
        provider.new(file, "x")


def test_a_disk_without_locks_is_fetched_to_all_the_same(
    provider, manager, file, monkeypatch
):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "no locks available")

    provider.new(file, "x")
    monkeypatch.setattr(fcntl, "flock", refuse)
    with open(manager.fetch_asset("x")) as read:
        assert read.read() == "1"


def test_a_missing_asset_leaves_no_trace(provider, manager, assets_dir):
    for spec in ["nothing", "nothing:0.0", "nothing:1"]:
        with pytest.raises(ma.AssetDoesNotExistError):
            manager.fetch_asset(spec)
    assert snapshot(assets_dir) == {}
