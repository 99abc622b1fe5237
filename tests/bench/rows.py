"""The rows of the table: what is measured, with which tools, and what is to be reached.

A row's work is a function of the rig, the tool and whether to check its result; it
runs once for each tool and round, and returns a `Sample`, or raises `MissingError`.
"""

import statistics
from pathlib import Path
from typing import Callable, NamedTuple, Optional

from stub_server import StubServer, forward

from bench import sources
from bench.machine import CORE
from bench.rig import HERE, PREFIX, Rig, Sample

MB = 1_000_000


class Sizes(NamedTuple):
    """How large the work is."""

    object: int  # bytes
    large: int
    files: int
    many: int
    assets: int
    small_assets: int
    starts: int  # how often a short process is started in one round
    hits: int
    growing_files: tuple[int, ...]
    growing_objects: tuple[int, ...]
    growing_assets: tuple[int, ...]


SCALES = {
    "full": Sizes(
        512 * sources.MIB,
        4096 * sources.MIB,
        1000,
        10_000,
        200,
        50,
        5,
        1000,
        (10, 100, 1000, 10_000),
        tuple(size * sources.MIB for size in (1, 8, 64, 512)),
        (10, 50, 200, 1000, 2000),
    ),
    "small": Sizes(
        sources.MIB, 2 * sources.MIB, 10, 20, 5, 3, 1, 10, (1, 2), (sources.KIB,), (2,)
    ),
}


class Check(NamedTuple):
    """A bound for ours; of a rival, the bound is on the ratio of both medians.

    A limit of None shows the ratio, and judges nothing.
    """

    quantity: str  # "seconds", "peak" or "requests"
    limit: Optional[float]
    rival: Optional[str] = None


Work = Callable[[Rig, str, bool], Sample]


class Row(NamedTuple):
    """One line of the table."""

    id: str
    title: str
    work: Work
    tools: tuple[str, ...]
    checks: tuple[Check, ...] = ()
    is_large: bool = False  # more than most machines have room for: by name alone


def make_rows(sizes: Sizes) -> list[Row]:
    """Return all rows, in the table's order."""
    size, large = show_size(sizes.object), show_size(sizes.large)
    files, assets, small = sizes.files, sizes.assets, sizes.small_assets
    folder = f"folder of {files} files of 8 KiB"
    pair = ("ours", "modelkit")
    all_tools = (*pair, "s5cmd", "rclone", "obstore")
    packed = ("ours", "s5cmd", "rclone", "obstore")
    an_object, a_folder = ("object", sizes.object), ("folder", sizes.files)

    def beside(limit, *others):  # a limit on the ratio to s5cmd; the others are shown
        shown = [Check("seconds", None, other) for other in others]
        return (Check("seconds", limit, "s5cmd"), *shown)

    return [
        _row(
            "start",
            "import",
            do_start(sizes),
            ("bare", *pair),
            Check("seconds", 4.5, "bare"),
            Check("peak", 22 * MB),
        ),
        _row(
            "command",
            "a cached `fetch`: `modelkit_assets.py`",
            do_command(sizes, as_script=True),
            ("bare", *pair),
            Check("seconds", 8, "bare"),
        ),
        _row(
            "command-module",
            "the same: `-m modelkit_assets`",
            do_command(sizes, as_script=False),
            ("bare", "ours"),
            Check("seconds", 4, "bare"),
        ),
        _row(
            "hit",
            "pinned hit in process",
            do_hit(sizes),
            pair,
            Check("seconds", 20e-6),
            Check("seconds", 1 / 15, "modelkit"),
        ),
        _row(
            "cold",
            "one asset of 1 KiB, cold",
            do_cold(sizes),
            ("ours", "botocore"),
            Check("seconds", 1.5, "botocore"),
        ),
        _row(
            "fetch-object",
            f"fetch one {size} object",
            do_fetch("s3", *an_object),
            all_tools,
            *beside(1.25, "modelkit", "obstore"),
        ),
        _row(
            "fetch-4gib",
            f"fetch one {large} object",
            do_fetch("s3", "object", sizes.large),
            ("ours", "s5cmd"),
            *beside(1.1),
        )._replace(is_large=True),
        _row(
            "fetch-folder",
            f"fetch a {folder}",
            do_fetch("s3", *a_folder),
            all_tools,
            *beside(1.25, "modelkit", "obstore"),
        ),
        _row(
            "fetch-folder-20ms",
            "the same, +20 ms",
            do_fetch("s3+20ms", *a_folder),
            all_tools,
            *beside(1.25, "modelkit", "obstore"),
        ),
        _row(
            "fetch-many",
            f"fetch a folder of {sizes.many} files of 8 KiB",
            do_fetch("s3", "folder", sizes.many),
            ("ours", "s5cmd", "obstore"),
            *beside(1, "obstore"),
        ),
        _row(
            "packed-folder",
            "the folder packed",
            do_fetch("s3", *a_folder, pack=True),
            packed,
            *beside(0.75, "obstore"),
        ),
        _row(
            "packed-folder-20ms",
            "the folder packed, +20 ms",
            do_fetch("s3+20ms", *a_folder, pack=True),
            packed,
            *beside(0.65, "obstore"),
        ),
        _row(
            "packed-part",
            "one sub-part of that packed folder",
            do_part(sizes),
            ("ours",),
            Check("requests", 2),
        ),
        _row(
            "fetch-assets-20ms",
            f"`fetch -r`, {small} assets of 8 KiB, +20 ms",
            do_fetch_assets(small),
            ("ours", "in-turn"),
            Check("seconds", 0.2, "in-turn"),
        ),
        _row(
            "push-folder",
            "push the folder",
            do_push("s3", *a_folder),
            pair,
            Check("seconds", 0.45, "modelkit"),
        ),
        _row(
            "push-packed",
            "push the folder, packed",
            do_push("s3", *a_folder, pack=True),
            pair,
            Check("seconds", 0.2, "modelkit"),
        ),
        _row(
            "push-object",
            f"push {size}",
            do_push("s3", *an_object),
            pair,
            Check("seconds", 0.9, "modelkit"),
        ),
        _row(
            "list",
            f"list {assets} assets",
            do_list("s3", assets),
            pair,
            Check("seconds", 0.35, "modelkit"),
        ),
        _row(
            "list-20ms",
            "the same, +20 ms",
            do_list("s3+20ms", assets),
            pair,
            Check("seconds", 0.08, "modelkit"),
        ),
        _row(
            "azure-object",
            f"fetch {size}, Azurite",
            do_fetch("az", *an_object),
            pair,
            Check("seconds", 0.8, "modelkit"),
            Check("peak", 100 * MB),
        ),
        _row(
            "local-object",
            f"fetch {size}, local store",
            do_fetch("local", *an_object),
            (*pair, "cp"),
            Check("seconds", 1.6, "modelkit"),
            Check("seconds", None, "cp"),
        ),
        _row(
            "local-folder",
            f"fetch {files} files, local store",
            do_fetch("local", *a_folder),
            (*pair, "cp"),
            Check("seconds", 1, "modelkit"),
            Check("seconds", None, "cp"),
        ),
    ]


def _row(identity, title, work, tools, *checks):
    return Row(identity, title, work, tools, checks)


class Growth(NamedTuple):
    """How the cost of one kind of work grows: rows by size; a panel shows several."""

    id: str
    panel: str
    title: str
    unit: str
    rows: dict[float, Row]


def make_growth(sizes: Sizes) -> list[Growth]:
    """Return the series of growing work."""

    def series(identity, panel, title, unit, works, tools):
        rows = {
            size: _row(f"{identity}-{size:g}", title, work, tools)
            for size, work in works.items()
        }
        return Growth(identity, panel, title, unit, rows)

    libraries, tools = ("ours", "modelkit"), ("ours", "modelkit", "s5cmd")
    files = {size: do_fetch("s3", "folder", size) for size in sizes.growing_files}
    packed = {
        size: do_fetch("s3", "folder", size, pack=True) for size in sizes.growing_files
    }
    objects = {
        size / sources.MIB: do_fetch("s3", "object", size)
        for size in sizes.growing_objects
    }
    assets = {number: do_list("s3", number) for number in sizes.growing_assets}
    fetch, panel = "fetch a folder of files of 8 KiB", "files fetched"
    return [
        series("growth-files", panel, fetch, "files", files, tools),
        series("growth-packed", panel, f"{fetch}, packed", "files", packed, ("ours",)),
        series(
            "growth-object", "MiB fetched", "fetch an object", "MiB", objects, tools
        ),
        series("growth-list", "assets listed", "list", "assets", assets, libraries),
    ]


def show_size(size: int) -> str:
    """Return a size as people write it."""
    if size >= sources.MIB:
        return f"{size / sources.MIB:g} MiB"
    return f"{size / sources.KIB:g} KiB"


# ------------------------------------------------------------------------ the work


def do_start(sizes: Sizes) -> Work:
    """Start an interpreter that imports the library, several times."""
    imports = {
        "bare": "pass",
        "ours": f"import sys; sys.path.insert(0, {str(CORE)!r}); "
        "import modelkit_assets",
        "modelkit": "from modelkit.assets.manager import AssetsManager",
    }

    def work(rig, tool, check):
        python = rig.find_python("modelkit" if tool == "modelkit" else "ours")
        flags = ["-I"] if tool == "modelkit" else ["-I", "-S"]
        command = [python, *flags, "-c", imports[tool]]
        return _repeat(sizes.starts, lambda: rig.run_program(command))

    return work


def do_command(sizes: Sizes, as_script: bool) -> Work:
    """Run the whole command that fetches what is cached, several times.

    Ours runs without site-packages, so it would fail if it imported an SDK.
    """

    def work(rig, tool, check):
        assets_dir, store = _find_cached(rig, sizes)
        ours = [rig.find_python("ours"), "-I", "-S", CORE / "modelkit_assets.py"]
        if not as_script:
            ours[1:] = ["-E", "-s", "-S", "-m", "modelkit_assets"]
        commands = {
            "bare": lambda: [rig.find_python("ours"), "-I", "-S", "-c", "pass"],
            "ours": lambda: [*ours, "fetch", "cached/object:0.0"],
            "modelkit": lambda: [
                Path(rig.find_python("modelkit")).with_name("modelkit"),
                *("assets", "fetch", "cached/object:0.0"),
            ],
        }
        command = commands[tool]()
        environ = {**store.environ, "MODELKIT_ASSETS_DIR": assets_dir}
        return _repeat(sizes.starts, lambda: rig.run_program(command, environ, CORE))

    return work


def do_hit(sizes: Sizes) -> Work:
    """Fetch what is cached again and again in one process; the best of 5 loops."""

    def work(rig, tool, check):
        assets_dir, store = _find_cached(rig, sizes)
        loop = {"repeats": 5, "number": sizes.hits}
        job = {"assets_dir": assets_dir, "spec": "cached/object:0.0", **loop}
        return rig.run_library(tool, "hit", store, **job)

    return work


def _find_cached(rig, sizes):
    """Return an assets dir that has a small asset, and its store."""
    source = rig.find_source("object", sources.KIB)
    store = rig.find_published("s3", source, "cached/object")
    assets_dir = rig.folder / "cached"
    if not assets_dir.exists():
        assets_dir.mkdir()
        job = {"assets_dir": str(assets_dir), "spec": "cached/object:0.0"}
        rig.run_library("ours", "fetch", store, **job)
    return str(assets_dir), store


def do_cold(sizes: Sizes) -> Work:
    """Fetch a small asset by the whole command; or import botocore, make a client."""
    code = "import botocore.session as b; b.Session().create_client('s3')"

    def work(rig, tool, check):
        source = rig.find_source("object", sources.KIB)
        store = rig.find_published("s3", source, "bench/object")

        def run():
            if tool == "botocore":
                command = [rig.find_python("ours"), "-E", "-s", "-c", code]
                return rig.run_program(command, store.environ)
            with rig.new_folder() as folder:
                return rig.run_command(store, folder, "fetch", "bench/object:0.0")

        return _repeat(sizes.starts, run)

    return work


def do_fetch_assets(number: int) -> Work:
    """Fetch several small assets by one command; or in one process, one by one."""

    def work(rig, tool, check):
        store, specs = rig.find_listed("s3+20ms", number, 8 * sources.KIB)
        with rig.new_folder() as folder:
            if tool == "in-turn":
                job = {"assets_dir": str(folder), "specs": specs}
                return rig.run_library("ours", "fetch_each", store, **job)
            asked = folder / "assets.txt"
            asked.write_text("\n".join(specs))
            sample = rig.run_command(store, folder, "fetch", "-r", asked)
            if check:
                came = [path for path in folder.rglob("0.0") if path.is_file()]
                assert len(came) == number, f"{len(came)} assets came"
            return sample

    return work


def do_fetch(kind: str, form: str, size: int, pack: bool = False) -> Work:
    """Fetch an asset into an empty folder; others than us fetch it unpacked.

    From S3 it is our whole command, as others there are programs.
    """
    name = f"bench/{form}"

    def work(rig, tool, check):
        source = rig.find_source(form, size)
        packed = pack and tool == "ours"
        store = rig.find_published(kind, source, name, packed)
        with rig.new_folder() as folder:
            got = folder / name / "0.0"
            if tool == "ours" and store.provider == "s3":
                sample = rig.run_command(store, folder, "fetch", f"{name}:0.0")
            elif tool in ("ours", "modelkit"):
                job = {"assets_dir": str(folder), "spec": f"{name}:0.0"}
                sample = rig.run_library(tool, "fetch", store, **job)
            else:
                got = folder / "got"
                command = _make_copy(rig, tool, store, f"{name}/0.0", form, got)
                sample = rig.run_program(command, store.environ)
            if check:
                sources.check_same(got, source)
        return sample

    return work


def _make_copy(rig, tool, store, name, form, target):
    """Return the command that copies objects out of a store."""
    is_folder = form == "folder"
    if tool == "obstore":
        command = [rig.find_peer("obstore"), "-I", HERE / "obstore_fetch.py"]
        where = [store.endpoint, store.bucket, f"{PREFIX}/{name}"]
        return [*command, *where, f"{target}/" if is_folder else target]
    program = rig.find_program(tool)
    if tool == "cp":
        return [program, "-r", store.find_object(name), target]
    where = f"{store.bucket}/{PREFIX}/{name}"
    if tool == "s5cmd":
        command = [program, "--log", "error", "--endpoint-url", store.endpoint, "cp"]
        addresses = [f"s3://{where}/*", f"{target}/"]
        return [*command, *(addresses if is_folder else [f"s3://{where}", target])]
    many = ["--transfers", "64", "--checkers", "64"]
    action = [program, "copy", *many] if is_folder else [program, "copyto"]
    return [*action, f":s3:{where}", target]


def do_part(sizes: Sizes) -> Work:
    """Fetch one file of a packed folder, through a proxy that counts requests."""

    def work(rig, tool, check):
        source = rig.find_source("folder", sizes.files)
        store = rig.find_published("s3", source, "bench/folder", pack=True)
        part = next(path for path in sorted(source.rglob("*")) if path.is_file())
        part = part.relative_to(source).as_posix()
        with rig.new_folder() as folder, StubServer() as counter:
            counter.script = forward(store.endpoint)
            job = {"assets_dir": str(folder), "spec": f"bench/folder:0.0[{part}]"}
            sample = rig.run_library(tool, "fetch", store.via(counter.endpoint), **job)
            if check:
                got = folder / "bench/folder/0.0" / part
                sources.check_same(got, source / part)
            return sample._replace(requests=len(counter.requests))

    return work


def do_push(kind: str, form: str, size: int, pack: bool = False) -> Work:
    """Publish a new asset in a new bucket; modelkit publishes it unpacked."""

    def work(rig, tool, check):
        source = rig.find_source(form, size)
        store = rig.make_store(kind)
        try:
            job = {"path": str(source), "name": "bench/new"}
            packed = pack and tool == "ours"
            sample = rig.run_library(tool, "push", store, pack=packed, **job)
            if check and not packed:
                sources.check_same(store.find_object("bench/new/0.0"), source)
        finally:
            store.remove()
        return sample

    return work


def do_list(kind: str, number: int) -> Work:
    """List all assets with their versions."""

    def work(rig, tool, check):
        store, _ = rig.find_listed(kind, number)
        return rig.run_library(tool, "list", store, number=number)

    return work


def _repeat(number, run):
    """Return the median of several short runs."""
    samples = [run() for _ in range(number)]
    seconds = statistics.median(sample.seconds for sample in samples)
    return Sample(seconds, max(sample.peak for sample in samples))
