"""What a store may do to one request, and what a user sees of it.

The SDKs talk to real servers through a proxy, which breaks what a test says; what came
of it is read past the code under test.
"""

import base64
import collections
import hashlib
import itertools
import json
import logging
import pickle
import time
import traceback
from pathlib import Path

import attacks
import pytest
from stores import SERVER_STORES, GcsStore
from stub_server import (
    AZURE,
    GCS,
    PROTOCOLS,
    RESET,
    Answer,
    Faulty,
    call,
    cut_answer,
    delay_answer,
    flip_answer,
    flip_request,
    forward,
    give_tokens,
    lose_answer,
    make_service_account,
    nth,
    reply,
    reset,
)
from trees import read_tree, write_tree

import modelkit_assets as ma

MIB = 1 << 20
FILES = {"deep/b.bin": hashlib.shake_128(b"b").digest(100_000), "a.txt": b"a" * 1000}
PREFIX = "modelkit-assets"


class World:
    """A store behind a proxy, an operation on it, and what must have come of that.

    `new` makes another asset each time, `update` another version of one, and `fetch`
    fills another assets dir.
    """

    def __init__(self, store, stub, folder, operation="new"):
        self.store, self.stub, self.folder = store, stub, folder
        self.protocol = next(p for p in PROTOCOLS if p.provider == store.provider)
        self.direct = stub.script = forward(store.server.endpoint)
        self.source = write_tree(folder / "source", FILES)
        self.client = ma.StorageProvider().driver.client
        self.operation, self.versions = operation, []
        if operation != "new":
            assert self.make_provider().new(self.source, "x") == "0.0"
            self.versions = ["0.0"]

    def make_provider(self, **settings):
        return ma.StorageProvider(client=self.client, **settings)

    def break_some(self, fault, choose):
        self.stub.requests.clear()
        self.stub.script = Faulty(self.direct, fault, choose)
        return self.stub.script

    def run(self, number, **settings):
        """Do it once more, for the number-th time."""
        provider = self.make_provider(**settings)
        if self.operation == "new":
            assert provider.new(self.source, f"x-{number}") == "0.0"
        elif self.operation == "update":
            assert provider.update(self.source, "x") == self.next_version
            self.versions.insert(0, self.next_version)
        else:
            assets_dir = self.folder / str(number)
            assets_dir.mkdir(exist_ok=True)
            manager = ma.AssetsManager(assets_dir, storage_provider=provider)
            assert manager.fetch_asset("x") == str(assets_dir / "x" / "0.0")

    @property
    def next_version(self):
        return f"0.{len(self.versions)}"

    def check(self, number, done=True):
        """Check that what is visible is whole, and that nothing else is."""
        if self.operation == "fetch":
            visible = read_visible(self.folder / str(number))
            assert visible == ({f"x/0.0/{p}": FILES[p] for p in FILES} if done else {})
        elif self.operation == "update":
            self.check_store("x", self.versions, done)
        else:
            self.check_store(f"x-{number}", ["0.0"] if done else [], done)

    def check_store(self, name, versions, done):
        below = f"{PREFIX}/{name}"
        found = self.store.list_objects()
        names = {name for name in found if name.startswith(below + "/")}
        whole = {n for version in versions for n in name_objects(below, version)}
        assert names >= whole
        if done:
            assert names == whole
        else:  # a claim, and a part of its data
            claimed = {"new": "0.0", "update": self.next_version}[self.operation]
            assert names - whole <= name_objects(below, claimed)
        if not versions:
            assert below + ".versions" not in found
            return
        listed = json.loads(self.store.read_object(below + ".versions"))
        assert listed == {"versions": versions}
        manifest = json.loads(self.store.read_object(f"{below}/{versions[0]}.meta"))
        assert manifest["contents"] == sorted(FILES)
        for part, data in FILES.items():
            assert self.store.read_object(f"{below}/{versions[0]}/{part}") == data


def name_objects(below, version):
    parts = {f"{below}/{version}/{part}" for part in FILES}
    return {f"{below}/{version}.meta", *parts}


def read_visible(assets_dir):
    files = read_tree(assets_dir) if assets_dir.exists() else {}
    return {path: data for path, data in files.items() if path[:6] != ".cache"}


@pytest.fixture
def hurry(monkeypatch):
    """Keep all pauses short, those of the SDKs too, which are of seconds."""
    monkeypatch.setattr(ma, "_FIRST_DELAY_S", 0.001)
    real = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: real(min(seconds, 0.001)))


@pytest.fixture
def make_world(make_store, stub, hurry, monkeypatch, tmp_path):
    """Return a function that makes a world of a kind of store; nothing waits long."""
    monkeypatch.setenv("MODELKIT_STORAGE_TIMEOUT_S", "60")
    monkeypatch.setenv("MODELKIT_STORAGE_WORKERS", "1")  # the same order of requests

    def make(kind, operation="new"):
        store = make_store(kind)
        for variable, value in store.environ.items():
            value = value.replace(store.server.endpoint, stub.endpoint)
            monkeypatch.setenv(variable, value)
        return World(store, stub, tmp_path, operation)

    return make


kinds = attacks.parametrize("kind", SERVER_STORES)
operations = attacks.parametrize("operation", ["update", "new", "fetch"])


# ------------------------------------------------------------------- what may pass


def fail_each_request_in(ways):
    """Return a fault: each request meets all of the ways, before it is let through."""
    ahead = collections.defaultdict(lambda: list(ways))

    def fault(request, script):
        key = request.method, request.target
        answer = (ahead[key].pop(0) if ahead[key] else call)(request, script)
        is_whole = answer is not RESET and answer.cut is None
        if is_whole and answer.status < 429:
            del ahead[key]  # the next of its kind meets them all again
        return answer

    return fault


@kinds
@operations
def test_every_request_may_fail_in_every_passing_way(make_world, kind, operation):
    world = make_world(kind, operation)
    fail = world.protocol.fail
    failures = [fail(429), fail(500), fail(*world.protocol.slow_down)]
    ways = [reset, *map(reply, failures), lose_answer, cut_answer]
    enough = itertools.count()  # or one that never ends would fail without an end
    faulty = world.break_some(fail_each_request_in(ways), lambda _: next(enough) < 500)
    world.run(1)
    met = collections.Counter((r.method, r.target) for r in faulty.hits)
    assert len(met) >= {"new": 8, "update": 8, "fetch": 4}[operation]
    assert min(met.values()) >= len(ways) - 1  # a written object's answer has no body
    world.check(1)


@kinds
@operations
def test_an_answer_lost_at_any_request_loses_and_doubles_nothing(
    make_world, kind, operation
):
    world = make_world(kind, operation)
    for number in itertools.count(1):
        faulty = world.break_some(lose_answer, nth(number))
        world.run(number)
        world.check(number)
        if not faulty.hits:
            break
    assert number > 4


@kinds
def test_an_answer_that_never_comes_is_given_up_and_asked_for_again(
    make_world, kind, monkeypatch
):
    world = make_world(kind)
    from urllib3 import Timeout
    from urllib3.connectionpool import HTTPConnectionPool

    def is_meant(request):
        return request.target.endswith((".meta", ".versions")) and request.is_write

    choices = nth(1, is_meant), nth(3, is_meant)  # the claim, and the commit or proof

    def is_chosen(request):
        return sum(choose(request) for choose in choices)

    faulty = world.break_some(delay_answer, is_chosen)
    with monkeypatch.context() as patch:
        patch.setattr(HTTPConnectionPool, "_get_timeout", lambda *_: Timeout(0.5))
        world.run(1)
    assert len(faulty.hits) == 2
    world.check(1)


@kinds
def test_a_body_cut_in_the_middle_is_resumed_where_it_broke(make_world, kind, tmp_path):
    world = make_world(kind)
    data, place = hashlib.shake_128(b"").digest(6 * MIB), 5 * MIB
    world.source = tmp_path / "large"
    world.source.write_bytes(data)
    world.make_provider().new(world.source, "large")

    def cut(request, script):
        answer = script(request)
        inside = place - get_start(request)
        return answer._replace(cut=inside) if inside < len(answer.body) else answer

    is_data = lambda request: request.target.endswith("/0.0")  # noqa: E731
    faulty = world.break_some(cut, nth(1, is_data))
    got = world.make_provider().download("large", "0.0", tmp_path / "there")["path"]
    assert Path(got).read_bytes() == data
    assert faulty.hits
    first, again = filter(is_data, world.stub.requests)
    assert get_start(first) == 0
    # where it broke, or where the buffer that it broke in began
    assert 4 * MIB <= get_start(again) <= place


@pytest.mark.server
def test_of_a_large_upload_to_gcs_only_the_part_that_failed_is_sent_again(
    make_world, tmp_path
):
    """As boto3 and Azure's SDK send a part again; it is the SDK that knows of parts."""
    world = make_world(GcsStore)
    world.source = tmp_path / "large"
    world.source.write_bytes(bytes(17 * MIB))
    busy = reply(world.protocol.fail(503))
    faulty = world.break_some(busy, nth(2, lambda r: r.method == "PUT"))
    world.make_provider().new(world.source, "large")
    (failed,) = faulty.hits
    assert failed.headers["content-range"].startswith(f"bytes {8 * MIB}-")
    parts = [r.headers.get("content-range", "") for r in world.stub.requests]
    assert [part.startswith("bytes 0-") for part in parts].count(True) == 1
    assert len(world.store.read_object(f"{PREFIX}/large/0.0")) == 17 * MIB


def get_start(request):
    return int((request.range or "bytes=0-").partition("=")[2].partition("-")[0])


TARGETS = {
    "versions": ("fetch", False, ".versions"),
    "manifest": ("fetch", False, ".meta"),
    "data": ("fetch", False, "/a.txt"),
    "check": ("new", False, ".meta"),
    "claim": ("new", True, ".meta"),
    "upload": ("new", True, "/a.txt"),
    "commit": ("update", True, ".versions"),
}


@kinds
@attacks.parametrize("target", TARGETS)
def test_a_store_that_keeps_failing_is_unavailable(make_world, kind, target):
    operation, is_write, suffix = TARGETS[target]
    world = make_world(kind, operation)
    busy = world.protocol.fail(*world.protocol.slow_down)
    faulty = world.break_some(
        reply(busy), lambda r: r.is_write == is_write and r.target.endswith(suffix)
    )
    with pytest.raises(ma.StorageUnavailableError) as caught:
        world.run(1, timeout_s=0.05)
    assert caught.value.exit_code == 5
    assert caught.value.object_name.endswith(suffix)
    assert world.stub.requests[-1] is faulty.hits[-1]
    world.check(1, done=False)
    world.stub.script = world.direct
    world.run(1)
    world.check(1)


# ------------------------------------------------------------------- what stays


def is_no_copy(request):
    """Tell whether it asks for no copy in the store, for which an upload stands in."""
    headers = {"x-amz-copy-source", "x-ms-copy-source"}
    return not (headers & set(request.headers) or "/rewriteTo/" in request.path)


@kinds
@pytest.mark.parametrize(
    "operation, status, error, code",
    [
        ("new", 403, ma.StorageAccessError, 4),
        ("fetch", 403, ma.StorageAccessError, 4),
        ("update", 409, ma.StorageDriverError, 1),  # whose first requests are `new`'s
        ("fetch", 409, ma.StorageDriverError, 1),
    ],
)
def test_a_refusal_at_any_request_is_final_and_nothing_follows_it(
    make_world, kind, operation, status, error, code
):
    """So a refused check never leads to a write; a 409 is of no condition here."""
    world = make_world(kind, operation)
    for number in itertools.count(1):
        refusal = reply(world.protocol.fail(status))
        faulty = world.break_some(refusal, nth(number, is_no_copy))
        try:
            world.run(number)
        except ma.ModelkitAssetsError as caught:
            assert (type(caught), caught.exit_code) == (error, code)
        else:
            break
        assert world.stub.requests[-1] is faulty.hits[0]
        world.check(number, done=False)
        world.stub.script = world.direct
        world.run(number)
        world.check(number)
    assert not faulty.hits
    assert number > 4
    world.check(number)


@kinds
@attacks.parametrize("operation", ["update", "fetch"])
def test_a_404_anywhere_loses_nothing(make_world, kind, operation):
    """It may be read as the absence of what may be absent, and is not tried again."""
    world = make_world(kind, operation)
    for number in itertools.count(1):
        faulty = world.break_some(reply(world.protocol.fail(404)), nth(number))
        try:
            world.run(number)
        except FileNotFoundError as caught:
            assert isinstance(caught, ma.ModelkitAssetsError)
            assert caught.exit_code == 3
            asked = [(r.method, r.path, r.body) for r in world.stub.requests]
            assert asked[number - 1] not in asked[number:]
            world.check(number, done=False)
            world.stub.script = world.direct
            world.run(number)
        world.check(number)
        if not faulty.hits:
            break
    assert number > 4


@kinds
def test_data_that_a_store_has_lost_is_no_empty_file(make_world, kind):
    world = make_world(kind, "fetch")
    faulty = world.break_some(
        reply(world.protocol.fail(404)), lambda r: r.target.endswith("/a.txt")
    )
    with pytest.raises(ma.ObjectDoesNotExistError) as caught:
        world.run(1)
    assert caught.value.object_name == f"{PREFIX}/x/0.0/a.txt"
    assert len(faulty.hits) == 1
    world.check(1, done=False)


# ------------------------------------------------------------------- flipped bytes


def is_large_file(request):
    return request.target.endswith("/0.0/deep/b.bin") and request.method != "HEAD"


@kinds
def test_a_byte_that_flips_once_is_fetched_once_more(make_world, kind):
    world = make_world(kind, "fetch")
    world.break_some(flip_answer, nth(1, is_large_file))
    world.run(1)
    assert count_fetches(world) == 2
    world.check(1)


def count_fetches(world):
    """Count how often the file was asked for from its first byte."""
    asked = filter(is_large_file, world.stub.requests)
    return [get_start(request) for request in asked].count(0)


@kinds
def test_a_byte_that_always_flips_is_an_error_that_says_all(make_world, kind):
    world = make_world(kind, "fetch")
    world.break_some(flip_answer, is_large_file)
    with pytest.raises(ma.AssetIntegrityError) as caught:
        world.run(1)
    error, right = caught.value, FILES["deep/b.bin"]
    wrong = flip_answer(None, lambda request: Answer(200, right)).body
    assert error.exit_code == 6
    assert error.object_name == f"{PREFIX}/x/0.0/deep/b.bin"
    assert hashlib.sha256(right).hexdigest() in error.expected
    assert hashlib.sha256(wrong).hexdigest() in error.got
    for fact in (error.object_name, error.expected, error.got):
        assert fact in str(error)
    assert count_fetches(world) == 2
    world.check(1, done=False)
    world.stub.script = world.direct
    world.run(1)
    world.check(1)


@pytest.mark.server
@pytest.mark.parametrize("times", [1, 2])
def test_a_flipped_byte_is_caught_by_the_store_where_no_digest_is_known(
    make_world, times
):
    """By GCS, which sends a checksum: of what modelkit published we know no digest."""
    world = make_world(GcsStore, "fetch")
    name = f"{PREFIX}/x/0.0.meta"
    manifest = json.loads(world.store.read_object(name))
    del manifest["files"]
    world.store.write_object(name, json.dumps(manifest).encode())
    choices = [nth(1, is_whole_file), nth(2, is_whole_file)][:times]
    world.break_some(flip_answer, lambda r: sum(choose(r) for choose in choices))
    if times == 1:
        world.run(1)
        world.check(1)
    else:
        with pytest.raises(ma.AssetIntegrityError) as caught:
            world.run(1)
        assert caught.value.object_name == f"{PREFIX}/x/0.0/deep/b.bin"
        world.check(1, done=False)
    assert count_fetches(world) == 2


def is_whole_file(request):
    return is_large_file(request) and get_start(request) == 0


@kinds
def test_a_flipped_byte_anywhere_is_never_served(make_world, kind):
    world = make_world(kind, "fetch")
    for number in itertools.count(1):
        faulty = world.break_some(flip_answer, nth(number))
        try:
            world.run(number)
        except ma.ModelkitAssetsError:
            world.check(number, done=False)
            world.stub.script = world.direct
            world.run(number)
        world.check(number)
        if not faulty.hits:
            break
    assert number > 4


@kinds
def test_a_byte_that_flips_on_its_way_up_is_never_served(make_world, kind, tmp_path):
    """The store tells, or else whoever fetches it."""
    world = make_world(kind)
    faulty = world.break_some(flip_request, lambda r: is_large_file(r) and r.is_write)
    try:
        world.run(1)
    except ma.ModelkitAssetsError:
        world.check(1, done=False)
        world.stub.script = world.direct
        world.run(1)
        world.check(1)
    else:
        manager = ma.AssetsManager(tmp_path, storage_provider=world.make_provider())
        with pytest.raises(ma.AssetIntegrityError) as caught:
            manager.fetch_asset("x-1")
        assert caught.value.object_name == f"{PREFIX}/x-1/0.0/deep/b.bin"
        assert not list(tmp_path.glob("x-1/*"))
    assert faulty.hits


@kinds
def test_a_body_that_is_too_long_is_an_error_that_names_the_object(make_world, kind):
    world = make_world(kind, "fetch")
    name = f"{PREFIX}/x/0.0/a.txt"
    world.store.write_object(name, FILES["a.txt"] + b"and more")
    with pytest.raises(ma.AssetIntegrityError) as caught:
        world.run(1)
    assert caught.value.object_name == name
    world.check(1, done=False)


# ------------------------------------------------------------------- back-off


class Clock:
    """Stands for `time`, and for what waits: that is to move the hand."""

    def __init__(self):
        self.now, self.waits = 1000.0, []

    def wait(self, pause):
        self.waits.append(pause)
        self.now += pause

    def monotonic(self):
        return self.now

    def process_time(self):
        return self.now


CAPS = [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0, 10.0]


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(ma, "time", clock)
    return clock


class Failing:
    """A driver whose object comes in pieces of 10 bytes, and breaks off at times."""

    timeout_s = 0.0

    bucket, package = "bucket", ""

    def __init__(self, *sizes):
        self.sizes, self.asked = list(sizes), []

    def stat_object(self, name):
        for number in self.sizes[:1]:
            del self.sizes[0]
            raise ConnectionError(number)
        return 0, "etag"

    def iterate_bytes(self, name, start, length, if_match):
        self.asked.append((start, length, if_match))
        size = self.sizes.pop(0) if self.sizes else 100
        for at in range(start, min(start + size, 100), 10):
            yield bytes([at]) * 10
        if start + size < 100:
            raise ConnectionError(start)


def retry(clock, failures, timeout_s=1e9):
    """Ask for something that fails so many times."""
    driver = Failing(*range(failures))
    return ma._RetryingDriver(driver, timeout_s, clock, ma._Contact()).stat_object("n")


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_pauses_are_a_random_share_of_caps_that_double(clock, monkeypatch, share):
    monkeypatch.setattr(ma, "_get_random", lambda: share)
    assert retry(clock, len(CAPS)) == (0, "etag")
    assert clock.waits == pytest.approx([share * cap for cap in CAPS])


def test_pauses_are_drawn_from_all_between_nothing_and_the_cap(clock):
    shares = []
    for _ in range(100):
        clock.waits.clear()
        retry(clock, len(CAPS))
        shares += [pause / cap for pause, cap in zip(clock.waits, CAPS)]
    assert 0 <= min(shares) < 0.1
    assert 0.9 < max(shares) <= 1
    assert len(set(shares)) > 100


@pytest.mark.parametrize("timeout_s", [0, 0.3, 60])
def test_no_pause_goes_beyond_the_timeout(clock, monkeypatch, timeout_s):
    monkeypatch.setattr(ma, "_get_random", lambda: 1.0)
    with pytest.raises(ma.StorageUnavailableError) as caught:
        retry(clock, 1000, timeout_s)
    assert timeout_s - 10 <= sum(clock.waits) <= timeout_s
    assert caught.value.seconds == pytest.approx(sum(clock.waits))


def test_bytes_that_came_begin_the_back_off_anew(clock, monkeypatch):
    monkeypatch.setattr(ma, "_STALL_BYTES", 10)  # that are worth a wait
    monkeypatch.setattr(ma, "_get_random", lambda: 1.0)
    driver = Failing(0, 0, 30, 0, 0, 10, 0)
    reading = ma._RetryingDriver(driver, 60, clock, ma._Contact())
    chunks = reading.iterate_bytes("n", 0, 100, "etag")
    assert b"".join(chunks) == b"".join(bytes([at]) * 10 for at in range(0, 100, 10))
    assert [start for start, _, _ in driver.asked] == [0, 0, 0, 30, 30, 30, 40, 40]
    assert all(start + length == 100 for start, length, _ in driver.asked)
    assert clock.waits == pytest.approx([0.1, 0.2, 0.1, 0.2, 0.4, 0.1, 0.2])


def test_the_time_that_a_reader_takes_is_no_stall_of_the_store(clock):
    driver, came = Failing(), 0
    for data in ma._RetryingDriver(driver, 60, clock, ma._Contact()).iterate_bytes(
        "n", 0, 100
    ):
        came += len(data)
        clock.wait(60)  # a disk that is slow
    assert (came, len(driver.asked)) == (100, 1)


def test_a_store_that_gives_no_more_is_given_up_however_much_came_before(
    clock, monkeypatch
):
    monkeypatch.setattr(ma, "_get_random", lambda: 1.0)
    reading = ma._RetryingDriver(Failing(50, *[0] * 1000), 60, clock, ma._Contact())
    with pytest.raises(ma.StorageUnavailableError) as caught:
        list(reading.iterate_bytes("n", 0, None))
    assert caught.value.seconds == pytest.approx(sum(clock.waits))
    assert 50 <= sum(clock.waits) <= 60


class Refusing(Failing):
    """A driver that cannot connect, so many times before and after one answer."""

    variables = {"S3_ENDPOINT": ("endpoint_url", False)}

    def stat_object(self, name):
        if self.sizes.pop(0):
            raise ConnectionRefusedError("refused")
        return 0, "etag"


def test_a_store_that_never_answered_is_given_up_soon_and_one_that_did_is_not(
    clock, monkeypatch
):
    monkeypatch.setattr(ma, "_get_random", lambda: 1.0)
    driver = ma._RetryingDriver(Refusing(*[1] * 99), 300, clock, ma._Contact())
    with pytest.raises(ma.StorageUnavailableError, match="check S3_ENDPOINT") as caught:
        driver.stat_object("n")
    assert caught.value.seconds <= ma._CONNECT_S
    before = sum(clock.waits)
    driver = ma._RetryingDriver(Refusing(1, 0, *[1] * 20, 0), 300, clock, ma._Contact())
    for _ in range(2):
        assert driver.stat_object("n") == (0, "etag")
    assert sum(clock.waits) - before > 100


# ------------------------------------------------------------------- secrets


SAS = "azure by a signature"
SHOWN = ["s3", "gcs", "az", SAS]
FAILURES = {
    **{str(status): status for status in (400, 401, 403, 404, 409, 429, 500, 503)},
    "reset": reset,
    "cut": cut_answer,
    "flipped": flip_answer,
}


@pytest.fixture(params=attacks.mark_all_but_the_first(SHOWN))
def keeper(request, stub, require_sdk, hurry, monkeypatch, tmp_path):
    """A protocol whose secrets are configured, and what they look like."""
    name = "az" if request.param == SAS else request.param
    protocol = next(p for p in PROTOCOLS if p.provider == name)
    require_sdk(protocol)
    settings = {**protocol.environ(stub.endpoint), **protocol.bare_environ()}
    secrets = list(protocol.secrets)
    if protocol is GCS:
        pytest.importorskip("cryptography")
        account = make_service_account(stub.endpoint)
        (tmp_path / "account.json").write_text(json.dumps(account))
        credentials = str(tmp_path / "account.json")
        settings = {"GOOGLE_APPLICATION_CREDENTIALS": credentials}
        settings["API_ENDPOINT_OVERRIDE"] = stub.endpoint
        secrets += account["private_key"].split("\n")[1:-2]
    if request.param == SAS:
        text = f"BlobEndpoint={stub.endpoint}/account;SharedAccessSignature="
        text += f"sv=2024-11-04&sp=r&sig={AZURE.secrets[1]}"
        settings = {"AZURE_STORAGE_CONNECTION_STRING": text}
    if protocol is AZURE:
        secrets += settings.values()
        secrets.append(base64.b64decode(AZURE.secrets[0]).decode())
    settings["MODELKIT_STORAGE_PROVIDER"] = name
    settings["MODELKIT_STORAGE_BUCKET"] = "bucket"
    settings["MODELKIT_STORAGE_TIMEOUT_S"] = "0.05"
    for variable, value in settings.items():
        monkeypatch.setenv(variable, value)
    return protocol, secrets


def fail(stub, protocol, failure):
    """Let each request to the stub, but those for tokens, fail in that way."""
    fault = FAILURES[failure]
    fault = reply(protocol.fail(fault)) if isinstance(fault, int) else fault

    def show(request):
        return protocol.show(request, b'{"versions": ["0.0"]}')

    stub.script = give_tokens(Faulty(show, fault, lambda request: True))


@pytest.mark.server
def test_no_secret_is_shown_by_any_failure(
    keeper, stub, caplog, capfd, tmp_path, assets_dir
):
    """Nor by what the SDKs log at DEBUG."""
    protocol, secrets = keeper
    (tmp_path / "source").write_bytes(b"data")
    caplog.set_level(logging.DEBUG)
    provider = ma.StorageProvider()
    manager = ma.AssetsManager(storage_provider=provider)
    shown = [repr(value) for value in (provider, provider.driver, manager)]
    attempts = (
        lambda: manager.fetch_asset("a:0.0"),
        lambda: provider.update(tmp_path / "source", "a"),
        lambda: list(provider.iterate_assets()),
        lambda: provider.driver.upload_object(str(tmp_path / "source"), "n", print),
    )
    failed = 0
    for failure, attempt in itertools.product(FAILURES, attempts):
        fail(stub, protocol, failure)
        try:
            attempt()
        except (ma.ModelkitAssetsError, OSError) as error:
            shown += describe(error)
            failed += 1
    for value in (provider, manager):
        shown += try_to_pickle(value)
    shown += [caplog.text, *capfd.readouterr()]
    assert failed > 2 * len(FAILURES)
    assert [s for s in secrets if any(s in text for text in shown)] == []


@pytest.mark.server
@attacks.parametrize("failure", ["403", "503", "reset"])
def test_no_secret_is_shown_by_the_command_line_with_all_it_can_say(
    keeper, failure, stub, caplog, capfd, assets_dir
):
    protocol, secrets = keeper
    fail(stub, protocol, failure)
    caplog.set_level(logging.DEBUG)
    assert ma.main(["fetch", "a", "-v"]) != 0
    out, err = capfd.readouterr()
    assert "Traceback" in err
    assert "modelkit_assets: error: " in err
    shown = [out, err, caplog.text]
    assert [s for s in secrets if any(s in text for text in shown)] == []


def describe(error):
    """Return all that may be shown of an error, and of those that led to it."""
    yield "".join(traceback.format_exception(type(error), error, error.__traceback__))
    yield pickle.dumps(error).decode("latin-1")
    while error:
        yield from (str(error), repr(error), repr(vars(error)))
        error = error.__cause__


def try_to_pickle(value):
    """Return what is shown where that fails; a pickled driver has its settings."""
    try:
        pickle.loads(pickle.dumps(value))
    except Exception as error:
        yield from describe(error)


@pytest.mark.server
def test_what_the_sdks_log_is_still_there_but_for_the_secrets(keeper, stub, caplog):
    """So the tests above do see it."""
    protocol, _ = keeper
    fail(stub, protocol, "403")
    caplog.set_level(logging.DEBUG)
    with pytest.raises(ma.StorageAccessError):
        ma.StorageProvider().get_versions_info("a")
    requests = [r for r in caplog.records if r.name == "urllib3.connectionpool"]
    assert any("a.versions" in record.getMessage() for record in requests)
