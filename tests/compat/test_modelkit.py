"""modelkit 0.1.3 itself, from PyPI, and this program go on where the other stopped.

It brings packages of its own, so these run in an environment of theirs, see `.ci/run`.
"""

import os
import shutil
import subprocess
import sys
import threading
import time

import pytest
from places import ROOT
from stores import AzuriteStore, GcsStore, LocalStore, MotoStore
from stub_server import Faulty, nth
from trees import read_tree, snapshot, write_tree

import modelkit_assets as ma

pytest.importorskip("modelkit.assets.manager", reason="it is the group `modelkit`")

from modelkit.assets import errors  # noqa: E402
from sides import (  # noqa: E402
    MODELKIT,
    NAME,
    OURS,
    PREFIX,
    SIDES,
    fetch,
    list_versions,
    make_content,
    put_in_store,
    read,
    run_command,
    write,
)

VERSIONS = {  # the earliest first
    "major_minor": ["0.0", "0.1", "1.0"],
    "simple_date": ["2021-11-14T18-00-00Z", "2021-11-15T17-31-06Z"],
}
PARTS = ("config.json", "nested", "nested/deep/vocab.txt")
WAIT_S = 60

OTHERS = [
    pytest.param(MODELKIT, OURS, id="modelkit-ours"),
    pytest.param(OURS, MODELKIT, id="ours-modelkit"),
]
SERVERS = [
    pytest.param(store, marks=pytest.mark.server, id=store.kind.__name__)
    for store in (MotoStore, AzuriteStore, GcsStore)
]


@pytest.fixture
def store(make_store):
    return make_store(LocalStore)


@pytest.fixture(params=SERVERS)
def server_store(request, make_store):
    return make_store(request.param)


@pytest.fixture(params=[LocalStore, *SERVERS])
def any_store(request, make_store):
    return make_store(request.param)


@pytest.fixture(params=["file", "directory"])
def kind(request):
    return request.param


@pytest.fixture(params=VERSIONS)
def versions(request, monkeypatch):
    """The versions of a versioning system, which is also the configured one."""
    monkeypatch.setenv("MODELKIT_ASSETS_VERSIONING_SYSTEM", request.param)
    return VERSIONS[request.param]


def write_store(tmp_path, side, kind, versions):
    """Publish each version with one of the two, by the very same calls."""
    for version in versions:
        source = write(tmp_path / f"source-{version}", make_content(kind, version))
        provider = side.StorageProvider()
        publish = provider.new if version == versions[0] else provider.update
        publish(source, NAME, version)


# ------------------------------------------------------------------- one, the other


@pytest.mark.parametrize("reader", SIDES)
@pytest.mark.parametrize("writer", SIDES)
def test_a_store_written_by_either_is_read_by_either(
    writer, reader, kind, versions, store, tmp_path, assets_dir
):
    write_store(tmp_path, writer, kind, versions)
    check_that_it_reads(reader, kind, versions, assets_dir)


@pytest.mark.parametrize("reader", SIDES)
@pytest.mark.parametrize("writer", SIDES)
def test_a_store_on_a_server_written_by_either_is_read_by_either(
    writer, reader, kind, server_store, tmp_path, assets_dir
):
    versions = VERSIONS["major_minor"]
    write_store(tmp_path, writer, kind, versions)
    check_that_it_reads(reader, kind, versions, assets_dir)


def check_that_it_reads(reader, kind, versions, assets_dir):
    provider = reader.StorageProvider()
    latest_first = versions[::-1]
    assert provider.get_versions_info(NAME) == latest_first
    assert dict(provider.iterate_assets()) == {NAME: latest_first}
    for version in versions:
        content = make_content(kind, version)
        meta = provider.get_asset_meta(NAME, version)
        assert meta["push_date"].utcoffset().total_seconds() == 0
        assert meta["is_directory"] == (kind == "directory")
        assert sorted(content) == meta.get("contents", sorted(content))
    meant = {NAME: versions[-1], f"{NAME}:{versions[0]}": versions[0]}
    if "." in versions[0]:
        meant.update({f"{NAME}:0": "0.1", f"{NAME}:1": "1.0"})
    for spec, version in meant.items():
        info = fetch(reader, assets_dir, spec)
        assert info["version"] == version
        assert info["path"] == str(assets_dir / NAME / version)
        assert read(info["path"]) == make_content(kind, version)


@pytest.mark.parametrize("reader", SIDES)
@pytest.mark.parametrize("writer", SIDES)
def test_a_part_of_what_either_published_is_fetched_by_either(
    writer, reader, versions, store, tmp_path, assets_dir
):
    write_store(tmp_path, writer, "directory", versions)
    expected = write_tree(tmp_path / "plain", make_content("directory", versions[-1]))
    for part in PARTS:
        path = fetch(reader, assets_dir, f"{NAME}[{part}]")["path"]
        assert path == str(assets_dir / NAME / versions[-1] / part)
        assert read(path) == read(expected / part)


@pytest.mark.parametrize("configured", [True, False], ids=["store", "pre-downloaded"])
@pytest.mark.parametrize("reader", SIDES)
@pytest.mark.parametrize("writer", SIDES)
def test_what_either_fetched_is_a_hit_for_either(
    writer, reader, kind, versions, configured, store, assets_dir, monkeypatch
):
    put_in_store(store, kind, versions)
    for version in versions:
        fetch(writer, assets_dir, f"{NAME}:{version}")
    # a store with no data to download
    shutil.rmtree(store.bucket / PREFIX / NAME)
    if not configured:
        monkeypatch.delenv("MODELKIT_STORAGE_PROVIDER")
    before = snapshot(assets_dir / "nlp")
    for spec, version in {
        NAME: versions[-1],
        **{f"{NAME}:{version}": version for version in versions},
    }.items():
        info = fetch(reader, assets_dir, spec)
        assert (info["version"], info["from_cache"]) == (version, True)
        assert read(info["path"]) == make_content(kind, version)
    if kind == "directory":
        path = fetch(reader, assets_dir, f"{NAME}[nested]")["path"]
        assert sorted(read_tree(path)) == ["data.bin", "deep/a b.txt", "deep/vocab.txt"]
    assert snapshot(assets_dir / "nlp") == before


# ------------------------------------------------------------------- taking turns


def test_both_take_turns_to_publish(kind, any_store, tmp_path):
    turns = [
        (MODELKIT, "new", NAME, "0.0"),
        (OURS, "update", NAME, "0.1"),
        (MODELKIT, "update", NAME, "0.2"),
        (OURS, "update", NAME, "1.0", "--bump-major"),
        (MODELKIT, "update", f"{NAME}:0", "0.3"),
        (OURS, "update", f"{NAME}:0", "0.4"),
        (MODELKIT, "update", NAME, "2.0", "--bump-major"),
        (OURS, "update", NAME, "2.1"),
    ]
    seen = []
    for number, (side, command, spec, version, *options) in enumerate(turns):
        source = write(tmp_path / f"source-{number}", make_content(kind, version))
        run_command(side, command, source, spec, *options)
        seen = sorted([*seen, version], reverse=True)
        assert list_versions(any_store) == seen
    _check_that_both_read(kind, seen, tmp_path)


def test_both_take_turns_with_dates(kind, store, tmp_path, monkeypatch):
    monkeypatch.setenv("MODELKIT_ASSETS_VERSIONING_SYSTEM", "simple_date")
    for number, side in enumerate([OURS, MODELKIT, OURS, MODELKIT]):
        source = write(tmp_path / f"source-{number}", make_content(kind, str(number)))
        if number:
            _await_second_after(list_versions(store)[0])
        run_command(side, "update" if number else "new", source, NAME)
    versions = list_versions(store)
    assert len(versions) == 4 and sorted(versions, reverse=True) == versions
    for side in (OURS, MODELKIT):
        folder = tmp_path / side.module
        folder.mkdir()
        for number, version in enumerate(reversed(versions)):
            path = fetch(side, folder, f"{NAME}:{version}")["path"]
            assert read(path) == make_content(kind, str(number))


def _await_second_after(version):
    while time.strftime("%Y-%m-%dT%H-%M-%SZ", time.gmtime()) <= version:
        time.sleep(0.02)


def _check_that_both_read(kind, versions, tmp_path):
    for side in (OURS, MODELKIT):
        folder = tmp_path / side.module
        folder.mkdir()
        assert side.StorageProvider().get_versions_info(NAME) == versions
        assert fetch(side, folder, NAME)["version"] == versions[0]
        for version in versions:
            path = fetch(side, folder, f"{NAME}:{version}")["path"]
            assert read(path) == make_content(kind, version)


def test_both_take_turns_to_fetch(kind, store, tmp_path, assets_dir):
    put_in_store(store, kind, ["0.0"])
    managers = {side: side.AssetsManager(str(assets_dir)) for side in (OURS, MODELKIT)}

    def turn(side, version, **how):
        info = managers[side].fetch_asset(NAME, return_info=True, **how)
        assert info["version"] == version
        assert read(info["path"]) == make_content(kind, version)
        return "hit" if info["from_cache"] else "download"

    assert turn(MODELKIT, "0.0") == "download"
    assert turn(OURS, "0.0") == "hit"
    assert turn(MODELKIT, "0.0", force_download=True) == "download"
    assert turn(OURS, "0.0") == "hit"
    assert turn(OURS, "0.0", force_download=True) == "download"
    assert turn(MODELKIT, "0.0") == "hit"
    source = write(tmp_path / "update", make_content(kind, "0.1"))
    run_command(OURS, "update", source, NAME)
    assert turn(OURS, "0.1") == "download"
    assert turn(MODELKIT, "0.1") == "hit"
    assert turn(MODELKIT, "0.1", force_download=True) == "download"
    assert turn(OURS, "0.1") == "hit"


# ------------------------------------------------------------------- what is not whole


def test_modelkit_completes_a_copy_of_which_we_fetched_a_part(store, assets_dir):
    put_in_store(store, "directory", ["0.0"])
    fetch(OURS, assets_dir, f"{NAME}:0.0[nested]")
    info = fetch(MODELKIT, assets_dir, f"{NAME}:0.0")
    assert not info["from_cache"]
    assert read(info["path"]) == make_content("directory", "0.0")
    assert fetch(OURS, assets_dir, NAME)["from_cache"]


def test_we_complete_a_copy_that_modelkit_left_half_done(store, tmp_path, assets_dir):
    put_in_store(store, "directory", ["0.0"])
    path = f"{PREFIX}/{NAME}/0.0/nested/deep/a b.txt"
    data = store.read_object(path)
    os.remove(store.bucket / path)
    with pytest.raises(errors.ObjectDoesNotExistError):
        fetch(MODELKIT, assets_dir, NAME)
    left = read(assets_dir / NAME / "0.0")
    assert left and left != make_content("directory", "0.0"), "it leaves a half"
    store.write_object(path, data)
    info = fetch(OURS, assets_dir, NAME)
    assert not info["from_cache"]
    assert read(info["path"]) == make_content("directory", "0.0")
    assert fetch(MODELKIT, assets_dir, NAME)["from_cache"]


def test_modelkit_reads_a_pack_that_we_unpacked_and_is_not_fooled_by_one_in_a_store(
    store, tmp_path, assets_dir
):
    content = make_content("directory", "0.0")
    source = write(tmp_path / "source", content)
    ma.StorageProvider().new(source, NAME, pack=True)
    with pytest.raises(errors.ObjectDoesNotExistError):
        fetch(MODELKIT, assets_dir, NAME)
    assert read(fetch(OURS, assets_dir, NAME)["path"]) == content
    info = fetch(MODELKIT, assets_dir, NAME)
    assert info["from_cache"] and read(info["path"]) == content


# ------------------------------------------------------------------- at the same time


@pytest.mark.server
@pytest.mark.parametrize(("holder", "waiter"), OTHERS)
def test_while_one_downloads_the_other_waits(
    holder, waiter, make_proxied_store, stub, assets_dir
):
    store = make_proxied_store(MotoStore)
    put_in_store(store, "file", ["0.0"])
    begun, go_on = threading.Event(), threading.Event()

    def hold_back(request, script):
        begun.set()
        assert go_on.wait(WAIT_S)
        return script(request)

    def is_data(request):
        return request.method == "GET" and request.target.endswith("/0.0")

    stub.script = Faulty(stub.script, hold_back, nth(1, is_data))
    code = f"from {holder.module} import AssetsManager as A; A().fetch_asset('{NAME}')"
    child = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    try:
        assert begun.wait(WAIT_S)
        with pytest.raises(waiter.lock_error):
            waiter.AssetsManager(timeout=1).fetch_asset(f"{NAME}:0.0")
        go_on.set()
        assert child.wait(WAIT_S) == 0
    finally:
        go_on.set()
        child.kill()
        child.wait()
    info = fetch(waiter, assets_dir, f"{NAME}:0.0")
    assert info["from_cache"] and read(info["path"]) == make_content("file", "0.0")
    assert sum(map(is_data, stub.requests)) == 1
