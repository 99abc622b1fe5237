"""Large files come by ranges, and a killed fetch goes on from those that had come."""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
from collections import Counter
from pathlib import Path

import harness
import pytest
from harness import NAME, File
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stores import SERVER_STORES, LocalStore, MotoStore, RcloneStore
from stub_server import Faulty, cut_answer, flip_answer, nth, reset

import modelkit_assets as ma

MIB = 1 << 20
PART = 1 << 16
SPEC = f"{NAME}:0.0"
ONE_WORKER = {"MODELKIT_STORAGE_WORKERS": "1"}


def make_bytes(size, seed=b"large"):
    return hashlib.shake_128(seed).digest(size)


LARGE = make_bytes(7 * PART + 5)
TREE: harness.Tree = {
    "a": File(b"small" * 10),
    "large": File(LARGE, executable=True),
    "multiple": File(make_bytes(2 * PART, b"m")),
    "none": File(b""),
    "z/just": File(make_bytes(PART, b"j")),
    "z/one more": File(make_bytes(PART + 1, b"o")),
}


@pytest.fixture
def local(make_store):
    return make_store(LocalStore)


@pytest.fixture
def publish(tmp_path):
    """Return a function that publishes a tree as 0.0."""

    def publish(tree):
        source = harness.write_tree(tmp_path / "source", tree)
        ma.StorageProvider().new(source, NAME)

    return publish


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
    assert harness.read_tree(ma.AssetsManager().fetch_asset(SPEC)) == TREE
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
    ends = [(0, 16 * MIB), (16 * MIB, 32 * MIB), (32 * MIB, 40 * MIB)]
    ranges = sorted((one[2] for one in list_data(stub)), key=len)
    assert sorted(ranges) == sorted(f"bytes={a}-{b - 1}" for a, b in ends)


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
def test_a_flipped_byte_in_a_range_is_seen_in_the_end(
    make_proxied_store, stub, publish, assets_dir, small_parts, times
):
    make_proxied_store(MotoStore)
    publish({"": File(LARGE)})
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


# ------------------------------------------------------------------- resuming


class CountingDriver(ma.LocalDriver):
    """A local store that writes down how many bytes each request of data brings."""

    log = ""

    def download_object(self, name, sink, start=0, length=None):
        """Write the request's bytes to the sink, and their number to the log."""

        class Counting:
            def write(_, data):
                with open(self.log, "a") as log:
                    log.write(f"{len(data)}\n")
                sink.write(data)

        super().download_object(name, Counting(), start, length)


def make_counting_provider(store, log):
    provider = harness.make_provider(store)
    provider.driver = CountingDriver(str(store))
    provider.driver.log = str(log)
    return provider


def fetch_counted(store, log, assets_dir):
    make = functools.partial(make_counting_provider, store, log)
    return harness.fetch(make, assets_dir, SPEC)


def fetch_configured(assets_dir):
    return ma.AssetsManager(assets_dir).fetch_asset(SPEC)


def kill_half_way(child, assets_dir, ranges):
    """Kill a fetch when half of its ranges are in the journal; return how many are."""
    while True:
        found = list(assets_dir.glob(".cache/staging/*/data.ranges"))
        come = found[0].read_bytes().count(b"\n") if found else 0
        if come >= ranges // 2:
            child.kill()
            return found[0].read_bytes().count(b"\n")
        assert not child.has_ended(within=0.001), child.wait()


def count(log):
    return sum(map(int, log.read_text().split()))


def test_a_fetch_killed_half_way_in_512_mib_moves_the_other_half_alone(
    local, tmp_path, assets_dir
):
    size, source = 512 * MIB, tmp_path / "source"
    with open(source, "wb") as file:
        for number in range(size >> 24):
            file.write(bytes([number]) * (1 << 24))
    ma.StorageProvider().new(source, NAME)
    source.unlink()
    log = tmp_path / "log"
    call = (fetch_counted, local.bucket, log, assets_dir)
    with harness.Child(*call, environ={"MODELKIT_STORAGE_WORKERS": "2"}) as child:
        come = kill_half_way(child, assets_dir, size // ma._PART)
    assert 16 <= come <= 20
    assert not (assets_dir / "nlp").exists()
    log.unlink()
    path = fetch_counted(local.bucket, log, assets_dir)
    assert count(log) == size - come * ma._PART
    with open(path, "rb") as file:
        for number in range(size >> 24):
            assert file.read(1 << 24) == bytes([number]) * (1 << 24)
        assert not file.read()


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
        come = kill_half_way(child, assets_dir, 8)
    list_data(stub)
    assert Path(fetch_configured(assets_dir)).read_bytes() == data
    assert len(list_data(stub)) == 8 - come


def make_small_parts():
    """Let files of more than 64 KiB be large in a child."""
    ma._PART = PART
    return ma.LocalDriver


def fetch(store, assets_dir):
    return harness.fetch(
        functools.partial(harness.make_provider, store), assets_dir, SPEC
    )


def test_a_fetch_by_ranges_may_die_at_every_step(
    local, publish, tmp_path, small_parts, monkeypatch
):
    tree = {name: TREE[name] for name in ("a", "multiple", "none", "z/one more")}
    publish(tree)
    monkeypatch.delenv("MODELKIT_STORAGE_PROVIDER")  # some readers have none
    template = tmp_path / "template"
    template.mkdir()
    deaths = saved = 0
    for n, assets_dir in harness.each_death(
        template, functools.partial(fetch, local.bucket),
        environ=ONE_WORKER, driver=make_small_parts,
    ):  # fmt: skip
        deaths += 1
        for content in harness.read_assets_dir_as_modelkit(assets_dir).values():
            assert content == harness.read_bytes(tree)
        offline = harness.read_ours(assets_dir, [(NAME, "0.0")])
        assert offline in ({}, {(NAME, "0.0"): tree})
        log = tmp_path / f"log-{n}"
        log.touch()
        journals = list(assets_dir.glob(".cache/staging/*/data.ranges"))
        lines = [line for one in journals for line in one.read_text().splitlines()]
        come_of = [json.loads(line) for line in lines]
        assert fetch_counted(local.bucket, log, assets_dir)
        moved = count(log)
        if offline:
            assert not moved
        elif journals:
            come = sum(min(PART, len(tree[name].data) - at) for name, at in come_of)
            assert moved <= sum(len(one.data) for one in tree.values()) - come
            saved += come > 0
        if not offline:
            harness.check_complete(assets_dir, tree)
    assert deaths > 20 and saved > 5


# ------------------------------------------------------------------- journals


@pytest.fixture
def half_way(local, publish, tmp_path, small_parts, monkeypatch):
    """Return an assets dir in which a fetch died with some ranges come, and the log."""
    publish({"large": File(LARGE), "small": File(b"small")})
    template = tmp_path / "template"
    template.mkdir()
    outcome = harness.run(
        fetch, local.bucket, template, die_at=9, among=("write_to_sink",),
        environ=ONE_WORKER, driver=make_small_parts,
    )  # fmt: skip
    assert outcome.killed
    return template


def find_data(assets_dir):
    (data,) = assets_dir.glob(".cache/staging/*/data")
    return data


def test_a_range_that_was_spoilt_meanwhile_is_fetched_once_more(
    local, half_way, tmp_path
):
    file = find_data(half_way) / "large"
    with open(file, "r+b") as large:
        large.seek(PART + 9)
        large.write(bytes([LARGE[PART + 9] ^ 1]))
    log = tmp_path / "log"
    path = fetch_counted(local.bucket, log, half_way)
    assert (Path(path) / "large").read_bytes() == LARGE
    assert 2 * len(LARGE) >= count(log) >= len(LARGE)


def test_bytes_past_the_end_of_what_a_killed_fetch_left_are_no_content(
    local, half_way, tmp_path
):
    with open(find_data(half_way) / "large", "r+b") as large:
        large.seek(len(LARGE))
        large.write(b"more")
    path = fetch_counted(local.bucket, tmp_path / "log", half_way)
    assert (Path(path) / "large").read_bytes() == LARGE


starts = st.one_of(
    st.integers(-2, 12).map(lambda n: n * PART),
    st.integers(), st.floats(), st.text(), st.none(), st.booleans(),
    st.just(len(LARGE)), st.lists(st.integers()),
)  # fmt: skip
lines = st.one_of(
    st.tuples(st.sampled_from(["large", "small", "other", ""]), starts).map(json.dumps),
    st.text(),
    st.just("[" * 100_000),
)
journals = st.one_of(
    st.binary(),
    st.lists(lines).map("\n".join).map(lambda text: text.encode("utf-8", "replace")),
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(journals)
def test_no_journal_leads_to_a_wrong_file(half_way, local, tmp_path_factory, journal):
    assets_dir = tmp_path_factory.mktemp("copy") / "assets"
    shutil.copytree(half_way, assets_dir)
    find_data(assets_dir).with_name("data.ranges").write_bytes(journal)
    path = Path(fetch(local.bucket, assets_dir))
    assert (path / "large").read_bytes() == LARGE
    assert (path / "small").read_bytes() == b"small"
    assert sorted(one.name for one in path.iterdir()) == [".SUCCESS", "large", "small"]
    shutil.rmtree(assets_dir)


@pytest.mark.parametrize("at", [len(LARGE), 2 * PART])
def test_a_journal_with_the_end_of_a_file_does_not_hang(local, half_way, at):
    journal = find_data(half_way).with_name("data.ranges")
    starts = [*range(0, len(LARGE), PART), at, -PART, 10**30]
    journal.write_text("".join(json.dumps(["large", at]) + "\n" for at in starts))
    environ = ONE_WORKER
    done = harness.run(
        fetch, local.bucket, half_way, environ=environ, driver=make_small_parts
    )
    assert (Path(done.get()) / "large").read_bytes() == LARGE
