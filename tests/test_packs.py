"""A packed folder: one object, which `tar` opens too, and a few ranges to fetch it."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import os
import shutil
import stat
import subprocess
import sys
import tarfile

import harness
import pytest
from harness import NAME, File
from hypothesis import given, settings
from hypothesis import strategies as st
from stores import LocalStore, MotoStore
from stub_server import Faulty, flip_answer

import modelkit_assets as ma
from modelkit_assets import ManifestFile

OBJECT = f"modelkit-assets/{NAME}/0.0"
TREE: harness.Tree = {
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
SMALL: harness.Tree = {
    "a": File(b"first" * 500),
    "b/c": File(b"echo\n", executable=True),
    "d/": None,
    "e": File(b""),
}


@pytest.fixture
def local(make_store):
    return make_store(LocalStore)


@pytest.fixture
def pack_tree(tmp_path):
    """Return a function that publishes a tree as a pack."""

    def pack(tree=SMALL):
        source = harness.write_tree(tmp_path / "source", tree)
        return ma.StorageProvider().new(source, NAME, pack=True)

    return pack


# ------------------------------------------------------------------- the object


def test_an_awkward_folder_comes_back_from_every_store(
    store, provider, manager, pack_tree, small_parts
):
    pack_tree(TREE)
    assert harness.read_tree(manager.fetch_asset(NAME)) == TREE
    assert sorted(store.list_objects()) == [
        f"modelkit-assets/{NAME}.versions", OBJECT, f"{OBJECT}.meta",
    ]  # fmt: skip


def test_python_reads_the_object_as_a_tar_and_finds_files_where_the_manifest_says(
    local, pack_tree
):
    pack_tree(TREE)
    found: harness.Tree = {}
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
def test_tar_lists_and_extracts_the_object(local, pack_tree, tmp_path):
    pack_tree(TREE)
    path = local.bucket / OBJECT
    command = ["tar", "--quoting-style=literal", "-tf", path]
    environ = {**os.environ, "LC_ALL": "C.UTF-8"}
    listed = subprocess.run(command, check=True, capture_output=True, env=environ)
    assert sorted(listed.stdout.decode().splitlines()) == sorted(TREE)
    (tmp_path / "out").mkdir()
    subprocess.run(["tar", "-xf", path, "-C", tmp_path / "out"], check=True)
    assert harness.read_tree(tmp_path / "out") == TREE


def test_only_a_folder_can_be_packed(local, tmp_path):
    (tmp_path / "file").write_text("1")
    with pytest.raises(ma.InvalidSourceError, match="only a folder"):
        ma.StorageProvider().new(tmp_path / "file", NAME, pack=True)
    assert local.list_objects() == []


def test_a_source_that_goes_before_it_is_packed_is_never_published(
    local, tmp_path, monkeypatch
):
    source = harness.write_tree(tmp_path / "source", SMALL)
    write_pack = ma._write_pack

    def lose_and_write(*args):
        (source / "a").unlink()
        return write_pack(*args)

    monkeypatch.setattr(ma, "_write_pack", lose_and_write)
    with pytest.raises(ma.SourceChangedError):
        ma.StorageProvider().new(source, NAME, pack=True)
    assert local.list_objects() == [f"{OBJECT}.meta"]


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
    make_proxied_store, stub, pack_tree, assets_dir, tmp_path
):
    make_proxied_store(MotoStore)
    files = {f"{n % 7}/{n}": File(b"%d" % n * n) for n in range(1, 201)}
    pack_tree(files)
    manager = ma.AssetsManager()
    list_requests(stub)

    assert harness.read_tree(manager.fetch_asset(NAME)) == files
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
    local, pack_tree, assets_dir, change, monkeypatch
):
    pack_tree()
    document = json.loads(local.read_object(f"{OBJECT}.meta"))
    change(document)
    local.write_object(f"{OBJECT}.meta", json.dumps(document).encode())
    for spec in (NAME, f"{NAME}:0.0[a]"):
        with pytest.raises(ma.AssetIntegrityError) as caught:
            ma.AssetsManager().fetch_asset(spec)
        assert caught.value.exit_code == 6
        assert not (assets_dir / "nlp").exists()
    assert {path.name for path in assets_dir.parent.iterdir()} == {
        "assets_dir", "source",
    }  # fmt: skip


def test_a_file_asset_that_says_it_is_packed_is_an_error(local, tmp_path, assets_dir):
    (tmp_path / "file").write_text("1")
    ma.StorageProvider().new(tmp_path / "file", NAME)
    document = json.loads(local.read_object(f"{OBJECT}.meta"))
    document["pack"], document["files"][0]["offset"] = "tar", 0
    local.write_object(f"{OBJECT}.meta", json.dumps(document).encode())
    with pytest.raises(ma.AssetIntegrityError):
        ma.AssetsManager().fetch_asset(NAME)


def test_files_may_lie_in_a_pack_in_any_order(local, pack_tree, assets_dir):
    pack_tree(TREE)
    document = json.loads(local.read_object(f"{OBJECT}.meta"))
    document["files"].reverse()
    local.write_object(f"{OBJECT}.meta", json.dumps(document).encode())
    assert harness.read_tree(ma.AssetsManager().fetch_asset(NAME)) == TREE


@pytest.mark.server
@pytest.mark.parametrize("times", [1, 2])
def test_a_flipped_byte_in_a_pack_is_fetched_once_more(
    make_proxied_store, stub, pack_tree, assets_dir, times
):
    make_proxied_store(MotoStore)
    pack_tree({"a": File(b"a" * 100_000), "b": File(b"b" * 10)})
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
        with pytest.raises(ma.AssetIntegrityError, match="/a'"):
            ma.AssetsManager().fetch_asset(f"{NAME}:0.0")
        assert not (assets_dir / "nlp").exists()
    ranges = [one for one in list_requests(stub) if one[2]]
    assert len(ranges) == 2
    assert len({one.range for one in hits}) == times, "not the one file alone"


# ------------------------------------------------------------------- the plan

sizes = st.one_of(st.integers(0, 30), st.integers(0, 30), st.integers(0, 400))


@st.composite
def packs(draw):
    """Return the files of a pack, wanted ones, the bytes, and the limits of spans."""
    files, at = [], 0
    for number, size in enumerate(draw(st.lists(sizes, max_size=12))):
        at += draw(st.integers(0, 60))
        files.append(ManifestFile(f"{number:03}", size, offset=at))
        at += size
    data = hashlib.shake_128(b"pack").digest(at + draw(st.integers(0, 50)))
    files = [
        one._replace(sha256=hashlib.sha256(_cut(data, one)).hexdigest())
        for one in files
    ]
    left_out = draw(st.sets(st.sampled_from(files))) if files else set()
    wanted = draw(st.permutations([one for one in files if one not in left_out]))
    part = draw(st.sampled_from([1, 7, 64, 100, 200, 1000]))
    return files, wanted, data, part, draw(st.integers(0, 40))


def _cut(data, file):
    return data[file.offset : file.offset + file.size]


def make_manifest(files, packed=True):
    document = {"pack": "tar"} if packed else {}
    return ma.Manifest(True, tuple(files), (), document)


@settings(max_examples=300)
@given(packs())
def test_the_spans_of_a_pack_bring_each_wanted_file_once_and_in_order(case):
    files, wanted, _, part, gap = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ma, "_PART", part)
        patch.setattr(ma, "_GAP", gap)
        spans = ma.plan_spans("x", make_manifest(files), wanted)
    assert all(0 < span.length <= part for span in spans)
    ends = [(span.start, span.start + span.length) for span in spans]
    assert [end for pair in ends for end in pair] == sorted(sum(ends, ()))
    for span in spans:
        at = span.start
        for file in span.files:
            assert file.offset - at <= gap
            at = file.offset + file.size
        if len(span.files) > 1:  # all of them whole
            assert span.start == span.files[0].offset
            assert at == span.start + span.length
    for file in wanted:
        its = [span for span in spans if file in span.files]
        alone = [span for span in its if len(span.files) == 1]
        if 0 < file.size <= part:
            assert len(its) == 1, "a file that is not large comes at once"
        elif file.size:
            assert its == alone
            starts = range(file.offset, file.offset + file.size, part)
            assert [span.start for span in its] == list(starts)
        else:
            assert not its
    assert {one for span in spans for one in span.files} <= set(wanted)


@given(st.data(), packs(), st.booleans())
def test_a_sink_writes_just_the_files_however_the_bytes_come(
    tmp_path_factory, data, case, packed
):
    files, wanted, content, part, gap = case
    folder = tmp_path_factory.mktemp("sink")
    manifest = make_manifest(files, packed)
    got = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ma, "_PART", part)
        patch.setattr(ma, "_GAP", gap)
        if not packed:
            wanted = [one._replace(offset=None) for one in wanted]
        for span in ma.plan_spans("x", manifest, wanted):
            whole = (
                content if packed else _cut(content, files[int(span.object_name[2:])])
            )
            driver = BreakingDriver(whole, data.draw)
            transfer = ma._Transfer(driver, 60, 1)
            sink = ma._SpanSink(span, str(folder), transfer.advance)
            patch.setattr(ma, "_FIRST_DELAY_S", 0)
            transfer.read(span, sink)
            got.update({one.path: one for one in sink.got})
    for file in wanted:
        if file.size:
            path = folder / file.path
            assert path.read_bytes() == _cut(content, files[int(file.path)])
            assert file.size > part or got[file.path] == file
    assert {path.name for path in folder.iterdir()} == {
        one.path for one in wanted if one.size
    }
    shutil.rmtree(folder)


class BreakingDriver:
    """Hands out one object in pieces of any size, and breaks off a few times."""

    bucket = "b"

    def __init__(self, data, draw):
        self._data, self._draw, self._breaks = data, draw, 2

    def download_object(self, name, sink, start=0, length=None):
        end = (
            len(self._data) if length is None else min(start + length, len(self._data))
        )
        while start < end:
            step = self._draw(st.integers(1, end - start))
            sink.write(self._data[start : start + step])
            start += step
            if self._breaks and self._draw(st.booleans()):
                self._breaks -= 1
                raise ConnectionError


# ------------------------------------------------------------------- death


def publish_packed(source, method, store):
    provider = harness.make_provider(store)
    return getattr(provider, method)(str(source), NAME, pack=True)


class CountingDriver(ma.LocalDriver):
    """Counts what is uploaded."""

    uploads = 0

    def upload_object(self, path, name):
        self.uploads += 1
        super().upload_object(path, name)


@pytest.mark.parametrize("after", [False, True], ids=["just_before", "just_after"])
def test_a_killed_packed_update_is_completed_and_nothing_is_uploaded_twice(
    tmp_path, after
):
    template = tmp_path / "store"
    template.mkdir()
    first = harness.write_tree(tmp_path / "first", {"a": File(b"1")})
    publish_packed(first, "new", template)
    source = harness.write_tree(tmp_path / "source", SMALL)
    (tmp_path / "tmp").mkdir()
    environ = {"MODELKIT_STORAGE_WORKERS": "1", "TMPDIR": str(tmp_path / "tmp")}
    operation = functools.partial(publish_packed, source, "update")
    deaths = spared = 0
    for _, store in harness.each_death(template, operation, after, environ=environ):
        deaths += 1
        provider = harness.make_provider(store)
        driver = provider.driver = CountingDriver(str(store))
        assets = store.with_name(f"{store.name}-assets")
        assets.mkdir()
        listed = provider.get_versions_info(NAME)
        path = store / f"modelkit-assets/{NAME}/0.1"
        is_there = path.is_file()
        if "0.1" not in listed:
            assert provider.update(source, NAME, pack=True) == "0.1"
            assert driver.uploads == (not is_there)
            spared += is_there
        fetched = harness.fetch(lambda provider=provider: provider, assets, NAME)
        assert harness.read_tree(fetched) == SMALL
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
    source = harness.write_tree(tmp_path / "source", files)
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
    assert harness.read_tree(done.stdout.strip()) == {
        name: files[name] for name in files if name != "50"
    }
    done = run_command("new", source / "1", "other", "--pack", "--yes")
    assert done.returncode == 2 and "only a folder can be packed" in done.stderr
