"""The assets dir: what is checked before a download, and what is cleared away."""

import json
import os
import time

import pytest
from stores import LocalStore
from trees import snapshot

import modelkit_assets as ma


@pytest.fixture
def store(make_store):
    return make_store(LocalStore)


@pytest.fixture
def file(tmp_path):
    (tmp_path / "file").write_text("1")
    return tmp_path / "file"


def test_too_little_free_space_is_said_before_the_first_byte(
    store, provider, manager, assets_dir, file
):
    provider.new(file, "x")
    name = "modelkit-assets/x/0.0.meta"
    manifest = json.loads(store.read_object(name))
    manifest["files"][0]["size"] = 10**18
    store.write_object(name, json.dumps(manifest).encode())
    with pytest.raises(ma.AssetsDirError, match=f"{10**18} bytes are needed"):
        manager.fetch_asset("x")
    assert not list(assets_dir.rglob("data"))
    assert not (assets_dir / "x").exists()


@pytest.mark.parametrize(("age_s", "kept"), [(3600, True), (25 * 3600, False)])
def test_staging_that_nobody_holds_is_reclaimed_after_a_day(
    provider, manager, assets_dir, file, age_s, kept
):
    provider.new(file, "x")
    staging = assets_dir / ".cache" / "staging" / "other@0.0@abc~999999999~host~1"
    staging.mkdir(parents=True)
    (staging / "data").write_text("of a download that was killed")
    then = time.time() - age_s
    os.utime(staging, (then, then))
    manager.fetch_asset("x")
    assert staging.exists() is kept


def test_a_lock_file_that_is_replaced_is_waited_for_anew(
    provider, manager, assets_dir, file, monkeypatch
):
    """A process that deletes lock files, as modelkit may, must not let two in."""
    provider.new(file, "x")
    open_, opened = os.open, []

    def open_and_replace(path, *args, **kwargs):
        descriptor = open_(path, *args, **kwargs)
        if str(path).endswith(".lock"):
            opened.append(os.fstat(descriptor).st_ino)
            if len(opened) == 1:
                os.rename(path, f"{path}.old")
                os.close(open_(path, os.O_CREAT | os.O_WRONLY))
        return descriptor

    monkeypatch.setattr(os, "open", open_and_replace)
    manager.fetch_asset("x")
    assert len(opened) == 2
    assert os.stat(assets_dir / ".cache" / "x.lock").st_ino == opened[1]


def test_a_relative_store_stays_where_it_was(tmp_path, file, monkeypatch):
    (tmp_path / "bucket").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    provider = ma.StorageProvider(provider="local", bucket="bucket")
    monkeypatch.chdir(tmp_path / "elsewhere")
    provider.new(file, "x")
    assert (tmp_path / "bucket" / "modelkit-assets" / "x.versions").is_file()
    assert snapshot(tmp_path / "elsewhere") == {}
