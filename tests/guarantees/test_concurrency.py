"""Many processes and threads at once: one downloads, none is wrong, none is lost."""

from __future__ import annotations

import functools
import itertools
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import attacks
import harness
import pytest
from harness import NAME, Outcome
from trees import (
    File,
    Tree,
    list_entries,
    make_content,
    read_bytes,
    read_files,
    write_tree,
)

import modelkit_assets

MANY = 16
DATES = {"MODELKIT_ASSETS_VERSIONING_SYSTEM": "simple_date"}
DATE = re.compile(r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\dZ")

FILE: Tree = {"": File(b"weights " * 200_000)}
FOLDER: Tree = {
    "bin/run.sh": File(b"echo run\n" * 20_000, executable=True),
    "config.json": File(b'{"layers": 2}'),
    "deep/er/vocab.txt": File(b"a\nb\n" * 50_000),
    "empty.txt": File(b""),
    "hollow/": None,
}
file_and_folder = attacks.parametrize("tree", [FILE, FOLDER], ids=["file", "folder"])
with_and_without_flock = attacks.parametrize(
    "flock", [True, False], ids=["flock", "no_flock"]
)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    store = tmp_path / "store"
    store.mkdir()
    return store


@pytest.fixture
def assets_dir(tmp_path: Path) -> Path:
    assets_dir = tmp_path / "assets"
    assets_dir.mkdir()
    return assets_dir


def publish_tree(store: Path, tree: Tree) -> None:
    source = write_tree(store.parent / "source", tree)
    harness.make_provider(store).new(str(source), NAME)


# --------------------------------------------------------------------- publishing


def publish_together(
    store: Path, method: str, contents: list[Tree], **setup: Any
) -> list[Outcome]:
    make = functools.partial(harness.make_provider, store)
    folder = store.parent / "sources"
    sources = [
        write_tree(folder / str(number), tree) for number, tree in enumerate(contents)
    ]
    calls = [(harness.publish, make, method, source, NAME) for source in sources]
    return harness.run_together(calls, **setup)


def check_store(store: Path, published: dict[str, Tree]) -> None:
    """Check that the store lists these versions alone, each whole, for both readers."""
    provider = harness.make_provider(store)
    versions = list(dict(provider.iterate_assets())[NAME])
    assert set(versions) == set(published)
    latest = modelkit_assets.AssetSpec(NAME).sort_versions(versions)
    assert versions == latest, "the versions are not in order"
    assert harness.read_store_as_modelkit(store / provider.prefix) == {
        (NAME, version): read_bytes(tree) for version, tree in published.items()
    }
    assets_dir = store.parent / "reader"
    assets_dir.mkdir()
    keys = [(NAME, version) for version in published]
    assert harness.read_ours(assets_dir, keys, provider) == {
        (NAME, version): tree for version, tree in published.items()
    }


@with_and_without_flock
def test_sixteen_updates_at_once_are_sixteen_versions(store: Path, flock: bool) -> None:
    publish_tree(store, FILE)
    contents = [make_content(number) for number in range(MANY)]

    outcomes = publish_together(store, "update", contents, flock=flock)

    versions = [outcome.get() for outcome in outcomes]
    assert sorted(versions) == sorted(f"0.{minor}" for minor in range(1, MANY + 1))
    check_store(store, {"0.0": FILE, **dict(zip(versions, contents))})


@pytest.mark.attack
@with_and_without_flock
def test_sixteen_updates_in_one_second_are_sixteen_dates(
    store: Path, flock: bool
) -> None:
    source = write_tree(store.parent / "source", FILE)
    make = functools.partial(harness.make_provider, store)
    first = harness.run(harness.publish, make, "new", source, NAME, environ=DATES).get()
    contents = [make_content(number) for number in range(MANY)]

    outcomes = publish_together(store, "update", contents, flock=flock, environ=DATES)

    versions = [outcome.get() for outcome in outcomes]
    assert len({first, *versions}) == MANY + 1
    assert all(map(DATE.fullmatch, versions))
    check_store(store, {first: FILE, **dict(zip(versions, contents))})


@with_and_without_flock
@attacks.parametrize("environ", [{}, DATES], ids=["major_minor", "simple_date"])
def test_of_sixteen_new_assets_of_one_name_one_is_made(
    store: Path, flock: bool, environ: dict[str, str]
) -> None:
    contents = [make_content(number) for number in range(MANY)]

    outcomes = publish_together(store, "new", contents, flock=flock, environ=environ)

    won = {
        outcome.get(): tree
        for outcome, tree in zip(outcomes, contents)
        if outcome.error is None
    }
    errors = [outcome.error for outcome in outcomes if outcome.error]
    assert len(won) == 1 and len(errors) == MANY - 1
    assert {type(one) for one in errors} == {modelkit_assets.AssetAlreadyExistsError}
    check_store(store, won)


@pytest.mark.attack
@attacks.parametrize("environ", [{}, DATES], ids=["major_minor", "simple_date"])
def test_an_asset_that_sixteen_fought_for_can_be_updated(
    store: Path, environ: dict[str, str]
) -> None:
    contents = [make_content(number) for number in range(MANY)]
    outcomes = publish_together(store, "new", contents, environ=environ)
    won = {
        outcome.value: tree
        for outcome, tree in zip(outcomes, contents)
        if not outcome.error
    }
    source = write_tree(store.parent / "next", FILE)

    version = harness.make_provider(store).update(str(source), NAME)

    spec = modelkit_assets.AssetSpec(NAME)
    assert spec.sort_versions([version, *won])[0] == version
    check_store(store, {**won, version: FILE})


@pytest.mark.attack
@with_and_without_flock
@attacks.parametrize("method", ["new", "update"])
@file_and_folder
def test_sixteen_publications_of_the_same_content_lose_and_tear_nothing(
    store: Path, flock: bool, method: str, tree: Tree
) -> None:
    published = {}
    if method == "update":
        other = make_content(0)
        publish_tree(store, other)
        published["0.0"] = other

    outcomes = publish_together(store, method, [tree] * MANY, flock=flock)

    versions = {outcome.get() for outcome in outcomes if not outcome.error}
    errors = {type(outcome.error) for outcome in outcomes if outcome.error}
    assert versions
    assert errors <= (
        {modelkit_assets.AssetAlreadyExistsError} if method == "new" else set()
    )
    check_store(store, {**published, **dict.fromkeys(versions, tree)})


# --------------------------------------------------------------------- fetching


def fetch_together(
    store: Path, assets_dir: Path, log: Path, force: bool = False, **setup: Any
) -> list[str]:
    make = functools.partial(harness.make_recording_provider, store, log)
    call = (harness.fetch, make, assets_dir, NAME, force)
    return [outcome.get() for outcome in harness.run_together([call] * MANY, **setup)]


def check_assets_dir(
    store: Path, assets_dir: Path, tree: Tree, flock: bool = True
) -> None:
    """Check that the asset is there, whole and marked, and nothing else is."""
    if not flock:  # what was moved aside may stay until the next download
        check_published(assets_dir, tree)
        make = functools.partial(harness.make_provider, store)
        harness.fetch(make, assets_dir, NAME, force=True)
    check_published(assets_dir, tree)
    assert list((assets_dir / ".cache/staging").iterdir()) == []


def check_published(assets_dir: Path, tree: Tree) -> None:
    path = assets_dir / NAME / "0.0"
    assert read_files(path) == tree
    marked = harness.read_assets_dir_as_modelkit(assets_dir)
    assert marked == {(NAME, "0.0"): read_bytes(tree)}
    marker = ".0.0.SUCCESS" if "" in tree else "0.0/.SUCCESS"
    entries = list_entries(assets_dir)
    below = {one for one in entries if one.startswith(f"{NAME}/0.0/")}
    assert entries - below - {f"{NAME}/0.0"} <= {
        "nlp/", f"{NAME}/", f"{NAME}/{marker}",
    }  # fmt: skip


def count_data(tree: Tree) -> int:
    """Return how many objects have bytes to download."""
    return sum(bool(data) for data in read_bytes(tree).values())


@with_and_without_flock
@file_and_folder
def test_of_sixteen_that_fetch_one_downloads(
    store: Path, assets_dir: Path, log: Path, tree: Tree, flock: bool
) -> None:
    publish_tree(store, tree)

    paths = fetch_together(store, assets_dir, log, flock=flock)

    assert paths == [str(assets_dir / NAME / "0.0")] * MANY
    check_assets_dir(store, assets_dir, tree, flock)
    downloads = [one.name for one in harness.read_log(log)]
    assert len(set(downloads)) == count_data(tree)
    if flock:
        assert len(downloads) == count_data(tree)


@pytest.mark.attack
@with_and_without_flock
@file_and_folder
def test_sixteen_that_fetch_over_torn_data_replace_it(
    store: Path, assets_dir: Path, log: Path, tree: Tree, flock: bool
) -> None:
    publish_tree(store, tree)
    torn: Tree = {
        part: file and File(file.data[: len(file.data) // 2])
        for part, file in tree.items()
    }
    path = assets_dir / NAME / "0.0"
    path.parent.mkdir(parents=True)
    write_tree(path, torn)

    paths = fetch_together(store, assets_dir, log, flock=flock)

    assert paths == [str(path)] * MANY
    check_assets_dir(store, assets_dir, tree, flock)
    if flock:
        assert len(harness.read_log(log)) == count_data(tree)


@pytest.mark.attack
@with_and_without_flock
@file_and_folder
def test_sixteen_that_find_unmarked_data_adopt_it(
    store: Path, assets_dir: Path, log: Path, tree: Tree, flock: bool
) -> None:
    publish_tree(store, tree)
    path = assets_dir / NAME / "0.0"
    path.parent.mkdir(parents=True)
    write_tree(path, tree)

    paths = fetch_together(store, assets_dir, log, flock=flock)

    assert paths == [str(path)] * MANY
    check_assets_dir(store, assets_dir, tree, flock)
    if flock:
        assert log.read_text() == ""


@pytest.mark.attack
@with_and_without_flock
@file_and_folder
def test_sixteen_forced_downloads_at_once_are_all_right(
    store: Path, assets_dir: Path, log: Path, tree: Tree, flock: bool
) -> None:
    publish_tree(store, tree)

    paths = fetch_together(store, assets_dir, log, force=True, flock=flock)

    assert paths == [str(assets_dir / NAME / "0.0")] * MANY
    check_assets_dir(store, assets_dir, tree, flock)
    assert len(harness.read_log(log)) == MANY * count_data(tree)


def fetch_in_threads(
    store: Path, assets_dir: Path, log: Path, threads: int
) -> list[str]:
    provider = harness.make_recording_provider(store, log)
    manager = modelkit_assets.AssetsManager(assets_dir, 10, provider)
    with ThreadPoolExecutor(threads) as pool:
        return list(
            pool.map(manager.fetch_asset, [NAME, f"{NAME}:0.0"] * (threads // 2))
        )


@with_and_without_flock
@file_and_folder
def test_thirty_two_threads_share_one_manager(
    store: Path, assets_dir: Path, log: Path, tree: Tree, flock: bool
) -> None:
    publish_tree(store, tree)

    outcome = harness.run(fetch_in_threads, store, assets_dir, log, 32, flock=flock)

    assert outcome.get() == [str(assets_dir / NAME / "0.0")] * 32
    check_assets_dir(store, assets_dir, tree, flock)
    if flock:
        assert len(harness.read_log(log)) == count_data(tree)


# --------------------------------------------------------------------- waiting

CHUNK = 1000
TIMEOUT_S = 0.5


class GatedDriver(modelkit_assets.LocalDriver):
    """A local store that hands out a chunk of data for each release of a gate."""

    gate: Any = None

    def iterate_bytes(self, name: str, *args: Any, **kwargs: Any) -> Iterator[bytes]:
        """Yield the object's bytes, as fast as the gate lets it."""
        data = self.read_object(name)[0]
        for at in range(0, len(data), CHUNK):
            assert self.gate.acquire(timeout=harness.WAIT_S)
            yield data[at : at + CHUNK]


def fetch_gated(store: Path, assets_dir: Path, gate: Any) -> str:
    provider = harness.make_provider(store)
    driver = GatedDriver(str(store))
    driver.gate = gate
    provider.driver = driver
    manager = modelkit_assets.AssetsManager(assets_dir, 10, provider)
    path = manager.fetch_asset(f"{NAME}:0.0")
    assert isinstance(path, str)
    return path


SLOW_CHUNKS = 100
SLOW: Tree = {"": File(b"slow!" * (SLOW_CHUNKS * CHUNK // 5))}


@pytest.fixture
def gate() -> Any:
    return harness.get_context().Semaphore(0)


@pytest.fixture
def holder(store: Path, assets_dir: Path, gate: Any) -> Iterator[harness.Child]:
    """A process in the midst of its download, which goes on as the gate is released."""
    publish_tree(store, SLOW)
    with harness.Child(fetch_gated, store, assets_dir, gate) as holder:
        gate.release()
        wait_until(lambda: is_downloading(assets_dir), holder)
        yield holder


def is_downloading(assets_dir: Path) -> bool:
    staging = assets_dir / ".cache/staging"
    return any(path.name == "data" for path in staging.glob("*/work/*"))


def wait_until(condition: Any, child: harness.Child) -> None:
    for _ in itertools.takewhile(lambda _: not condition(), itertools.count()):
        assert not child.has_ended(within=0.01), child.wait()


def wait_for(store: Path, assets_dir: Path, timeout: float) -> harness.Child:
    make = functools.partial(harness.make_provider, store)
    spec = f"{NAME}:0.0"
    return harness.Child(harness.fetch, make, assets_dir, spec, False, timeout)


@attacks.parametrize("pace_s", [0.1, 0.3])
def test_a_waiter_waits_as_long_as_the_download_makes_progress(
    store: Path, assets_dir: Path, gate: Any, holder: harness.Child, pace_s: float
) -> None:
    with wait_for(store, assets_dir, TIMEOUT_S) as waiter:
        for _ in range(int(5 * TIMEOUT_S / pace_s)):
            gate.release()
            assert not waiter.has_ended(within=pace_s), waiter.wait().error
        for _ in range(SLOW_CHUNKS):
            gate.release()
        assert holder.wait().get() == str(assets_dir / NAME / "0.0")
        assert waiter.wait().get() == str(assets_dir / NAME / "0.0")
    check_assets_dir(store, assets_dir, SLOW)


def test_a_waiter_gives_up_on_a_download_without_progress_and_names_its_process(
    store: Path, assets_dir: Path, gate: Any, holder: harness.Child
) -> None:
    before = time.monotonic()
    with wait_for(store, assets_dir, TIMEOUT_S) as waiter:
        error = waiter.wait().error
    waited_s = time.monotonic() - before

    assert isinstance(error, modelkit_assets.AssetLockTimeoutError)
    assert (str(error.pid), error.host) == (str(holder.pid), socket.gethostname())
    assert str(holder.pid) in str(error) and socket.gethostname() in str(error)
    assert TIMEOUT_S <= waited_s < 10 * TIMEOUT_S
    for _ in range(SLOW_CHUNKS):
        gate.release()
    holder.wait().get()
    check_assets_dir(store, assets_dir, SLOW)


def test_who_waits_is_told_for_whom(
    store: Path,
    assets_dir: Path,
    gate: Any,
    holder: harness.Child,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(modelkit_assets, "_QUIET_S", 0.1)
    manager = modelkit_assets.AssetsManager(
        assets_dir, harness.WAIT_S, harness.make_provider(store)
    )
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(manager.fetch_asset, f"{NAME}:0.0")
        wait_until(lambda: caplog.messages, holder)
        for _ in range(SLOW_CHUNKS):
            gate.release()
        assert waiting.result() == str(assets_dir / NAME / "0.0")
    host = socket.gethostname()
    text = f"waiting for process {holder.pid} on host {host}, which downloads {NAME!r}"
    assert caplog.messages == [text]


def test_the_lock_of_a_killed_process_is_free_at_once(
    store: Path, assets_dir: Path, gate: Any, holder: harness.Child
) -> None:
    with wait_for(store, assets_dir, harness.WAIT_S) as waiter:
        assert not waiter.has_ended(within=TIMEOUT_S)
        before = time.monotonic()
        holder.kill()
        assert waiter.wait().get() == str(assets_dir / NAME / "0.0")
        assert time.monotonic() - before < 5
    check_assets_dir(store, assets_dir, SLOW)


def test_a_version_that_is_cached_is_served_while_another_is_downloaded(
    store: Path, assets_dir: Path, gate: Any, holder: harness.Child
) -> None:
    source = write_tree(store.parent / "next", FILE)
    provider = harness.make_provider(store)
    provider.update(str(source), NAME)
    path = assets_dir / NAME / "0.1"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_tree(path, FILE)
    (assets_dir / NAME / ".0.1.SUCCESS").touch()

    manager = modelkit_assets.AssetsManager(assets_dir, 0, provider)

    assert manager.fetch_asset(f"{NAME}:0.1") == str(path)
    assert not holder.has_ended()


def test_a_download_goes_on_without_its_lock_file(
    store: Path, assets_dir: Path, gate: Any, holder: harness.Child
) -> None:
    (assets_dir / ".cache" / f"{NAME}.lock").unlink()
    for _ in range(SLOW_CHUNKS):
        # so long that the download shows its progress once more
        gate.release()
        holder.has_ended(within=0.01)

    assert holder.wait().get() == str(assets_dir / NAME / "0.0")
    check_assets_dir(store, assets_dir, SLOW)


def fetch_beside_a_fork(store: Path, assets_dir: Path, gate: Any) -> str:
    """Fetch, fork meanwhile a process that lives on, as a server's, and fetch again."""
    reading, writing = os.pipe()
    with ThreadPoolExecutor(1) as pool:
        fetched = pool.submit(fetch_gated, store, assets_dir, gate)
        gate.release()
        while not is_downloading(assets_dir):
            assert not fetched.done(), fetched.result()
        forked = os.fork()
        if not forked:
            os.close(writing)
            os.read(reading, 1)  # until the process that forked it closes the other end
            os._exit(0)
        for _ in range(SLOW_CHUNKS):
            gate.release()
        path = fetched.result()
    try:
        make = functools.partial(harness.make_provider, store)
        harness.fetch(make, assets_dir, f"{NAME}:0.0", force=True, timeout=TIMEOUT_S)
    finally:
        os.close(writing)
        os.waitpid(forked, 0)
    return path


def test_a_process_forked_during_a_download_does_not_keep_its_lock(
    store: Path, assets_dir: Path, gate: Any
) -> None:
    publish_tree(store, SLOW)

    outcome = harness.run(fetch_beside_a_fork, store, assets_dir, gate)

    assert outcome.get() == str(assets_dir / NAME / "0.0")
    check_assets_dir(store, assets_dir, SLOW)


# --------------------------------------------------------------------- replacing


def read_again_and_again(store: Path, assets_dir: Path, tree: Tree, ended: Any) -> int:
    """Fetch the pinned version and read it until the event; count the whole ones.

    A folder cannot be exchanged in one step, so a file of it may be missing for a
    moment; one that can be read is whole, and a file asset is always there.
    """
    provider = harness.make_provider(store)
    manager = modelkit_assets.AssetsManager(assets_dir, 10, provider)
    whole = 0
    while not ended.is_set():
        path = Path(manager.fetch_asset(f"{NAME}:0.0"))
        try:
            for part, data in read_bytes(tree).items():
                assert (path / part if part else path).read_bytes() == data, "half"
            whole += 1
        except FileNotFoundError:
            assert path.is_dir() or "" not in tree, "a file asset was missing"
    return whole


@with_and_without_flock
@file_and_folder
def test_a_reader_never_sees_half_of_what_is_being_replaced(
    store: Path, assets_dir: Path, log: Path, tree: Tree, flock: bool
) -> None:
    publish_tree(store, tree)
    manager = modelkit_assets.AssetsManager(assets_dir, 5, harness.make_provider(store))
    manager.fetch_asset(NAME)
    ended = harness.get_context().Event()
    args = (store, assets_dir, tree, ended)
    reader = functools.partial(harness.Child, read_again_and_again, *args, flock=flock)
    with reader() as one, reader() as other:
        paths = fetch_together(store, assets_dir, log, force=True, flock=flock)
        ended.set()
        assert one.wait().get() > 0
        assert other.wait().get() > 0
    assert paths == [str(assets_dir / NAME / "0.0")] * MANY
    check_assets_dir(store, assets_dir, tree, flock)


# --------------------------------------------------------------------- overtaking

LITTLE_FILE: Tree = {"": File(b"weights " * 500)}
LITTLE_FOLDER: Tree = {
    "bin/run.sh": File(b"echo run\n", executable=True),
    "deep/er/config.json": File(b'{"layers": 2}'),
    "empty/": None,
}
ONE_WORKER = {"MODELKIT_STORAGE_WORKERS": "1"}


def fetch_over(store: Path, force: bool, assets_dir: Path) -> str:
    make = functools.partial(harness.make_provider, store)
    return harness.fetch(make, assets_dir, f"{NAME}:0.0", force)


every_start = attacks.parametrize("start", ["cold", "torn", "unmarked", "forced"])
little_file_and_folder = attacks.parametrize(
    "tree", [LITTLE_FILE, LITTLE_FOLDER], ids=["file", "folder"]
)


def prepare(assets_dir: Path, tree: Tree, start: str) -> None:
    path = assets_dir / NAME / "0.0"
    if start != "cold":
        path.parent.mkdir(parents=True)
        write_tree(path, tree)
    if start == "torn":
        (path if "" in tree else path / "bin/run.sh").write_bytes(b"weigh")
    if start == "forced":
        (path.with_name(".0.0.SUCCESS") if "" in tree else path / ".SUCCESS").touch()


@pytest.mark.attack
@every_start
@little_file_and_folder
def test_a_fetch_that_overtakes_another_at_any_step_harms_neither(
    store: Path, assets_dir: Path, tree: Tree, start: str
) -> None:
    publish_tree(store, tree)
    prepare(assets_dir, tree, start)
    fetch = functools.partial(fetch_over, store, start == "forced")
    overtaken = 0
    for folder, fetched, outcome in harness.each_overtaking(
        assets_dir, fetch, fetch, flock=False, environ=ONE_WORKER
    ):
        overtaken += 1
        assert fetched == str(folder / NAME / "0.0")
        assert outcome.get() == fetched
        check_assets_dir(store, folder, tree, flock=False)
    assert overtaken > 10


@every_start
@little_file_and_folder
def test_fetches_that_cross_at_any_renaming_harm_neither(
    store: Path, assets_dir: Path, tree: Tree, start: str
) -> None:
    publish_tree(store, tree)
    prepare(assets_dir, tree, start)
    fetch = functools.partial(fetch_over, store, start == "forced")
    crossed = 0
    for folder, outcomes in harness.each_crossing(
        assets_dir, fetch, flock=False, among=("rename", "replace"), environ=ONE_WORKER
    ):
        crossed += 1
        for outcome in outcomes:
            assert outcome.get() == str(folder / NAME / "0.0")
        check_assets_dir(store, folder, tree, flock=False)
    assert crossed > (1 if start == "unmarked" else 4)


@attacks.parametrize("among", [("rename", "replace"), ()], ids=["renaming", "any"])
@little_file_and_folder
def test_a_path_that_is_replaced_is_missing_between_two_renames_at_most(
    store: Path, assets_dir: Path, tree: Tree, among: tuple[str, ...]
) -> None:
    publish_tree(store, tree)
    prepare(assets_dir, tree, "forced")

    def look(folder: Path) -> bool:
        path = folder / NAME / "0.0"
        assert not path.exists() or read_files(path) == tree
        return path.exists()

    fetch = functools.partial(fetch_over, store, True)
    steps = harness.each_overtaking(
        assets_dir, fetch, look, among=among, environ=ONE_WORKER
    )
    found = []
    for _, is_there, outcome in steps:
        outcome.get()
        found.append(is_there)

    # a folder is missing just before its second rename, and before no other step
    assert found.count(False) == (0 if "" in tree else 1)
    assert found.count(True) > (0 if among else 10)


@attacks.parametrize("method", ["new", "update"])
@attacks.parametrize("same", [True, False], ids=["same_content", "other_content"])
def test_a_publication_that_overtakes_another_at_any_request_harms_neither(
    tmp_path: Path, store: Path, method: str, same: bool
) -> None:
    published: dict[str, Tree] = {}
    if method == "update":
        publish_tree(store, FILE)
        published["0.0"] = FILE
    other_tree = LITTLE_FOLDER if same else LITTLE_FILE
    source = write_tree(tmp_path / "one", LITTLE_FOLDER)
    other = write_tree(tmp_path / "other", other_tree)
    overtaken = 0
    for folder, version, outcome in harness.each_overtaking(
        store,
        functools.partial(publish_in, method, source),
        functools.partial(publish_in, method, other),
        among=harness.STEPS_OF_DRIVER,
        environ=ONE_WORKER,
    ):
        overtaken += 1
        whole = {**published, version: other_tree}
        if not outcome.error:
            assert same or outcome.value not in whole
            whole[outcome.value] = LITTLE_FOLDER
        else:
            assert method == "new"
            assert isinstance(outcome.error, modelkit_assets.AssetAlreadyExistsError)
        check_store(folder, whole)
        shutil.rmtree(folder.parent / "reader")
    assert overtaken > 5


def publish_in(method: str, source: Path, store: Path) -> str:
    make = functools.partial(harness.make_provider, store)
    return harness.publish(make, method, source, NAME)
