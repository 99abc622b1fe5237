"""A new kind of store is one new file in `drivers/`, beside any copy of the core."""

import importlib
import json
import multiprocessing
import pickle
import shutil
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
from contract import DriverContract
from places import CORE, DATA

DRIVERS = DATA / "drivers"


@pytest.fixture
def vendor(tmp_path, monkeypatch):
    """Return a function that copies core and drivers into a package, and imports it."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)

    def vendor(package, core="modelkit_assets"):
        folder = tmp_path.joinpath(*package.split("."))
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(CORE, folder / f"{core}.py")
        shutil.copytree(DRIVERS, folder / "drivers")
        importlib.invalidate_caches()
        return importlib.import_module(".".join(filter(None, (package, core))))

    yield vendor
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.fixture
def core(vendor):
    return vendor("vendored_alone")


def add_driver(core, name, text):
    folder = Path(core.__file__).parent / "drivers"
    (folder / f"{name}.py").write_text(text)


def empty(driver_class):
    driver_class.buckets["bucket"].clear()
    return driver_class


class TestMemoryDriver(DriverContract):
    @pytest.fixture(autouse=True)
    def driver_class(self, core):
        self.driver_class = empty(core._load_driver("memory"))

    @pytest.fixture
    def driver(self, driver_class):
        return self.driver_class("bucket")

    def put(self, name, data):
        self.driver_class.buckets["bucket"][name] = data

    def get(self, name):
        return self.driver_class.buckets["bucket"].get(name)

    def make_driver_on_missing_bucket(self):
        return self.driver_class(self.missing_bucket)

    def get_expected_uri(self, name):
        return f"memory://bucket/{name}"


def test_a_driver_file_is_all_that_a_new_kind_of_store_needs(core, tmp_path):
    source, assets_dir = tmp_path / "source", tmp_path / "assets"
    (source / "sub").mkdir(parents=True)
    (source / "sub" / "a b.txt").write_text("first")
    assets_dir.mkdir()
    provider = core.StorageProvider(provider="memory", bucket="bucket")
    assert provider.new(str(source), "nlp/a") == "0.0"
    (source / "sub" / "a b.txt").write_text("second")
    assert provider.update(str(source), "nlp/a") == "0.1"
    assert provider.update(str(source), "nlp/a", bump_major=True) == "1.0"
    assert list(provider.iterate_assets()) == [("nlp/a", ["1.0", "0.1", "0.0"])]

    manager = core.AssetsManager(assets_dir, storage_provider=provider)
    for version, text in ((":0.0", "first"), (":0", "second"), ("", "second")):
        path = manager.fetch_asset(f"nlp/a{version}[sub/a b.txt]")
        assert Path(path).read_text() == text
    assert json.loads(
        provider.driver.read_object("modelkit-assets/nlp/a.versions")[0]
    ) == {"versions": ["1.0", "0.1", "0.0"]}


def test_the_environment_names_a_driver_file_too(core, monkeypatch):
    monkeypatch.setenv("MODELKIT_STORAGE_PROVIDER", "memory")
    monkeypatch.setenv("MODELKIT_STORAGE_BUCKET", "bucket")
    driver = core.StorageProvider().driver
    assert type(driver) is core._load_driver("memory")
    assert type(driver).__name__ == "Driver"


def test_a_drivers_own_settings_reach_it(core):
    options = {"provider": "memory", "bucket": "bucket"}
    assert core.StorageProvider(**options, colour="blue").driver.colour == "blue"
    with pytest.raises(core.ConfigurationError, match="colour must be red or blue"):
        core.StorageProvider(**options, colour="green")
    with pytest.raises(core.ConfigurationError, match="'color': is it 'colour'"):
        core.StorageProvider(**options, color="blue")


def test_a_driver_file_serves_the_command_line(core, tmp_path):
    (tmp_path / "source").write_text("data")
    options = ["--provider", "memory", "--bucket", "bucket"]
    command = [sys.executable, core.__file__, "new", "--yes", *options]
    done = subprocess.run(
        [*command, str(tmp_path / "source"), "a"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "a:0.0\n"), done.stderr


@pytest.mark.parametrize(
    "provider", ["memroy", "Memory", "memory.py", "../drivers/memory", "", "_x"]
)
def test_an_unknown_provider_is_an_error_that_names_those_that_exist(core, provider):
    add_driver(core, "_x", "class Driver: pass")
    with pytest.raises(core.UnknownDriverError) as caught:
        core._load_driver(provider)
    assert "local, memory" in str(caught.value)
    assert caught.value.provider == provider


def test_a_driver_file_without_a_driver_is_an_error_that_names_it(core):
    add_driver(core, "hollow", "driver = None")
    with pytest.raises(core.ConfigurationError, match="hollow.*Driver"):
        core._load_driver("hollow")


@pytest.mark.parametrize(
    "text",
    [
        "import no_such_sdk\nclass Driver:\n    def __init__(self, *_, **__): pass",
        """
class Driver:
    package, variables, workers = "the-sdk", {}, 1

    def __init__(self, bucket, client=None):
        self.bucket = bucket

    def read_object(self, name):
        import no_such_sdk
""",
    ],
    ids=["at the top", "on first use"],
)
def test_an_sdk_that_is_missing_is_an_error_with_the_command_that_helps(core, text):
    add_driver(core, "remote", text)
    with pytest.raises(core.DriverNotInstalledError, match="pip install") as caught:
        core.StorageProvider(provider="remote", bucket="b").get_versions_info("a")
    assert "no_such_sdk" in str(caught.value)


def test_a_driver_file_that_fails_is_loaded_afresh_once_it_is_mended(core):
    add_driver(core, "broken", "raise RuntimeError('broken')")
    with pytest.raises(RuntimeError, match="broken"):
        core._load_driver("broken")
    shutil.copy(DRIVERS / "memory.py", Path(core.__file__).parent / "drivers/broken.py")
    assert core._load_driver("broken").__name__ == "Driver"


def test_a_driver_class_is_loaded_once(core):
    assert core._load_driver("memory") is core._load_driver("memory")


def test_somebody_elses_package_called_drivers_is_never_imported(
    core, tmp_path, monkeypatch
):
    other = tmp_path / "elsewhere" / "drivers"
    other.mkdir(parents=True)
    for module in ("__init__", "memory", "local"):
        (other / f"{module}.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(other.parent)
    core._load_driver("local")
    assert core._load_driver("memory")("bucket").bucket == "bucket"
    assert "drivers" not in sys.modules


def test_a_core_without_drivers_still_has_the_local_one(vendor, tmp_path):
    core = vendor("bare")
    shutil.rmtree(Path(core.__file__).parent / "drivers")
    assert core._load_driver("local") is core.LocalDriver
    with pytest.raises(core.UnknownDriverError, match="local"):
        core._load_driver("s3")


def test_two_vendored_copies_in_one_process_share_nothing(vendor):
    one, other = vendor("pkg1.vendor"), vendor("pkg2.vendor")
    classes = [copy._load_driver("memory") for copy in (one, other)]
    assert classes[0] is not classes[1]
    assert one.AssetSpec is not other.AssetSpec
    for copy, own in zip((one, other), classes):
        empty(own)
        provider = copy.StorageProvider(provider="memory", bucket="bucket")
        assert type(provider.driver) is own
        provider.new(copy.__file__, f"from/{copy.__name__.replace('.', '-')}")
        assert type(pickle.loads(pickle.dumps(provider.driver))) is own
        with pytest.raises(copy.ObjectDoesNotExistError):
            provider.get_versions_info("missing")
    names = [sorted(own.buckets["bucket"]) for own in classes]
    assert all("pkg1" in name for name in names[0])
    assert all("pkg2" in name for name in names[1])


def describe(driver):
    return type(driver).__name__, vars(driver), driver.get_object_uri("a")


def test_a_driver_pickles_within_its_process(core):
    driver = core._load_driver("memory")("bucket", colour="blue")
    again = pickle.loads(pickle.dumps(driver))
    assert type(again) is type(driver)
    assert describe(again) == describe(driver)


@pytest.mark.parametrize("package", ["", "pkg1.vendor"])
def test_a_driver_pickles_into_a_process_that_never_loaded_it(vendor, package):
    core = vendor(package, "modelkit_assets_copy")
    driver = core._load_driver("memory")("bucket", colour="blue")
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn) as pool:
        assert pool.submit(describe, driver).result(60) == describe(driver)


def test_a_manager_pickles_with_its_driver(core, tmp_path):
    (tmp_path / "assets").mkdir()
    provider = core.StorageProvider(provider="memory", bucket="bucket")
    manager = core.AssetsManager(tmp_path / "assets", storage_provider=provider)
    again = pickle.loads(pickle.dumps(manager))
    assert again.assets_dir == manager.assets_dir
    assert type(again.storage_provider.driver) is type(provider.driver)
