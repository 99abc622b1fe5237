"""Many at one asset of a real server, at once: no version lost, no answer wrong.

As an SDK takes long to start, the same sixteen processes run one race after the other.
"""

from __future__ import annotations

import functools
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable, NamedTuple
from urllib.parse import unquote, urlsplit

import harness
import pytest
from harness import NAME
from servers import Moto
from stores import SERVER_STORES, AzuriteStore, GcsStore, MotoStore
from stub_server import StubServer, forward
from trees import File, Tree, make_content, read_bytes, read_files, write_tree

import modelkit_assets as ma

pytestmark = [pytest.mark.server, pytest.mark.attack]

MANY = 16
ATOMIC_STORES = [
    pytest.param(store, id=store.kind.__name__)
    for store in (MotoStore, AzuriteStore, GcsStore)
]
SMALL: Tree = {"": File(b"the first")}
DIFFERENT = [make_content(number) for number in range(MANY)]
SAME: Tree = {"a": File(b"same " * 5000), "b/c": File(b"1"), "empty.txt": File(b"")}


def run_races(
    calls: Sequence[Sequence[Callable[..., Any]]], **setup: Any
) -> list[list[Any]]:
    """Run each call of a race in a process of its own, all at once; then the next race.

    They get a provider. Returns what they return or the errors they raise, by race.
    """
    barrier = harness.get_context().Barrier(len(calls[0]))
    ours = [(run_in_turn, barrier, one) for one in zip(*calls)]
    results = [child.get() for child in harness.run_together(ours, **setup)]
    return [list(race) for race in zip(*results)]


def run_in_turn(barrier: Any, calls: Sequence[Callable[..., Any]]) -> list[Any]:
    provider = ma.StorageProvider(harness.WAIT_S)
    write_together(provider, barrier)
    results: list[Any] = []
    for call in calls:
        barrier.wait(harness.WAIT_S)
        try:
            results.append(call(provider))
        except ma.ModelkitAssetsError as error:
            results.append(error)
    return results


def write_together(provider: Any, barrier: Any) -> None:
    """Hold the first claim, and the first commit, of each race until all come to it."""
    write, met = provider.driver.write_object, set()

    def write_object(data: bytes, name: str, **condition: Any) -> Any:
        kind = (provider.prefix, name.rpartition(".")[2])
        # some drivers upload small files by this, too, and not all processes upload
        if kind[1] in ("meta", "versions") and kind not in met:
            met.add(kind)
            barrier.wait(harness.WAIT_S)
        return write(data, name, **condition)

    provider.driver.write_object = write_object


def make_provider(store: Any, prefix: str) -> ma.StorageProvider:
    settings = {"bucket": store.bucket, "client": store.client}
    return ma.StorageProvider(5, prefix, provider=store.provider, **settings)


# --------------------------------------------------------------------- publishing


class Race(NamedTuple):
    """How sixteen publish, each its own tree, and whether the asset is there before."""

    method: str
    trees: list[Tree]
    version: tuple[str, ...] = ()
    is_update: bool = False


RACES = {
    "updates": Race("update", DIFFERENT, is_update=True),
    "same_updates": Race("update", [SAME] * MANY, is_update=True),
    "news": Race("new", DIFFERENT),
    "same_news": Race("new", [SAME] * MANY),
    "pushes": Race("push", DIFFERENT, ("1.0",)),
    "same_pushes": Race("push", [SAME] * MANY, ("1.0",)),
}


class Raced(NamedTuple):
    """A store after all races, each below a prefix of its own, and their results."""

    store: Any
    results: dict[str, list[Any]]


def publish(race: str, source: Path, provider: Any) -> Any:
    provider.prefix = race
    return getattr(provider, RACES[race].method)(source, NAME, *RACES[race].version)


@pytest.fixture(scope="module", params=ATOMIC_STORES)
def raced(request: Any, start_server: Any, tmp_path_factory: Any) -> Raced:
    store = request.param(start_server(request.param.kind))
    folder = tmp_path_factory.mktemp("sources")
    small = write_tree(folder / "small", SMALL)
    calls = []
    for name, race in RACES.items():
        if race.is_update:
            make_provider(store, name).new(small, NAME)
        sources = [folder / f"{name}-{number}" for number in range(MANY)]
        for source, tree in zip(sources, race.trees):
            write_tree(source, tree)
        calls.append([functools.partial(publish, name, source) for source in sources])
    return Raced(store, dict(zip(RACES, run_races(calls, environ=store.environ))))


def check_race(
    raced: Raced, race: str, whole: dict[str, Tree], assets_dir: Path
) -> set[str]:
    """Check that both readers see these versions, and whole; return those listed."""
    provider = make_provider(raced.store, race)
    objects = harness.name_objects(race, NAME, whole)
    # one that lost with `new` leaves what it uploaded, and nobody sees
    names = objects.intersection(raced.store.list_objects())
    listed = harness.check_store(
        names, raced.store.read_object, provider, whole, assets_dir
    )
    assert names >= objects - {provider.get_versions_object_name(NAME)}
    assets_dir.mkdir()
    for version, tree in whole.items():
        path = harness.fetch(lambda: provider, assets_dir, f"{NAME}:{version}")
        assert read_files(path) == tree
    return listed


def test_sixteen_updates_at_once_are_sixteen_versions(
    raced: Raced, assets_dir: Path
) -> None:
    versions = raced.results["updates"]
    assert sorted(versions) == sorted(f"0.{minor}" for minor in range(1, MANY + 1))
    whole = {"0.0": SMALL, **dict(zip(versions, DIFFERENT))}
    assert check_race(raced, "updates", whole, assets_dir / "reader") == set(whole)


def test_sixteen_updates_of_the_same_content_lose_and_tear_nothing(
    raced: Raced, assets_dir: Path
) -> None:
    versions = raced.results["same_updates"]
    whole = {"0.0": SMALL, **dict.fromkeys(versions, SAME)}
    assert check_race(raced, "same_updates", whole, assets_dir / "reader") == set(whole)


def test_of_sixteen_new_assets_of_one_name_one_is_made(
    raced: Raced, assets_dir: Path
) -> None:
    results = raced.results["news"]
    ((version, tree),) = (
        (result, tree)
        for result, tree in zip(results, DIFFERENT)
        if isinstance(result, str)
    )
    errors = [type(result) for result in results if result != version]
    assert errors == [ma.AssetAlreadyExistsError] * (MANY - 1)
    listed = check_race(raced, "news", {version: tree}, assets_dir / "reader")
    assert listed == {version}


def test_sixteen_new_assets_of_one_name_and_content_are_one_version(
    raced: Raced, assets_dir: Path
) -> None:
    results = raced.results["same_news"]
    (version,) = {result for result in results if isinstance(result, str)}
    errors = {type(result) for result in results if result != version}
    assert errors <= {ma.AssetAlreadyExistsError}
    listed = check_race(raced, "same_news", {version: SAME}, assets_dir / "reader")
    assert listed == {version}


def test_of_sixteen_pushes_to_one_version_one_is_there_unlisted(
    raced: Raced, assets_dir: Path
) -> None:
    results = raced.results["pushes"]
    (tree,) = (tree for result, tree in zip(results, DIFFERENT) if result is None)
    errors = [type(result) for result in results if result is not None]
    assert errors == [ma.AssetAlreadyExistsError] * (MANY - 1)
    assert not check_race(raced, "pushes", {"1.0": tree}, assets_dir / "reader")


def test_sixteen_pushes_of_the_same_content_to_one_version_all_succeed(
    raced: Raced, assets_dir: Path
) -> None:
    assert raced.results["same_pushes"] == [None] * MANY
    assert not check_race(raced, "same_pushes", {"1.0": SAME}, assets_dir / "reader")


# --------------------------------------------------------------------- fetching

TREES: dict[str, Tree] = {
    "file": {"": File(b"weights " * 200_000)},
    "folder": {**SAME, "bin/run.sh": File(b"run\n" * 50_000, True), "hollow/": None},
}


def fetch(kind: str, assets_dir: Path, force: bool, provider: Any) -> str:
    provider.prefix = kind
    return harness.fetch(lambda: provider, assets_dir, NAME, force, harness.WAIT_S)


@pytest.mark.parametrize("flock", [True, False], ids=["flock", "no_flock"])
def test_of_sixteen_that_fetch_one_downloads(
    tmp_path: Path, start_server: Any, stub: StubServer, flock: bool
) -> None:
    store = MotoStore(start_server(Moto))
    stub.script = forward(store.server.endpoint)
    dirs = {kind: tmp_path / f"assets-{kind}" for kind in TREES}
    for kind, tree in TREES.items():
        dirs[kind].mkdir()
        source = write_tree(tmp_path / kind, tree)
        make_provider(store, kind).new(source, NAME)
    races = [(kind, force) for force in (False, True) for kind in TREES]
    calls = [
        [functools.partial(fetch, kind, dirs[kind], force)] * MANY
        for kind, force in races
    ]
    environ = {**store.environ, "S3_ENDPOINT": stub.endpoint}

    results = run_races(calls, environ=environ, flock=flock)

    for (kind, _), paths in zip(races, results):
        assert paths == [str(dirs[kind] / NAME / "0.0")] * MANY
    downloads = count_downloads(stub, store)
    for kind, tree in TREES.items():
        data = {
            f"{kind}/{NAME}/0.0" + (part and f"/{part}")
            for part, content in read_bytes(tree).items()
            if content
        }
        # forced, each downloads; not forced, one does, or those that no lock holds back
        least, most = MANY + 1, MANY + (1 if flock else MANY)
        assert {name for name in downloads if name.startswith(kind)} == data
        assert all(least <= downloads[name] <= most for name in data), downloads
        if not flock:  # what was moved aside may stay until the next download
            fetch(kind, dirs[kind], True, make_provider(store, kind))
        harness.check_complete(dirs[kind], tree)


def count_downloads(stub: StubServer, store: Any) -> Counter[str]:
    """Return how often each object of data was asked for."""
    names = (
        unquote(urlsplit(request.path).path)[len(f"/{store.bucket}/") :]
        for request in stub.requests
        if request.method == "GET"
    )
    return Counter(
        name for name in names if f"{NAME}/0.0" in name and ".meta" not in name
    )


# --------------------------------------------------------------------- threads

THREADS = 32


@pytest.mark.parametrize("kind", SERVER_STORES)
def test_thirty_two_threads_share_one_manager(
    tmp_path: Path, make_store: Any, assets_dir: Path, monkeypatch: Any, kind: Any
) -> None:
    make_store(kind)
    manager = ma.AssetsManager(timeout=harness.WAIT_S)
    provider = manager.storage_provider
    assert provider
    names = [f"asset/number-{number}" for number in range(6)]
    for number, name in enumerate(names):
        source = write_tree(tmp_path / str(number), DIFFERENT[number])
        provider.new(source, name)
    for name in names[:3]:
        manager.fetch_asset(name)
    asked: list[str] = []
    iterate = provider.driver.iterate_bytes

    def record(name: str, *args: Any) -> Any:
        asked.append(name)
        return iterate(name, *args)

    monkeypatch.setattr(provider.driver, "iterate_bytes", record)
    barrier = threading.Barrier(THREADS)

    def fetch_all(first: int) -> None:
        barrier.wait(harness.WAIT_S)
        for at in range(first, first + len(names)):
            number = at % len(names)
            spec = names[number] + ("" if at % 2 else ":0.0")
            assert read_files(manager.fetch_asset(spec)) == DIFFERENT[number]

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(fetch_all, range(THREADS)))

    missed = {
        f"{provider.prefix}/{name}/0.0" + (part and f"/{part}")
        for name, tree in zip(names[3:], DIFFERENT[3:])
        for part in tree
    }
    assert sorted(asked) == sorted(missed)
