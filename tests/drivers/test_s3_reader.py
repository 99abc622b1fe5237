"""S3's reads, but the first one of a client, do without the SDK's get_object.

They must mean what get_object means, whatever the store answers.
"""

import pytest
from contract import collect
from stub_server import BADLY, RESET, S3, WELL, Answer, StubServer, in_turn

import modelkit_assets as ma

pytestmark = pytest.mark.server

SDK_ONLY = "x-amz-checksum-mode"  # a header that get_object alone sends


@pytest.fixture(autouse=True)
def settings(require_sdk, monkeypatch):
    require_sdk(S3)
    for variable, value in S3.environ("").items():
        monkeypatch.setenv(variable, value)


@pytest.fixture
def s3(stub, monkeypatch):
    """A stub that has every object, each of them its own path."""
    monkeypatch.setenv("S3_ENDPOINT", stub.endpoint)
    stub.script = lambda request: S3.show(request, request.path.encode())
    return stub


def make_driver():
    return ma.StorageProvider(provider="s3", bucket="bucket").driver


READS = {
    "read": lambda driver: driver.read_object("n"),
    "iterate": lambda driver: collect(driver, "n"),
    "range": lambda driver: collect(driver, "n", 1, 2),
    "meant": lambda driver: collect(driver, "n", 0, None, '"e1"'),
}


@pytest.fixture(scope="module")
def drivers():
    """A stub, a driver that leaves all to the SDK, and one that has read before."""
    with StubServer() as stub, pytest.MonkeyPatch.context() as patch:
        for variable, value in S3.environ(stub.endpoint).items():
            patch.setenv(variable, value)
        driver = make_driver()
        options = {"provider": "s3", "bucket": "bucket", "client": driver.client}
        stub.script = lambda request: S3.show(request, b"data")
        driver.read_object("first")
        yield stub, ma.StorageProvider(**options).driver, driver


ANSWERS = {
    **{str(code): S3.fail(code) for code in (400, 401, 403, 404, 405, 409)},
    **{str(code): S3.fail(code) for code in (410, 412, 416, 429, 500, 503)},
    "no bucket": S3.fail(404, "NoSuchBucket"),
    "expired": S3.fail(400, "ExpiredToken"),
    "timeout": S3.fail(400, "RequestTimeout"),
    "no text": Answer(403),
    "no XML": Answer(404, b"\xff<Code"),
    "reset": RESET,
    "short": Answer(200, b"data", {"ETag": "e"}, cut=2),
    "empty": Answer(200, b"", {"ETag": "e"}),
    "chunked": Answer(200, b"data", {"ETag": "e"}, chunks=WELL),
    "badly chunked": Answer(200, b"data", {"ETag": "e"}, chunks=BADLY),
    "a part": Answer(206, b"at", {"ETag": '"e1"', "Content-Range": "bytes 1-2/4"}),
    "another part": Answer(206, b"at", {"ETag": "e", "Content-Range": "bytes 2-3/4"}),
    "another object": Answer(200, b"data", {"ETag": '"e2"'}),
    "a broken refusal": S3.fail(503)._replace(cut=3),
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
@pytest.mark.parametrize("operation", READS)
def test_every_answer_means_what_it_means_to_the_sdk(drivers, operation, answer):
    def read(driver):
        stub.script = in_turn(answer)
        try:
            return READS[operation](driver)
        except Exception as error:  # noqa: BLE001 - it is what we compare
            return type(error)

    stub, sdk, ours = drivers
    assert read(sdk) == read(ours)


def test_a_later_read_is_signed_as_the_first(s3):
    driver = make_driver()
    for _ in range(2):
        driver.read_object("a/b")
    first, later = s3.requests
    assert SDK_ONLY not in later.headers or SDK_ONLY in first.headers
    assert first.path == later.path == "/bucket/a/b"
    for name in ("host", "user-agent", "x-amz-content-sha256", "x-amz-security-token"):
        assert first.headers[name] == later.headers[name]
    scopes = [one.headers["authorization"].split("/")[1:5] for one in (first, later)]
    assert scopes[0] == scopes[1]
    assert scopes[0][1:3] == ["eu-west-3", "s3"]


@pytest.mark.parametrize(
    "name", ["a b", "a+b", "a%2Fb", "ä/é~x", "a?b=c#d", "(a)*'!;:@&=$,", "a\\b", "%"]
)
def test_any_name_leads_to_the_same_object(s3, name):
    driver = make_driver()
    first = driver.read_object(name)
    assert driver.read_object(name) == first
    driver.read_object("other")
    assert driver.read_object(name) == first
    assert [request.path for request in s3.requests].count(s3.requests[0].path) == 3


def test_a_range_comes_with_one_request(s3):
    driver = make_driver()
    etag = driver.read_object("n")[1]
    assert collect(driver, "n", 1, 3, etag) == b"buc"
    assert [request.range for request in s3.requests] == [None, "bytes=1-3"]
    assert s3.requests[1].headers["if-match"] == etag
    assert SDK_ONLY not in s3.requests[1].headers
    assert "amz-sdk-request" not in s3.requests[1].headers, "the SDK sent it"


def test_what_may_belong_to_another_region_is_left_to_the_sdk(s3):
    driver = make_driver()
    driver.read_object("n")
    s3.script = in_turn(S3.fail(400), Answer(200, b"found", {"ETag": "e"}))
    assert driver.read_object("n") == (b"found", "e")
    assert len(s3.requests) == 3


def test_reads_go_on_in_the_region_that_the_first_was_sent_to(s3):
    there = {"x-amz-bucket-region": "ap-south-1"}
    elsewhere = S3.fail(301, "PermanentRedirect")._replace(headers=there)

    def script(request):
        is_right = "/ap-south-1/s3/" in request.headers["authorization"]
        return S3.show(request, b"data") if is_right else elsewhere

    s3.script, driver = script, make_driver()
    driver.read_object("n")
    s3.requests.clear()
    for _ in range(3):
        assert driver.read_object("n")[0] == b"data"
    assert len(s3.requests) == 3


def test_checksums_that_the_user_wants_are_the_sdks_to_check(s3, monkeypatch):
    monkeypatch.setenv("AWS_RESPONSE_CHECKSUM_VALIDATION", "when_supported")
    driver = make_driver()
    for _ in range(3):
        driver.read_object("n")
    assert all(SDK_ONLY in request.headers for request in s3.requests)


def test_a_client_that_was_given_makes_all_requests_itself(s3):
    import boto3

    client, seen = boto3.client("s3", endpoint_url=s3.endpoint), []
    client.meta.events.register("before-call.s3.GetObject", lambda **_: seen.append(1))
    options = {"provider": "s3", "bucket": "bucket", "client": client}
    driver = ma.StorageProvider(**options).driver
    for _ in range(3):
        driver.read_object("n")
    assert len(seen) == 3


def test_requests_that_somebody_else_sends_stay_the_sdks(s3):
    """As moto's mock_aws does, by a handler of botocore's."""
    driver, seen = make_driver(), []
    driver.read_object("n")
    events = driver.client.meta.events
    events.register("before-send.s3", lambda request, **_: seen.append(request.url))
    for _ in range(2):
        driver.read_object("n")
    collect(driver, "n", 1, 2)
    assert len(seen) == 3
