"""Killed at a hundred random moments, with a real server: nothing torn, all completes.

The moments are drawn with a seed, which is printed, and so shown by a failure.
"""

from __future__ import annotations

import functools
import itertools
import random
import shutil
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable, NamedTuple

import harness
import pytest
from harness import NAME, Outcome
from servers import Moto
from stores import MotoStore
from trees import File, Tree, list_entries, read_bytes, write_tree

import modelkit_assets as ma

pytestmark = [pytest.mark.server, pytest.mark.attack]

KILLS = 25  # of each of four operations


def make_bytes(size: int) -> bytes:
    return random.Random(size).getrandbits(8 * size).to_bytes(size, "big")


SMALL: Tree = {"": File(b"lighter")}
FILE: Tree = {"": File(make_bytes(3 << 20))}
IN_PARTS: Tree = {"": File(make_bytes(17 << 20))}  # which the S3 driver sends in two
FOLDER: Tree = {
    "bin/run.sh": File(b"echo run\n" * 4000, executable=True),
    "config.json": File(b'{"layers": 2}'),
    "deep/er/weights.bin": File(make_bytes(2 << 20)),
    "deep/vocab with space.txt": File(b"a\nb\n" * 50_000),
    "empty.txt": File(b""),
}


@pytest.fixture
def store(start_server: Any) -> Any:
    """An empty store, which is not the configured one."""
    return MotoStore(start_server(Moto))


def make_provider(store: Any, prefix: str) -> ma.StorageProvider:
    settings = {"provider": "s3", "bucket": store.bucket, "client": store.client}
    return ma.StorageProvider(5, prefix, **settings)


# --------------------------------------------------------------------- killing


class Run(NamedTuple):
    """How a child ended, and how many seconds after it was ready."""

    outcome: Outcome
    seconds: float


def run_until(
    moment_s: float, operation: Callable[..., Any], *args: Any, **setup: Any
) -> Run:
    """Run operation(make_provider, ...) in a child, and kill it after so long."""
    start = harness.get_context().Barrier(2)
    make = functools.partial(make_ready_provider, start)
    with harness.Child(operation, make, *args, **setup) as child:
        start.wait(harness.WAIT_S)
        begun = time.monotonic()
        outcome = child.kill_after(moment_s)
        return Run(outcome, time.monotonic() - begun)


def make_ready_provider(start: Any) -> Any:
    """Return a provider that has its client, once the one who kills is ready too."""
    provider: Any = ma.StorageProvider(5)
    assert provider.driver.client
    start.wait(harness.WAIT_S)
    return provider


def each_run(
    kills: int, run: Callable[[int, float], Run]
) -> Iterator[tuple[int, Outcome]]:
    """Yield (n, outcome of run(n, moment)) until it was killed so many times.

    The first three are left alone; the moments are random ones of the time they take.
    """
    seed = random.randrange(1 << 32)
    moments = random.Random(seed)
    alone: list[float] = []
    for n in itertools.count():
        moment_s = harness.WAIT_S
        if len(alone) == 3:
            moment_s = moments.uniform(0, statistics.median(alone))
        print(f"seed {seed}: run {n} may take {moment_s:.4f} s; alone it takes {alone}")
        outcome, seconds = run(n, moment_s)
        if len(alone) < 3:
            outcome.get()
            alone.append(seconds)
        yield n, outcome
        kills -= outcome.killed
        if not kills:
            return


# --------------------------------------------------------------------- publishing


@pytest.mark.parametrize("method", ["new", "update"])
def test_a_publication_killed_at_any_moment_is_never_half_visible_and_can_be_completed(
    tmp_path: Path, store: Any, method: str
) -> None:
    check_publications(tmp_path, store, method, FOLDER, KILLS)


def test_a_publication_killed_amid_the_parts_of_an_object_can_be_completed(
    tmp_path: Path, store: Any
) -> None:
    check_publications(tmp_path, store, "new", IN_PARTS, kills=3)


def check_publications(
    tmp_path: Path, store: Any, method: str, tree: Tree, kills: int
) -> None:
    """Kill publications, each below a prefix of its own, and complete them."""
    source = write_tree(tmp_path / "source", tree)
    earlier = write_tree(tmp_path / "earlier", SMALL)

    def run(n: int, moment_s: float) -> Run:
        if method == "update":
            make_provider(store, f"at-{n}").new(earlier, NAME)
        environ = {**store.environ, "MODELKIT_STORAGE_PREFIX": f"at-{n}"}
        return run_until(
            moment_s, harness.publish, method, source, NAME, environ=environ
        )

    objects: set[str] = set()
    completed = 0
    for n, outcome in each_run(kills, run):
        provider = make_provider(store, f"at-{n}")
        whole = {"0.0": SMALL, "0.1": tree} if method == "update" else {"0.0": tree}
        reader = tmp_path / f"reader-{n}"
        check_store(store, provider, whole, reader)
        # asked anew: the server may have been at the last request of the dead
        listed = set(dict(provider.iterate_assets()).get(NAME, []))
        assert outcome.killed or listed == set(whole)
        completed += listed < set(whole)
        publish_again(provider, method, source, whole, listed)
        assert check_store(store, provider, whole, reader) == set(whole)
        objects |= harness.name_objects(f"at-{n}", NAME, whole)
    assert completed > kills // 2
    assert set(store.list_objects()) == objects


def check_store(
    store: Any, provider: ma.StorageProvider, whole: dict[str, Tree], reader: Path
) -> set[str]:
    below = {
        name for name in store.list_objects() if name.startswith(f"{provider.prefix}/")
    }
    return harness.check_store(below, store.read_object, provider, whole, reader)


def publish_again(
    provider: ma.StorageProvider,
    method: str,
    source: Path,
    whole: dict[str, Tree],
    listed: set[str],
) -> None:
    """Run the same command: it completes the killed one, or finds it to be complete."""
    version = max(whole)
    if version not in listed:
        assert getattr(provider, method)(source, NAME) == version
    elif method == "new":
        with pytest.raises(ma.AssetAlreadyExistsError):
            provider.new(source, NAME)
    else:
        assert provider.update(source, NAME) == "0.2"
        whole["0.2"] = whole[version]


# --------------------------------------------------------------------- fetching


@pytest.mark.parametrize("force", [False, True], ids=["cold", "forced"])
def test_a_fetch_killed_at_any_moment_is_never_half_visible_and_the_next_one_completes(
    tmp_path: Path, store: Any, force: bool
) -> None:
    trees = [FILE, FOLDER]
    for kind, tree in enumerate(trees):
        source = write_tree(tmp_path / f"source-{kind}", tree)
        make_provider(store, f"kind-{kind}").new(source, NAME)
        (tmp_path / f"before-{kind}").mkdir()

    def fetch(kind: int, assets_dir: Path, force: bool) -> str:
        make = functools.partial(make_provider, store, f"kind-{kind}")
        return harness.fetch(make, assets_dir, NAME, force)

    if force:
        for kind in range(len(trees)):
            fetch(kind, tmp_path / f"before-{kind}", False)

    def run(n: int, moment_s: float) -> Run:
        assets_dir = tmp_path / f"assets-{n}"
        shutil.copytree(tmp_path / f"before-{n % 2}", assets_dir)
        environ = {**store.environ, "MODELKIT_STORAGE_PREFIX": f"kind-{n % 2}"}
        args = (assets_dir, NAME, force)
        return run_until(moment_s, harness.fetch, *args, environ=environ)

    staged = 0
    for n, _ in each_run(KILLS, run):
        assets_dir, tree = tmp_path / f"assets-{n}", trees[n % 2]
        check_interrupted(assets_dir, tree, replaced=force)
        is_hit = not force and harness.read_assets_dir_as_modelkit(assets_dir)
        staged += any((assets_dir / ".cache").glob("staging/*"))
        assert fetch(n % 2, assets_dir, force) == str(assets_dir / NAME / "0.0")
        if is_hit:  # which writes nothing: the next download clears the staging
            fetch(n % 2, assets_dir, True)
        harness.check_complete(assets_dir, tree)
        shutil.rmtree(assets_dir)
    assert staged


def check_interrupted(assets_dir: Path, tree: Tree, replaced: bool) -> None:
    """Check that each reader sees the whole asset, or nothing; of a file, the asset."""
    entries = list_entries(assets_dir)
    assert entries <= harness.name_entries(tree)
    for content in harness.read_assets_dir_as_modelkit(assets_dir).values():
        assert content == read_bytes(tree)
    key = (NAME, "0.0")
    seen = harness.read_ours(assets_dir, [key])
    assert seen in ({key: tree}, {})
    if replaced and "" in tree:
        assert seen, "a file that is replaced is never missing"
