"""Sources by URL: objects of any store are published as an asset."""

import os
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from commands import answer, fails
from stores import AzuriteStore, GcsStore, LocalStore, MotoStore
from stub_server import S3, Faulty, is_list, is_read, reply
from trees import read_tree

import modelkit_assets as ma

OBJECTS = {
    "models/bert/vocab.txt": b"a b",
    "models/bert/deep/er/w.bin": bytes(3000),
    "models/bert/empty": b"",
    "models/bert-large": b"large",
    "top": b"t",
}
BERT = {"vocab.txt": b"a b", "deep/er/w.bin": bytes(3000), "empty": b""}
SCHEMES = {"s3": MotoStore, "gs": GcsStore, "az": AzuriteStore}


@pytest.fixture(params=[pytest.param(one, marks=pytest.mark.server) for one in SCHEMES])
def origin(request, make_store):
    """A store with objects that are no assets, and its URL; another is configured."""
    store = make_store(SCHEMES[request.param])
    store.url = f"{request.param}://{store.bucket}"
    for name, data in OBJECTS.items():
        store.write_object(name, data)
    return store


@pytest.fixture
def target(origin, make_store):
    return make_store(LocalStore)


@pytest.fixture
def temp(tmp_path, monkeypatch):
    """The folder for temporary files, which ours must be gone from."""
    folder = tmp_path / "temp" / "below"
    folder.mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert list(folder.parent.rglob("*")) == [folder]


def publish(call, url, code=0, *options):
    got, output, errors = call("new", url, "x", "--yes", *options)
    assert got == code, errors
    return output if not code else errors


@pytest.mark.parametrize(
    ("path", "tree"),
    [
        ("/top", b"t"),
        ("/models/bert/deep/er/w.bin", bytes(3000)),
        ("/models/bert/empty", b""),
        ("/models/bert", BERT),
        ("/models/bert/", BERT),
        ("//models/bert", BERT),
        ("/models/bert/deep", {"er/w.bin": bytes(3000)}),
        ("", OBJECTS),
        ("/", OBJECTS),
    ],
)
def test_an_object_or_all_below_a_prefix_is_published(
    origin, target, temp, assets_dir, call, path, tree
):
    before = origin.read_objects()
    assert publish(call, origin.url + path) == "x:0.0\n"
    copy = Path(ma.AssetsManager().fetch_asset("x"))
    assert (read_tree(copy) if copy.is_dir() else copy.read_bytes()) == tree
    assert origin.read_objects() == before


def test_what_is_an_object_and_a_prefix_is_the_object_unless_it_ends_in_a_slash(
    origin, target, temp, assets_dir, call
):
    origin.write_object("both", b"object")
    origin.write_object("both/below", b"below")
    origin.write_object("both/", b"")  # which stands for a folder in some tools
    publish(call, f"{origin.url}/both")
    assert call("update", f"{origin.url}/both/", "x", "--yes")[:2] == (0, "x:0.1\n")
    manager = ma.AssetsManager()
    assert Path(manager.fetch_asset("x:0.0")).read_bytes() == b"object"
    assert read_tree(Path(manager.fetch_asset("x:0.1"))) == {"below": b"below"}
    text = publish(call, origin.url, 2, "--prefix", "other")
    assert "a path that is both a file and a folder" in text


@pytest.mark.parametrize("path", ["/nothing", "/models/ber", "/top/"])
def test_where_nothing_is_nothing_is_published(origin, target, temp, call, path):
    text = publish(call, origin.url + path, 2)
    assert f"'{origin.url}{path}': there is no such object, and none below it" in text
    assert target.list_objects() == []


@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_is_no_url_of_a_store_is_a_path(store, scheme):
    for url in (f"{scheme}://", f"{scheme}:/b/x", "https://example.com/x"):
        assert "No such file" in fails(2, "new", url, "x", "--yes")


HOSTILE = ["a/../b", "x:y", "..", "../../x", "a//b", "a/CON", "a\\..\\b"]


@pytest.mark.parametrize("name", HOSTILE)
def test_an_object_that_no_file_can_be_called_after_is_refused(
    origin, target, temp, call, name
):
    hold(origin, f"bad/{name}")
    assert "the path" in publish(call, f"{origin.url}/bad", 2)
    assert "the path" in publish(call, f"{origin.url}/bad/{name}", 2)
    assert target.list_objects() == []


def hold(store, name):
    """Let a store have such an object, or skip the test where the server cannot."""
    with suppress(Exception):  # of any SDK
        store.write_object(name, b"evil")
    if name not in store.list_objects():
        pytest.skip("the server holds no such name")


def test_a_url_that_no_file_can_be_called_after_is_refused(origin, target, temp, call):
    for prefix in ("a/..", "..", "a/x:", "a/CON", "x:y", "../../x"):
        assert "the path" in publish(call, f"{origin.url}/{prefix}", 2)
        assert "the path" in publish(call, f"{origin.url}/{prefix}/", 2)
    assert target.list_objects() == []


def test_a_dry_run_from_a_url_changes_nothing(origin, target, temp, call):
    assert publish(call, f"{origin.url}/models/bert", 0, "--dry-run") == "x:0.0\n"
    assert target.list_objects() == []


def test_a_publication_that_is_declined_has_downloaded_nothing(
    store, stub, monkeypatch
):
    for name, value in S3.environ(stub.endpoint).items():
        monkeypatch.setenv(name, value)
    done = answer("n\n", "new", "s3://bucket/x", "x")  # of a Python without boto3
    assert (done.returncode, done.stdout) == (1, "")
    assert "declined, nothing was published" in done.stderr
    assert "Publish s3://bucket/x as x:0.0 in " in done.stderr
    assert stub.requests == []


@pytest.mark.server
def test_what_lies_in_one_kind_of_store_is_published_in_another(
    make_store, temp, assets_dir, call
):
    origins = {scheme: make_store(kind) for scheme, kind in SCHEMES.items()}
    for scheme, origin in origins.items():
        origin.write_object("some/thing", scheme.encode())
    for number, (scheme, origin) in enumerate(origins.items()):  # into az, the last
        url = f"{scheme}://{origin.bucket}/some/thing"
        assert call("new", url, f"x{number}", "--yes")[0] == 0
        path = ma.AssetsManager().fetch_asset(f"x{number}")
        assert Path(path).read_text() == scheme
    meta = "modelkit-assets/x0/0.0.meta"
    assert meta in origins["az"].list_objects()
    assert meta not in origins["s3"].list_objects()


@pytest.mark.server
def test_a_source_that_is_refused_or_gone_is_an_error_of_its_own(
    make_proxied_store, make_store, stub, temp, call
):
    origin = make_proxied_store(MotoStore)
    origin.write_object("some/thing", b"data")
    url, script = f"s3://{origin.bucket}/some", stub.script
    target = make_store(LocalStore)
    fault = reply(S3.fail(403, "AccessDenied"))
    for choose in (is_list, is_read):
        stub.script = Faulty(script, fault, choose)
        assert "was refused" in publish(call, url, 4)
    stub.script = script
    assert "MODELKIT_STORAGE_BUCKET" in publish(call, "s3://no-such-bucket/x", 2)
    assert target.list_objects() == []


@pytest.mark.server
def test_an_endpoint_is_that_of_the_source_too(make_store, temp, call, monkeypatch):
    origin = make_store(MotoStore)
    origin.write_object("thing", b"1")
    endpoint = os.environ["S3_ENDPOINT"]
    monkeypatch.setenv("S3_ENDPOINT", "http://127.0.0.1:1")
    url = f"s3://{origin.bucket}/thing"
    assert publish(call, url, 0, "--endpoint", endpoint) == "x:0.0\n"
