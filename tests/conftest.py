"""What all tests share: no setting of the machine, and a store of each kind."""

import functools
import importlib
import itertools
import os
from contextlib import ExitStack

import hypothesis
import pytest
from harness import NAME
from servers import ServerError
from stores import STORES, LocalStore
from stub_server import StubServer, forward
from trees import write_tree

import modelkit_assets

pytest.register_assert_rewrite("contract")
# on a memory disk, where there is one, the syncs of a local store cost nothing
if os.path.isdir("/dev/shm"):
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", "/dev/shm")
# a busy machine is no failure
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

SETTINGS = ("MODELKIT_", "STORAGE_", "ASSETS_DIR", "AWS_", "S3_", "GOOGLE_", "AZURE_")


@pytest.fixture(autouse=True)
def no_settings(monkeypatch):
    for variable in list(os.environ):
        if variable.startswith(SETTINGS):
            monkeypatch.delenv(variable)


@pytest.fixture(scope="session", autouse=True)
def sdk_models():
    """Let the S3 SDK read its own files once, not for each client: 30 ms of 50."""
    try:
        from botocore.loaders import JSONFileLoader
    except ImportError:
        return
    read, loader = JSONFileLoader.load_file, JSONFileLoader()
    read_once = functools.cache(lambda path: read(loader, path))
    JSONFileLoader.load_file = lambda self, path: read_once(path)


@pytest.fixture(scope="session")
def start_server(tmp_path_factory):
    """Return a function that starts a kind of server, once in a session."""
    running = {}

    def start(kind):
        if kind not in running:
            try:
                server = kind(tmp_path_factory.mktemp(kind.__name__))
                running[kind] = stack.enter_context(server)
            except ServerError as error:
                _refuse(f"{kind.__name__}: {error}")
        return running[kind]

    with ExitStack() as stack:
        yield start


@pytest.fixture(scope="session")
def refuse():
    """Return a function that skips a test for what is not installed."""
    return _refuse


def _refuse(reason):
    """Skip the test, but not on the machine that is there to run them all."""
    (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)


@pytest.fixture(scope="session")
def require_sdk():
    """Return a function that a test which needs a protocol's SDK calls first."""

    def require(protocol):
        try:
            importlib.import_module(protocol.sdk)
        except ImportError as error:
            _refuse(f"{protocol.package}: {error}")

    return require


@pytest.fixture(scope="session")
def dask_cluster(tmp_path_factory):
    """A Dask cluster on loopback: two processes of eight threads, as of one node."""
    try:
        from distributed import LocalCluster
    except ImportError as error:
        _refuse(f"distributed: {error}")
    with LocalCluster(
        n_workers=2,
        threads_per_worker=8,
        processes=True,
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",  # with None it is port 8787
        memory_limit=None,
        local_directory=tmp_path_factory.mktemp("dask"),
    ) as cluster:
        yield cluster


@pytest.fixture
def stub():
    with StubServer() as server:
        yield server


@pytest.fixture
def make_store(start_server, tmp_path_factory, monkeypatch):
    """Return a function that makes an empty store, the configured one from then on."""

    def make(kind):
        if kind is LocalStore:
            store = kind(tmp_path_factory.mktemp("store"))
        else:
            store = kind(start_server(kind.kind))
        for variable, value in store.environ.items():
            monkeypatch.setenv(variable, value)
        return store

    return make


@pytest.fixture
def make_proxied_store(make_store, stub, monkeypatch):
    """Return a function that makes an empty store, which `stub` is a proxy of."""

    def make(kind):
        store = make_store(kind)
        stub.script = forward(store.server.endpoint)
        for variable, value in store.environ.items():
            value = value.replace(store.server.endpoint, stub.endpoint)
            monkeypatch.setenv(variable, value)
        return store

    return make


@pytest.fixture
def small_parts(monkeypatch):
    """Let files of more than 64 KiB be large, and return that."""
    monkeypatch.setattr(modelkit_assets, "_CHUNK", 1 << 16)
    monkeypatch.setattr(modelkit_assets, "_REQUEST", 1 << 16)
    return modelkit_assets._CHUNK


@pytest.fixture
def local(make_store):
    """An empty store in a folder, which is also the configured one."""
    return make_store(LocalStore)


@pytest.fixture
def log(tmp_path):
    """A file in which recording drivers write down what they have moved."""
    (tmp_path / "log").touch()
    return tmp_path / "log"


@pytest.fixture
def publish(tmp_path):
    """Return a function that publishes each tree as the next version of an asset."""
    numbers = itertools.count()

    def publish(*trees, name=NAME, **how):
        for tree in trees:
            number = next(numbers)
            source = write_tree(tmp_path / f"source-{number}", tree)
            provider = modelkit_assets.StorageProvider()
            (provider.update if number else provider.new)(source, name, **how)

    return publish


@pytest.fixture(params=STORES)
def store(request, make_store):
    """An empty store of each kind, which is also the configured one."""
    return make_store(request.param)


@pytest.fixture
def assets_dir(tmp_path, monkeypatch):
    """An empty assets dir, which is also the configured one."""
    folder = tmp_path / "assets_dir"
    folder.mkdir()
    monkeypatch.setenv("MODELKIT_ASSETS_DIR", str(folder))
    return folder


@pytest.fixture
def provider(store) -> modelkit_assets.StorageProvider:
    return modelkit_assets.StorageProvider()


@pytest.fixture
def manager(assets_dir, store) -> modelkit_assets.AssetsManager:
    return modelkit_assets.AssetsManager()
