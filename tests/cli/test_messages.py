"""What new users trip over: each has one clear message, and the exit code that fits."""

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from stub_server import PROTOCOLS

import modelkit_assets as ma


@pytest.fixture
def dated(local, file):
    """A provider of a store with one asset that has dates as versions."""
    provider = ma.StorageProvider()
    provider.new(file, "nlp/dated", "2026-11-25T10-00-00Z")
    return provider


@pytest.fixture
def file(tmp_path):
    (tmp_path / "file").write_text("1")
    return tmp_path / "file"


def fails(call, code, *args):
    """Run a command that fails, and return its only line on stderr."""
    got, out, err = call(*args)
    assert (got, out) == (code, "")
    assert err.count("\n") == 1
    assert err.startswith("modelkit_assets: error: ")
    return err


@pytest.mark.parametrize("provider", ["s3", "az", "mine"])
def test_a_driver_that_was_not_copied_is_told_where_to(tmp_path, provider):
    folder = tmp_path / "vendor"
    folder.mkdir()
    shutil.copy(ma.__file__, folder)
    command = [sys.executable, folder / Path(ma.__file__).name, "list"]
    command += ["--provider", provider, "--bucket", "b"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert f"copy its driver to '{folder}/drivers/{provider}.py'" in done.stderr
    assert "there are local;" in done.stderr


def test_a_major_that_does_not_exist_is_told_with_its_asset(call, local, file):
    ma.StorageProvider().new(file, "nlp/bert")
    said = "no version 'nlp/bert:9' exists, the major versions are: 0\n"
    assert fails(call, 3, "fetch", "nlp/bert:9").endswith(said)
    assert fails(call, 3, "update", str(file), "nlp/bert:9", "--yes").endswith(said)


@pytest.mark.parametrize("version", ["2026", "1", "1.0"])
def test_the_system_that_an_assets_versions_follow_is_named(call, dated, version):
    err = fails(call, 2 if version != "1.0" else 3, "fetch", f"nlp/dated:{version}")
    if version != "1.0":
        assert "'nlp/dated' has simple_date versions, as '2026-11-25T" in err
        assert "not those of major_minor" in err


def test_an_update_in_another_system_is_refused(call, dated, file):
    args = ["update", str(file), "nlp/dated", "--yes", "--versioning", "major_minor"]
    err = fails(call, 2, *args)
    assert "'nlp/dated' has simple_date versions" in err
    assert dated.get_versions_info("nlp/dated") == ["2026-11-25T10-00-00Z"]


def test_a_date_has_no_major_to_bump(call, dated, file):
    err = fails(call, 2, "update", str(file), "nlp/dated", "--bump-major", "--yes")
    assert "a date has no major version to bump" in err


class Incomplete(ma.AssetsVersioningSystem):
    @classmethod
    def get_initial_version(cls):
        return "a"

    @classmethod
    def check_version_valid(cls, version):
        pass


class Foreign:
    """Derived of nothing."""

    get_initial_version = check_version_valid = increment_version = Incomplete.mro
    is_version_complete = sort_versions = Incomplete.mro


@pytest.mark.parametrize(
    "name, missing",
    [("Incomplete", "increment_version"), ("Foreign", "get_latest_partial_version")],
)
def test_a_versioning_class_that_is_not_complete_is_told_what_it_lacks(
    call, local, name, missing, monkeypatch
):
    monkeypatch.setitem(sys.modules, "my_versions", sys.modules[__name__])
    err = fails(call, 2, "list", "--local", "--versioning", f"my_versions:{name}")
    assert f"'my_versions:{name}' (the class has no {missing})" in err


def test_a_provider_takes_keywords():
    with pytest.raises(ma.ConfigurationError, match="bucket are keywords.*not 's3'"):
        ma.StorageProvider("s3", "bucket")


def test_a_manager_takes_a_provider_not_its_name(assets_dir):
    with pytest.raises(ma.ConfigurationError, match=r"StorageProvider\(provider='s3'"):
        ma.AssetsManager(assets_dir, storage_provider="s3")


def test_a_spec_is_no_path(manager):
    with pytest.raises(ma.InvalidAssetSpecError, match=r"AssetSpec, not a PosixPath"):
        manager.fetch_asset(Path("nlp/bert"))


@pytest.mark.server
@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda one: one.provider)
@pytest.mark.parametrize("host", ["127.0.0.1:1", "no-such-host.invalid:80"])
def test_a_store_that_cannot_be_connected_to_is_given_up_soon(
    call, assets_dir, monkeypatch, require_sdk, protocol, host
):
    require_sdk(protocol)
    for name, value in protocol.environ(f"http://{host}").items():
        monkeypatch.setenv(name, value)
    assert ma._CONNECT_S < 20
    monkeypatch.setattr(ma, "_CONNECT_S", 0.5)
    begun = time.monotonic()
    where = ["--provider", protocol.provider, "--bucket", "bucket"]
    err = fails(call, 5, "fetch", "nlp/bert", *where)
    assert time.monotonic() - begun < 20
    address = {"s3": "S3_ENDPOINT", "az": "AZURE_STORAGE_CONNECTION_STRING"}
    assert address.get(protocol.provider, "the network") in err
    assert "`doctor`" in err


@pytest.mark.parametrize("host", ["127.0.0.1:1", "no-such-host.invalid:80"])
def test_a_web_server_that_cannot_be_connected_to_is_given_up_soon(
    call, assets_dir, monkeypatch, host
):
    monkeypatch.setattr(ma, "_CONNECT_S", 0.5)
    begun = time.monotonic()
    where = ["--provider", "http", "--bucket", f"http://{host}/models"]
    err = fails(call, 5, "fetch", "nlp/bert", *where)
    assert time.monotonic() - begun < 20
    assert host in err
    assert "check MODELKIT_STORAGE_BUCKET, and see `doctor`" in err
