"""Whatever kills a publication or a fetch, and wherever: nothing torn, nothing lost."""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import attacks
import harness
import pytest
from harness import NAME
from trees import File, Tree, list_entries, read_bytes, read_files, write_tree

import modelkit_assets

PREFIX = modelkit_assets.StorageProvider(provider="local", bucket="/").prefix
ONE_WORKER = {"MODELKIT_STORAGE_WORKERS": "1"}  # the same steps in the same order

FILE: Tree = {"": File(b"weights " * 5000)}
OTHER_FILE: Tree = {"": File(b"lighter " * 4500)}
FOLDER: Tree = {
    "bin/run.sh": File(b"echo run\n" * 4000, executable=True),
    "config.json": File(b'{"layers": 2}'),
    "deep/er/vocab with space.txt": File(b"a\nb\n"),
    "empty.txt": File(b""),
    "hollow/inside/": None,
}
OTHER_FOLDER: Tree = {**FOLDER, "config.json": File(b'{"layers": 3}')}

before_and_after = attacks.parametrize(
    "after", [False, True], ids=["just_before", "just_after"]
)
file_and_folder = attacks.parametrize("tree", [FILE, FOLDER], ids=["file", "folder"])


# --------------------------------------------------------------------- publishing


def publish(method: str, source: Path, world: Path) -> str:
    make = functools.partial(harness.make_provider, world)
    return harness.publish(make, method, source, NAME)


@before_and_after
@attacks.parametrize(
    ("earlier", "tree"),
    [(None, FILE), (None, FOLDER), (OTHER_FILE, FILE), (OTHER_FOLDER, FOLDER)],
    ids=["new_file", "new_folder", "update_file", "update_folder"],
)
def test_a_killed_publication_is_never_half_visible_and_can_be_completed(
    tmp_path: Path, earlier: Tree | None, tree: Tree, after: bool
) -> None:
    source = write_tree(tmp_path / "source", tree)
    template = tmp_path / "store"
    template.mkdir()
    published: dict[str, Tree] = {}
    if earlier is not None:
        published["0.0"] = earlier
        publish("new", write_tree(tmp_path / "earlier", earlier), template)
    method, version = ("update", "0.1") if earlier else ("new", "0.0")
    operation = functools.partial(publish, method, source)
    deaths = uncommitted = 0
    for n, store in harness.each_death(template, operation, after, environ=ONE_WORKER):
        deaths += 1
        whole = {**published, version: tree}
        listed = check_store(store, whole, tmp_path / f"reader-{n}")
        assert set(published) <= listed
        if version not in listed:
            uncommitted += 1
            assert publish(method, source, store) == version
        elif earlier:
            assert publish(method, source, store) == "0.2"
            whole["0.2"] = tree
        else:
            with pytest.raises(modelkit_assets.AssetAlreadyExistsError):
                publish(method, source, store)
        listed = check_store(store, whole, tmp_path / f"reader-{n}-again")
        assert listed == set(whole)
        assert list_objects(store) == harness.name_objects(PREFIX, NAME, whole)
    assert deaths > uncommitted > 10


def check_store(store: Path, whole: dict[str, Tree], assets_dir: Path) -> set[str]:
    """Check that both readers see whole versions alone; return those listed."""
    provider = harness.make_provider(store)
    listed = harness.check_store(
        list_objects(store),
        lambda name: (store / name).read_bytes(),
        provider,
        whole,
        assets_dir,
    )
    assert dict(provider.iterate_assets()) == (
        {NAME: sorted(listed, reverse=True)} if listed else {}
    )
    return listed


def list_objects(store: Path) -> set[str]:
    objects = modelkit_assets.LocalDriver(str(store)).iterate_objects("")
    names = [name for name, _, _ in objects]
    assert len(names) == len(set(names))
    return set(names)


@file_and_folder
def test_the_claim_of_a_killed_publication_is_not_taken_by_other_content(
    tmp_path: Path, tree: Tree
) -> None:
    store = tmp_path / "store"
    store.mkdir()
    source = write_tree(tmp_path / "source", tree)
    other = write_tree(tmp_path / "other", OTHER_FILE)
    dying = {"die_at": 1, "among": ("upload_object",), "environ": ONE_WORKER}
    assert harness.run(publish, "new", source, store, **dying).killed

    version = publish("new", other, store)

    assert version == "0.1"
    keys = [(NAME, "0.0"), (NAME, "0.1")]
    (tmp_path / "assets").mkdir()
    provider = harness.make_provider(store)
    seen = harness.read_ours(tmp_path / "assets", keys, provider)
    assert seen == {(NAME, "0.1"): OTHER_FILE}


@attacks.parametrize(
    ("pack", "killed_at", "after"),
    [(False, 1, False), (False, 3, False), (False, 4, True), (True, 1, True)],
)
def test_a_push_that_completes_another_downloads_nothing(
    tmp_path: Path, pack: bool, killed_at: int, after: bool
) -> None:
    store, log = tmp_path / "store", tmp_path / "log"
    store.mkdir()
    source = write_tree(tmp_path / "source", FOLDER)
    dying = {"die_at": killed_at, "after": after, "among": ("upload_object",)}
    operation = functools.partial(push, source, pack)
    assert harness.run(operation, store, environ=ONE_WORKER, **dying).killed
    before = list_objects(store)

    provider = harness.make_recording_provider(store, log)
    provider.push(source, NAME, "0.0", pack=pack)

    assert harness.read_log(log, "read") == []
    uploaded = {one.name for one in harness.read_log(log, "upload")}
    assert uploaded == list_objects(store) - before
    (tmp_path / "assets").mkdir()
    assert read_files(fetch(store, False, tmp_path / "assets")) == FOLDER


def push(source: Path, pack: bool, store: Path) -> None:
    harness.make_provider(store).push(source, NAME, "0.0", pack=pack)


# --------------------------------------------------------------------- fetching


class Start(NamedTuple):
    """What a fetch finds in the assets dir.

    left      data at the version's path; None: nothing
    marked    whether it has a marker, so that it can only be replaced by force
    killed    whether a fetch was killed before, half-way
    empty     whether it has an empty marker, as modelkit's are
    """

    left: Tree | None = None
    marked: bool = False
    killed: bool = False
    empty: bool = False


TORN_FILE: Tree = {"": File(FILE[""].data[:20000])}  # type: ignore[union-attr]
TORN_FOLDER: Tree = {
    "config.json": File(b'{"layers": 9}'),
    "deep/er/vocab with space.txt": File(b"a\nb\n"),
}
STARTS = {
    "cold_file": (FILE, Start()),
    "cold_folder": (FOLDER, Start()),
    "forced_file": (FILE, Start(FILE, marked=True)),
    "forced_folder": (FOLDER, Start(FOLDER, marked=True)),
    "torn_file": (FILE, Start(TORN_FILE)),
    "torn_folder": (FOLDER, Start(TORN_FOLDER)),
    "unmarked_file": (FILE, Start(FILE)),
    "unmarked_folder": (FOLDER, Start(FOLDER)),
    "file_where_the_folder_belongs": (FOLDER, Start(TORN_FILE)),
    "folder_where_the_file_belongs": (FILE, Start(TORN_FOLDER)),
    "killed_file": (FILE, Start(killed=True)),
    "killed_folder": (FOLDER, Start(killed=True)),
    "forced_and_killed_folder": (FOLDER, Start(FOLDER, marked=True, killed=True)),
    "modelkits_file": (FILE, Start(FILE, empty=True)),
}


COMMON = list(STARTS)[:8]


def fetch(store: Path, force: bool, assets_dir: Path) -> str:
    make = functools.partial(harness.make_provider, store)
    return harness.fetch(make, assets_dir, f"{NAME}:0.0", force)


@pytest.fixture
def store(tmp_path: Path, tree: Tree) -> Path:
    """A store that has the tree as version 0.0."""
    store = tmp_path / "store"
    store.mkdir()
    publish("new", write_tree(tmp_path / "source", tree), store)
    return store


@attacks.parametrize(
    ("tree", "start", "after"),
    # for the rare ones, just before each step will do
    [(*STARTS[id], after) for after in (False, True) for id in STARTS][
        : len(STARTS) + len(COMMON)
    ],
    ids=[f"{id}-just_before" for id in STARTS] + [f"{id}-just_after" for id in COMMON],
)
def test_a_killed_fetch_is_never_half_visible_and_the_next_one_completes(
    tmp_path: Path, store: Path, tree: Tree, start: Start, after: bool
) -> None:
    template = tmp_path / "assets"
    prepare(template, store, start)
    entries = list_entries(template) | harness.name_entries(tree)
    operation = functools.partial(fetch, store, start.marked)
    deaths = 0
    for n, assets_dir in harness.each_death(
        template, operation, after, environ=ONE_WORKER
    ):
        deaths += 1
        check_interrupted(assets_dir, store, tree, start, tmp_path / f"copy-{n}")
        assert list_entries(assets_dir) <= entries
        is_hit = not start.marked and harness.read_assets_dir_as_modelkit(assets_dir)
        assert fetch(store, start.marked, assets_dir) == str(assets_dir / NAME / "0.0")
        if is_hit:  # which writes nothing: the next download clears the staging
            fetch(store, True, assets_dir)
        harness.check_complete(assets_dir, tree)
    assert deaths > 10


def prepare(assets_dir: Path, store: Path, start: Start) -> None:
    assets_dir.mkdir()
    path = assets_dir / NAME / "0.0"
    if start.left is not None:
        path.parent.mkdir(parents=True)
        write_tree(path, start.left)
    if start.marked:
        fetch(store, False, assets_dir)
    if start.empty:
        path.with_name(".0.0.SUCCESS").touch()
    if start.killed:
        outcome = harness.run(
            fetch, store, start.marked, assets_dir,
            die_at=2, among=("write_half", "replace"), environ=ONE_WORKER,
        )  # fmt: skip
        assert outcome.killed and list((assets_dir / ".cache/staging").iterdir())


def check_interrupted(
    assets_dir: Path, store: Path, tree: Tree, start: Start, copy: Path
) -> None:
    """Check that each reader sees what it saw before, the whole asset, or nothing."""
    for content in harness.read_assets_dir_as_modelkit(assets_dir).values():
        assert content == read_bytes(tree)
    key = (NAME, "0.0")
    offline = harness.read_ours(assets_dir, [key]).get(key)
    # without a provider, what is there needs no marker: it is as good as it was before
    assert offline in (tree, start.left, None)
    if start.left is None:  # what is visible is marked, so that it is a hit at once
        assert bool(offline) == bool(harness.read_assets_dir_as_modelkit(assets_dir))
    if start.marked and "" in tree:
        assert offline == tree, "a file that is replaced is never missing"
    shutil.copytree(assets_dir, copy)
    provider = harness.make_provider(store)
    assert harness.read_ours(copy, [key], provider) == {key: tree}
    shutil.rmtree(copy)


@before_and_after
@attacks.parametrize("tree", [FILE], ids=["file"])
def test_the_tag_that_keeps_backups_away_survives_a_kill(
    tmp_path: Path, store: Path, after: bool
) -> None:
    template = tmp_path / "assets"
    template.mkdir()
    operation = functools.partial(fetch, store, False)
    for _, assets_dir in harness.each_death(
        template, operation, after, environ=ONE_WORKER
    ):
        fetch(store, False, assets_dir)
        tag = (assets_dir / ".cache/CACHEDIR.TAG").read_bytes()
        assert tag.startswith(b"Signature: 8a477f597d28d172789f06886806bc55")


def fetch_recorded(store: Path, log: Path, assets_dir: Path) -> Any:
    make = functools.partial(harness.make_recording_provider, store, log)
    return harness.fetch(make, assets_dir, f"{NAME}:0.0")


MANY: Tree = {f"part-{n:02}": File(b"%d " % n * 5000) for n in range(20)}


@attacks.parametrize("tree", [MANY], ids=["twenty_files"])
def test_what_a_killed_fetch_has_downloaded_is_not_downloaded_again(
    tmp_path: Path, store: Path
) -> None:
    assets_dir, log = tmp_path / "assets", tmp_path / "log"
    assets_dir.mkdir()
    operation = functools.partial(fetch, store, False)
    dying = {"die_at": 11, "among": ("iterate_bytes",), "environ": ONE_WORKER}
    assert harness.run(operation, assets_dir, **dying).killed

    path = fetch_recorded(store, log, assets_dir)

    assert read_files(path) == MANY
    assert (
        len({one.name for one in harness.read_log(log)})
        == len(harness.read_log(log))
        == 10
    )


@attacks.parametrize("tree", [MANY], ids=["twenty_files"])
def test_what_was_spoilt_in_the_staging_is_downloaded_again(
    tmp_path: Path, store: Path
) -> None:
    assets_dir, log = tmp_path / "assets", tmp_path / "log"
    assets_dir.mkdir()
    operation = functools.partial(fetch, store, False)
    dying = {"die_at": 11, "among": ("iterate_bytes",), "environ": ONE_WORKER}
    assert harness.run(operation, assets_dir, **dying).killed
    (spoilt,) = (assets_dir / ".cache/staging").rglob("part-03")
    spoilt.write_bytes(spoilt.read_bytes()[::-1])

    path = fetch_recorded(store, log, assets_dir)

    assert read_files(path) == MANY
    assert len(harness.read_log(log)) == 11


# ----------------------------------------------------------------- data unmarked


@file_and_folder
def test_right_data_without_a_marker_is_adopted_and_not_downloaded(
    tmp_path: Path, store: Path, tree: Tree
) -> None:
    assets_dir, log = tmp_path / "assets", tmp_path / "log"
    prepare(assets_dir, store, Start(tree))

    fetch_recorded(store, log, assets_dir)

    assert not log.exists()
    harness.check_complete(assets_dir, tree)


MODELKITS_FOLDER: Tree = {part: File(data) for part, data in read_bytes(FOLDER).items()}
LEFT = {
    "with_files_that_are_not_of_it": {**FOLDER, "config.json.8Bd3F2a9": File(b"{")},
    "without_its_executable_bits": {**FOLDER, "bin/run.sh": File(b"echo run\n" * 4000)},
    "without_its_empty_folders": {
        part: file for part, file in FOLDER.items() if file is not None
    },
    "as_modelkit_would_write_it": MODELKITS_FOLDER,
}


@attacks.parametrize("left", LEFT.values(), ids=LEFT)
@attacks.parametrize("tree", [FOLDER], ids=["folder"])
def test_data_without_a_marker_is_not_adopted_as_it_is(
    tmp_path: Path, store: Path, left: Tree
) -> None:
    assets_dir = tmp_path / "assets"
    prepare(assets_dir, store, Start(left))

    fetch(store, False, assets_dir)

    harness.check_complete(assets_dir, FOLDER)


@attacks.parametrize("tree", [FOLDER], ids=["folder"])
def test_the_marker_of_a_completed_fetch_is_the_manifest(
    tmp_path: Path, store: Path
) -> None:
    assets_dir = tmp_path / "assets"
    assets_dir.mkdir()
    operation = functools.partial(fetch, store, False)
    assert harness.run(operation, assets_dir, die_at=12).killed

    path = Path(fetch(store, False, assets_dir))

    manifest = json.loads((path / ".SUCCESS").read_bytes())
    assert manifest["contents"] == sorted(read_bytes(FOLDER))
    assert manifest["empty_directories"] == ["hollow/inside"]
