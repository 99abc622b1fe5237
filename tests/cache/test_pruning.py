"""`prune` to a size, and of what interrupted downloads left."""

import os
from pathlib import Path

import pytest

import modelkit_assets as ma


@pytest.fixture
def sized(store, tmp_path, assets_dir):
    """Two assets of two versions each, of 1000 bytes, fetched in a known order."""
    provider, manager = ma.StorageProvider(), ma.AssetsManager(assets_dir)
    (tmp_path / "file").write_bytes(bytes(1000))
    for name in ("one", "two"):
        provider.new(tmp_path / "file", name)
        provider.update(tmp_path / "file", name)
    specs = ["two:0.1", "one:0.0", "one:0.1", "two:0.0"]
    for number, spec in enumerate(specs):
        name, _, version = spec.partition(":")
        manager.fetch_asset(spec)
        marker = assets_dir / name / f".{version}.SUCCESS"
        os.utime(marker, (1e9 + number, 1e9 + number))
    return manager


@pytest.mark.parametrize(
    "max_size, keep, doomed",
    [
        (4000, None, []),
        (3999, None, ["two:0.1"]),
        (2000, None, ["two:0.1", "one:0.0"]),
        (0, None, ["two:0.1", "one:0.0", "one:0.1", "two:0.0"]),
        (3000, 1, ["one:0.0"]),
        (0, 1, ["one:0.0", "two:0.0"]),
        (0, 2, []),
    ],
)
def test_a_cache_is_cut_to_a_size_the_oldest_fetched_first(
    sized, assets_dir, max_size, keep, doomed
):
    assert list(map(str, sized.prune(keep, True, max_size))) == doomed
    assert list(map(str, sized.prune(keep, max_size=max_size))) == doomed
    left = {f"{one.name}:{one.version}" for one in sized.iterate_copies()}
    assert left == {"one:0.0", "one:0.1", "two:0.0", "two:0.1"} - set(doomed)


@pytest.mark.parametrize(
    "text, size",
    [("50GB", 50e9), ("1.5 TiB", 1.5 * 2**40), ("10", 10), ("2k", 2e3), ("7MB", 7e6)],
)
def test_a_size_is_written_as_people_do(text, size):
    assert ma._read_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1", "1.2.3", "5 apples", "1e3"])
def test_what_is_no_size_is_refused(sized, text, capsys):
    assert ma.main(["prune", f"--max-size={text}", "--yes"]) == 2
    assert "--max-size takes a size, as 50GB" in capsys.readouterr().err
    assert ma.main(["prune", "--yes"]) == 2
    assert "say what to keep: --keep N, --max-size SIZE" in capsys.readouterr().err


def test_what_interrupted_downloads_left_is_shown_and_cleared(
    sized, assets_dir, capsys
):
    staging = assets_dir / ".cache" / "staging"
    left = staging / "x@0.0@abc~0123" / "work" / "data"
    left.parent.mkdir(parents=True)
    left.write_bytes(bytes(5000))
    (left.parent.parent / "lock").touch()
    with sized._cache.staging("in", "use", ["content"]) as folder:
        Path(folder, "data").write_bytes(bytes(7000))
        assert ma.main(["list", "--local"]) == 0
        assert "interrupted downloads left 5.0 kB in .cache" in capsys.readouterr().err
        assert ma.main(["prune", "--keep", "9", "--dry-run"]) == 0
        assert "would delete 5.0 kB that interrupted" in capsys.readouterr().err
        assert left.exists()
        assert ma.main(["prune", "--yes"]) == 0
        assert "deleted 5.0 kB that interrupted downloads" in capsys.readouterr().err
        assert not left.exists()
        assert Path(folder, "data").exists()  # somebody works there
    assert len(list(sized.iterate_copies())) == 4
    assert ma.main(["prune", "--keep", "9", "--yes"]) == 0
    assert capsys.readouterr() == ("", "")


def test_what_was_removed_is_not_served_as_a_folder(sized, assets_dir, capsys):
    sized.remove("one")
    assert not (assets_dir / "one").exists()
    with pytest.raises(ma.AssetDoesNotExistError, match="no storage provider is conf"):
        ma.AssetsManager(assets_dir, offline=True).fetch_asset("one")
