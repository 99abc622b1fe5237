"""The driver `http`: what it reads, from whom, and what it refuses.

Against Python's own server, which knows neither ranges nor etags, another one's that
knows ranges, and one in this process that knows both and counts its connections.
"""

import errno
import itertools
import os
import pickle
import shutil
import socket
import ssl
import subprocess
import sys
import traceback
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from commands import BARE, fails, ok, run
from contract import BIG, MIB, ReadingContract, collect, run_at_once, upload
from http_server import FileServer, Proxy, PythonHttp, RcloneHttp, make_certificate
from places import CORE
from stub_server import BADLY, RESET, SILENCE, TRICKLE, WELL, Answer, in_turn
from trees import MODELKIT_DATA, copy_data, read_tree, write_tree

import modelkit_assets as ma

SECRET = "Bearer S3CR3T-T0KEN"
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "SSL_CERT_FILE")


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch):
    for variable in PROXIES:
        monkeypatch.delenv(variable, raising=False)
        monkeypatch.delenv(variable.lower(), raising=False)


def make_driver(endpoint, **settings):
    return ma.StorageProvider(provider="http", bucket=endpoint, **settings).driver


@pytest.fixture
def server():
    with FileServer() as server:
        yield server


# ------------------------------------------------------------------- the contract


class HttpContract(ReadingContract):
    # who asks for what is not there cannot tell what of its path is missing
    test_a_missing_bucket_is_a_wrong_setting_to_a_reader = None

    @pytest.fixture
    def driver(self):
        return make_driver(self.base)

    def get_expected_uri(self, name):
        return f"{self.base}/{name}"


class FolderContract(HttpContract):
    """Of a server of a folder, whose dates have whole seconds."""

    seconds = itertools.count(1_000_000_000)

    @pytest.fixture(autouse=True)
    def folder(self, start_server):
        server = start_server(self.kind)
        self.root = server.root / uuid.uuid4().hex
        self.base = f"{server.endpoint}/{self.root.name}"
        yield
        shutil.rmtree(self.root, ignore_errors=True)

    def put(self, name, data):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        second = next(self.seconds)
        os.utime(path, (second, second))


class TestPythonsServer(FolderContract):
    kind = PythonHttp


@pytest.mark.server
class TestRclonesServer(FolderContract):
    kind = RcloneHttp
    excluded_names = frozenset(["new\nline/a\tb"])


class TestServerOfRangesAndEtags(HttpContract):
    @pytest.fixture(autouse=True)
    def in_memory(self, server):
        self.server, self.base = server, f"{server.endpoint}/base%20url"

    def put(self, name, data):
        self.server.files[f"base url/{name}"] = data


WRITES = {
    "write": lambda driver, source: driver.write_object(b"data", "n"),
    "create": lambda driver, source: driver.write_object(b"data", "n", if_match=""),
    "replace": lambda driver, source: driver.write_object(b"data", "n", if_match="e"),
    "upload": lambda driver, source: upload(driver, source, "n"),
    "copy": lambda driver, source: driver.copy_object("m", "n"),
    "list": lambda driver, source: list(driver.iterate_objects("a")),
    "delete": lambda driver, source: driver.delete_object("n"),
}


@pytest.mark.parametrize("operation", WRITES)
def test_what_does_not_read_is_refused_before_anybody_is_asked(
    server, operation, tmp_path
):
    (tmp_path / "source").write_bytes(b"data")
    driver = make_driver(server.endpoint)
    with pytest.raises(NotImplementedError, match="an http store is only read"):
        WRITES[operation](driver, tmp_path / "source")
    assert server.requests == []


# ------------------------------------------------------------------- connections


def test_an_address_of_ipv6_is_a_host_too():
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("there is no IPv6 here")
    with FileServer("[::1]") as server:
        server.files["a"] = b"data"
        driver = make_driver(server.endpoint, authorization=SECRET)
        assert driver.read_object("a")[0] == b"data"
        assert server.requests[0].headers["host"] == f"[::1]:{server.port}"


def test_one_connection_serves_all_that_one_thread_asks_for(server):
    server.files["a"] = b"0123456789"
    driver = make_driver(server.endpoint)
    for _ in range(5):
        size, etag = driver.stat_object("a")
        assert driver.read_object("a") == (b"0123456789", etag)
        assert collect(driver, "a", 3, 4, etag) == b"3456"
        assert collect(driver, "a", 10, 4, etag) == b""
        for read in (driver.stat_object, driver.read_object):
            with pytest.raises(FileNotFoundError):
                read("missing")
    assert (server.connections, len(server.requests)) == (1, 30)


def test_threads_have_as_many_connections_as_they_need_and_keep_them(server):
    server.files["a"] = BIG
    driver = make_driver(server.endpoint)
    for _ in range(5):
        run_at_once(4, lambda index: collect(driver, "a", index * MIB, MIB))
    assert server.connections <= 4
    assert len(server.requests) == 20


def test_a_body_that_was_not_read_to_its_end_spoils_no_other(server):
    server.files.update(a=BIG, b=b"data")
    driver = make_driver(server.endpoint)
    chunks = driver.iterate_bytes("a")
    next(chunks)
    chunks.close()
    assert driver.read_object("b")[0] == b"data"
    assert server.connections == 2


def test_a_reader_that_leaves_ends_its_request(server):
    """The server sees the connection end, long before all that it has to say."""
    server.files["a"] = bytes(64 * MIB)
    driver = make_driver(server.endpoint)
    with closing(driver.iterate_bytes("a")) as chunks:
        next(chunks)
    assert server.hung_up.wait(10)


def test_who_is_connected_has_the_time_that_the_core_sets(server):
    """Not just what it takes to connect."""
    server.files["a"] = b"data"
    driver = make_driver(server.endpoint)
    driver.timeout_s = 20
    for _ in range(2):
        driver.read_object("a")
        ((connection,),) = driver._idle.values()
        assert connection.sock.gettimeout() == 20


@pytest.mark.parametrize("late", [b"", b"HTTP/1.1 200 OK\r\n\r\n"])
def test_a_connection_that_the_server_has_ended_is_not_used_again(late):
    """Nor one on which something came that nobody asked for."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)
        driver = make_driver(f"http://127.0.0.1:{listener.getsockname()[1]}")
        with ThreadPoolExecutor(1) as pool:
            for data in (b"1", b"2"):
                reading = pool.submit(driver.read_object, "a")
                connection, _ = listener.accept()
                assert connection.recv(1 << 16).startswith(b"GET /a HTTP/1.1\r\n")
                answer = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n%b" % data
                connection.sendall(answer)
                assert reading.result(30)[0] == data
                connection.sendall(late)
                connection.close()


FORK = """
import os, sys
import modelkit_assets as ma
driver = ma.StorageProvider(provider="http", bucket=sys.argv[1]).driver
data = driver.read_object("a")[0]
child = os.fork()
code = sum(driver.read_object("a")[0] != data for _ in range(20))
if not child:
    os._exit(code)
sys.exit(code or os.waitpid(child, 0)[1])
"""


def test_a_forked_process_has_connections_of_its_own(server):
    server.files["a"] = BIG
    environ = {**os.environ, "PYTHONPATH": str(CORE.parent)}
    command = [sys.executable, "-c", FORK, server.endpoint]
    subprocess.run(command, env=environ, check=True, timeout=60)
    assert (server.connections, len(server.requests)) == (2, 41)


def test_a_driver_pickles_without_connections_and_with_its_settings(server):
    server.files["a"] = b"1"
    driver = make_driver(server.endpoint, authorization=SECRET)
    driver.read_object("a")
    again = pickle.loads(pickle.dumps(driver))
    again.read_object("a")
    assert server.connections == 2
    assert server.requests[-1].headers["authorization"] == SECRET


# ------------------------------------------------------------------- answers

READS = {
    "stat": lambda driver: driver.stat_object("n"),
    "read": lambda driver: driver.read_object("n"),
    "iterate": lambda driver: collect(driver, "n"),
    "range": lambda driver: collect(driver, "n", 3, 4),
    "range to the end": lambda driver: collect(driver, "n", 3),
    "meant": lambda driver: collect(driver, "n", 3, 4, '"e1"'),
}
reads = pytest.mark.parametrize("operation", READS)

STATUSES = {
    **dict.fromkeys((404, 410), FileNotFoundError),
    **dict.fromkeys((401, 403, 407), PermissionError),
    **dict.fromkeys((408, 429, 500, 502, 503, 504, 599), ConnectionError),
    **dict.fromkeys((204, 205, 300, 304, 400, 405, 414, 418, 431, 451), OSError),
    412: FileExistsError,
    501: NotImplementedError,
}


@reads
@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("how", [{}, {"cut": 3}, {"chunks": BADLY}], ids=str)
def test_a_refusal_is_known_by_its_status(stub, operation, status, how):
    body = b"" if status in (204, 304) else b"<h1>text</h1>"
    stub.script = in_turn(Answer(status, body, **how))
    with pytest.raises((OSError, NotImplementedError)) as caught:
        READS[operation](make_driver(stub.endpoint))
    assert type(caught.value) is STATUSES[status]
    assert str(status) in str(caught.value)


@pytest.mark.parametrize("operation", ["stat", "read"])
def test_no_range_is_refused_as_being_past_the_end(stub, operation):
    stub.script = in_turn(Answer(416))
    with pytest.raises(OSError, match="416"):
        READS[operation](make_driver(stub.endpoint))


BROKEN = {
    "reset at once": RESET,
    "reset": Answer(200, b"0123456789", cut=5, ending=RESET),
    "cut": Answer(200, b"0123456789", cut=5),
    "cut at once": Answer(200, b"0123456789", cut=0),
    "badly chunked": Answer(200, b"0123456789", chunks=BADLY),
    "cut in a chunk": Answer(200, b"0123456789", chunks=WELL, cut=5),
    "cut after the chunk": Answer(200, b"0123456789", chunks=WELL, cut=-5),
    "silence": SILENCE,
    "stalled": Answer(200, b"0123456789", cut=5, ending=SILENCE),
}


@pytest.mark.parametrize("answer", BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("operation", ["read", "iterate", "range to the end"])
def test_a_body_that_breaks_or_stalls_is_worth_retrying(stub, operation, answer):
    stub.script = in_turn(answer)
    driver = make_driver(stub.endpoint)
    driver.timeout_s = 0.3
    with pytest.raises(ConnectionError):
        READS[operation](driver)


def test_a_server_that_is_not_there_is_worth_retrying():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    for host in ("127.0.0.1", "no-such-host.invalid"):
        with pytest.raises(ConnectionError):
            make_driver(f"http://{host}:{port}").read_object("n")


@pytest.mark.parametrize("start, length, expected", [(0, None, 1), (2, None, 1)])
def test_what_has_come_is_yielded_without_waiting(stub, start, length, expected):
    stub.script = in_turn(Answer(200, b"0123456789", ending=TRICKLE))
    sizes = [
        len(data)
        for data in make_driver(stub.endpoint).iterate_bytes("n", start, length)
    ]
    assert sizes == [expected] * (10 - start)


def test_a_body_in_chunks_is_read_whole(stub):
    stub.script = in_turn(Answer(200, b"0123456789", chunks=WELL))
    driver = make_driver(stub.endpoint)
    assert driver.read_object("n")[0] == b"0123456789"
    assert collect(driver, "n", 3, 4) == b"3456"
    assert collect(driver, "n", 3) == b"3456789"


def test_a_body_whose_end_nobody_tells_is_refused(server):
    """It could be cut anywhere, and nobody would notice."""
    server.files["a"] = b"data"
    server.script = lambda request: Answer(200, b"da", {"content-length": None}, cut=2)
    driver = make_driver(server.endpoint)
    for use in (lambda: driver.read_object("a"), lambda: driver.stat_object("a")):
        with pytest.raises(OSError, match="does not tell") as caught:
            use()
        assert type(caught.value) is OSError


@pytest.mark.parametrize("encoding", ["gzip", "br", "GZIP", "identity, gzip"])
@reads
def test_a_compressed_body_is_refused_and_never_decompressed(stub, operation, encoding):
    stub.script = in_turn(Answer(200, b"data", {"Content-Encoding": encoding}))
    with pytest.raises(OSError, match="came compressed") as caught:
        READS[operation](make_driver(stub.endpoint))
    assert type(caught.value) is OSError
    assert stub.requests[0].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("encoding", ["", "identity", "Identity", "aws-chunked"])
def test_an_encoding_that_is_none_is_no_compression(server, encoding):
    headers = {"Content-Encoding": encoding}
    server.script = lambda request: Answer(200, b"data", headers)
    assert make_driver(server.endpoint).read_object("a")[0] == b"data"


@pytest.mark.parametrize("endless", [False, True])
def test_a_body_that_is_too_large_is_not_read(server, endless):
    headers = {"content-length": 1 << 40}
    if endless:
        headers = {"content-length": None, "transfer-encoding": "chunked"}
    body = b"8000000\r\n" + bytes(128 * MIB) if endless else bytes(MIB)
    server.script = lambda request: Answer(200, body, headers, cut=len(body))
    with pytest.raises(OSError, match="too large") as caught:
        make_driver(server.endpoint).read_object("a")
    assert caught.value.errno == errno.EFBIG


# ------------------------------------------------------------------- ranges and etags

WRONG_RANGES = {
    "whole as a part": (b"0123456789", "bytes 0-9/10"),
    "another part": (b"4567", "bytes 4-7/10"),
    "too long": (b"34567", "bytes 3-7/10"),
    "too short": (b"345", "bytes 3-5/10"),
    "longer than told": (b"34567", "bytes 3-6/10"),
    "shorter than told": (b"345", "bytes 3-6/10"),
    "no Content-Range": (b"3456", None),
    "no range": (b"3456", "bytes */10"),
    "no size": (b"3456", "bytes 3-6/*"),
    "less than nothing": (b"3456", "bytes 3-6/2"),
    "another unit": (b"3456", "pages 3-6/10"),
    "garbage": (b"3456", "bytes x"),
}


@pytest.mark.parametrize("answer", WRONG_RANGES.values(), ids=WRONG_RANGES)
def test_bytes_from_elsewhere_are_refused(stub, answer):
    body, area = answer
    headers = {"Content-Range": area} if area else {}
    stub.script = in_turn(Answer(206, body, headers))
    got = []
    with pytest.raises(ConnectionError):  # noqa: PT012
        for chunk in make_driver(stub.endpoint).iterate_bytes("n", 3, 4):
            got.append(chunk)
    assert got == []


@pytest.mark.parametrize("area", ["bytes 3-6/2", "bytes 4-7/10"])
def test_bytes_from_elsewhere_are_refused_in_chunks_too(stub, area):
    stub.script = in_turn(Answer(206, b"3456", {"Content-Range": area}, chunks=WELL))
    with pytest.raises(ConnectionError):
        collect(make_driver(stub.endpoint), "n", 3, 4)
    right = {"Content-Range": "bytes 3-6/10"}
    stub.script = in_turn(Answer(206, b"3456", right, chunks=WELL))
    assert collect(make_driver(stub.endpoint), "n", 3, 4) == b"3456"


@pytest.mark.parametrize("operation", ["read", "iterate"])
def test_a_part_that_nobody_asked_for_is_refused(stub, operation):
    area = {"Content-Range": "bytes 0-3/10"}
    stub.script = in_turn(Answer(206, b"0123", area))
    with pytest.raises(ConnectionError, match="bytes 0-3/10"):
        READS[operation](make_driver(stub.endpoint))


def test_of_a_whole_body_in_place_of_a_part_the_part_is_taken(stub):
    stub.script = in_turn(Answer(200, BIG, {"ETag": '"e1"'}))
    driver = make_driver(stub.endpoint)
    for start, length in ((3, 4), (MIB + 1, 2 * MIB), (19 * MIB, None), (21 * MIB, 1)):
        end = start + length if length else None
        assert collect(driver, "n", start, length, '"e1"') == BIG[start:end]
    with pytest.raises(FileExistsError):
        collect(driver, "n", 3, 4, '"e2"')


def test_a_whole_body_that_is_cut_before_the_parts_end_is_worth_retrying(stub):
    stub.script = in_turn(Answer(200, b"0123456789", cut=6))
    with pytest.raises(ConnectionError, match="6 bytes came"):
        collect(make_driver(stub.endpoint), "n", 3, 4)
    assert collect(make_driver(stub.endpoint), "n", 3, 3) == b"345"


def test_the_server_is_asked_for_the_range_and_the_etag(server):
    server.files["a"] = b"0123456789"
    driver = make_driver(server.endpoint)
    etag = driver.stat_object("a")[1]
    for start, length in ((3, 4), (3, None), (0, None)):
        collect(driver, "a", start, length, etag)
    asked = [(one.range, one.headers.get("if-match")) for one in server.requests]
    expected = [(None, None), ("bytes=3-6", etag), ("bytes=3-", etag), (None, etag)]
    assert asked == expected


def test_an_etag_that_is_ignored_is_compared_here(server):
    driver, tags = make_driver(server.endpoint), {"ETag": '"e1"'}
    server.script = lambda request: Answer(200, b"0123456789", tags)
    assert collect(driver, "a", 3, 4, '"e1"') == b"3456"
    tags["ETag"] = '"e2"'
    with pytest.raises(FileExistsError):
        collect(driver, "a", 3, 4, '"e1"')


def test_a_weak_etag_is_the_same_one_and_is_not_asked_for(server):
    """What compresses on the way makes an etag weak, and If-Match never matches it."""
    server.script = lambda request: Answer(200, b"0123456789", {"ETag": 'W/"e1"'})
    driver = make_driver(server.endpoint)
    assert collect(driver, "a", 3, 4, 'W/"e1"') == b"3456"
    assert collect(driver, "a", 3, 4, '"e1"') == b"3456"
    assert "if-match" not in server.requests[0].headers


def test_without_an_etag_the_date_and_the_size_show_a_change(server):
    about = {"Last-Modified": "Sat, 21 Nov 2026 12:00:00 GMT"}
    data = [b"0123456789"]

    def script(request):
        area = {"Content-Range": f"bytes 3-6/{len(data[0])}"}
        if request.range:
            return Answer(206, data[0][3:7], {**about, **area})
        return Answer(200, data[0], about)

    server.script = script
    driver = make_driver(server.endpoint)
    etag = driver.stat_object("a")[1]
    assert driver.read_object("a")[1] == etag
    assert collect(driver, "a", 3, 4, etag) == b"3456"
    for change in (lambda: data.insert(0, b"012345678"), about.clear):
        change()
        with pytest.raises(FileExistsError):
            collect(driver, "a", 3, 4, etag)
        data[:], etag = [b"0123456789"], driver.stat_object("a")[1]


# ------------------------------------------------------------------- redirects

MOVED = [301, 302, 303, 307, 308]


def lead(location, status=302):
    return lambda request: Answer(status, b"moved", {"Location": location})


@pytest.mark.parametrize("status", MOVED)
def test_a_redirect_is_followed_within_a_host_and_to_another(server, status):
    with FileServer("localhost") as other:
        other.files["there/a b"] = BIG
        paths = {"/a%20b": "/c?d#e", "/c?d": f"{other.endpoint}/there/a b"}
        server.script = lambda one: lead(paths[one.path], status)(one)
        driver = make_driver(server.endpoint)
        size, etag = driver.stat_object("a b")
        assert size == len(BIG)
        assert driver.read_object("a b") == (BIG, etag)
        assert collect(driver, "a b", MIB, 3, etag) == BIG[MIB : MIB + 3]
        assert [one.method for one in other.requests] == ["HEAD", "GET", "GET"]
        assert server.connections == other.connections == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_the_authorization_goes_to_no_other_host_or_port(server, host):
    with FileServer(host) as other:
        other.files["b"] = b"data"
        paths = {"/a": "/again", "/again": f"{other.endpoint}/b"}
        server.script = lambda one: lead(paths[one.path])(one)
        driver = make_driver(server.endpoint, authorization=SECRET)
        assert driver.read_object("a")[0] == b"data"
        sent = [one.headers.get("authorization") for one in server.requests]
        assert sent == [SECRET, SECRET]
        (request,) = other.requests
        assert SECRET not in str(request)


def test_another_name_of_the_same_address_is_another_host(server):
    named = f"http://localhost:{server.port}"
    server.files["b"] = b"data"
    server.script = lambda one: lead(f"{named}/b")(one) if one.path == "/a" else None
    assert make_driver(server.endpoint, authorization=SECRET).read_object("a")
    sent = [one.headers.get("authorization") for one in server.requests]
    assert sent == [SECRET, None]


@pytest.mark.parametrize("number, is_followed", [(5, True), (6, False)])
def test_at_most_five_redirects_are_followed(server, number, is_followed):
    server.files[f"{number}"] = b"data"

    def script(request):
        step = int(request.path[1:])
        return lead(f"{step + 1}")(request) if step < number else None

    server.script = script
    driver = make_driver(server.endpoint)
    if is_followed:
        assert driver.read_object("0")[0] == b"data"
    else:
        with pytest.raises(OSError, match="more than 5 times"):
            driver.read_object("0")
    assert len(server.requests) == 6


@pytest.mark.parametrize(
    "location",
    ["ftp://127.0.0.1/a", "file:///etc/passwd", "http://u:S3CR3T@127.0.0.1/a"]
    + ["http://[::1", "http://127.0.0.1:x/a", "data:,a"],
)
def test_a_redirect_to_what_is_no_url_of_http_is_refused(server, location):
    server.script = lead(location)
    with pytest.raises(OSError, match="no URL of HTTP") as caught:
        make_driver(server.endpoint).read_object("a")
    assert "S3CR3T" not in str(caught.value)
    assert len(server.requests) == 1


def test_a_redirect_that_says_not_where_to_is_an_error(stub):
    stub.script = in_turn(Answer(302))
    with pytest.raises(OSError, match="302"):
        make_driver(stub.endpoint).read_object("a")


# ------------------------------------------------------------------- TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    if not shutil.which("openssl"):
        pytest.skip("there is no openssl here, whose command makes certificates")
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def secure(certificate):
    """A server at https://localhost, with a certificate that nobody trusts."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    with FileServer("localhost", context) as server:
        server.files["a"] = BIG
        yield server


@pytest.fixture
def trusted(secure, certificate, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    return secure


def test_tls_is_spoken_with_whom_the_machine_trusts(trusted):
    driver = make_driver(trusted.endpoint, authorization=SECRET)
    etag = driver.stat_object("a")[1]
    assert driver.read_object("a") == (BIG, etag)
    assert collect(driver, "a", MIB, 5, etag) == BIG[MIB : MIB + 5]
    assert trusted.connections == 1
    assert trusted.requests[0].headers["authorization"] == SECRET


def test_a_certificate_that_is_not_trusted_is_a_wrong_setting(secure):
    with pytest.raises(ValueError, match="SSL_CERT_FILE"):
        make_driver(secure.endpoint, authorization=SECRET).read_object("a")
    assert secure.requests == []


def test_a_certificate_of_another_name_is_not_trusted(trusted):
    with pytest.raises(ValueError, match="127.0.0.1"):
        make_driver(f"https://127.0.0.1:{trusted.port}").read_object("a")
    assert trusted.requests == []


def test_a_context_of_ones_own_may_be_given(secure, certificate):
    context = ssl.create_default_context(cafile=str(certificate[0]))
    assert make_driver(secure.endpoint, client=context).read_object("a")[0] == BIG


def test_a_server_that_speaks_no_tls_is_a_wrong_setting(server):
    with pytest.raises(ValueError, match="TLS"):
        make_driver(f"https://127.0.0.1:{server.port}").read_object("a")


def test_a_redirect_out_of_tls_is_never_followed(trusted, server):
    server.files["a"] = b"data"
    trusted.script = lead(f"{server.endpoint}/a")
    with pytest.raises(OSError, match="from https to http"):
        make_driver(trusted.endpoint).read_object("a")
    assert server.requests == []


def test_a_redirect_into_tls_is_followed(trusted, server):
    server.script = lead(f"{trusted.endpoint}/a")
    driver = make_driver(server.endpoint, authorization=SECRET)
    assert driver.read_object("a")[0] == BIG
    assert "authorization" not in trusted.requests[0].headers


# ------------------------------------------------------------------- proxies


@pytest.fixture
def proxy():
    with Proxy("user:p@ss/w:rd") as proxy:
        yield proxy


def name_proxy(proxy, user="user:p%40ss%2Fw%3Ard@"):
    return f"http://{user}127.0.0.1:{proxy.port}"


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy"])
def test_a_proxy_is_asked_for_the_whole_url(server, proxy, variable, monkeypatch):
    monkeypatch.setenv(variable, name_proxy(proxy))
    server.files["dir/a b"] = b"data"
    base = f"http://files.example:{server.port}/dir"
    driver = make_driver(base, authorization=SECRET)
    for _ in range(3):
        assert driver.read_object("a b")[0] == b"data"
    assert driver.stat_object("a b")[0] == 4
    assert [one.path for one in proxy.requests] == [f"{base}/a%20b"] * 4
    assert proxy.connections == 1
    for request in server.requests:
        assert request.headers["authorization"] == SECRET
        assert request.headers["host"] == f"files.example:{server.port}"


def test_tls_goes_through_a_tunnel_which_learns_nothing(trusted, proxy, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", name_proxy(proxy))
    driver = make_driver(trusted.endpoint, authorization=SECRET)
    for _ in range(3):
        assert driver.read_object("a")[0] == BIG
    (request,) = proxy.requests
    assert (request.method, request.path) == ("CONNECT", f"localhost:{trusted.port}")
    assert SECRET not in str(request)
    for one in trusted.requests:
        assert one.headers["authorization"] == SECRET
        assert "proxy-authorization" not in one.headers


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_refuses_us_is_a_refusal(trusted, proxy, scheme, monkeypatch):
    monkeypatch.setenv(f"{scheme.upper()}_PROXY", name_proxy(proxy, "user:S3CR3T@"))
    with pytest.raises(PermissionError, match="407") as caught:
        make_driver(f"{scheme}://localhost:{trusted.port}").read_object("a")
    assert "S3CR3T" not in "".join(traceback.format_exception(None, caught.value, None))
    assert trusted.requests == []


@pytest.mark.parametrize("excluded", ["127.0.0.1", "*", "a.example, 127.0.0.1"])
def test_no_proxy_is_asked_for_hosts_that_need_none(
    server, proxy, excluded, monkeypatch
):
    monkeypatch.setenv("HTTP_PROXY", name_proxy(proxy))
    monkeypatch.setenv("NO_PROXY", excluded)
    server.files["a"] = b"data"
    assert make_driver(server.endpoint).read_object("a")[0] == b"data"
    assert proxy.requests == []


@pytest.mark.parametrize("proxy_url", ["socks5://u:S3CR3T@h:1", "https://h", "http://"])
def test_a_proxy_of_another_kind_is_a_wrong_setting(server, proxy_url, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", proxy_url)
    with pytest.raises(ValueError, match="HTTP_PROXY must be") as caught:
        make_driver(server.endpoint).read_object("a")
    assert "S3CR3T" not in str(caught.value)


# ------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    "bucket",
    ["bucket", "ftp://host", "http://", "https:///a", "host/path", "file:///srv"]
    + ["http://user:S3CR3T@host/a", "https://S3CR3T@host", "http://u:123@host"]
    + ["http://host?sig=S3CR3T", "https://host/a?b=S3CR3T", "http://host/a#S3CR3T"]
    + [
        "http://host:port",
        "http://host:99999",
        "http://ho st/",
        "http://host\\@other/",
    ],
)
def test_a_bucket_that_is_no_base_url_is_a_wrong_setting(bucket, capsys):
    with pytest.raises(ma.ConfigurationError, match="MODELKIT_STORAGE_BUCKET") as error:
        make_driver(bucket)
    assert "S3CR3T" not in str(error.value)
    assert ma.main(["doctor", "--provider", "http", "--bucket", bucket]) == 2
    shown = capsys.readouterr()
    if "@" in bucket:
        assert "S3CR3T" not in shown.out + shown.err


@pytest.mark.parametrize(
    "base, path",
    [("", "/a/b%20c"), ("/", "/a/b%20c"), ("/@scope", "/@scope/a/b%20c")]
    + [("/x%20y/é z/", "/x%20y/%C3%A9%20z/a/b%20c")],
)
def test_a_base_url_may_have_a_path(server, base, path):
    with pytest.raises(FileNotFoundError):
        make_driver(server.endpoint.upper() + base).read_object("a/b c")
    assert [request.path for request in server.requests] == [path]


@pytest.mark.parametrize("value", ["S3CR3T\r\nX: y", "S3CR3T\0", "S3CR3T é"])
def test_an_authorization_that_no_header_holds_is_a_wrong_setting(value):
    text = "MODELKIT_HTTP_AUTHORIZATION"
    with pytest.raises(ma.ConfigurationError, match=text) as caught:
        make_driver("http://host", authorization=value)
    assert "S3CR3T" not in str(caught.value)


def test_the_authorization_is_a_secret_setting(server, monkeypatch, capsys):
    monkeypatch.setenv("MODELKIT_HTTP_AUTHORIZATION", f"{SECRET}\n")
    server.script = lambda request: Answer(401, b"who are you?")
    provider = ma.StorageProvider(provider="http", bucket=server.endpoint)
    with pytest.raises(ma.StorageAccessError) as caught:
        provider.get_versions_info("a")
    assert server.requests[0].headers["authorization"] == SECRET
    assert ma.main(["doctor", "--provider", "http", "--bucket", server.endpoint]) == 4
    shown = capsys.readouterr()
    lines = traceback.format_exception(None, caught.value, caught.value.__traceback__)
    texts = [shown.out, shown.err, repr(provider), repr(provider.driver), *lines]
    assert not [text for text in texts if "S3CR3T" in text]
    assert "***" in shown.out


# ------------------------------------------------------------------- the whole program

TREE = {"a": b"1", "sub/vocab.txt": b"words", "sub/empty": b"", "big": BIG}


@pytest.fixture
def web(start_server, local, tmp_path):
    """A store that was published to as a folder, and is served from there."""
    source = write_tree(tmp_path / "source", TREE)
    provider = ma.StorageProvider()
    provider.new(source, "nlp/bert", "1.0")
    provider.update(source, "nlp/bert", pack=True)
    copy_data("store/modelkit-assets", local.bucket / "modelkit-assets")
    server = start_server(PythonHttp)
    link = server.root / uuid.uuid4().hex
    link.symlink_to(local.bucket)
    yield {"bucket": f"{server.endpoint}/{link.name}", "folder": local.bucket}
    link.unlink()


def at(web, folder):
    """Return the environment of a machine that has nothing but the store's URL."""
    folder.mkdir(exist_ok=True)
    environ = {"MODELKIT_STORAGE_PROVIDER": "http"}
    environ["MODELKIT_STORAGE_BUCKET"] = web["bucket"]
    return {"env": environ, "cwd": folder}


def test_what_was_published_to_a_folder_is_fetched_by_url(web, tmp_path):
    for spec, version in (("nlp/bert", "1.1"), ("nlp/bert:1.0", "1.0")):
        how = at(web, tmp_path / "empty")
        path = ok("fetch", spec, **how).strip()
        assert path == str(tmp_path / "empty" / "nlp" / "bert" / version)
        assert read_tree(path) == TREE
        assert ok("resolve", spec, **how) == f"nlp/bert:{version}\n"
        assert web["bucket"] in ok("info", spec, **how)
    assert ok("verify", **how).count("right ") == 2
    assert "only read" in ok("doctor", **how)


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_part_is_fetched_alone(web, version, tmp_path):
    how = at(web, tmp_path / "empty")
    path = ok("fetch", f"nlp/bert:{version}[sub/vocab.txt]", **how).strip()
    with open(path, "rb") as file:
        assert file.read() == b"words"
    folder = tmp_path / "empty" / "nlp" / "bert" / version
    assert set(read_tree(folder)) == {"sub/vocab.txt"}


def test_what_modelkit_published_is_fetched_though_nobody_lists_it(web, tmp_path):
    """Its manifests have no sizes, and an http store cannot be listed."""
    how = at(web, tmp_path / "empty")
    for spec in ("nlp/bert/base:0.0", "nlp/tokenizer", "lookup/cities"):
        path = ok("fetch", spec, **how).strip()
        name, _, version = ok("resolve", spec, **how).strip().partition(":")
        published = MODELKIT_DATA / "store" / "modelkit-assets" / name / version
        assert os.path.isdir(path) == published.is_dir()
        assert read_tree(path) == read_tree(published) != {}
    assert ok("verify", **how).count("right ") == 3


def test_a_file_that_modelkit_published_and_that_is_gone_is_missed(web, tmp_path):
    name = "modelkit-assets/nlp/bert/base/0.0/config.json"
    (web["folder"] / name).unlink()
    line = fails(3, "fetch", "nlp/bert/base:0.0", **at(web, tmp_path / "empty"))
    assert name in line


COMMANDS = {
    "list": ["list"],
    "new": ["new", "SOURCE", "nlp/other", "--yes"],
    "new, once there": ["new", "SOURCE", "nlp/other", "--yes", "--dry-run"],
    "update": ["update", "SOURCE", "nlp/bert", "--yes"],
    "pack": ["update", "SOURCE", "nlp/bert", "--pack", "--yes"],
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_what_an_http_store_cannot_do_is_one_line(web, command, tmp_path):
    source = str(tmp_path / "source")
    command = [source if one == "SOURCE" else one for one in command]
    before = read_tree(web["folder"])
    line = fails(2, *command, timeout=60, **at(web, tmp_path / "empty"))
    assert "an http store is only read: " in line
    assert read_tree(web["folder"]) == before


def test_a_push_to_an_http_store_is_an_error_of_ours(web, tmp_path):
    provider = ma.StorageProvider(provider="http", bucket=web["bucket"])
    with pytest.raises(ma.UnsupportedOperationError, match="only read") as caught:
        provider.push(tmp_path / "source", "nlp/bert", "7.0")
    assert isinstance(caught.value, NotImplementedError)


def test_doctor_says_that_an_http_store_is_not_written(web, tmp_path):
    done = run("doctor", "--write", **at(web, tmp_path / "empty"))
    assert (done.returncode, done.stderr) == (2, "")
    (line,) = (one for one in done.stdout.splitlines() if one.startswith("failed"))
    assert "an http store is only read" in line


def test_doctor_tells_a_server_that_does_not_answer(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        bucket = f"http://127.0.0.1:{listener.getsockname()[1]}"
    done = run("doctor", **at({"bucket": bucket}, tmp_path))
    assert done.returncode == 5
    assert "failed  read" in done.stdout


@pytest.mark.parametrize("spec", ["nlp/brt", "nlp/bert:7.0", "nlp/bert[missing]"])
def test_what_is_not_there_is_one_line(web, spec, tmp_path):
    assert fails(3, "fetch", spec, **at(web, tmp_path / "empty"))


def test_a_minimal_machine_needs_two_files(web, tmp_path):
    """No site packages, no variables, and no module but the standard library's."""
    folder = tmp_path / "image"
    (folder / "drivers").mkdir(parents=True)
    shutil.copy(CORE, folder)
    shutil.copy(CORE.parent / "drivers" / "http.py", folder / "drivers")
    command = [*BARE[:-1], "-X", "importtime", str(folder / CORE.name)]
    command += ["fetch", "nlp/bert", "--provider", "http", "--bucket", web["bucket"]]
    done = subprocess.run(command, env={}, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert read_tree(done.stdout.strip()) == TREE
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert {"http.client", "json"} <= imported
    if sys.version_info >= (3, 10):
        roots = {name.partition(".")[0] for name in imported}
        # the second is Python's own since 3.15, and in no list
        others = {"imported package", "_missing_stdlib_info"}
        assert roots - others <= sys.stdlib_module_names


def test_a_cached_asset_needs_no_http(web, tmp_path):
    """The driver is loaded, and none of what it asks with."""
    how = at(web, tmp_path / "empty")
    ok("fetch", "nlp/bert:1.0", **how)
    code = "import sys, modelkit_assets as ma; ma.main(['fetch', 'nlp/bert:1.0']); "
    code += "print({'http.client', 'ssl', 'socket', 'urllib'} & set(sys.modules))"
    how["env"]["PYTHONPATH"] = str(CORE.parent)
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, **how)
    assert done.stdout.splitlines()[1:] == ["set()"], done.stderr
