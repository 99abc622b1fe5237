"""A store that gives nothing, or next to nothing, is tried again and then given up."""

import os
import signal
import time

import attacks
import pytest
from stub_server import DRIP, PROTOCOLS, SILENCE, TRICKLE, Faulty, give_tokens

import modelkit_assets as ma

pytestmark = pytest.mark.server
PATIENCE_S = 1.0  # in place of 30
DATA = bytes(range(250)) * 8  # 40 s of a trickle


@pytest.fixture(params=PROTOCOLS, ids=lambda one: one.provider)
def protocol(request, stub, require_sdk, monkeypatch):
    """A protocol that is configured, whose store has one object for each name."""
    protocol = request.param
    require_sdk(protocol)
    settings = {**protocol.bare_environ(), **protocol.environ(stub.endpoint)}
    for variable, value in settings.items():
        monkeypatch.setenv(variable, value)
    stub.script = give_tokens(lambda request: protocol.show(request, DATA))
    monkeypatch.setattr(ma, "_SILENCE_S", PATIENCE_S)
    return protocol


def trickle(request, script):
    return script(request)._replace(ending=TRICKLE)


def stall(request, script):
    """Let half of the body through, and then say nothing."""
    answer = script(request)
    return answer._replace(cut=len(answer.body) // 2, ending=SILENCE)


def be_silent(request, script):
    return SILENCE


FAULTS = {"trickle": trickle, "stall": stall, "silence": be_silent}


@attacks.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_body_that_does_not_come_is_broken_off_and_goes_on(stub, protocol, fault):
    provider = ma.StorageProvider(60, provider=protocol.provider, bucket="bucket")
    driver = provider._connect()
    assert driver.read_object("n")[0] == DATA  # the first request is the SDK's own
    faulty = Faulty(stub.script, fault, lambda request: not faulty.hits)
    stub.script = faulty
    begun = time.monotonic()
    came = b"".join(map(bytes, driver.iterate_bytes("n", 0, None)))
    assert came == DATA
    assert len(faulty.hits) == 1
    assert PATIENCE_S <= time.monotonic() - begun < 10 * PATIENCE_S


@attacks.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_the_timeout_is_what_a_user_waits_for_a_store_that_gives_nothing(
    stub, protocol, fault
):
    stub.script = Faulty(stub.script, fault, lambda request: True)
    begun = time.monotonic()
    provider = ma.StorageProvider(3, provider=protocol.provider, bucket="bucket")
    with pytest.raises(ma.StorageUnavailableError):
        list(provider._connect().iterate_bytes("n", 0, None))
    # of a body that stalls half-way, some halves are worth another try
    assert time.monotonic() - begun < (10 if fault is be_silent else 20)


def drip(request, script):
    """Send the headers a byte at a time, which no time-out of a socket notices."""
    return script(request)._replace(ending=DRIP)


def read(provider, tmp_path):
    provider._connect().read_object("n")


def stat(provider, tmp_path):
    provider._connect().stat_object("n")


def write(provider, tmp_path):
    provider._connect().write_object(b"data", "n", if_match="")


def list_objects(provider, tmp_path):
    provider._connect().iterate_objects("n")


def bring(provider, tmp_path):
    """Bring the bytes of a version, as a fetch does."""
    manifest = ma.Manifest(False, (ma.ManifestFile("", len(DATA)),), (), {})
    pieces = ma._plan_pieces("n", manifest)
    with provider._start_job() as job:
        download = ma._Download(str(tmp_path / "data"), job, provider._connect(job))
        download.bring(pieces, manifest, {}, {})


TRICKLES = [(drip, read), (drip, bring), (trickle, read), (drip, stat), (drip, write)]


@attacks.parametrize("fault, work", [*TRICKLES, (drip, list_objects)])
def test_what_trickles_in_is_given_up_with_a_clear_error(
    stub, protocol, fault, work, tmp_path, monkeypatch
):
    monkeypatch.setattr(ma, "_LATE_S", 0.0)
    stub.script = Faulty(stub.script, fault, lambda request: True)
    provider = ma.StorageProvider(1, provider=protocol.provider, bucket="bucket")
    begun = time.monotonic()
    with pytest.raises(ma.StorageUnavailableError, match="nothing comes|fails on"):
        work(provider, tmp_path)
    assert time.monotonic() - begun < 10


def test_slow_work_that_goes_on_is_no_stall(local, tmp_path, monkeypatch):
    """However long it takes in all: 30 lists, of 0.1 s each, with a patience of 1 s."""
    (tmp_path / "file").write_text("1")
    provider = ma.StorageProvider(1)
    for number in range(30):
        provider.new(tmp_path / "file", f"a{number}")
    read_object = ma.LocalDriver.read_object

    def read_slowly(self, name):
        time.sleep(0.1)
        return read_object(self, name)

    monkeypatch.setattr(ma.LocalDriver, "read_object", read_slowly)
    patience = property(lambda self: 1.0)
    monkeypatch.setattr(ma._RetryingDriver, "patience_s", patience)
    assert len(list(provider.iterate_assets())) == 30


def test_an_upload_is_not_given_up_while_its_sdk_does_not_tell(
    local, tmp_path, monkeypatch
):
    (tmp_path / "file").write_text("1")
    upload = ma.LocalDriver.upload_object

    def upload_slowly(self, *args, **how):
        time.sleep(2)
        upload(self, *args, **how)

    monkeypatch.setattr(ma.LocalDriver, "upload_object", upload_slowly)
    patience = property(lambda self: 1.0)
    monkeypatch.setattr(ma._RetryingDriver, "patience_s", patience)
    assert ma.StorageProvider(1).new(tmp_path / "file", "x") == "0.0"


@pytest.fixture
def interruptible():
    """Ctrl-C interrupts, also where the tests are a shell's job in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_who_was_interrupted_asks_no_more(local, tmp_path, monkeypatch, interruptible):
    """The thread that it left behind would publish later."""
    (tmp_path / "file").write_text("1")
    provider = ma.StorageProvider(60)
    provider.new(tmp_path / "file", "x")
    write_object, tries = ma.LocalDriver.write_object, []

    def fail(self, data, name, *, if_match=None):
        if name.endswith(".versions"):
            tries.append(name)
            if len(tries) == 3:
                os.kill(os.getpid(), signal.SIGINT)
            if len(tries) < 6:
                raise ConnectionError("reset")
        return write_object(self, data, name, if_match=if_match)

    monkeypatch.setattr(ma.LocalDriver, "write_object", fail)
    with pytest.raises(KeyboardInterrupt):
        provider.update(tmp_path / "file", "x")
    seen = len(tries)
    time.sleep(1.5)
    assert len(tries) <= seen + 1 < 6
    assert provider.get_versions_info("x") == ["0.0"]
