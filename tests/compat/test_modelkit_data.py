"""A store and an assets dir that modelkit 0.1.3 wrote are read as they are."""

import os

import pytest
from trees import MODELKIT_DATA, copy_data, read_files, read_tree, snapshot

import modelkit_assets as ma

ASSETS = {
    "lookup/cities": ["2021-11-15T17-31-06Z", "2021-11-14T18-00-00Z"],
    "nlp/bert/base": ["0.0"],
    "nlp/tokenizer": ["10.0", "1.0", "0.1", "0.0"],
}
SOURCES = {
    ("nlp/tokenizer", "0.0"): "file.txt",
    ("nlp/tokenizer", "0.1"): "file2.txt",
    ("nlp/tokenizer", "1.0"): "file.txt",
    ("nlp/tokenizer", "10.0"): "file10.txt",
    ("lookup/cities", "2021-11-14T18-00-00Z"): "file.txt",
    ("lookup/cities", "2021-11-15T17-31-06Z"): "file2.txt",
}


@pytest.fixture
def provider(tmp_path):
    bucket = copy_data("store", tmp_path / "bucket")
    return ma.StorageProvider(provider="local", bucket=bucket)


@pytest.fixture
def manager(provider, assets_dir):
    return ma.AssetsManager(assets_dir, storage_provider=provider)


def test_the_copy_of_the_data_is_whole():
    assert len(read_tree(MODELKIT_DATA / "store")) == 20
    assert len(read_tree(MODELKIT_DATA / "assets_dir")) == 6
    assert len(read_tree(MODELKIT_DATA / "src")) == 7


def test_every_asset_is_listed(provider):
    assert dict(provider.iterate_assets()) == ASSETS


@pytest.mark.parametrize(("name", "version"), SOURCES)
def test_every_file_asset_is_fetched_to_the_byte(manager, name, version):
    info = manager.fetch_asset(f"{name}:{version}", return_info=True)
    expected = (MODELKIT_DATA / "src" / SOURCES[name, version]).read_bytes()
    with open(info["path"], "rb") as file:
        assert file.read() == expected
    assert info["meta"]["files"][0]["size"] == len(expected)


def test_the_directory_asset_is_fetched_to_the_byte(manager):
    expected = read_tree(MODELKIT_DATA / "src" / "dir")
    assert read_tree(manager.fetch_asset("nlp/bert/base")) == expected
    part = manager.fetch_asset("nlp/bert/base:0[nested/deep/vocab with space.txt]")
    with open(part, "rb") as file:
        assert file.read() == expected["nested/deep/vocab with space.txt"]


@pytest.mark.parametrize(
    ("spec", "version"),
    [
        ("nlp/tokenizer", "10.0"),
        ("nlp/tokenizer:1", "1.0"),
        ("nlp/tokenizer:0", "0.1"),
        ("lookup/cities", "2021-11-15T17-31-06Z"),
    ],
)
def test_versions_resolve_among_modelkits(manager, spec, version):
    assert manager.fetch_asset(spec, return_info=True)["version"] == version


def test_updates_continue_modelkits_versions(provider):
    source = MODELKIT_DATA / "src" / "file.txt"
    assert provider.update(source, "nlp/tokenizer") == "10.1"
    assert provider.update(source, "nlp/tokenizer", "1") == "1.1"
    assert provider.update(source, "nlp/tokenizer", bump_major=True) == "11.0"
    assert provider.update(source, "lookup/cities") > "2026"


@pytest.mark.parametrize("with_provider", [False, True])
def test_every_cached_asset_of_modelkit_is_a_hit(tmp_path, provider, with_provider):
    assets_dir = copy_data("assets_dir", tmp_path / "assets_dir")
    manager = ma.AssetsManager(
        assets_dir, storage_provider=provider if with_provider else None
    )
    before, files = snapshot(assets_dir), read_files(assets_dir)
    for spec in ["nlp/tokenizer:0.1", "nlp/tokenizer:10.0", "nlp/bert/base:0.0"]:
        info = manager.fetch_asset(spec, return_info=True)
        assert info["from_cache"]
        assert os.path.exists(info["path"])
    assert manager.fetch_asset("nlp/tokenizer", True)["version"] == "10.0"
    if with_provider:  # modelkit's empty markers are proved once, and then ours
        after = read_files(assets_dir)
        changed = {path for path in files if after[path] != files[path]}
        assert changed and all(path.endswith("SUCCESS") for path in changed)
    else:
        assert snapshot(assets_dir) == before
        with pytest.raises(ma.LocalAssetDoesNotExistError, match="10.0, 0.1"):
            manager.fetch_asset("nlp/tokenizer:1.0")
