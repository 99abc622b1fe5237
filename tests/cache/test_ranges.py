"""Large files come by chunks, and a killed fetch goes on from those that had come."""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
from collections import Counter
from pathlib import Path

import harness
import pytest
from harness import NAME
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stores import SERVER_STORES, MotoStore, RcloneStore
from stub_server import Faulty, cut_answer, flip_answer, nth, reset
from trees import File, Tree, read_bytes, read_files

import modelkit_assets as ma

MIB = 1 << 20
PART = 1 << 16
SPEC = f"{NAME}:0.0"
ONE_WORKER = {"MODELKIT_STORAGE_WORKERS": "1"}


def make_bytes(size, seed=b"large"):
    return hashlib.shake_128(seed).digest(size)


LARGE = make_bytes(7 * PART + 5)
TREE: Tree = {
    "a": File(b"small" * 10),
    "large": File(LARGE, executable=True),
    "multiple": File(make_bytes(2 * PART, b"m")),
    "none": File(b""),
    "z/just": File(make_bytes(PART, b"j")),
    "z/one more": File(make_bytes(PART + 1, b"o")),
}


def list_data(stub):
    """Return the method, part and range of each request of data."""
    requests, stub.requests[:] = list(stub.requests), []
    below = f"{NAME}/0.0"
    return [
        (one.method, one.target.partition(below)[2], one.range)
        for one in requests
        if below in one.target and not one.target.endswith(".meta")
    ]


# ------------------------------------------------------------------- what is asked


@pytest.mark.server
@pytest.mark.parametrize("kind", SERVER_STORES)
def test_each_range_and_each_small_object_is_asked_for_once_and_no_size(
    make_proxied_store, stub, publish, assets_dir, small_parts, kind
):
    make_proxied_store(kind)
    publish(TREE)
    list_data(stub)
    assert read_files(ma.AssetsManager().fetch_asset(SPEC)) == TREE
    asked = list_data(stub)
    assert {method for method, _, _ in asked} == {"GET"}
    assert len(asked) == len(set(asked)), "a range was asked for twice"
    assert Counter(part for _, part, _ in asked) == {
        "/a": 1, "/large": 8, "/multiple": 2, "/z/just": 1, "/z/one more": 2,
    }  # fmt: skip


@pytest.mark.server
def test_40_mib_come_in_three_ranges(
    make_proxied_store, stub, publish, tmp_path, assets_dir
):
    make_proxied_store(RcloneStore)
    data = make_bytes(40 * MIB)
    publish({"": File(data)})
    list_data(stub)
    assert Path(ma.AssetsManager().fetch_asset(SPEC)).read_bytes() == data
    starts = sorted(int(one[2].strip("bytes=").partition("-")[0] or 0) // MIB
                    for one in list_data(stub))  # fmt: skip
    assert starts == [0, 16, 32]


@pytest.mark.server
@pytest.mark.parametrize("fault", [reset, cut_answer])
def test_a_range_that_breaks_off_goes_on_within_itself(
    make_proxied_store, stub, publish, assets_dir, monkeypatch, small_parts, fault
):
    make_proxied_store(MotoStore)
    publish({"": File(LARGE)})
    monkeypatch.setattr(ma, "_FIRST_DELAY_S", 0.001)
    list_data(stub)
    begins = f"bytes={3 * PART}-"
    choose = nth(1, lambda request: (request.range or "").startswith(begins))
    faulty = stub.script = Faulty(stub.script, fault, choose)
    path = ma.AssetsManager().fetch_asset(SPEC)
    assert Path(path).read_bytes() == LARGE
    again = [one for one in list_data(stub) if one[2].endswith(f"-{4 * PART - 1}")]
    start = 3 * PART + (PART // 2 if fault is cut_answer else 0)
    assert len(faulty.hits) == 1
    assert [one[2] for one in again] == [
        f"bytes={at}-{4 * PART - 1}" for at in (3 * PART, start)
    ]


@pytest.mark.server
@pytest.mark.parametrize("times", [1, 99])
def test_a_chunk_with_a_flipped_byte_is_fetched_once_more_alone(
    make_proxied_store, stub, publish, assets_dir, small_parts, times
):
    make_proxied_store(MotoStore)
    publish({"": File(LARGE)})
    list_data(stub)
    hits = []

    def choose(request):
        chosen = (request.range or "").startswith(f"bytes={PART}-")
        hits.extend([request] * chosen)
        return chosen and len(hits) <= times

    stub.script = Faulty(stub.script, flip_answer, choose)
    if times == 1:
        path = ma.AssetsManager().fetch_asset(SPEC)
        assert Path(path).read_bytes() == LARGE
    else:
        with pytest.raises(ma.AssetIntegrityError):
            ma.AssetsManager().fetch_asset(SPEC)
        assert not (assets_dir / "nlp").exists()
    assert len(hits) == 2
    assert len(list_data(stub)) == 8 + 1


# ------------------------------------------------------------------- without a server


def fetch(store, log, assets_dir):
    """Fetch the asset, and write down what comes."""
    make = functools.partial(harness.make_recording_provider, store, log)
    return harness.fetch(make, assets_dir, SPEC)


def count(log):
    return sum(one.size for one in harness.read_log(log))


class FlippingDriver(harness.RecordingDriver):
    """A local store that spoils what comes from one place, so many times."""

    start, times = 0, 0

    def iterate_bytes(self, name, start=0, *args):
        """Yield an object's bytes, the first of them wrong."""
        for data in super().iterate_bytes(name, start, *args):
            if start == self.start and self.times:
                self.times -= 1
                data = bytes([data[0] ^ 1]) + bytes(data[1:])
            yield data


def make_flipping_manager(local, log, assets_dir, start, times):
    provider = harness.make_provider(local.bucket)
    driver = provider.driver = FlippingDriver(local.bucket)
    driver.log, driver.start, driver.times = log, start, times
    return ma.AssetsManager(assets_dir, 10, provider)


def test_a_wrong_chunk_of_a_large_file_is_fetched_once_more_alone(
    local, publish, assets_dir, log, small_parts
):
    publish({"": File(LARGE)})
    manager = make_flipping_manager(local, log, assets_dir, 3 * PART, 1)
    assert Path(manager.fetch_asset(SPEC)).read_bytes() == LARGE
    moved = Counter((one.start, one.size) for one in harness.read_log(log))
    assert moved == {
        **{(at, PART): 1 for at in range(0, 7 * PART, PART)},
        (3 * PART, PART): 2,
        (7 * PART, 5): 1,
    }


def test_of_chunks_that_came_in_one_request_the_wrong_one_comes_alone(
    local, publish, assets_dir, log, small_parts, monkeypatch
):
    monkeypatch.setattr(ma, "_REQUEST", 1 << 24)
    publish({"": File(LARGE)})
    manager = make_flipping_manager(local, log, assets_dir, 0, 1)
    assert Path(manager.fetch_asset(SPEC)).read_bytes() == LARGE
    moved = [(one.start, one.size) for one in harness.read_log(log)]
    assert moved == [(0, len(LARGE)), (0, PART)]


def test_a_chunk_that_is_wrong_twice_is_an_error(
    local, publish, assets_dir, log, small_parts
):
    publish({"": File(LARGE)})
    manager = make_flipping_manager(local, log, assets_dir, 3 * PART, 2)
    with pytest.raises(ma.AssetIntegrityError, match=f" at {3 * PART} "):
        manager.fetch_asset(SPEC)
    assert not (assets_dir / "nlp").exists()


def test_modelkits_large_objects_come_in_several_requests(
    local, publish, assets_dir, log, small_parts
):
    publish({"large": File(LARGE), "small": File(b"small")})
    name = f"modelkit-assets/{NAME}/0.0.meta"
    document = json.loads(local.read_object(name))
    for key in ("files", "format", "empty_directories", "pushed_by"):
        document.pop(key, None)
    local.write_object(name, json.dumps(document).encode())
    path = Path(fetch(local.bucket, log, assets_dir))
    assert (path / "large").read_bytes() == LARGE
    moved = [one for one in harness.read_log(log) if one.part.endswith("large")]
    assert sorted(one.start for one in moved) == [n * PART for n in range(8)]
    assert ma.AssetsManager(assets_dir).verify(SPEC) == [], "its digests are known now"


# ------------------------------------------------------------------- resuming


def fetch_configured(assets_dir):
    return ma.AssetsManager(assets_dir).fetch_asset(SPEC)


def find_staged(assets_dir):
    (data,) = assets_dir.glob(".cache/staging/*/work/data")
    return data


def kill_half_way(child, assets_dir, size):
    """Kill a fetch of a file asset once half of it has come."""
    while True:
        found = list(assets_dir.glob(".cache/staging/*/work/data"))
        if found and found[0].stat().st_blocks * 512 >= size // 2:
            return child.kill()
        assert not child.has_ended(within=0.001), child.wait()


def count_right(path, make_chunk, number, size):
    """Return how many chunks of a staged file are right."""
    with open(path, "rb") as file:
        return sum(file.read(size) == make_chunk(n) for n in range(number))


def test_a_fetch_killed_half_way_in_256_mib_moves_the_other_half_alone(
    local, tmp_path, assets_dir, log
):
    size, source = 256 * MIB, tmp_path / "source"
    with open(source, "wb") as file:
        for number in range(size >> 24):
            file.write(bytes([number + 1]) * (1 << 24))
    ma.StorageProvider().new(source, NAME)
    source.unlink()
    call = (fetch, local.bucket, log, assets_dir)
    with harness.Child(*call, environ={"MODELKIT_STORAGE_WORKERS": "2"}) as child:
        kill_half_way(child, assets_dir, size)
    assert not (assets_dir / "nlp").exists()

    def make_chunk(number):
        return bytes([number + 1]) * (1 << 24)

    come = count_right(find_staged(assets_dir), make_chunk, size >> 24, 1 << 24)
    assert 5 <= come <= 14
    log.write_text("")
    path = fetch(local.bucket, log, assets_dir)
    assert count(log) == size - (come << 24)
    assert count_right(path, make_chunk, size >> 24, 1 << 24) == size >> 24


@pytest.mark.server
def test_a_fetch_killed_half_way_goes_on_from_a_server_too(
    make_proxied_store, stub, publish, assets_dir
):
    store = make_proxied_store(RcloneStore)
    data = make_bytes(128 * MIB)
    publish({"": File(data)})
    environ = {**store.environ, "S3_ENDPOINT": stub.endpoint}
    environ["MODELKIT_STORAGE_WORKERS"] = "2"
    with harness.Child(fetch_configured, assets_dir, environ=environ) as child:
        kill_half_way(child, assets_dir, len(data))

    def make_chunk(number):
        return data[number << 24 : number + 1 << 24]

    come = count_right(find_staged(assets_dir), make_chunk, 8, 1 << 24)
    assert come
    list_data(stub)
    assert Path(fetch_configured(assets_dir)).read_bytes() == data
    assert len(list_data(stub)) <= 8 - come // ma._CHUNK + 2


def make_small_parts():
    """Let files of more than 64 KiB be large in a child."""
    ma._CHUNK = ma._REQUEST = PART
    return ma.LocalDriver


def count_staged(assets_dir, tree):
    """Return how many bytes of right chunks, or of right small files, are staged."""
    come = 0
    for data in assets_dir.glob(".cache/staging/*/work/data"):
        for part, file in tree.items():
            staged = data / part
            left = staged.read_bytes() if staged.exists() else b""
            for at in range(0, len(file.data), PART):
                chunk = file.data[at : at + PART]
                come += len(chunk) * (left[at : at + PART] == chunk)
    return come


@pytest.mark.attack
def test_a_fetch_by_chunks_may_die_at_every_step(
    local, publish, tmp_path, small_parts, monkeypatch
):
    tree = {name: TREE[name] for name in ("a", "multiple", "none", "z/one more")}
    publish(tree)
    monkeypatch.delenv("MODELKIT_STORAGE_PROVIDER")  # some readers have none
    template = tmp_path / "template"
    template.mkdir()
    size = sum(len(file.data) for file in tree.values())
    deaths = saved = 0
    for n, assets_dir in harness.each_death(
        template, functools.partial(fetch, local.bucket, tmp_path / "log-of-dead"),
        environ=ONE_WORKER, driver=make_small_parts,
    ):  # fmt: skip
        deaths += 1
        for content in harness.read_assets_dir_as_modelkit(assets_dir).values():
            assert content == read_bytes(tree)
        offline = harness.read_ours(assets_dir, [(NAME, "0.0")])
        assert offline in ({}, {(NAME, "0.0"): tree})
        come, log = count_staged(assets_dir, tree), tmp_path / f"log-{n}"
        assert fetch(local.bucket, log, assets_dir)
        assert count(log) == (0 if offline else size - come)
        saved += come > 0
        if not offline:
            harness.check_complete(assets_dir, tree)
    assert deaths > 20 and saved > 5


# ------------------------------------------------------------------- what is staged


@pytest.fixture
def half_way(local, publish, tmp_path, small_parts):
    """Return an assets dir in which a fetch died in the midst of the fourth chunk."""
    publish({"large": File(LARGE), "small": File(b"small")})
    template = tmp_path / "template"
    template.mkdir()
    outcome = harness.run(
        fetch, local.bucket, tmp_path / "log-of-dead", template,
        die_at=4, among=("write_half",), environ=ONE_WORKER, driver=make_small_parts,
    )  # fmt: skip
    assert outcome.killed
    return template


def test_a_chunk_that_was_spoilt_meanwhile_is_fetched_again_alone(local, half_way, log):
    with open(find_staged(half_way) / "large", "r+b") as large:
        large.seek(PART + 9)
        large.write(bytes([LARGE[PART + 9] ^ 1]))
    path = fetch(local.bucket, log, half_way)
    assert (Path(path) / "large").read_bytes() == LARGE
    starts = [one.start for one in harness.read_log(log) if one.part.endswith("large")]
    assert sorted(starts) == [PART, *range(3 * PART, len(LARGE), PART)]


def test_bytes_past_the_end_of_what_a_killed_fetch_left_are_no_content(
    local, half_way, log
):
    with open(find_staged(half_way) / "large", "r+b") as large:
        large.seek(len(LARGE))
        large.write(b"more")
    path = fetch(local.bucket, log, half_way)
    assert (Path(path) / "large").read_bytes() == LARGE
    assert count(log) == len(LARGE) - 3 * PART + len(b"small")


@pytest.mark.parametrize("lacking", [0, 1])
@pytest.mark.parametrize("has_last", [False, True], ids=["without_last", "with_last"])
def test_just_what_is_to_come_yet_must_have_room(
    local, half_way, log, monkeypatch, has_last, lacking
):
    """The last chunk is a short one, which may be there when others are not."""
    needed = len(LARGE) - 3 * PART + len(b"small")
    if has_last:
        with open(find_staged(half_way) / "large", "r+b") as large:
            large.seek(7 * PART)
            large.write(LARGE[7 * PART :])
        needed -= len(LARGE) - 7 * PART
    usage = shutil.disk_usage(half_way)._replace(free=needed - lacking)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    if lacking:
        with pytest.raises(ma.AssetsDirError, match=f"{needed} bytes are needed"):
            fetch(local.bucket, log, half_way)
        assert count(log) == 0
    else:
        path = fetch(local.bucket, log, half_way)
        assert (Path(path) / "large").read_bytes() == LARGE


writes = st.tuples(st.integers(0, len(LARGE) + PART), st.binary(min_size=1))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(writes, max_size=4), st.none() | st.integers(0, 4 * PART))
def test_nothing_that_is_staged_leads_to_a_wrong_file(
    half_way, local, tmp_path_factory, writes, end
):
    folder = tmp_path_factory.mktemp("copy")
    assets_dir, log = folder / "assets", folder / "log"
    shutil.copytree(half_way, assets_dir)
    staged = find_staged(assets_dir) / "large"
    with open(staged, "r+b") as large:
        for at, data in writes:
            large.seek(at)
            large.write(data)
        if end is not None:
            large.truncate(end)
    come = count_staged(assets_dir, {"large": File(LARGE)})
    path = Path(fetch(local.bucket, log, assets_dir))
    assert (path / "large").read_bytes() == LARGE
    assert (path / "small").read_bytes() == b"small"
    assert sorted(one.name for one in path.iterdir()) == [".SUCCESS", "large", "small"]
    assert count(log) == len(LARGE) - come + len(b"small")
    shutil.rmtree(folder)
