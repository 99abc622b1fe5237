"""A source that changes while it is published stops the push before the commit."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Callable

import harness
import pytest
from trees import File, Tree, read_bytes, read_files, write_tree

import modelkit_assets

NAME = "nlp/model"
FILE: Tree = {"": File(b"weights " * 1000)}
FOLDER: Tree = {"a.bin": File(b"a" * 1000), "sub/b.bin": File(b"b" * 1000)}
file_and_folder = pytest.mark.parametrize(
    "tree", [FILE, FOLDER], ids=["file", "folder"]
)


@pytest.fixture(autouse=True)
def one_worker(no_settings: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELKIT_STORAGE_WORKERS", "1")


class ChangingDriver(modelkit_assets.LocalDriver):
    """A local store, on the way to which something happens to the source, once."""

    before_claim: Callable[[], None] | None = None
    before_upload: Callable[[], None] | None = None
    after_upload: Callable[[], None] | None = None

    def write_object(
        self, data: bytes, name: str, *, if_match: str | None = None
    ) -> str:
        """Write an object, after the change."""
        self.change("before_claim")
        return super().write_object(data, name, if_match=if_match)

    def upload_object(self, path: str, *args: Any, **kwargs: Any) -> None:
        """Upload a file, after or before the change."""
        self.change("before_upload")
        super().upload_object(path, *args, **kwargs)
        self.change("after_upload")

    def change(self, moment: str) -> None:
        """Do what is to be done at that moment, once."""
        function = getattr(self, moment)
        setattr(self, moment, None)
        if function:
            function()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    store = tmp_path / "store"
    store.mkdir()
    return store


@pytest.fixture
def source(tmp_path: Path, tree: Tree) -> Path:
    """A source written long ago, so that each later write shows in its times."""
    source = write_tree(tmp_path / "source", tree)
    for part in tree:
        os.utime(source / part if part else source, (1e9, 1e9))
    return source


def publish(
    store: Path, method: str, source: Path, moment: str, change: Callable[[], None]
) -> str:
    provider = harness.make_provider(store)
    driver = ChangingDriver(str(store))
    setattr(driver, moment, change)
    provider.driver = driver
    version = getattr(provider, method)(str(source), NAME)
    assert getattr(driver, moment) is None, "the change did not happen"
    assert isinstance(version, str)
    return version


def find_first_file(source: Path, tree: Tree) -> Path:
    """Return the file that is uploaded first, by one worker."""
    part = sorted(tree)[0]
    return source / part if part else source


def find_last_file(source: Path, tree: Tree) -> Path:
    part = sorted(tree)[-1]
    return source / part if part else source


def grow(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"more")


def rewrite(path: Path) -> None:
    path.write_bytes(path.read_bytes()[::-1].swapcase())


def swap(path: Path) -> None:
    other = path.with_name(path.name + ".other")
    other.write_bytes(path.read_bytes().swapcase())
    os.utime(other, (1e9, 1e9))
    os.replace(other, path)


def remove(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    path.write_bytes(b"")


MOMENTS = ["before_claim", "before_upload", "after_upload"]
CHANGES = [grow, rewrite, swap, remove, empty]


@pytest.mark.parametrize("change", CHANGES, ids=[one.__name__ for one in CHANGES])
@pytest.mark.parametrize("moment", MOMENTS)
@file_and_folder
def test_a_source_that_changes_after_it_was_hashed_is_not_committed(
    tmp_path: Path,
    store: Path,
    source: Path,
    tree: Tree,
    moment: str,
    change: Callable[[Path], None],
) -> None:
    changing = find_first_file(source, tree)
    with pytest.raises(modelkit_assets.SourceChangedError) as caught:
        publish(store, "new", source, moment, lambda: change(changing))

    assert str(changing) in str(caught.value)
    assert harness.read_store_as_modelkit(store / "modelkit-assets") == {}
    provider = harness.make_provider(store)
    assert list(provider.iterate_assets()) == []
    (tmp_path / "assets").mkdir()
    manager = modelkit_assets.AssetsManager(tmp_path / "assets", 5, provider)
    with pytest.raises(modelkit_assets.AssetDoesNotExistError):
        manager.fetch_asset(NAME)
    try:  # who pins it, as after a `push`, gets all that was hashed, or an error
        served = read_files(manager.fetch_asset(f"{NAME}:0.0"))
    except modelkit_assets.ModelkitAssetsError:
        served = tree
    assert served == tree


@file_and_folder
def test_a_file_that_changes_while_others_are_uploaded_is_not_committed(
    tmp_path: Path, store: Path, source: Path, tree: Tree
) -> None:
    last = find_last_file(source, tree)
    with pytest.raises(modelkit_assets.SourceChangedError):
        publish(store, "new", source, "before_upload", lambda: rewrite(last))

    assert list(harness.make_provider(store).iterate_assets()) == []


@file_and_folder
def test_a_stopped_update_leaves_the_versions_before_it_as_they_are(
    tmp_path: Path, store: Path, source: Path, tree: Tree
) -> None:
    harness.make_provider(store).new(str(source), NAME)
    changing = find_last_file(source, tree)
    with pytest.raises(modelkit_assets.SourceChangedError):
        publish(store, "update", source, "before_upload", lambda: rewrite(changing))

    (tmp_path / "assets").mkdir()
    keys = [(NAME, "0.0"), (NAME, "0.1")]
    provider = harness.make_provider(store)
    seen = harness.read_ours(tmp_path / "assets", keys[:1], provider)
    assert seen == {(NAME, "0.0"): tree}
    assert provider.get_versions_info(NAME) == ["0.0"]


@file_and_folder
def test_what_it_changed_into_can_be_published_next(
    tmp_path: Path, store: Path, source: Path, tree: Tree
) -> None:
    changing = find_last_file(source, tree)
    with pytest.raises(modelkit_assets.SourceChangedError):
        publish(store, "new", source, "before_upload", lambda: rewrite(changing))

    version = harness.make_provider(store).new(str(source), NAME)

    (tmp_path / "assets").mkdir()
    seen = harness.read_ours(
        tmp_path / "assets", [(NAME, version)], harness.make_provider(store)
    )
    assert seen == {(NAME, version): read_files(source)} != {(NAME, version): tree}


@file_and_folder
@pytest.mark.parametrize("moment", MOMENTS)
def test_what_it_was_before_can_be_published_next(
    tmp_path: Path, store: Path, source: Path, tree: Tree, moment: str
) -> None:
    # the stopped push may have uploaded other bytes, as many, to the claimed version
    changing = find_first_file(source, tree)
    with pytest.raises(modelkit_assets.SourceChangedError):
        publish(store, "new", source, moment, lambda: rewrite(changing))
    write_tree(source, {part: file for part, file in tree.items() if file})

    version = harness.make_provider(store).new(str(source), NAME)

    (tmp_path / "assets").mkdir()
    seen = harness.read_ours(
        tmp_path / "assets", [(NAME, version)], harness.make_provider(store)
    )
    assert seen == {(NAME, version): tree}
    for content in harness.read_store_as_modelkit(store / "modelkit-assets").values():
        assert content == read_bytes(tree)


@file_and_folder
def test_a_source_that_is_only_read_meanwhile_is_published(
    store: Path, source: Path, tree: Tree
) -> None:
    path = find_last_file(source, tree)
    version = publish(store, "new", source, "before_upload", lambda: read(path))
    assert version == "0.0"


def read(path: Path) -> None:
    path.read_bytes()
