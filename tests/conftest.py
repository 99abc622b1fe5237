"""What all tests share: no setting of the machine, and a store of each kind."""

import os

import pytest
from stores import KINDS, Store

import modelkit_assets

pytest.register_assert_rewrite("contract")

SETTINGS = ("MODELKIT_", "STORAGE_", "ASSETS_DIR", "AWS_", "S3_", "GOOGLE_", "AZURE_")


@pytest.fixture(autouse=True)
def no_settings(monkeypatch):
    for variable in list(os.environ):
        if variable.startswith(SETTINGS):
            monkeypatch.delenv(variable)


@pytest.fixture(params=KINDS)
def store(request, tmp_path_factory, monkeypatch) -> Store:
    """An empty store of each kind, which is also the configured one."""
    with request.param(tmp_path_factory.mktemp("store")) as store:
        for variable, value in store.environ.items():
            monkeypatch.setenv(variable, value)
        yield store


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
