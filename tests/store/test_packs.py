"""A packed folder: one object, which `tar` opens too, and a few ranges to fetch it."""

from __future__ import annotations

import functools
import hashlib
import io
import itertools
import json
import os
import shutil
import stat
import subprocess
import sys
import tarfile

import harness
import pytest
from harness import NAME
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stores import MotoStore
from stub_server import Faulty, flip_answer
from trees import File, Tree, read_files, write_tree

import modelkit_assets as ma
from modelkit_assets import ManifestFile

OBJECT = f"modelkit-assets/{NAME}/0.0"
TREE: Tree = {
    **{f"edge/{n}": File(hashlib.shake_128(b"e").digest(n)) for n in (0, 1, 511, 512)},
    "edge/513": File(b"x" * 513),
    "bin/run.sh": File(b"#!/bin/sh\n", executable=True),
    "deep/er/and/deeper": File(b"deep" * 1000),
    "empty/": None,
    "hollow/inside/": None,
    "ü/模型 with space": File(b"unicode"),
    "l" * 220 + "/" + "m" * 220: File(b"a name that needs a PAX header"),
    "n" * 101: File(b"another"),
    **{f"some/{n:03}": File(b"%03d" % n * (37 * n)) for n in range(40)},
    "weights": File(hashlib.shake_128(b"w").digest(5 * (1 << 16) + 7)),
    "weights-2": File(hashlib.shake_128(b"v").digest(1 << 16)),
    "weights-3": File(hashlib.shake_128(b"u").digest((1 << 16) + 1)),
}
SMALL: Tree = {
    "a": File(b"first" * 500),
    "b/c": File(b"echo\n", executable=True),
    "d/": None,
    "e": File(b""),
}


# ------------------------------------------------------------------- the object


def test_an_awkward_folder_comes_back_from_every_store(
    store, provider, manager, publish, small_parts
):
    publish(TREE, pack=True)
    assert read_files(manager.fetch_asset(NAME)) == TREE
    assert sorted(store.list_objects()) == [
        f"modelkit-assets/{NAME}.versions", OBJECT, f"{OBJECT}.meta",
    ]  # fmt: skip


def test_python_reads_the_object_as_a_tar_and_finds_files_where_the_manifest_says(
    local, publish
):
    publish(TREE, pack=True)
    found: Tree = {}
    data = local.read_object(OBJECT)
    offsets = {}
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
        for member in tar:
            if member.isdir():
                found[f"{member.name}/"] = None
            else:
                content = tar.extractfile(member).read()
                found[member.name] = File(content, bool(member.mode & stat.S_IXUSR))
                offsets[member.name] = member.offset_data
    assert found == TREE
    files = json.loads(local.read_object(f"{OBJECT}.meta"))["files"]
    assert offsets == {file["path"]: file["offset"] for file in files}


@pytest.mark.skipif(not shutil.which("tar"), reason="there is no tar")
def test_tar_lists_and_extracts_the_object(local, publish, tmp_path):
    publish(TREE, pack=True)
    path = local.bucket / OBJECT
    command = ["tar", "--quoting-style=literal", "-tf", path]
    environ = {**os.environ, "LC_ALL": "C.UTF-8"}
    listed = subprocess.run(command, check=True, capture_output=True, env=environ)
    assert sorted(listed.stdout.decode().splitlines()) == sorted(TREE)
    (tmp_path / "out").mkdir()
    subprocess.run(["tar", "-xf", path, "-C", tmp_path / "out"], check=True)
    assert read_files(tmp_path / "out") == TREE


def test_only_a_folder_can_be_packed(local, tmp_path):
    (tmp_path / "file").write_text("1")
    with pytest.raises(ma.InvalidSourceError, match="only a folder"):
        ma.StorageProvider().new(tmp_path / "file", NAME, pack=True)
    assert local.list_objects() == []


def test_a_source_that_goes_before_it_is_packed_is_never_published(
    local, tmp_path, monkeypatch
):
    source = write_tree(tmp_path / "source", SMALL)
    pack_file = ma._Source._pack_file

    def pack_and_lose(self, file, pack):
        packed = pack_file(self, file, pack)
        (source / "a").unlink(missing_ok=True)
        return packed

    monkeypatch.setattr(ma._Source, "_pack_file", pack_and_lose)
    with pytest.raises(ma.SourceChangedError):
        ma.StorageProvider().new(source, NAME, pack=True)
    assert local.list_objects() == []


# ------------------------------------------------------------------- requests


def list_requests(stub):
    """Return what was asked since the last time: method, name, and whether a range."""
    requests, stub.requests[:] = list(stub.requests), []
    return [
        (one.method, one.target.rpartition(f"{NAME}")[2], bool(one.range))
        for one in requests
    ]


@pytest.mark.server
def test_a_fetch_takes_few_requests(
    make_proxied_store, stub, publish, assets_dir, tmp_path
):
    make_proxied_store(MotoStore)
    files = {f"{n % 7}/{n}": File(b"%d" % n * n) for n in range(1, 201)}
    publish(files, pack=True)
    manager = ma.AssetsManager()
    list_requests(stub)

    assert read_files(manager.fetch_asset(NAME)) == files
    assert list_requests(stub) == [
        ("GET", ".versions", False),
        ("GET", "/0.0.meta", False),
        ("GET", "/0.0", True),
    ]
    manager.remove(NAME)
    manager.fetch_asset(f"{NAME}:0.0[3/10]")
    assert list_requests(stub) == [("GET", "/0.0.meta", False), ("GET", "/0.0", True)]


# ------------------------------------------------------------------- hostile packs


def spoil(key, *values):
    def change(document):
        for file, value in zip(document["files"], values):
            file[key] = value

    return change


HOSTILE = {
    "overlapping": spoil("offset", 512, 512),
    "overlapping by a byte": spoil("offset", 512, 512 + 2499),
    "negative": spoil("offset", -1),
    "no number": spoil("offset", 512.0),
    "a text": spoil("offset", "512"),
    "past the end": spoil("offset", 10**9),
    "far past the end": spoil("offset", 10**18),
    "missing": lambda document: document["files"][0].pop("offset"),
    "not packed": lambda document: document.pop("pack"),
    "a zip": lambda document: document.update(pack="zip"),
    "no pack": lambda document: document.update(pack=None),
    "a header's bytes": spoil("offset", 100),
    "another's size": spoil("size", 10**6),
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_manifest_is_an_error_and_shows_nothing(
    local, publish, assets_dir, change, monkeypatch
):
    publish(SMALL, pack=True)
    document = json.loads(local.read_object(f"{OBJECT}.meta"))
    change(document)
    local.write_object(f"{OBJECT}.meta", json.dumps(document).encode())
    for spec in (NAME, f"{NAME}:0.0[a]"):
        with pytest.raises(ma.AssetIntegrityError) as caught:
            ma.AssetsManager().fetch_asset(spec)
        assert caught.value.exit_code == 6
        assert not (assets_dir / "nlp").exists()
    assert {path.name for path in assets_dir.parent.iterdir()} == {
        "assets_dir", "source-0",
    }  # fmt: skip


def test_a_file_asset_that_says_it_is_packed_is_an_error(local, tmp_path, assets_dir):
    (tmp_path / "file").write_text("1")
    ma.StorageProvider().new(tmp_path / "file", NAME)
    document = json.loads(local.read_object(f"{OBJECT}.meta"))
    document["pack"], document["files"][0]["offset"] = "tar", 0
    local.write_object(f"{OBJECT}.meta", json.dumps(document).encode())
    with pytest.raises(ma.AssetIntegrityError):
        ma.AssetsManager().fetch_asset(NAME)


def test_files_may_lie_in_a_pack_in_any_order(local, publish, assets_dir):
    publish(TREE, pack=True)
    document = json.loads(local.read_object(f"{OBJECT}.meta"))
    document["files"].reverse()
    local.write_object(f"{OBJECT}.meta", json.dumps(document).encode())
    assert read_files(ma.AssetsManager().fetch_asset(NAME)) == TREE


@pytest.mark.server
@pytest.mark.parametrize("times", [1, 2])
def test_a_flipped_byte_in_a_pack_is_fetched_once_more(
    make_proxied_store, stub, publish, assets_dir, times
):
    make_proxied_store(MotoStore)
    publish({"a": File(b"a" * 100_000), "b": File(b"b" * 10)}, pack=True)
    hits = []

    def choose(request):
        if request.range and len(hits) < times:
            hits.append(request)
            return True
        return False

    stub.script = Faulty(stub.script, flip_answer, choose)
    list_requests(stub)
    if times == 1:
        ma.AssetsManager().fetch_asset(f"{NAME}:0.0")
    else:
        with pytest.raises(ma.AssetIntegrityError, match=r"\[a\]'"):
            ma.AssetsManager().fetch_asset(f"{NAME}:0.0")
        assert not (assets_dir / "nlp").exists()
    ranges = [one for one in list_requests(stub) if one[2]]
    assert len(ranges) == 2
    assert len({one.range for one in hits}) == times, "not the one file alone"


# ------------------------------------------------------------------- the plan

sizes = st.one_of(st.integers(0, 30), st.integers(0, 30), st.integers(0, 400))


@st.composite
def packs(draw):
    """Return the files of a pack, those wanted, the bytes, and the limits."""
    chunk = draw(st.sampled_from([1, 7, 64, 100, 200, 1000]))
    files, at = [], 0
    data = hashlib.shake_128(b"pack").digest(8000)
    for number, size in enumerate(draw(st.lists(sizes, max_size=12))):
        at += draw(st.integers(0, 60))
        files.append(make_file(f"{number:03}", data[at : at + size], at, chunk))
        at += size
    left_out = draw(st.sets(st.sampled_from(files))) if files else set()
    wanted = [one for one in files if one not in left_out]
    return wanted, data, chunk, draw(st.integers(0, 40))


def make_file(path, data, offset, chunk):
    starts = range(0, len(data), chunk) if len(data) > chunk else ()
    chunks = "".join(_digest(data[at : at + chunk]) for at in starts)
    return ManifestFile(path, len(data), _digest(data), False, offset, chunks)


def _digest(data):
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def limits(monkeypatch):
    """Return a function that sets how large chunks, requests and gaps are."""

    def set_limits(chunk, gap, request=None):
        monkeypatch.setattr(ma, "_CHUNK", chunk)
        monkeypatch.setattr(ma, "_REQUEST", request or chunk)
        monkeypatch.setattr(ma, "_GAP", gap)

    return set_limits


def plan(wanted):
    manifest = ma.Manifest(True, tuple(wanted), (), {"pack": "tar"})
    return ma._plan_pieces("x", manifest)


several = settings(
    max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@several
@given(packs(), st.integers(1, 2000))
def test_the_pieces_of_a_pack_are_its_files_once_and_in_order(limits, case, request):
    wanted, data, chunk, gap = case
    limits(chunk, gap, request)
    pieces = plan(wanted)
    assert [one for some in ma._plan_requests(pieces) for one in some] == pieces
    found = {file.path: b"" for file in wanted}
    for piece in pieces:
        content = data[piece.begin : piece.end]
        assert piece.position == len(found[piece.file.path])
        assert len(content) == piece.size <= chunk
        assert piece.sha256 == _digest(content)
        found[piece.file.path] += content
    for file in wanted:
        assert found[file.path] == data[file.offset : file.offset + file.size]


@several
@given(packs(), st.integers(1, 2000))
def test_a_request_joins_pieces_that_lie_side_by_side(limits, case, size):
    wanted, _, chunk, gap = case
    limits(chunk, gap, size)
    requests = ma._plan_requests(plan(wanted))
    for pieces in requests:
        assert len(pieces) == 1 or pieces[-1].end - pieces[0].begin <= size
        for one, other in zip(pieces, pieces[1:]):
            assert 0 <= other.begin - one.end <= gap
    for one, other in zip(requests, requests[1:]):  # no more could be joined
        is_far = other[0].begin - one[-1].end > gap
        assert is_far or other[0].end - one[0].begin > size


@several
@given(packs(), st.lists(st.integers(0, 400)), st.sets(st.integers(0, 9), max_size=2))
def test_just_the_files_come_however_the_bytes_do(
    limits, tmp_path_factory, case, steps, breaks
):
    wanted, content, chunk, gap = case
    limits(chunk, gap, 300)
    folder = tmp_path_factory.mktemp("download") / "data"
    manifest = ma.Manifest(True, tuple(wanted), (), {"pack": "tar"})
    driver = BreakingDriver(content, steps, breaks)
    with ma._Job(1) as job:
        retrying = ma._RetryingDriver(driver, 60, job, ma._Contact())
        download = ma._Download(str(folder), job, retrying)
        download.bring(plan(wanted), manifest, {}, {})
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert found == {
        one.path: content[one.offset : one.offset + one.size] for one in wanted
    }
    shutil.rmtree(folder)


class BreakingDriver:
    """Hands out one object in chunks of any size, and breaks off a few times."""

    bucket = "b"

    def __init__(self, data, steps, breaks):
        self._data, self._breaks = data, breaks
        self._steps = enumerate(itertools.chain(steps, itertools.repeat(100)))

    def iterate_bytes(self, name, start=0, length=None, if_match=None):
        end = len(self._data) if length is None else start + length
        while start < end:
            number, step = next(self._steps)
            data = self._data[start : min(start + step, end)]
            yield data
            start += len(data)
            if number in self._breaks:
                raise ConnectionError


# ------------------------------------------------------------------- death


def publish_packed(source, method, store):
    provider = harness.make_provider(store)
    return getattr(provider, method)(str(source), NAME, pack=True)


@pytest.mark.attack
@pytest.mark.parametrize("after", [False, True], ids=["just_before", "just_after"])
def test_a_killed_packed_update_is_completed_and_nothing_is_uploaded_twice(
    tmp_path, after
):
    template = tmp_path / "store"
    template.mkdir()
    first = write_tree(tmp_path / "first", {"a": File(b"1")})
    publish_packed(first, "new", template)
    source = write_tree(tmp_path / "source", SMALL)
    (tmp_path / "tmp").mkdir()
    environ = {"MODELKIT_STORAGE_WORKERS": "1", "TMPDIR": str(tmp_path / "tmp")}
    operation = functools.partial(publish_packed, source, "update")
    deaths = spared = 0
    for _, store in harness.each_death(template, operation, after, environ=environ):
        deaths += 1
        log = store.with_name(f"{store.name}-log")
        provider = harness.make_recording_provider(store, log)
        assets = store.with_name(f"{store.name}-assets")
        assets.mkdir()
        listed = provider.get_versions_info(NAME)
        path = store / f"modelkit-assets/{NAME}/0.1"
        is_there = path.is_file()
        if "0.1" not in listed:
            assert provider.update(source, NAME, pack=True) == "0.1"
            assert len(harness.read_log(log, "upload")) == (not is_there)
            spared += is_there
        fetched = harness.fetch(lambda provider=provider: provider, assets, NAME)
        assert read_files(fetched) == SMALL
        shutil.rmtree(assets)
    assert deaths > 15 and spared


# ------------------------------------------------------------------- command line


def run_command(*args):
    command = [sys.executable, ma.__file__, *map(str, args)]
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )


def test_the_command_packs_and_says_when_that_would_help(local, tmp_path, assets_dir):
    files = {str(n): File(b"%d" % n) for n in range(51)}
    source = write_tree(tmp_path / "source", files)
    done = run_command("new", source, NAME, "--pack", "--yes")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{NAME}:0.0\n", "")
    done = run_command("update", source, NAME, "--yes")
    assert (done.returncode, done.stdout) == (0, f"{NAME}:0.1\n")
    assert done.stderr.count("\n") == 1
    assert "51 files" in done.stderr and "--pack" in done.stderr
    (source / "50").unlink()
    done = run_command("update", source, NAME, "--yes")
    assert (done.returncode, done.stderr) == (0, ""), "50 files are not many"
    done = run_command("update", source, NAME, "--pack", "--yes")
    assert (done.returncode, done.stderr) == (0, "")
    assert {OBJECT, f"{OBJECT[:-1]}3"} <= set(local.list_objects())
    done = run_command("fetch", NAME)
    assert read_files(done.stdout.strip()) == {
        name: files[name] for name in files if name != "50"
    }
    done = run_command("new", source / "1", "other", "--pack", "--yes")
    assert done.returncode == 2 and "only a folder can be packed" in done.stderr
