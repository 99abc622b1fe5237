"""How S3's reads and small uploads, but the first, reach the store: signatures, TLS.

What they mean is in test_s3_reader.py, and in the contract of all drivers.
"""

import datetime
import hashlib
import importlib.util
import ipaddress
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import traceback
from pathlib import Path

import pytest
from contract import AWKWARD_NAMES, collect
from stores import MotoStore, RcloneStore
from stub_server import (
    CLOSED,
    RESET,
    S3,
    SILENCE,
    WELL,
    Answer,
    StubServer,
    forward,
    in_turn,
)

import modelkit_assets as ma

pytestmark = pytest.mark.server

CORE = Path(ma.__file__)
MIB = 1 << 20
NAMES = [*AWKWARD_NAMES, "a+b", "100%", "~a/ b%20"]
ODD_NAMES = ["a//b", "/a", "a/", "a/./b", "a/../b"]  # which rclone cannot hold


@pytest.fixture(autouse=True)
def settings(require_sdk, monkeypatch):
    require_sdk(S3)
    for variable, value in S3.environ("").items():
        monkeypatch.setenv(variable, value)
    for variable in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(variable, raising=False)
        monkeypatch.delenv(variable.lower(), raising=False)


@pytest.fixture
def s3(stub, monkeypatch):
    """A stub that has every object, each of them its own path."""
    return configure(stub, monkeypatch)


def configure(stub, monkeypatch):
    monkeypatch.setenv("S3_ENDPOINT", stub.endpoint)
    stub.script = lambda request: S3.show(request, request.path.encode())
    return stub


def make_driver(**settings):
    return ma.StorageProvider(provider="s3", bucket="bucket", **settings).driver


def make_used_driver(**settings):
    """Make a driver that has read before, and may not use the SDK to do so again."""
    driver = make_driver(**settings)
    driver.read_object("first")
    driver.client.get_object = refuse
    return driver


def refuse(*_, **__):
    raise AssertionError("the SDK was asked")


def run(code, *options):
    """Run code in a fresh interpreter, with the core on its path."""
    code = f"import sys; sys.path.insert(0, {str(CORE.parent)!r})\n{code}"
    command = [sys.executable, *options, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


# ------------------------------------------------------------------- signatures


def sign_as_the_sdk_does(request, endpoint, region="eu-west-3"):
    """Return the header that botocore's own signer makes of a request's others."""
    from botocore.auth import S3SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    auth = S3SigV4Auth(Credentials("AKIDEXAMPLE", S3.secrets[0]), "s3", region)
    names = request.headers["authorization"].partition("SignedHeaders=")[2]
    names = names.partition(",")[0].split(";")
    headers = {name: request.headers[name] for name in names}
    address = endpoint + request.path
    same = AWSRequest(request.method, address, headers, request.body)
    same.context["timestamp"] = headers["x-amz-date"]
    text = auth.string_to_sign(same, auth.canonical_request(same))
    auth._inject_signature_to_request(same, auth.signature(text, same))
    return same.headers["Authorization"]


@pytest.mark.parametrize("name", NAMES + ODD_NAMES)
def test_a_request_is_signed_as_the_sdk_signs_it(s3, name):
    driver = make_used_driver()
    driver.read_object(name)
    collect(driver, name, 1, 2, '"e1"')
    for request in s3.requests[1:]:
        expected = sign_as_the_sdk_does(request, s3.endpoint)
        assert request.headers["authorization"] == expected
    assert "if-match;range;x-amz" in expected


@pytest.mark.parametrize("name", NAMES + ODD_NAMES)
def test_a_name_is_written_as_the_sdk_writes_it(s3, name):
    make_driver().read_object(name)
    make_used_driver().read_object(name)
    assert s3.requests[0].path == s3.requests[-1].path


@pytest.mark.parametrize("name", NAMES)
def test_a_store_that_checks_signatures_takes_ours(make_store, name):
    store = make_store(RcloneStore)
    store.write_object("first", b"")
    store.write_object(name, b"content")
    driver = ma.StorageProvider().driver
    driver.read_object("first")
    driver.client.get_object = refuse
    assert driver.read_object(name)[0] == b"content"
    assert collect(driver, name, 3, 2) == b"te"


def test_a_store_that_checks_signatures_refuses_others(make_store, monkeypatch):
    """Or the test above could not fail."""
    make_store(RcloneStore).write_object("n", b"content")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    with pytest.raises(PermissionError):
        ma.StorageProvider().driver.read_object("n")


def write_process_credentials(tmp_path, monkeypatch, expires_in_s):
    """Let a program tell the keys; return a function that changes them."""

    def change(key, token=""):
        about = {"Version": 1, "AccessKeyId": key, "SecretAccessKey": S3.secrets[0]}
        about["SessionToken"] = token or f"token-of-{key}"
        now = datetime.datetime.now(datetime.timezone.utc)
        ends = now + datetime.timedelta(seconds=expires_in_s)
        about["Expiration"] = ends.isoformat()
        (tmp_path / "new").write_text(json.dumps(about))
        os.replace(tmp_path / "new", tmp_path / "keys.json")

    text = f"[default]\ncredential_process = cat {tmp_path / 'keys.json'}\n"
    (tmp_path / "config").write_text(text)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    for variable in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN"):
        monkeypatch.delenv(f"AWS_{variable}")
    return change


def test_credentials_may_expire_in_the_middle_of_a_fetch(
    make_store, stub, monkeypatch, tmp_path, assets_dir
):
    """Each request has those of its moment, without a refusal first."""
    store = make_store(MotoStore)
    (tmp_path / "source").mkdir()
    for index in range(12):
        (tmp_path / "source" / str(index)).write_bytes(b"%d" % index)
    ma.StorageProvider().new(tmp_path / "source", "a")
    # with a minute left, the SDK asks for new ones each time
    change = write_process_credentials(tmp_path, monkeypatch, expires_in_s=60)
    change("AKIDFIRST")
    valid, reads, let_through = ["AKIDFIRST"], [], forward(store.server.endpoint)

    def script(request):
        key = request.headers["authorization"].partition("Credential=")[2]
        reads.append(
            (key.partition("/")[0], request.headers.get("x-amz-security-token"))
        )
        if len(reads) == 6:
            change("AKIDSECOND")
            valid.append("AKIDSECOND")
        is_valid = reads[-1][0] in valid
        return let_through(request) if is_valid else S3.fail(400, "ExpiredToken")

    stub.script = script
    monkeypatch.setenv("S3_ENDPOINT", stub.endpoint)
    monkeypatch.setenv("MODELKIT_STORAGE_WORKERS", "1")
    path = Path(ma.AssetsManager().fetch_asset("a:0.0"))
    assert {one.name for one in path.iterdir()} >= set(map(str, range(12)))
    assert {key for key, _ in reads[:6]} == {"AKIDFIRST"}
    assert set(reads[6:]) == {("AKIDSECOND", "token-of-AKIDSECOND")}
    assert not any("amz-sdk-request" in one.headers for one in stub.requests[2:])


def test_credentials_that_were_changed_are_refused_once_and_left_to_the_sdk(s3):
    driver = make_driver()
    driver.read_object("n")
    s3.script = in_turn(S3.fail(400, "ExpiredToken"), Answer(200, b"d", {"ETag": "e"}))
    assert driver.read_object("n") == (b"d", "e")
    assert "amz-sdk-request" in s3.requests[-1].headers


def test_a_token_that_cannot_be_sent_is_not_shown(s3, monkeypatch, tmp_path):
    change = write_process_credentials(tmp_path, monkeypatch, expires_in_s=60)
    change("AKIDFIRST")
    driver = make_used_driver()
    change("AKIDSECOND", f"one\n{S3.secrets[1]}")
    with pytest.raises(ConnectionError) as caught:
        driver.read_object("n")
    text = "".join(traceback.format_exception(None, caught.value, None))
    assert S3.secrets[1] not in text
    assert len(s3.requests) == 1


# -------------------------------------------------------------- small uploads


def upload(driver, tmp_path, data, name="n", **condition):
    (tmp_path / "small").write_bytes(data)
    driver.upload_object(str(tmp_path / "small"), name, lambda size: None, **condition)


@pytest.fixture
def s3_uploader(s3):
    """A driver that has read before, and may not use the SDK to upload."""
    driver = make_driver()
    driver.read_object("first")
    driver.client.put_object = refuse
    return driver


@pytest.mark.parametrize("data", [b"", b"content", bytes(1 << 19)])
@pytest.mark.parametrize("etag", ["", '"e1"'])
def test_an_upload_is_signed_as_the_sdk_signs_it(s3, s3_uploader, tmp_path, data, etag):
    upload(s3_uploader, tmp_path, data, "a b", if_match=etag)
    request = s3.requests[-1]
    assert (request.method, request.path) == ("PUT", "/bucket/a%20b")
    assert (request.body, request.headers["content-length"]) == (data, f"{len(data)}")
    digest = hashlib.sha256(data).hexdigest()
    assert request.headers["x-amz-content-sha256"] == digest
    expected = sign_as_the_sdk_does(request, s3.endpoint)
    assert request.headers["authorization"] == expected
    assert ("if-match;" in expected) == bool(etag)
    assert ("if-none-match;" in expected) == (not etag)


@pytest.mark.parametrize("name", NAMES)
def test_a_store_that_checks_signatures_takes_an_upload(make_store, tmp_path, name):
    store = make_store(RcloneStore)
    store.write_object("first", b"")
    driver = ma.StorageProvider().driver
    driver.read_object("first")
    driver.client.put_object = refuse
    upload(driver, tmp_path, b"content", name)
    assert store.read_object(name) == b"content"


def test_what_is_not_small_is_left_to_the_sdk(s3, tmp_path):
    driver = make_driver()
    driver.read_object("first")
    s3.script = in_turn(Answer(200, b"", {"ETag": "e"}))
    upload(driver, tmp_path, bytes((1 << 19) + 1))
    assert "amz-sdk-request" in s3.requests[-1].headers


def test_what_the_sdk_writes_leaves_the_way_as_it_is(s3, tmp_path):
    """Else its connections would go, and a new one's certificates be read: 20 ms."""
    driver = make_driver()
    driver.read_object("first")
    way = driver._short_way
    s3.script = in_turn(Answer(200, b"", {"ETag": "e"}))
    driver.write_object(b"", "n")
    upload(driver, tmp_path, bytes((1 << 19) + 1))
    assert driver._short_way is way


def test_a_write_succeeds_whose_way_cannot_be_found(s3, monkeypatch):
    driver = make_driver()
    module = sys.modules[type(driver).__module__]

    def fail(*_):
        raise OSError("too many open files")

    monkeypatch.setattr(module, "_ShortWay", fail)
    s3.script = in_turn(Answer(200, b"", {"ETag": "e"}))
    assert driver.write_object(b"", "n") == "e"


@pytest.mark.parametrize("asks", ["when_supported", "when_required"])
def test_an_upload_has_the_checksum_that_the_sdk_would_give(
    s3, tmp_path, monkeypatch, asks
):
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", asks)
    driver = make_driver()
    driver.read_object("first")
    driver.client.put_object = refuse
    upload(driver, tmp_path, b"123456789")
    request = s3.requests[-1]
    # CRC-32's check value is cbf43926
    expected = "y/Q5Jg==" if asks == "when_supported" else None
    assert request.headers.get("x-amz-checksum-crc32") == expected
    assert request.headers["authorization"] == sign_as_the_sdk_does(
        request, s3.endpoint
    )


def test_a_written_object_shows_the_way_too(s3, tmp_path):
    """A new asset's claim is the first that its store grants."""
    driver = make_driver()
    s3.script = in_turn(Answer(200, b"", {"ETag": "e"}))
    driver.write_object(b"", "first", if_match="")
    upload(driver, tmp_path, b"data")
    assert "amz-sdk-request" not in s3.requests[-1].headers


@pytest.mark.parametrize("status", [301, 400, 503])
def test_an_upload_that_is_refused_is_left_to_the_sdk(s3, tmp_path, status):
    driver = make_driver()
    driver.read_object("first")
    s3.script = in_turn(S3.fail(status), Answer(200, b"", {"ETag": "e"}))
    upload(driver, tmp_path, b"data")
    assert [one.body for one in s3.requests[1:]] == [b"data", b"data"]
    assert "amz-sdk-request" in s3.requests[-1].headers


def test_an_upload_that_met_an_object_says_so(s3, tmp_path):
    driver = make_driver()
    driver.read_object("first")
    s3.script = in_turn(S3.fail(412, "PreconditionFailed"))
    with pytest.raises(FileExistsError):
        upload(driver, tmp_path, b"data")


# -------------------------------------------------------------------- addresses


@pytest.fixture
def every_host_is_here(s3, monkeypatch):
    """Let each host and port lead to the stub."""
    look_up, port = socket.getaddrinfo, s3.endpoint.rpartition(":")[2]
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda *_, **__: look_up("127.0.0.1", port)[:1]
    )


@pytest.mark.parametrize("base", ["", "/base/path"])
def test_the_bucket_may_be_a_part_of_the_path(s3, monkeypatch, base):
    monkeypatch.setenv("S3_ENDPOINT", s3.endpoint + base)
    driver = make_used_driver()
    assert driver.read_object("a/b")[0].decode() == f"{base}/bucket/a/b"


def test_the_bucket_may_be_a_part_of_the_host(
    s3, monkeypatch, every_host_is_here, tmp_path
):
    (tmp_path / "config").write_text("[default]\ns3 =\n  addressing_style = virtual\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    port = s3.endpoint.rpartition(":")[2]
    monkeypatch.setenv("S3_ENDPOINT", f"http://store.test:{port}")
    driver = make_used_driver()
    assert driver.read_object("a/b")[0] == b"/a/b"
    assert {one.headers["host"] for one in s3.requests} == {f"bucket.store.test:{port}"}
    expected = sign_as_the_sdk_does(s3.requests[1], f"http://bucket.store.test:{port}")
    assert s3.requests[1].headers["authorization"] == expected


@pytest.mark.parametrize(
    "endpoint",
    ["http://store.test", "http://STORE.test:80/", "http://user:pw@store.test:81"],
)
def test_a_host_is_called_what_the_sdk_calls_it(
    s3, monkeypatch, every_host_is_here, endpoint
):
    monkeypatch.delenv("S3_ENDPOINT")
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_RESPONSE_CHECKSUM_VALIDATION", "when_required")
    make_used_driver().read_object("n")
    hosts = [request.headers["host"].lower() for request in s3.requests]
    expected = sign_as_the_sdk_does(s3.requests[1], endpoint.rstrip("/"))
    assert s3.requests[1].headers["authorization"] == expected
    assert hosts[0] in (hosts[1], f"{hosts[1]}:80")


def test_a_name_that_ends_as_another_does_is_not_taken_for_it(s3):
    """Where a thread has its answer while another's request is the SDK's last one."""
    driver = make_driver()
    one_came, two_came, one_left = (threading.Event() for _ in range(3))

    def script(request):
        if request.path == "/bucket/p/a":
            one_came.set()
            assert two_came.wait(20)
        if request.path == "/bucket/p/x/p/a":
            two_came.set()
            assert one_left.wait(20)
        return S3.show(request, request.path.encode())

    s3.script = script
    one, two = (
        threading.Thread(target=driver.read_object, args=[name])
        for name in ("p/a", "p/x/p/a")
    )
    one.start()
    assert one_came.wait(20)
    two.start()
    one.join()
    for name in ("p/b", "p/c"):
        assert driver.read_object(name)[0].decode() == f"/bucket/{name}"
    one_left.set()
    two.join()


def test_a_proxy_is_asked_by_the_sdk_alone(s3, monkeypatch):
    monkeypatch.setenv("S3_ENDPOINT", "http://store.test")
    monkeypatch.setenv("http_proxy", s3.endpoint)
    driver = make_driver()
    for _ in range(3):
        driver.read_object("n")
    assert [one.path for one in s3.requests] == ["http://store.test/bucket/n"] * 3


# ------------------------------------------------------------------ connections


@pytest.fixture
def lasting(s3):
    """A stub whose connections serve many requests."""
    s3.keeps_alive = True
    return s3


def count_connections(stub):
    return len({request.sender for request in stub.requests})


def test_a_connection_serves_one_read_after_the_other(lasting):
    driver = make_used_driver()
    for index in range(20):
        driver.read_object(str(index))
        collect(driver, str(index), 1, 2)
    assert len(lasting.requests) == 41
    assert count_connections(lasting) == 2  # of them the SDK's


def test_a_connection_that_was_closed_meanwhile_is_renewed(lasting):
    driver = make_used_driver()
    driver.read_object("n")
    show = lasting.script
    lasting.script = lambda request: show(request)._replace(ending=CLOSED)
    for _ in range(5):
        assert driver.read_object("n")[0] == b"/bucket/n"
    assert len(lasting.requests) == 7


def test_a_connection_serves_one_upload_after_the_other(lasting, s3_uploader, tmp_path):
    lasting.script = lambda request: Answer(200, b"", {"ETag": "e"})
    for index in range(20):
        upload(s3_uploader, tmp_path, b"%d" % index, str(index))
    assert [one.body for one in lasting.requests[1:]] == [b"%d" % i for i in range(20)]
    assert count_connections(lasting) == 2  # of them the SDK's


def test_an_upload_whose_connection_was_closed_meanwhile_is_sent_anew(
    lasting, s3_uploader, tmp_path
):
    answer = Answer(200, b"", {"ETag": "e"}, ending=CLOSED)
    lasting.script = lambda request: answer
    way, made = s3_uploader._short_way, []
    make = way._make
    way._make = lambda: made.append(make()) or made[-1]
    for _ in range(5):
        upload(s3_uploader, tmp_path, b"data")
    assert len(lasting.requests) == 6
    assert [bool(one.sock) for one in made] == [False] * 4 + [True]


@pytest.mark.parametrize("chunks", [None, WELL], ids=["a text", "chunks"])
def test_what_answers_an_upload_is_never_taken_for_the_next_answer(
    lasting, s3_uploader, tmp_path, chunks
):
    answer = Answer(200, b"HTTP/1.1 500 no\r\n", {"ETag": "e"}, chunks=chunks)
    lasting.script = lambda request: answer
    for index in range(3):
        upload(s3_uploader, tmp_path, b"data", str(index))
    assert count_connections(lasting) == 4  # of them the SDK's


@pytest.mark.parametrize(
    "headers",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nETa",  # cut off
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n" + b"X: 1\r\n" * 200 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * (1 << 17) + b"\r\n",
        b"220 ready\r\n\r\n",
        b"HTTP/1.1 OK\r\n\r\n",
        b"",
    ],
    ids=["cut off", "too many", "too long", "no http", "no status", "nothing"],
)
def test_headers_that_are_none_are_worth_another_attempt(s3, headers):
    driver = make_used_driver()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer():
            connection, _ = server.accept()
            with connection:
                connection.recv(1 << 16)
                connection.sendall(headers)

        thread = threading.Thread(target=answer)
        thread.start()
        make = driver._short_way._make.func
        driver._short_way._make = lambda: make(*server.getsockname(), timeout=5)
        with pytest.raises(ConnectionError):
            driver.read_object("n")
        thread.join()


def test_a_new_connection_that_breaks_is_for_the_core_to_renew(s3):
    driver = make_used_driver()
    s3.script = in_turn(RESET)
    with pytest.raises(ConnectionError) as caught:
        driver.read_object("n")
    assert len(s3.requests) == 2
    text = "".join(traceback.format_exception(None, caught.value, None))
    assert not [secret for secret in S3.secrets if secret in text]


def test_of_two_readers_none_has_the_others_bytes(lasting):
    """Until the next are asked for; whatever a third one has left behind."""
    driver = make_used_driver()
    lasting.script = lambda request: S3.show(request, request.path[-1:].encode() * MIB)
    readers = {name: driver.iterate_bytes(name) for name in "abc"}
    next(readers["c"])
    readers.pop("c").close()
    came, chunks = {"a": b"", "b": b""}, {"a": b"begin"}
    while any(map(len, chunks.values())):
        chunks = {name: next(reader, b"") for name, reader in readers.items()}
        for name, chunk in chunks.items():
            came[name] += bytes(chunk)
    assert [(len(one), {*one}) for one in came.values()] == [(MIB, {97}), (MIB, {98})]


def test_who_watches_http_client_sees_its_answers(lasting, monkeypatch):
    """As tools that trace an application's requests do."""
    from http.client import HTTPConnection, HTTPResponse

    driver, seen, get = make_used_driver(), [], HTTPConnection.getresponse
    monkeypatch.setattr(
        HTTPConnection, "getresponse", lambda self: seen.append(get(self)) or seen[-1]
    )
    assert driver.read_object("n")[0] == b"/bucket/n"
    (answer,) = seen
    assert isinstance(answer, HTTPResponse)
    assert (answer.status, answer.isclosed()) == (200, True)
    assert ("content-length", "9") in answer.getheaders()
    assert answer.reason


def test_a_reader_that_leaves_takes_its_connection_along(lasting):
    driver, data = make_used_driver(), bytes(64 * MIB)
    lasting.script = lambda request: S3.show(request, data)
    chunks = driver.iterate_bytes("n")
    next(chunks)
    chunks.close()
    assert lasting.hung_up.wait(10)
    lasting.script = lambda request: S3.show(request, b"data")
    assert driver.read_object("n")[0] == b"data"


def test_what_has_come_is_yielded_before_the_rest_stalls(s3):
    driver = make_used_driver()
    driver._short_way._timeout_s = 0.3
    stalled = {"cut": 3, "ending": SILENCE}
    s3.script = lambda request: S3.show(request, bytes(MIB))._replace(**stalled)
    chunks = driver.iterate_bytes("n")
    assert bytes(next(chunks)) == bytes(3)
    with pytest.raises((ConnectionError, TimeoutError)):
        next(chunks)


def test_a_store_that_is_silent_is_asked_once(lasting):
    driver = make_driver()
    driver.timeout_s = 0.3
    driver.read_object("n")
    driver.read_object("n")
    lasting.script = in_turn(SILENCE)
    with pytest.raises((ConnectionError, TimeoutError)):
        driver.read_object("n")
    assert len(lasting.requests) == 3


FORK = """
import os, modelkit_assets
driver = modelkit_assets.StorageProvider(provider="s3", bucket="bucket").driver
for name in ("first", "before"):
    driver.read_object(name)
child = os.fork()
for index in range(10):
    name = f"{'parent' if child else 'child'}/{index}"
    assert driver.read_object(name)[0].decode() == "/bucket/" + name
if child:
    sys.exit(os.WEXITSTATUS(os.waitpid(child, 0)[1]))
os._exit(0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_process_has_connections_of_its_own(lasting):
    done = run(FORK)
    assert done.returncode == 0, done.stderr
    senders = {"parent": set(), "child": set()}
    for request in lasting.requests[2:]:
        senders[request.path.split("/")[2]].add(request.sender)
    assert senders["parent"].isdisjoint(senders["child"])


READ = """
import modelkit_assets
driver = modelkit_assets.StorageProvider(provider="s3", bucket="bucket").driver
for _ in range(3):
    driver.read_object("n")
driver.write_object(b"data", "m", if_match="")
driver.__init__("bucket")  # nobody has a use for its connections
print(*sorted(sys.modules))
"""


def test_boto3_is_not_imported_and_no_connection_is_forgotten(lasting):
    show = lasting.script
    lasting.script = lambda one: (S3.accept if one.is_write else show)(one)
    done = run(READ, "-W", "error::ResourceWarning")
    assert (done.returncode, done.stderr) == (0, "")
    loaded = done.stdout.split()
    assert "botocore.session" in loaded
    assert {"boto3", "s3transfer"}.isdisjoint(loaded)


# -------------------------------------------------------------------------- TLS


def make_certificate(folder, host):
    """Make a certificate that vouches for itself; return its file and a context."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)])
    try:
        host = x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        host = x509.DNSName(host)
    now = datetime.datetime.now(datetime.timezone.utc)
    day = datetime.timedelta(days=1)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name)
    builder = builder.public_key(key.public_key()).serial_number(1)
    builder = builder.not_valid_before(now - day).not_valid_after(now + day)
    builder = builder.add_extension(x509.SubjectAlternativeName([host]), False)
    constraints = x509.BasicConstraints(ca=True, path_length=None)
    certificate = builder.add_extension(constraints, True).sign(key, hashes.SHA256())
    text = certificate.public_bytes(serialization.Encoding.PEM)
    (folder / "certificate.pem").write_bytes(text)
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    (folder / "both.pem").write_bytes(private + text)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "both.pem")
    return folder / "certificate.pem", context


@pytest.fixture
def tls(tmp_path, monkeypatch):
    """A stub behind TLS, whose certificate AWS_CA_BUNDLE vouches for."""
    pytest.importorskip("cryptography")
    bundle, context = make_certificate(tmp_path, "127.0.0.1")
    monkeypatch.setenv("AWS_CA_BUNDLE", str(bundle))
    with StubServer(context) as stub:
        stub.context = context
        yield configure(stub, monkeypatch)


def test_the_users_own_certificates_are_honoured(tls):
    driver = make_used_driver()
    for _ in range(3):
        assert driver.read_object("n")[0] == b"/bucket/n"
    data = os.urandom(3 * MIB)
    tls.script = lambda request: S3.show(request, data)
    assert collect(driver, "n") == data


def test_without_them_the_store_is_not_believed(tls, monkeypatch):
    monkeypatch.delenv("AWS_CA_BUNDLE")
    driver = make_driver()
    driver.timeout_s = 1.0  # and the SDK tries once
    with pytest.raises(ConnectionError):
        driver.read_object("n")
    assert tls.requests == []


@pytest.mark.parametrize("host", ["127.0.0.2", "other.test"])
def test_another_hosts_certificate_is_refused_at_any_time(
    tls, tmp_path, monkeypatch, host
):
    (tmp_path / "other").mkdir()
    bundle, context = make_certificate(tmp_path / "other", host)
    with open(os.environ["AWS_CA_BUNDLE"], "ab") as file:
        file.write(bundle.read_bytes())
    driver = make_used_driver()
    assert driver.read_object("n")[0] == b"/bucket/n"
    tls.context.sni_callback = lambda one, *_: setattr(one, "context", context)
    with pytest.raises(ConnectionError, match="certificate"):
        driver.read_object("n")
    assert len(tls.requests) == 2


# ------------------------------------------------------------------------- moto

MOCKED = """
import os, pathlib, socket
import boto3, modelkit_assets as ma, moto

def refuse(*arguments, **options):
    print("a packet left:", arguments[1:], file=sys.stderr, flush=True)
    os._exit(3)

socket.socket.connect = socket.socket.connect_ex = refuse
source = pathlib.Path(sys.argv[1], "source")
source.mkdir()
for index in range(12):
    (source / str(index)).write_bytes(b"%d" % index)

@moto.mock_aws
def main():
    boto3.client("s3").create_bucket(Bucket="bucket")
    store = ma.StorageProvider(provider="s3", bucket="bucket", timeout_s=5)
    assert store.new(source, "a") == "0.0"
    manager = ma.AssetsManager(sys.argv[1], storage_provider=store)
    path = pathlib.Path(manager.fetch_asset("a"))
    for index in range(12):
        assert (path / str(index)).read_bytes() == b"%d" % index
    driver = store.driver
    data, etag = driver.read_object("modelkit-assets/a/0.0/11")
    parts = driver.iterate_bytes("modelkit-assets/a/0.0/11", 1, 1, etag)
    assert (data, b"".join(map(bytes, parts))) == (b"11", b"1")

main()
"""


@pytest.mark.skipif(not importlib.util.find_spec("moto"), reason="there is no moto")
def test_of_what_is_mocked_no_packet_leaves_the_process(tmp_path, monkeypatch):
    """In a process of its own, as moto adds to all clients that are made after it."""
    monkeypatch.delenv("S3_ENDPOINT")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    code = f"import sys; sys.argv[1:] = [{str(tmp_path)!r}]\n{MOCKED}"
    done = run(code)
    assert (done.returncode, done.stderr) == (0, "")
