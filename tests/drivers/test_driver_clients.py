"""The SDK and its client: loaded when needed, one in each process, in no pickle."""

import os
import pickle
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from stores import AzuriteStore, GcsStore, MotoStore
from stub_server import (
    AZURE,
    GCS,
    PROTOCOLS,
    RESET,
    S3,
    Answer,
    Faulty,
    forward,
    lose_answer,
    nth,
    reply,
)

import modelkit_assets as ma

pytestmark = pytest.mark.server

CORE = Path(ma.__file__)
NAMES = [protocol.provider for protocol in PROTOCOLS]
protocols = pytest.mark.parametrize("protocol", PROTOCOLS, ids=NAMES)


@pytest.fixture
def configure(stub, require_sdk, monkeypatch):
    """Return a function that makes a stub the configured store of a protocol."""

    def make(protocol, needs_sdk=True):
        if needs_sdk:
            require_sdk(protocol)
        stub.script = lambda request: (
            protocol.show(request, b"data")
            if request.method in ("GET", "HEAD")
            else protocol.accept(request)
        )
        settings = {**protocol.bare_environ(), **protocol.environ(stub.endpoint)}
        settings["MODELKIT_STORAGE_PROVIDER"] = protocol.provider
        settings["MODELKIT_STORAGE_BUCKET"] = "bucket"
        for variable, value in settings.items():
            monkeypatch.setenv(variable, value)
        return stub

    return make


def run(code, *options):
    """Run code in a fresh interpreter, with the core on its path."""
    code = f"import sys; sys.path.insert(0, {str(CORE.parent)!r})\n{code}"
    command = [sys.executable, *options, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


# ------------------------------------------------------------------- on first use

CONSTRUCT = """
import modelkit_assets
provider = modelkit_assets.StorageProvider()
repr(provider.driver), provider.driver.get_object_uri("n")
print(*sorted(sys.modules))
"""


@protocols
def test_a_driver_that_is_made_loads_no_sdk_and_asks_nothing(configure, protocol):
    stub = configure(protocol)
    done = run(CONSTRUCT)
    assert done.returncode == 0, done.stderr
    loaded = done.stdout.split()
    assert "modelkit_assets" in loaded
    for module in (protocol.sdk, "botocore", "requests", "urllib3", "azure.core"):
        assert module not in loaded
    assert stub.requests == []


@protocols
def test_32_threads_make_one_client(configure, protocol):
    configure(protocol)
    driver = ma.StorageProvider().driver
    barrier = threading.Barrier(32)

    def use(_):
        barrier.wait(60)
        return driver.client

    with ThreadPoolExecutor(32) as pool:
        clients = list(pool.map(use, range(32)))
    assert len({id(client) for client in clients}) == 1
    assert driver.client is clients[0]


@protocols
def test_a_client_that_is_given_is_the_one_in_use(configure, protocol):
    configure(protocol)
    client = ma.StorageProvider().driver.client
    assert ma.StorageProvider(client=client).driver.client is client


FORK = """
import os, modelkit_assets
driver = modelkit_assets.StorageProvider().driver
driver.read_object("before")
parent = driver.client
child = os.fork()
if not child:
    is_new = driver.client is not parent
    data = driver.read_object("in-the-child")[0]
    os._exit(0 if is_new and data == b"data" else 3)
status = os.waitpid(child, 0)[1]
assert driver.client is parent
driver.read_object("after")
sys.exit(os.WEXITSTATUS(status))
"""


@protocols
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_process_makes_a_client_of_its_own(configure, protocol):
    stub = configure(protocol)
    done = run(FORK)
    assert done.returncode == 0, done.stderr
    assert "in-the-child" in " ".join(request.path for request in stub.requests)


FORK_AMID = """
import os, threading, modelkit_assets
driver = modelkit_assets.StorageProvider().driver
module = sys.modules[type(driver).__module__]
make, making, forked = module._make_client, threading.Event(), threading.Event()
def make_slowly(*settings):
    making.set()
    forked.wait(30)
    return make(*settings)
module._make_client = make_slowly
thread = threading.Thread(target=lambda: driver.client)
thread.start()
making.wait(30)
child = os.fork()
if not child:
    module._make_client = make
    os._exit(0 if driver.read_object("n")[0] == b"data" else 3)
forked.set()
thread.join()
sys.exit(os.WEXITSTATUS(os.waitpid(child, 0)[1]))
"""


@protocols
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_fork_while_a_client_is_made_blocks_nobody(configure, protocol):
    configure(protocol)
    done = run(FORK_AMID)
    assert done.returncode == 0, done.stderr


@protocols
def test_a_provider_in_use_pickles_into_a_fresh_process(configure, protocol, tmp_path):
    stub = configure(protocol)
    provider = ma.StorageProvider()
    provider.driver.read_object("here")
    pickled = pickle.dumps(provider)
    for module in (b"botocore", b"google.cloud", b"azure.", b"requests"):
        assert module not in pickled
    (tmp_path / "pickle").write_bytes(pickled)
    code = f"import pickle; file = open({str(tmp_path / 'pickle')!r}, 'rb')\n"
    done = run(code + "print(pickle.load(file).driver.read_object('there'))")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("(b'data', ")
    assert "there" in stub.requests[-1].path


# ------------------------------------------------------------- without the SDK

FAKES = ["boto3", "botocore", "google/cloud/storage", "google/auth", "requests"]
FAKES += ["google/api_core", "azure/storage/blob", "azure/core"]


@pytest.fixture
def fakes(tmp_path):
    """A folder of packages that have the SDKs' names and cannot be imported."""
    for name in FAKES:
        folder = tmp_path / "fakes" / name
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text("raise SystemExit('imported: ' + __name__)")
    return f"sys.path.insert(0, {str(tmp_path / 'fakes')!r})\n"


@pytest.fixture
def cached(assets_dir):
    """An assets dir that has a:0.0."""
    (assets_dir / "a").mkdir()
    (assets_dir / "a" / "0.0").write_bytes(b"data")
    manifest = ma.Manifest.create(False, [ma.ManifestFile("", 4)], [])
    (assets_dir / "a" / ".0.0.SUCCESS").write_bytes(manifest.to_json())
    return assets_dir / "a" / "0.0"


def test_the_fakes_would_be_seen(fakes):
    for name in FAKES:
        done = run(fakes + "import " + name.replace("/", "."), "-S")
        assert "imported: " in done.stderr


@protocols
@pytest.mark.parametrize(
    "arguments", [["fetch", "a:0.0"], ["--help"], ["fetch", "--help"], None]
)
def test_a_hit_an_import_and_help_load_no_sdk(
    configure, fakes, cached, protocol, arguments
):
    stub = configure(protocol, needs_sdk=False)
    call = f"sys.exit(modelkit_assets.main({arguments!r}))" if arguments else ""
    done = run(fakes + "import modelkit_assets\n" + call, "-S")
    assert (done.returncode, done.stderr) == (0, "")
    if arguments == ["fetch", "a:0.0"]:
        assert done.stdout == f"{cached}\n"
    assert stub.requests == []


@protocols
@pytest.mark.parametrize(
    "arguments", [["fetch", "b:0.0"], ["fetch", "b"], ["list"], ["new", "x", "b", "-y"]]
)
def test_a_missing_sdk_says_how_to_install_it(
    configure, assets_dir, protocol, arguments
):
    stub = configure(protocol, needs_sdk=False)
    call = f"import modelkit_assets; sys.exit(modelkit_assets.main({arguments!r}))"
    done = run(call, "-I", "-S")
    assert done.returncode == 2
    assert done.stderr.startswith("modelkit_assets: error: ")
    assert f"pip install {protocol.package}" in done.stderr
    assert done.stderr.count("\n") == 1
    assert stub.requests == []


@protocols
def test_a_missing_sdk_is_an_error_of_its_own(configure, protocol):
    configure(protocol, needs_sdk=False)
    code = """
import modelkit_assets
try:
    modelkit_assets.StorageProvider().get_versions_info("a")
except modelkit_assets.DriverNotInstalledError as error:
    assert isinstance(error, ImportError)
    print(error.exit_code)
"""
    assert run(code, "-I", "-S").stdout == "2\n"


# ------------------------------------------------------ answers lost on the way


def lose_first_answer(endpoint, name):
    """Let all through, but of the first write of an object lose the answer."""
    chosen = nth(1, lambda request: request.is_write and request.target.endswith(name))
    return Faulty(forward(endpoint), lose_answer, chosen)


@pytest.mark.server
@pytest.mark.parametrize(
    "kind, attempts",
    [(MotoStore, "1"), (MotoStore, "3"), (AzuriteStore, "1"), (GcsStore, "1")],
)
@pytest.mark.parametrize("suffix", [".meta", ".versions", "0.0/file"])
def test_a_write_whose_answer_is_lost_is_no_conflict(
    make_store, stub, monkeypatch, tmp_path, kind, suffix, attempts
):
    """Neither where boto3 tries again nor where the core does."""
    store = make_store(kind)
    for variable, value in store.environ.items():
        changed = value.replace(store.server.endpoint, stub.endpoint)
        monkeypatch.setenv(variable, changed)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", attempts)  # which boto3 alone knows
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "file").write_bytes(b"content")
    provider = ma.StorageProvider(timeout_s=30)

    stub.script = lose_first_answer(store.server.endpoint, suffix)
    assert provider.new(tmp_path / "source", "a") == "0.0"
    assert len(stub.script.hits) == 1
    assert provider.get_versions_info("a") == ["0.0"]

    suffix = suffix.replace("0.0", "0.1")
    stub.script = lose_first_answer(store.server.endpoint, suffix)
    assert provider.update(tmp_path / "source", "a") == "0.1"
    assert len(stub.script.hits) == 1
    assert provider.get_versions_info("a") == ["0.1", "0.0"]
    expected = {"a.versions", "a/0.0.meta", "a/0.0/file", "a/0.1.meta", "a/0.1/file"}
    names = {name.partition("/")[2] for name in store.list_objects()}
    assert names == expected
    got = provider.download("a", "0.1", tmp_path / "destination")["path"]
    assert Path(got, "file").read_bytes() == b"content"


@pytest.mark.server
@pytest.mark.parametrize("kind", [MotoStore, AzuriteStore, GcsStore])
def test_a_real_conflict_after_a_lost_answer_stays_one(
    make_store, stub, monkeypatch, kind
):
    """What came in between is another's, so its content differs."""
    store = make_store(kind)
    for variable, value in store.environ.items():
        changed = value.replace(store.server.endpoint, stub.endpoint)
        monkeypatch.setenv(variable, changed)
    let_through, lost = forward(store.server.endpoint), []

    def script(request):
        if request.method in ("PUT", "POST") and not lost:
            lost.append(request)
            store.write_object("n", b"another's")
            return RESET
        return let_through(request)

    stub.script = script
    driver = ma.StorageProvider().driver
    for _ in range(2):
        try:
            driver.write_object(b"ours", "n", if_match="")
        except ConnectionError:
            continue
        except FileExistsError:
            break
        pytest.fail("the write went through")
    else:
        pytest.fail("no conflict was reported")
    assert store.read_object("n") == b"another's"


@pytest.mark.server
@pytest.mark.parametrize("kind", [MotoStore, AzuriteStore, GcsStore])
@pytest.mark.parametrize("replaces", [False, True])
def test_a_driver_takes_its_own_object_for_no_conflict(
    make_store, stub, monkeypatch, kind, replaces
):
    """Its SDK has met it, or it says that the connection broke."""
    store = make_store(kind)
    for variable, value in store.environ.items():
        changed = value.replace(store.server.endpoint, stub.endpoint)
        monkeypatch.setenv(variable, changed)
    stub.script = forward(store.server.endpoint)
    driver = ma.StorageProvider().driver
    etag = driver.write_object(b"before", "n") if replaces else ""
    stub.script = lose_first_answer(store.server.endpoint, "n")
    try:
        etag = driver.write_object(b"ours", "n", if_match=etag)
    except ConnectionError:
        assert kind is not MotoStore, "boto3 tries again"
    else:
        assert driver.read_object("n") == (b"ours", etag)
    assert len(stub.script.hits) == 1
    assert store.read_object("n") == b"ours"


# ------------------------------------------------- what some stores do differently


def if_matches(stub):
    return [one.headers.get("if-match") for one in stub.requests if one.is_write]


@pytest.fixture
def ceph(make_proxied_store, stub):
    """A store that takes a right etag for another because of its quotes."""
    store = make_proxied_store(MotoStore)
    let_through = stub.script

    def script(request):
        if request.is_write and '"' in request.headers.get("if-match", ""):
            return S3.fail(412, "PreconditionFailed")
        return let_through(request)

    stub.script = script
    return store


def test_an_etag_whose_quotes_are_refused_goes_without_them(ceph, stub):
    driver = ma.StorageProvider().driver
    etag = driver.write_object(b"1", "n")
    new = driver.write_object(b"2", "n", if_match=etag)
    assert driver.read_object("n") == (b"2", new)
    assert if_matches(stub) == [None, etag, etag.strip('"')]


def test_a_stale_etag_is_not_sent_again(ceph, stub):
    driver = ma.StorageProvider().driver
    etag = driver.write_object(b"1", "n")
    ceph.write_object("n", b"another's")
    with pytest.raises(FileExistsError):
        driver.write_object(b"2", "n", if_match=etag)
    assert ceph.read_object("n") == b"another's"
    assert if_matches(stub) == [None, etag]


def test_a_file_goes_without_the_quotes_too(ceph, stub, tmp_path):
    (tmp_path / "source").write_bytes(b"2")
    driver = ma.StorageProvider().driver
    etag = driver.write_object(b"1", "n")
    driver.upload_object(str(tmp_path / "source"), "n", print, if_match=etag)
    assert driver.read_object("n")[0] == b"2"


def test_s3_copies_only_if_absent(make_proxied_store, stub):
    """Which moto ignores, so it is the request that is looked at."""
    make_proxied_store(MotoStore)
    driver = ma.StorageProvider().driver
    driver.write_object(b"1", "a")
    driver.copy_object("a", "b")
    assert stub.requests[-1].headers["if-none-match"] == "*"


def test_an_sdk_that_cannot_copy_only_if_absent_says_so(make_proxied_store, stub):
    make_proxied_store(MotoStore)
    driver = ma.StorageProvider().driver
    driver.write_object(b"1", "a")
    shape = driver.client.meta.service_model.operation_model("CopyObject").input_shape
    del shape.members["IfNoneMatch"]
    stub.requests.clear()
    with pytest.raises(NotImplementedError):
        driver.copy_object("a", "b")
    assert stub.requests == []


def test_what_is_too_large_for_a_copy_is_what_s3_cannot_do(stub, configure):
    configure(S3)
    text = "The specified copy source is larger than the maximum allowable size"
    body = f"<Error><Code>InvalidRequest</Code><Message>{text}</Message></Error>"
    stub.script = lambda request: Answer(400, body.encode())
    with pytest.raises(NotImplementedError):
        ma.StorageProvider().driver.copy_object("a", "b")


# ------------------------------------------------------------- uploads in parts


MIB = 1 << 20


def make_file(path, size):
    with open(path, "wb") as file:
        file.truncate(size)
    return str(path)


@pytest.mark.parametrize("failing", ["partNumber=2", "uploadId"])
@pytest.mark.parametrize("answer", [RESET, S3.fail(403), S3.fail(500)])
def test_no_part_outlives_a_failure(
    make_proxied_store, stub, monkeypatch, tmp_path, failing, answer
):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    store = make_proxied_store(MotoStore)
    fails = reply(answer)
    chosen = nth(1, lambda request: request.is_write and failing in request.path)
    stub.script = Faulty(stub.script, fails, chosen)
    driver = ma.StorageProvider().driver
    with pytest.raises((ConnectionError, PermissionError)):
        driver.upload_object(make_file(tmp_path / "f", 33 * MIB), "n", lambda n: None)
    assert len(stub.script.hits) == 1
    uploads = store.client.list_multipart_uploads(Bucket=store.bucket)
    assert uploads.get("Uploads", []) == []
    assert store.list_objects() == []
    assert stub.requests[-1].method == "DELETE"


def test_a_completed_upload_whose_answer_is_lost_exists(
    make_proxied_store, stub, tmp_path
):
    """It says that the object is there, or that one may try again."""
    store = make_proxied_store(MotoStore)
    end = nth(
        1, lambda request: request.method == "POST" and "uploadId" in request.path
    )
    stub.script = Faulty(stub.script, lose_answer, end)
    driver, path = ma.StorageProvider().driver, make_file(tmp_path / "f", 17 * MIB)
    for _ in range(2):
        try:
            driver.upload_object(path, "n", lambda number: None)
        except ConnectionError:
            continue
        except FileExistsError:
            pass
        break
    assert len(store.read_object("n")) == 17 * MIB


def test_azure_blocks_grow_with_the_file(configure, stub, tmp_path, monkeypatch):
    """As there may be 50,000, and 4 MiB each were 195 GiB."""
    configure(AZURE)
    driver = ma.StorageProvider().driver
    module = sys.modules[type(driver).__module__]
    monkeypatch.setattr(module, "_BLOCK", 1000)
    monkeypatch.setattr(module, "_MOST_BLOCKS", 8)
    told = []
    driver.upload_object(make_file(tmp_path / "f", 20_003), "n", told.append)
    blocks = [one for one in stub.requests if "comp=block&" in one.path]
    assert sum(told) == sum(len(one.body) for one in blocks) == 20_003
    assert len(blocks) == 8
    commit = stub.requests[-1]
    assert "comp=blocklist" in commit.path
    assert commit.headers["if-none-match"] == "*"
    assert commit.body.count(b"<Latest>") == 8


def test_azure_blocks_are_nobody_elses(configure, stub, tmp_path, monkeypatch):
    """Or of two uploads at once, one would commit what the other has sent."""
    configure(AZURE)
    driver = ma.StorageProvider().driver
    for _ in range(2):
        driver.upload_object(make_file(tmp_path / "f", 5 * MIB), "n", lambda n: None)
    blocks = [one.path for one in stub.requests if "comp=block&" in one.path]
    assert len(set(blocks)) == len(blocks) == 4


def test_s3_parts_grow_with_the_file(make_proxied_store, stub, tmp_path, monkeypatch):
    store = make_proxied_store(MotoStore)
    driver = ma.StorageProvider().driver
    monkeypatch.setattr(sys.modules[type(driver).__module__], "_MOST_PARTS", 2)
    data = os.urandom(36 * MIB + 3)
    (tmp_path / "f").write_bytes(data)
    told = []
    driver.upload_object(str(tmp_path / "f"), "n", told.append)
    assert (len([*filter(None, told)]), sum(told)) == (2, len(data))
    assert store.read_object("n") == data


# ------------------------------------------------------------- what is not there


@protocols
def test_a_client_gives_up_before_long(configure, protocol, stub):
    """Connecting within 10 s, waiting within a minute, whatever the SDK's own are."""
    configure(protocol)
    driver = ma.StorageProvider().driver
    driver.read_object("n")
    waits = find_timeouts(protocol, driver)
    assert 1 <= waits[0] <= 10
    assert 10 <= waits[1] <= 60


def find_timeouts(protocol, driver):
    if protocol is S3:
        config = driver.client.meta.config
        return config.connect_timeout, config.read_timeout
    if protocol is GCS:
        return driver._once["timeout"]
    config = driver.client._pipeline._transport.connection_config
    return config.timeout, config.read_timeout
