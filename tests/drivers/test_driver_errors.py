"""What a store answers, as the built-in exceptions of the contract, then as our own.

A stub says what a real store cannot be made to say; see `stub_server.py`.
"""

import hashlib
import json
import socket
import traceback

import pytest
from contract import collect, upload
from stub_server import (
    AZURE,
    BADLY,
    GCS,
    PROTOCOLS,
    RESET,
    S3,
    SILENCE,
    WELL,
    Answer,
    Request,
    StubServer,
    in_turn,
)

import modelkit_assets as ma

pytestmark = pytest.mark.server

MIB = 1 << 20
NAMES = [protocol.provider for protocol in PROTOCOLS]
TRANSIENT = (ConnectionError, TimeoutError)
MEANT = (FileNotFoundError, FileExistsError, PermissionError, *TRANSIENT, ValueError)


@pytest.fixture(scope="module", params=PROTOCOLS, ids=NAMES)
def made(request, require_sdk):
    """A protocol, a stub, and a driver of one attempt a request, which talks to it."""
    protocol = request.param
    require_sdk(protocol)
    with StubServer() as stub, pytest.MonkeyPatch.context() as patch:
        for variable, value in protocol.environ(stub.endpoint).items():
            patch.setenv(variable, value)
        client = make_client(protocol, stub.endpoint)
        options = {"provider": protocol.provider, "bucket": "bucket", "client": client}
        driver = ma.StorageProvider(**options).driver
        assert driver.client  # made now, while the settings are there
        yield protocol, stub, driver


def make_client(protocol, endpoint, timeout_s=10):
    """Make a client that gives up at once, by the SDK's own means."""
    if protocol is S3:
        import boto3
        from botocore.config import Config

        config = Config(read_timeout=timeout_s, retries={"total_max_attempts": 1})
        session = boto3.session.Session("AKIDEXAMPLE", S3.secrets[0], None, "eu-west-3")
        return session.client("s3", endpoint_url=endpoint, config=config)
    if protocol is AZURE:
        from azure.storage.blob import BlobServiceClient

        (text,) = AZURE.environ(endpoint).values()
        options = {"retry_total": 0, "read_timeout": timeout_s}
        options.update({"max_single_get_size": 4 * MIB, "max_chunk_get_size": 4 * MIB})
        return BlobServiceClient.from_connection_string(text, **options)
    return make_gcs_client(endpoint, timeout_s)


def make_gcs_client(endpoint, timeout_s):
    from google.auth.credentials import AnonymousCredentials
    from google.cloud.storage import Client
    from requests.adapters import HTTPAdapter

    class Impatient(HTTPAdapter):
        def send(self, request, **options):
            return super().send(request, **{**options, "timeout": timeout_s})

    options = {"client_options": {"api_endpoint": endpoint}}
    client = Client(project="p", credentials=AnonymousCredentials(), **options)
    client._http.mount("http://", Impatient())
    return client


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source"
    path.write_bytes(b"data")
    return str(path)


OPERATIONS = {
    "stat": lambda driver, source: driver.stat_object("n"),
    "read": lambda driver, source: driver.read_object("n"),
    "write": lambda driver, source: driver.write_object(b"data", "n"),
    "create": lambda driver, source: driver.write_object(b"data", "n", if_match=""),
    "replace": lambda driver, source: driver.write_object(b"data", "n", if_match="1"),
    "iterate": lambda driver, source: collect(driver, "n"),
    "range": lambda driver, source: collect(driver, "n", 1, 6),
    "upload": lambda driver, source: upload(driver, source, "n"),
    "copy": lambda driver, source: driver.copy_object("m", "n"),
    "list": lambda driver, source: list(driver.iterate_objects("a")),
    "delete": lambda driver, source: driver.delete_object("n"),
}
operations = pytest.mark.parametrize("operation", OPERATIONS)


def pairs(is_meant):
    """Parametrize with those protocols and operations that a promise is about."""
    chosen = [
        pytest.param(protocol, operation, id=f"{protocol.provider}-{operation}")
        for protocol in PROTOCOLS
        for operation in OPERATIONS
        if is_meant(protocol, operation)
    ]
    return pytest.mark.parametrize(
        "made, operation", chosen, indirect=["made"], scope="module"
    )


def only(protocol):
    return pytest.mark.parametrize(
        "made", [protocol], indirect=True, ids=[protocol.provider], scope="module"
    )


def meet(made, operation, source, answer):
    """Return what an operation raises where the store always gives this answer."""
    _, stub, driver = made
    stub.script, stub.requests[:] = in_turn(answer), []
    with pytest.raises(Exception) as caught:  # noqa: B017, PT011 - the test looks
        OPERATIONS[operation](driver, source)
    assert stub.requests
    return caught.value


# ------------------------------------------------------------------- exact errors


@pytest.mark.parametrize("operation", ["stat", "read", "iterate", "range", "copy"])
def test_404_means_absent(made, operation, source):
    error = meet(made, operation, source, made[0].fail(404))
    assert type(error) is FileNotFoundError


@pytest.mark.parametrize("status", [400, 401, 403, 405, 409, 410, 412, 416, 429, 500])
def test_nothing_but_404_means_absent(made, status, source):
    for operation in ("stat", "read"):
        error = meet(made, operation, source, made[0].fail(status))
        assert not isinstance(error, FileNotFoundError)


def test_deleting_what_is_absent_is_no_error(made, source):
    protocol, stub, driver = made
    status = 204 if protocol is S3 else 404  # which S3 answers in either case
    stub.script = in_turn(protocol.fail(status)._replace(body=b""))
    driver.delete_object("n")


@operations
@pytest.mark.parametrize("status", [401, 403])
def test_401_and_403_are_a_refusal(made, operation, status, source):
    error = meet(made, operation, source, made[0].fail(status))
    assert type(error) is PermissionError


@only(S3)  # which answers 400 to it
@pytest.mark.parametrize("code", ["ExpiredToken", "InvalidToken"])
def test_a_token_that_s3_has_no_faith_in_is_a_refusal(made, code, source):
    error = meet(made, "read", source, S3.fail(400, code))
    assert type(error) is PermissionError


CONFLICTS = {
    "s3": [
        (412, "PreconditionFailed"),
        (409, "ConditionalRequestConflict"),
        (409, "ConcurrentModification"),  # Ceph's
    ],
    "gcs": [(412, "conditionNotMet")],
    "az": [(412, "ConditionNotMet"), (409, "BlobAlreadyExists")],
}


@pytest.mark.parametrize("operation", ["create", "replace", "upload", "copy"])
def test_a_condition_that_failed_is_told_apart(made, operation, source):
    for status, code in CONFLICTS[made[0].provider]:
        error = meet(made, operation, source, made[0].fail(status, code))
        assert type(error) is FileExistsError, code


@only(S3)  # the others answer 412 to it
def test_an_object_that_went_away_fails_the_condition(made, source):
    error = meet(made, "replace", source, S3.fail(404, "NoSuchKey"))
    assert type(error) is FileExistsError


@pytest.mark.parametrize("operation", ["create", "replace", "write", "upload"])
@pytest.mark.parametrize("status", [400, 405, 409, 410])
def test_no_other_refusal_is_read_as_one_of_these(made, operation, status, source):
    error = meet(made, operation, source, made[0].fail(status))
    assert not isinstance(error, MEANT)


@operations
@pytest.mark.parametrize("answer", [429, 500, 503, "slow down", RESET])
def test_what_may_pass_is_worth_retrying(made, operation, answer, source):
    if answer == "slow down":
        answer = made[0].fail(*made[0].slow_down)
    elif answer is not RESET:
        answer = made[0].fail(answer)
    error = meet(made, operation, source, answer)
    assert isinstance(error, TRANSIENT)


# S3 does not tell it from a missing object in the answer to a HEAD
@pairs(lambda protocol, operation: operation not in ("stat", "delete"))
def test_a_missing_bucket_is_a_wrong_setting(made, operation, source):
    protocol = made[0]
    error = meet(made, operation, source, protocol.fail(*protocol.missing_bucket))
    assert type(error) is ValueError
    assert "MODELKIT_STORAGE_BUCKET" in str(error)


@pytest.mark.parametrize("operation", ["stat", "read", "create", "iterate", "list"])
@pytest.mark.parametrize("protocol", PROTOCOLS, ids=NAMES)
def test_a_refused_connection_is_worth_retrying(
    protocol, operation, source, require_sdk, monkeypatch
):
    require_sdk(protocol)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # and nobody listens
        endpoint = f"http://127.0.0.1:{free.getsockname()[1]}"
        driver = make_driver(protocol, endpoint, monkeypatch)
        with pytest.raises(TRANSIENT):
            OPERATIONS[operation](driver, source)


@pytest.mark.parametrize("operation", ["stat", "read", "create", "iterate", "list"])
@pytest.mark.parametrize("protocol", PROTOCOLS, ids=NAMES)
def test_silence_is_worth_retrying(
    protocol, operation, source, stub, require_sdk, monkeypatch
):
    require_sdk(protocol)
    driver = make_driver(protocol, stub.endpoint, monkeypatch, timeout_s=0.2)
    stub.script = in_turn(SILENCE)
    with pytest.raises(TRANSIENT):
        OPERATIONS[operation](driver, source)


def make_driver(protocol, endpoint, monkeypatch, **options):
    for variable, value in protocol.environ(endpoint).items():
        monkeypatch.setenv(variable, value)
    client = make_client(protocol, endpoint, **options)
    provider = protocol.provider
    return ma.StorageProvider(provider=provider, bucket="bucket", client=client).driver


@pytest.mark.parametrize("cut", [0, 700_000])
@pytest.mark.parametrize("operation", ["read", "iterate"])
def test_a_short_body_is_worth_retrying(made, operation, cut, source):
    data = bytes(1_000_000)
    protocol, stub, driver = made
    stub.script = lambda request: protocol.show(request, data)._replace(cut=cut)
    with pytest.raises(TRANSIENT):
        OPERATIONS[operation](driver, source)


def test_what_came_before_the_cut_has_been_yielded(made):
    protocol, stub, driver = made
    data = bytes(range(256)) * (6 * MIB // 256)
    stub.script = lambda request: protocol.show(request, data)._replace(cut=5 * MIB)
    got = bytearray()
    with pytest.raises(TRANSIENT):  # noqa: PT012
        for chunk in driver.iterate_bytes("n"):
            got += chunk
    assert data.startswith(got)
    assert len(got) >= 4 * MIB


BROKEN = {
    "reset": {"cut": 3, "ending": RESET},
    "short": {"cut": 3},
    "badly chunked": {"chunks": BADLY},
    "chunked and short": {"chunks": WELL, "cut": -5},
    "chunked and reset": {"chunks": WELL, "cut": 5, "ending": RESET},
}
broken = pytest.mark.parametrize("how", BROKEN.values(), ids=BROKEN)


@broken
@pytest.mark.parametrize("operation", ["read", "iterate", "range", "list"])
def test_a_body_that_breaks_is_worth_retrying(made, operation, how, source):
    protocol, stub, driver = made
    stub.script = lambda request: protocol.show(request, b"<data/>")._replace(**how)
    with pytest.raises(TRANSIENT):
        OPERATIONS[operation](driver, source)


@broken
@operations
def test_a_failure_whose_text_breaks_is_worth_retrying(made, operation, how, source):
    """Whatever has come of it: no more is known than that the store was in trouble."""
    error = meet(made, operation, source, made[0].fail(503)._replace(**how))
    assert isinstance(error, TRANSIENT)


@operations
@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b"null", b"\xff", b"<a", b"<a/>"])
@pytest.mark.parametrize("chunks", [None, WELL], ids=["whole", "chunked"])
def test_a_failure_is_known_by_its_status(made, operation, text, chunks, source):
    for status, kind in ((503, TRANSIENT), (403, (PermissionError,))):
        answer = Answer(status, text, chunks=chunks)
        error = meet(made, operation, source, answer)
        # what is no text at all may be a broken answer
        assert isinstance(error, (*kind, ConnectionError) if text == b"\xff" else kind)


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=NAMES)
@pytest.mark.parametrize("operation", ["read", "iterate", "range", "list"])
@pytest.mark.parametrize("status", [200, 503])
def test_a_body_that_stalls_is_worth_retrying(
    protocol, operation, status, source, stub, require_sdk, monkeypatch
):
    require_sdk(protocol)
    driver = make_driver(protocol, stub.endpoint, monkeypatch, timeout_s=0.2)
    stalled = {"cut": 3, "ending": SILENCE}

    def script(request):
        answer = protocol.show(request, b"<data/>")
        return (answer if status == 200 else protocol.fail(503))._replace(**stalled)

    stub.script = script
    with pytest.raises(TRANSIENT):
        OPERATIONS[operation](driver, source)


@operations
def test_what_a_store_cannot_do_is_told(made, operation, source):
    error = meet(made, operation, source, made[0].fail(501, "NotImplemented"))
    assert type(error) is NotImplementedError


@operations
@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirects_without_end_come_to_one(made, operation, status, source):
    protocol, stub, _ = made
    answer = protocol.fail(status)._replace(headers={"Location": stub.endpoint + "/x"})
    error = meet(made, operation, source, answer)
    assert isinstance(error, (OSError, ValueError))
    assert type(error).__module__ == "builtins"


def test_a_chunked_answer_is_read_whole(made):
    protocol, stub, driver = made
    stub.script = lambda request: protocol.show(request, b"data")._replace(chunks=WELL)
    assert driver.read_object("n")[0] == b"data"
    assert collect(driver, "n") == b"data"
    assert collect(driver, "n", 1, 2) == b"at"
    assert collect(driver, "n", 1) == b"ata"


WRONG_RANGES = {
    "whole": (200, b"0123456789", None),
    "whole as a part": (206, b"0123456789", "bytes 0-9/10"),
    "another part": (206, b"4567", "bytes 4-7/10"),
    "too long": (206, b"34567", "bytes 3-7/10"),
    "too short": (206, b"345", "bytes 3-5/10"),
    "longer than told": (206, b"34567", "bytes 3-6/10"),
    "shorter than told": (206, b"345", "bytes 3-6/10"),
    "no Content-Range": (206, b"3456", None),
    "no range": (206, b"3456", "bytes */10"),
    "another unit": (206, b"3456", "pages 3-6/10"),
    "garbage": (206, b"3456", "bytes x"),
}


@pytest.mark.parametrize("answer", WRONG_RANGES.values(), ids=WRONG_RANGES)
def test_bytes_from_elsewhere_are_refused(made, answer):
    protocol, stub, driver = made
    status, body, area = answer
    headers = dict(protocol.show(Request("GET", "/?alt=media", {}, b""), b"").headers)
    headers.update({"Content-Range": area} if area else {})
    stub.script = in_turn(Answer(status, body, headers))
    got = []
    with pytest.raises(ConnectionError):  # noqa: PT012
        for chunk in driver.iterate_bytes("n", 3, 4):
            got.append(bytes(chunk))
    assert b"3456".startswith(b"".join(got)[:4])


def test_the_store_is_asked_for_the_range_and_the_etag(made):
    protocol, stub, driver = made
    stub.script = lambda request: protocol.show(request, b"0123456789")
    etag = driver.read_object("n")[1]
    stub.requests.clear()
    collect(driver, "n", 3, 4, etag)
    collect(driver, "n", 3, None, etag)
    collect(driver, "n", 0, None, etag)
    assert [one.range for one in stub.requests] == ["bytes=3-6", "bytes=3-", None]
    for one in stub.requests:
        if protocol is GCS:
            assert f"ifGenerationMatch={etag}" in one.path
            # for which GCS sends what is stored; else it may decompress
            assert one.headers["accept-encoding"] == "gzip"
        else:
            assert one.headers["if-match"] == etag


def test_a_reader_that_leaves_ends_its_request(made):
    """The store sees the connection end, long before all that it has to say."""
    protocol, stub, driver = made
    data = bytes(64 * MIB)
    stub.script = lambda request: protocol.show(request, data)
    chunks = driver.iterate_bytes("n")
    assert bytes(next(chunks)).strip(b"\0") == b""
    stub.hung_up.clear()
    chunks.close()
    assert stub.hung_up.wait(10)


# ------------------------------------------------------------------- through the core


@pytest.fixture(params=PROTOCOLS, ids=NAMES)
def configured(request, require_sdk, stub, monkeypatch):
    """A protocol and a stub, which is the configured store; nothing waits long."""
    protocol = request.param
    require_sdk(protocol)
    settings = {**protocol.bare_environ(), **protocol.environ(stub.endpoint)}
    settings["MODELKIT_STORAGE_PROVIDER"] = protocol.provider
    settings["MODELKIT_STORAGE_BUCKET"] = "bucket"
    settings["MODELKIT_STORAGE_TIMEOUT_S"] = "0"
    for variable, value in settings.items():
        monkeypatch.setenv(variable, value)
    return protocol, stub


OUTCOMES = {
    "absent": (lambda protocol: protocol.fail(404), ma.ObjectDoesNotExistError, 3),
    "unknown": (lambda protocol: protocol.fail(401), ma.StorageAccessError, 4),
    "refused": (lambda protocol: protocol.fail(403), ma.StorageAccessError, 4),
    "no bucket": (
        lambda protocol: protocol.fail(*protocol.missing_bucket),
        ma.ConfigurationError,
        2,
    ),
    "broken": (lambda protocol: protocol.fail(500), ma.StorageUnavailableError, 5),
    "busy": (
        lambda protocol: protocol.fail(*protocol.slow_down),
        ma.StorageUnavailableError,
        5,
    ),
    "reset": (lambda protocol: RESET, ma.StorageUnavailableError, 5),
}


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_each_answer_has_its_error_and_its_exit_code(
    configured, outcome, assets_dir, capsys
):
    protocol, stub = configured
    answer, error, code = OUTCOMES[outcome]
    stub.script = in_turn(answer(protocol))
    with pytest.raises(error) as caught:
        ma.StorageProvider()._read_manifest("a", "0.0")
    assert type(caught.value) is error
    assert caught.value.exit_code == code
    assert ma.main(["fetch", "a:0.0"]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("modelkit_assets: error: ")
    assert captured.err.count("\n") == 1
    line = traceback.format_exception_only(type(caught.value), caught.value)
    for text in (captured.err, "".join(line), repr(caught.value)):
        assert not any(secret in text for secret in protocol.secrets)


@pytest.mark.parametrize("command", ["new", "update", "list"])
@pytest.mark.parametrize("outcome", ["unknown", "refused", "no bucket", "broken"])
def test_no_failure_is_taken_for_absence_and_nothing_is_written(
    configured, outcome, command, source, capsys
):
    protocol, stub = configured
    answer, error, code = OUTCOMES[outcome]
    stub.script = in_turn(answer(protocol))
    arguments = [] if command == "list" else [source, "a", "--yes"]
    assert ma.main([command, *arguments]) == code
    assert stub.methods
    assert set(stub.methods) <= {"GET", "HEAD"}


@pytest.mark.parametrize("part", [".versions", ".meta", "0.0"])
def test_a_refused_existence_check_never_leads_to_a_write(configured, part, source):
    """Of the three that `new` makes, whichever is refused."""
    protocol, stub = configured

    def script(request):
        path = request.path.partition("?")[0]
        return protocol.fail(403 if path.endswith(part) else 404)

    stub.script = script
    with pytest.raises(ma.StorageAccessError):
        ma.StorageProvider().new(source, "a")
    assert stub.methods
    assert set(stub.methods) <= {"GET", "HEAD"}


def cut_once_in(protocol, data, place):
    """Serve an object so that a connection breaks at that byte, once."""
    times = [1]

    def script(request):
        answer = protocol.show(request, data)
        area = answer.headers.get("Content-Range", "bytes 0-")
        start = int(area.partition(" ")[2].partition("-")[0])
        if times[0] and start <= place < start + len(answer.body):
            times[0] -= 1
            return answer._replace(cut=place - start)
        return answer

    return script


def test_a_body_cut_in_the_middle_is_resumed_where_it_broke(configured, tmp_path):
    protocol, stub = configured
    data = hashlib.shake_128(b"").digest(6 * MIB)
    digest = hashlib.sha256(data).hexdigest()
    files = [{"path": "", "size": len(data), "sha256": digest}]
    about = {"is_directory": False, "contents": [], "files": files}
    manifest = json.dumps({**about, "push_date": "2026-01-01T00:00:00+00:00"}).encode()
    serve_data = cut_once_in(protocol, data, 4 * MIB + 300_000)

    def script(request):
        if ".meta" in request.path:
            return protocol.show(request, manifest)
        return serve_data(request)

    stub.script = script
    provider = ma.StorageProvider(timeout_s=60)
    got = provider.download("a", "0.0", tmp_path)["path"]
    with open(got, "rb") as file:
        assert hashlib.sha256(file.read()).hexdigest() == digest
    asked = [request for request in stub.requests if ".meta" not in request.path]
    start = int(asked[-1].range.partition("=")[2].partition("-")[0])
    assert 4 * MIB <= start <= 4 * MIB + 300_000  # and nothing before that again
    assert [request.range for request in asked[:-1]].count(asked[0].range) == 1


def test_an_unavailable_store_is_reported_before_long(configured):
    """However patient the SDK is: it is MODELKIT_STORAGE_TIMEOUT_S that says how."""
    protocol, stub = configured
    stub.script = in_turn(protocol.fail(503))
    for attempt in (
        lambda provider: provider.get_versions_info("a"),
        lambda provider: list(provider.iterate_assets()),
    ):
        with pytest.raises(ma.StorageUnavailableError):
            attempt(ma.StorageProvider(timeout_s=0))
    assert len(stub.requests) <= 8  # each after a pause that doubles
