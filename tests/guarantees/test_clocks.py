"""Clocks that jump: versions stay in order, and nobody gives up or waits for ever."""

import os
import threading
import time

import pytest

import modelkit_assets as ma


@pytest.fixture
def file(tmp_path):
    (tmp_path / "file").write_text("1")
    return tmp_path / "file"


@pytest.fixture
def provider(local):
    return ma.StorageProvider()


@pytest.mark.parametrize("jump_s", [-1, -3600, -400 * 86400])
def test_dates_go_up_where_the_clock_jumps_back(
    local, assets_dir, file, monkeypatch, jump_s
):
    provider = ma.StorageProvider(versioning="simple_date")
    versions, now, gmtime = [provider.new(file, "x")], time.time(), time.gmtime
    monkeypatch.setattr(
        time, "gmtime", lambda seconds=None: gmtime(seconds or now + jump_s)
    )
    versions += [provider.update(file, "x") for _ in range(3)]
    assert versions == sorted(set(versions))
    assert provider.get_versions_info("x") == versions[::-1]
    manager = ma.AssetsManager(assets_dir, storage_provider=provider)
    assert manager.fetch_asset("x", return_info=True)["version"] == versions[-1]


@pytest.fixture
def holder(assets_dir):
    """Hold the lock of `x`, and yield the lock file."""
    with ma._Cache(str(assets_dir), 1).lock("x") as lock:
        yield lock


@pytest.mark.parametrize("step_s", [-3600, 3600], ids=["back", "on"])
def test_who_waits_sees_progress_whatever_the_clock_says(
    provider, assets_dir, file, holder, step_s
):
    """The time of a lock file is compared with what it was, not with a clock."""
    provider.new(file, "x")
    errors = []

    def fetch():
        try:
            ma.AssetsManager(assets_dir, timeout=0.5).fetch_asset("x")
        except ma.AssetLockTimeoutError as error:
            errors.append(error)

    waiter = threading.Thread(target=fetch)
    waiter.start()
    at, deadline = time.time(), time.monotonic() + 1.5
    while time.monotonic() < deadline:
        at += step_s
        os.utime(holder, (at, at))
        time.sleep(0.1)
    assert waiter.is_alive()  # three times its patience
    waiter.join(20)
    assert len(errors) == 1  # and then no time of the file keeps it waiting


def test_a_wall_clock_that_jumps_neither_ends_nor_prolongs_the_tries(
    provider, monkeypatch
):
    """Patience is counted by a clock that never jumps."""
    calls = []

    def fail(self, name):
        calls.append(name)
        raise ConnectionError("reset")

    jumps = iter(range(10**6))
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + (-1) ** next(jumps) * 1e7)
    monkeypatch.setattr(ma.LocalDriver, "stat_object", fail)
    begun = time.monotonic()
    with pytest.raises(ma.StorageUnavailableError):
        provider._connect(timeout_s=1).stat_object("n")
    assert len(calls) > 2
    assert time.monotonic() - begun < 10


def test_staging_in_use_is_not_taken_for_abandoned_when_the_clock_jumps_on(
    provider, assets_dir, file, monkeypatch
):
    """Its lock is held, which says more than its time."""
    provider.new(file, "x")
    cache = ma._Cache(str(assets_dir), 1)
    with cache.staging("other", "0.0", ["content"]) as folder:
        then = time.time() - 3 * 86400
        os.utime(os.path.dirname(folder), (then, then))
        ma.AssetsManager(assets_dir).fetch_asset("x")
        assert os.path.isdir(folder)
