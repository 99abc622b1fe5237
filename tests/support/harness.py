"""Run publications and fetches in processes that die, and read what they leave.

Not collected. Children are forked from a warm server (multiprocessing's, which has
imported the core), so that hundreds of deaths take seconds:

    outcome = run(fetch, make_provider, assets_dir, "nlp/model", die_at=3, after=True)
    assert outcome.killed

What a child runs is a function that pickles, a `functools.partial` of one, or its name,
"module:function". Another driver is crashed alike: `driver="module:Class"`.
"""

from __future__ import annotations

import builtins
import contextlib
import fcntl
import functools
import importlib
import io
import itertools
import json
import multiprocessing
import os
import pickle
import shutil
import signal
import threading
import traceback
from collections.abc import Iterable, Iterator, Sequence
from multiprocessing import forkserver
from pathlib import Path
from typing import Any, Callable, NamedTuple, Union

from places import ROOT
from trees import Tree, list_entries, read_bytes, read_files

import modelkit_assets

Function = Union[str, Callable[..., Any]]
Key = tuple[str, str]  # an asset's name, and one of its versions

# what changes a disk, and is counted beside the driver's methods; `makedirs` makes its
# steps by `mkdir`, and how often there is a `utime` depends on the clock
STEPS_OF_OS = (
    "chmod",
    "copy_file_range",
    "fsync",
    "ftruncate",
    "link",
    "mkdir",
    "remove",
    "rename",
    "replace",
    "rmdir",
    "symlink",
    "truncate",
    "unlink",
    "write",
)
STEPS_OF_DRIVER = tuple(
    name
    for name, value in vars(modelkit_assets.StorageDriver).items()
    if callable(value) and not name.startswith("_")
)
WAIT_S = 60.0  # no child may take longer, whatever happens
NAME = "nlp/model"  # the asset of most tests
_TORN_SIZE = 1 << 15  # how much is copied before the next step

# --------------------------------------------------------------------- children


class Outcome(NamedTuple):
    """How a child ended: killed, or with a value or an error.

    steps    how many it took, in which it could have died
    trace    where the error was raised
    """

    killed: bool = False
    value: Any = None
    error: BaseException | None = None
    steps: int = 0
    trace: str = ""

    def get(self) -> Any:
        """Return the value; AssertionError if there is none."""
        assert not self.killed, "it was killed"
        assert self.error is None, self.trace
        return self.value


class Setup(NamedTuple):
    """What is done in a child before its function runs.

    die_at     the step at which it kills itself; 0: none
    pause      two events: at that step it sets one and waits for the other instead
    after      whether it dies just after that step, or just before
    among      the steps that count; empty: all
    driver     the class whose methods are steps, "module:Class", or what returns it
    flock      False: `fcntl.flock` locks nothing, as on some network file systems
    environ    settings; those of the test run are dropped
    barrier    where it waits for the others
    """

    die_at: int = 0
    pause: Any = None
    after: bool = False
    among: tuple[str, ...] = ()
    driver: Function = modelkit_assets.LocalDriver
    flock: bool = True
    environ: dict[str, str] = {}
    barrier: Any = None


class Child:
    """A process that runs function(*args), with a Setup; `with` reaps it."""

    def __init__(self, function: Function, *args: Any, **setup: Any) -> None:
        context = get_context()
        self._receiver, sender = context.Pipe(duplex=False)
        self._process = context.Process(
            target=_run_child,
            args=(function, args, Setup(**setup), sender),
            daemon=True,
        )
        self._process.start()
        sender.close()

    @property
    def pid(self) -> int:
        assert self._process.pid
        return self._process.pid

    def has_ended(self, within: float = 0.0) -> bool:
        """Tell whether it ends within so many seconds."""
        return bool(self._receiver.poll(within))

    def wait(self, timeout: float = WAIT_S) -> Outcome:
        """Return how it ended, and reap it."""
        if not self.has_ended(timeout):
            self.kill()
            raise AssertionError(f"the child still ran after {timeout:g} s")
        try:
            outcome = self._receiver.recv()
        except EOFError:
            outcome = Outcome(killed=True)
        self._process.join(WAIT_S)
        exit_code = self._process.exitcode
        assert exit_code == (-signal.SIGKILL if outcome.killed else 0), exit_code
        return outcome

    def kill_after(self, seconds: float) -> Outcome:
        """Kill it with SIGKILL then, if it still runs, and return how it ended."""
        self.has_ended(seconds)
        self.kill()
        try:
            outcome: Outcome = self._receiver.recv()
        except EOFError:
            return Outcome(killed=True)
        return outcome

    def kill(self) -> None:
        """Kill it with SIGKILL, if it still runs, and reap it."""
        self._process.kill()
        self._process.join(WAIT_S)

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._process.close()
        self._receiver.close()


def run(function: Function, *args: Any, **setup: Any) -> Outcome:
    """Run function(*args) in a child, with a Setup, and return how it ended."""
    with Child(function, *args, **setup) as child:
        return child.wait()


def run_together(calls: Sequence[tuple[Any, ...]], **setup: Any) -> list[Outcome]:
    """Run each (function, *args) in its own child, all let go at the same moment."""
    barrier = get_context().Barrier(len(calls))
    children: list[Child] = []
    try:
        for call in calls:
            children.append(Child(*call, barrier=barrier, **setup))
        return [child.wait() for child in children]
    finally:
        for child in children:
            child.__exit__()


def each_death(
    template: Path, function: Function, after: bool = False, **setup: Any
) -> Iterator[tuple[int, Path]]:
    """Yield (n, folder) for each step n at which function(folder) can die.

    The folder is a copy of the template, in which it has just died there; it ends with
    the first n at which the function completes.
    """
    for n in itertools.count(1):
        folder = template.with_name(f"{template.name}-{n}")
        shutil.copytree(template, folder, symlinks=True)
        outcome = run(function, folder, die_at=n, after=after, **setup)
        if not outcome.killed:
            outcome.get()
            assert outcome.steps == n - 1, "the number of steps is not always the same"
            return
        yield n, folder
        shutil.rmtree(folder)


def each_overtaking(
    template: Path,
    function: Function,
    overtake: Callable[[Path], Any],
    flock: bool = True,
    **setup: Any,
) -> Iterator[tuple[Path, Any, Outcome]]:
    """Yield (folder, overtake(folder), outcome of function(folder)) for each step.

    The folder is a copy of the template. Just before the n-th step of the function,
    which runs in a child, the other one runs here from its beginning to its end.
    """
    reached, go_on = pause = _make_pause()
    for n in itertools.count(1):
        folder = template.with_name(f"{template.name}-{n}")
        shutil.copytree(template, folder, symlinks=True)
        reached.clear()
        go_on.clear()
        setup = {**setup, "flock": flock, "pause": pause}
        with Child(function, folder, die_at=n, **setup) as child:
            if not _is_reached(reached, child):
                child.wait().get()
                return
            with contextlib.nullcontext() if flock else _without_flock():
                value = overtake(folder)
            go_on.set()
            yield folder, value, child.wait()
        shutil.rmtree(folder)


def each_crossing(
    template: Path, function: Function, **setup: Any
) -> Iterator[tuple[Path, tuple[Outcome, Outcome]]]:
    """Yield (folder, outcomes) of two children that both run function(folder).

    The one stops before its n-th step, for each n, until the other has come to its
    m-th, for each m; there that one waits in turn until the first has ended.
    """
    one, other = _make_pause(), _make_pause()
    for n in itertools.count(1):
        for m in itertools.count(1):
            folder = template.with_name(f"{template.name}-{n}-{m}")
            shutil.copytree(template, folder, symlinks=True)
            for event in (*one, *other):
                event.clear()
            with Child(function, folder, die_at=n, pause=one, **setup) as first:
                n_has_more = _is_reached(one[0], first)
                with Child(function, folder, die_at=m, pause=other, **setup) as second:
                    m_has_more = _is_reached(other[0], second)
                    one[1].set()
                    outcome = first.wait()
                    other[1].set()
                    yield folder, (outcome, second.wait())
            shutil.rmtree(folder)
            if not m_has_more:
                break
        if not n_has_more:
            return


@contextlib.contextmanager
def _without_flock() -> Iterator[None]:
    """Let this process, too, have a disk that knows no locks."""
    flock, fcntl.flock = fcntl.flock, lambda descriptor, operation: None
    try:
        yield
    finally:
        fcntl.flock = flock


def _make_pause() -> tuple[Any, Any]:
    return get_context().Event(), get_context().Event()


def _is_reached(event: Any, child: Child) -> bool:
    while not event.is_set():
        if child.has_ended(within=0.001):
            return bool(event.is_set())
    return True


@functools.cache
def get_context() -> Any:
    """Return multiprocessing's forkserver, warm; what is handed over comes from it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["preload"])
    before = os.environ.get("PYTHONPATH")
    paths = [str(Path(__file__).parent), str(ROOT), *filter(None, [before])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    forkserver.ensure_running()
    os.environ.pop("PYTHONPATH")
    if before is not None:
        os.environ["PYTHONPATH"] = before
    return context


def _run_child(
    function: Function, args: tuple[Any, ...], setup: Setup, results: Any
) -> None:
    for variable in list(os.environ):
        if variable.startswith(("MODELKIT_", "ASSETS_DIR", "STORAGE_PROVIDER")):
            del os.environ[variable]
    os.environ.update(setup.environ)
    if not setup.flock:
        fcntl.flock = lambda descriptor, operation: None
    function = find(function)
    steps = _Steps(setup)
    if setup.barrier:
        setup.barrier.wait(WAIT_S)
    driver = find(setup.driver)
    steps.patch(driver if isinstance(driver, type) else driver())
    outcome = Outcome()
    try:
        outcome = Outcome(value=function(*args))
    except Exception as error:
        outcome = Outcome(error=error, trace=traceback.format_exc())
    steps.die_at = 0
    outcome = outcome._replace(steps=steps.taken)
    try:
        results.send(outcome)
    except (pickle.PicklingError, AttributeError, TypeError):
        results.send(outcome._replace(error=RuntimeError(outcome.trace)))


def find(function: Function) -> Any:
    """Return what "module:name" names, or the function itself."""
    if not isinstance(function, str):
        return function
    module, _, name = function.partition(":")
    return getattr(importlib.import_module(module), name)


class _Steps:
    """Counts what a process does to disk and store, and kills it at a step."""

    def __init__(self, setup: Setup) -> None:
        self.die_at, self._after, self._among = setup.die_at, setup.after, setup.among
        self._pause = setup.pause
        self.taken = 0
        self._taking = threading.Lock()
        self._requesting = threading.local()

    def take(self, name: str) -> None:
        if self._among and name not in self._among:
            return
        with self._taking:
            self.taken += 1
            if self.taken != self.die_at:
                return
            if not self._pause:
                os.kill(os.getpid(), signal.SIGKILL)
        reached, go_on = self._pause
        reached.set()
        assert go_on.wait(WAIT_S)

    def wrap(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def step(*args: Any, **kwargs: Any) -> Any:
            if not self._after:
                self.take(name)
            try:
                return function(*args, **kwargs)
            finally:
                if self._after:
                    self.take(name)

        return step

    def patch(self, driver: type) -> None:
        """Make steps of the system's calls, and of the driver's methods."""
        copy = getattr(os, "copy_file_range", None)
        if copy:  # a copy can be torn
            os.copy_file_range = lambda source, target, count: copy(
                source, target, min(count, _TORN_SIZE)
            )
        for name in STEPS_OF_OS:
            if hasattr(os, name):
                setattr(os, name, self.wrap(name, getattr(os, name)))
        self._patch_open()
        self._patch_os_open()
        for name in STEPS_OF_DRIVER:
            method = getattr(driver, name)
            if name == "iterate_bytes":
                method = self._tear(method)
            setattr(driver, name, self._wrap_request(name, method))

    def _wrap_request(
        self, name: str, method: Callable[..., Any]
    ) -> Callable[..., Any]:
        """Make a step of a driver's method, unless another one of it calls it."""
        step = self.wrap(name, method)

        @functools.wraps(method)
        def request(*args: Any, **kwargs: Any) -> Any:
            if getattr(self._requesting, "now", False):
                return method(*args, **kwargs)
            self._requesting.now = True
            try:
                return step(*args, **kwargs)
            finally:
                self._requesting.now = False

        return request

    def _patch_open(self) -> None:
        read, write = builtins.open, self.wrap("open_to_write", builtins.open)

        def choose(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            return (write if set(mode) & set("wax+") else read)(
                file, mode, *args, **kwargs
            )

        builtins.open = io.open = choose  # type: ignore[assignment]

    def _patch_os_open(self) -> None:
        read, write = os.open, self.wrap("open", os.open)

        def choose(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
            writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            return (write if writes else read)(path, flags, *args, **kwargs)

        os.open = choose  # type: ignore[assignment]

    def _tear(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """Hand on half of what comes, so that a process can die in the midst."""

        def iterate_bytes(*args: Any, **kwargs: Any) -> Iterator[Any]:
            with contextlib.closing(method(*args, **kwargs)) as chunks:
                for data in chunks:
                    view = memoryview(data)
                    yield view[: len(view) // 2]
                    self.take("write_half")
                    yield view[len(view) // 2 :]

        return iterate_bytes


# --------------------------------------------------------------------- operations


def make_provider(store: str | Path) -> modelkit_assets.StorageProvider:
    """Return a local store's provider, which gives up after 5 s."""
    return modelkit_assets.StorageProvider(
        timeout_s=5, provider="local", bucket=str(store)
    )


class Moved(NamedTuple):
    """What one call of a recording driver moved: `read` or `upload`."""

    kind: str
    name: str
    start: int
    size: int

    @property
    def part(self) -> str:
        """The object's name below that of the asset of most tests."""
        return self.name.partition(f"{NAME}/")[2]


class RecordingDriver(modelkit_assets.LocalDriver):
    """A local store that writes down what each call has moved, whoever makes it."""

    log = ""

    def iterate_bytes(
        self,
        name: str,
        start: int = 0,
        length: int | None = None,
        if_match: str | None = None,
    ) -> Iterator[Any]:
        """Yield an object's bytes; in the end, write down how many."""
        size = 0
        try:
            for data in super().iterate_bytes(name, start, length, if_match):
                size += len(data)
                yield data
        finally:
            self._record("read", name, start, size)

    def upload_object(
        self,
        path: str,
        name: str,
        advance: modelkit_assets.Advance,
        *,
        if_match: str = "",
    ) -> None:
        """Write down that a file is to be uploaded, and do it."""
        self._record("upload", name, 0, os.path.getsize(path))
        super().upload_object(path, name, advance, if_match=if_match)

    def _record(self, *values: Any) -> None:
        with open(self.log, "a") as log:  # one write, so that lines do not mix
            log.write(json.dumps(values) + "\n")


def read_log(log: str | Path, kind: str = "read") -> list[Moved]:
    """Return what the drivers with that log have moved, in the order of its end."""
    lines = Path(log).read_text().splitlines() if Path(log).exists() else []
    moved = [Moved(*json.loads(line)) for line in lines]
    return [one for one in moved if one.kind == kind]


def make_recording_provider(
    store: str | Path, log: str | Path
) -> modelkit_assets.StorageProvider:
    """Return a local store's provider that writes down which data are moved."""
    provider = make_provider(store)
    driver = RecordingDriver(str(store))
    driver.log = str(log)
    provider.driver = driver
    return provider


def publish(make: Function, method: str, source: Path, name: str) -> str:
    """Publish a source with `new` or `update`, and return its version."""
    version = getattr(find(make)(), method)(str(source), name)
    assert isinstance(version, str)
    return version


def fetch(
    make: Function,
    assets_dir: Path,
    spec: str,
    force: bool = False,
    timeout: float = 10,
) -> str:
    """Fetch an asset, and return its path."""
    manager = modelkit_assets.AssetsManager(str(assets_dir), timeout, find(make)())
    path = manager.fetch_asset(spec, force_download=force)
    assert isinstance(path, str)
    return path


# --------------------------------------------------------------------- readers


def read_ours(
    assets_dir: Path,
    known: Sequence[Key],
    provider: modelkit_assets.StorageProvider | None = None,
) -> dict[Key, Tree]:
    """Return every version that our reader lists or serves, of those that there can be.

    Without a provider it reads the assets dir alone, as in pre-downloaded mode. What
    a listing names must be served; content that is not its digest's is an error.
    """
    manager = modelkit_assets.AssetsManager(str(assets_dir), 5, provider)
    assert manager.storage_provider is provider, "the test run has settings of its own"
    seen: dict[Key, Tree] = {}
    for name, version in known:
        for spec in (name, f"{name}:{version}"):
            try:
                info = manager.fetch_asset(spec, return_info=True)
            except modelkit_assets.AssetIntegrityError:
                raise
            except modelkit_assets.ModelkitAssetsError:
                continue
            if info["version"]:  # else it is the folder that lies there, by its path
                seen[name, info["version"]] = read_files(info["path"])
    if provider:
        listed = {(name, one) for name, all in provider.iterate_assets() for one in all}
        assert listed <= set(seen), "a version is listed, and cannot be fetched"
    return seen


def read_store_as_modelkit(store: Path) -> dict[Key, dict[str, bytes]]:
    """Return the versions that modelkit 0.1.3 reads in a store's folder, by its layout.

    FileNotFoundError where an object is missing.
    """
    names = [path.relative_to(store).as_posix() for path in store.rglob("*.versions")]
    return read_objects_as_modelkit(names, lambda name: (store / name).read_bytes())


def read_objects_as_modelkit(
    names: Iterable[str], read: Callable[[str], bytes], prefix: str = ""
) -> dict[Key, dict[str, bytes]]:
    """Return the versions that modelkit 0.1.3 reads among a store's objects."""
    seen: dict[Key, dict[str, bytes]] = {}
    for listing in names:
        if listing.startswith(prefix) and listing.endswith(".versions"):
            path = listing[: -len(".versions")]
            versions = json.loads(read(listing))["versions"]
            assert len(versions) == len(set(versions)), f"a version twice in {versions}"
            for version in versions:
                key = (path[len(prefix) :], version)
                seen[key] = _read_version_as_modelkit(f"{path}/{version}", read)
    return seen


def _read_version_as_modelkit(
    path: str, read: Callable[[str], bytes]
) -> dict[str, bytes]:
    meta = json.loads(read(f"{path}.meta"))
    parts = meta["contents"] if meta["is_directory"] else [""]
    return {part: read(f"{path}/{part}" if part else path) for part in parts}


def check_store(
    names: set[str],
    read: Callable[[str], bytes],
    provider: modelkit_assets.StorageProvider,
    whole: dict[str, Tree],
    assets_dir: Path,
) -> set[str]:
    """Check that both readers see whole versions of `NAME` alone; return those listed.

    names     all objects below the provider's prefix, which `read` reads
    whole     what each version holds, where there is one
    """
    seen = read_objects_as_modelkit(names, read, f"{provider.prefix}/")
    for (name, version), content in seen.items():
        assert (name, content) == (NAME, read_bytes(whole[version]))
    keys = [(NAME, version) for version in whole]
    assets_dir.mkdir()
    for (_, version), tree in read_ours(assets_dir, keys, provider).items():
        assert tree == whole[version]
    shutil.rmtree(assets_dir)
    assert names <= name_objects(provider.prefix, NAME, whole)
    return {version for _, version in seen}


def name_objects(prefix: str, name: str, whole: dict[str, Tree]) -> set[str]:
    """Return all objects of an asset that has these versions, and nothing else."""
    names = {f"{prefix}/{name}.versions"}
    for version, tree in whole.items():
        names.add(f"{prefix}/{name}/{version}.meta")
        for part in read_bytes(tree):
            names.add(f"{prefix}/{name}/{version}" + (part and f"/{part}"))
    return names


def read_assets_dir_as_modelkit(assets_dir: Path) -> dict[Key, dict[str, bytes]]:
    """Return the versions that modelkit 0.1.3 takes for whole: data and a marker."""
    seen: dict[Key, dict[str, bytes]] = {}
    for marker in assets_dir.rglob("*.SUCCESS"):
        if ".cache" in marker.relative_to(assets_dir).parts:
            continue
        if marker.name == ".SUCCESS":
            path = marker.parent
        else:
            path = marker.with_name(marker.name[1 : -len(".SUCCESS")])
        if path.exists():
            name = path.parent.relative_to(assets_dir).as_posix()
            seen[name, path.name] = read_bytes(read_files(path))
    return seen


def name_entries(tree: Tree) -> set[str]:
    """Return all that lies in an assets dir which holds the tree, and nothing else."""
    if "" in tree:
        return {"nlp/", f"{NAME}/", f"{NAME}/0.0", f"{NAME}/.0.0.SUCCESS"}
    entries = {"nlp/", f"{NAME}/", f"{NAME}/0.0/", f"{NAME}/0.0/.SUCCESS"}
    for part in tree:
        while part:
            entries.add(f"{NAME}/0.0/{part}")
            parent = part.rstrip("/").rpartition("/")[0]
            part = parent and f"{parent}/"
    return entries


def check_complete(assets_dir: Path, tree: Tree) -> None:
    """Check that the assets dir holds the asset, its marker, and nothing else."""
    path = assets_dir / NAME / "0.0"
    assert read_files(path) == tree
    seen = read_assets_dir_as_modelkit(assets_dir)
    assert seen == {(NAME, "0.0"): read_bytes(tree)}
    assert list_entries(assets_dir) == name_entries(tree)
    assert list_entries(assets_dir / ".cache") == {
        "CACHEDIR.TAG", "staging/", "nlp/", "nlp/model.lock",
    }  # fmt: skip
