"""Copies: in a package, in two at once, beside another `drivers`, in a zip.

Each does the main job in a process of its own, that has no setting but the store's.
"""

import hashlib
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import zipapp
from pathlib import Path

import pytest
from places import ROOT
from stores import LocalStore, MotoStore

import modelkit_assets

CORE = ROOT / "modelkit_assets.py"
DRIVERS = ROOT / "drivers"
VERSION = modelkit_assets.__version__

LOCAL = pytest.param(LocalStore, id="local")
S3 = pytest.param(MotoStore, marks=pytest.mark.server, id="s3")
local_and_s3 = pytest.mark.parametrize("kind", [LOCAL, S3])


# ------------------------------------------------------------------------ layouts


def copy_core(folder, name="modelkit_assets.py", drivers=True):
    """Copy the core into a folder, and its drivers beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    if drivers:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(DRIVERS, folder / "drivers", ignore=ignored)
    return shutil.copy(CORE, folder / name)


def make_package(folder):
    """Make each folder a package down to this one."""
    folder.mkdir(parents=True, exist_ok=True)
    for one in (folder, folder.parent):
        (one / "__init__.py").touch()
    return folder


def make_trap(folder):
    """Make somebody else's package called `drivers`, which must not be imported."""
    trap = folder / "drivers"
    trap.mkdir(parents=True)
    for name in ("__init__", "s3", "local"):
        (trap / f"{name}.py").write_text("raise SystemExit('imported: ' + __file__)")
    return folder


@pytest.fixture
def project(tmp_path):
    """An empty folder, which is nothing's current one."""
    folder = tmp_path / "project"
    folder.mkdir()
    return folder


@pytest.fixture
def work(tmp_path):
    """The current folder of what is run."""
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


@pytest.fixture
def run(tmp_path, work, assets_dir):
    """Return a function that runs Python with no setting but a store's."""

    def run(*args, store=None, path=(), cwd=work, code=0):
        environ = {
            "PATH": os.defpath,
            "HOME": str(tmp_path),
            "PYTHONNOUSERSITE": "1",
            "PYTHONPATH": os.pathsep.join(map(str, path)),
            "MODELKIT_ASSETS_DIR": str(assets_dir),
            **(store.environ if store else {}),
        }
        done = subprocess.run(
            [sys.executable, *map(str, args)], cwd=cwd, env=environ, timeout=60,
            stdin=subprocess.DEVNULL, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        return done.stderr if code else done.stdout

    return run


# ------------------------------------------------------------------- the main job


def do_main_job(core, name):
    """Publish, publish again, fetch, hit; a fresh process runs this text."""
    from pathlib import Path

    source = Path("source", name)
    source.mkdir(parents=True)
    provider = core.StorageProvider()
    for publish, text in ((provider.new, "one"), (provider.update, "two")):
        (source / "vocab.txt").write_text(text)
        publish(source, name)
    assert dict(provider.iterate_assets())[name] == ["0.1", "0.0"]
    manager = core.AssetsManager()
    for spec, text, from_cache in [
        ("", "two", False), (":0.0", "one", False), (":0", "two", True),
    ]:  # fmt: skip
        info = manager.fetch_asset(name + spec, return_info=True)
        assert info["from_cache"] is from_cache, info
        assert Path(info["path"], "vocab.txt").read_text() == text
    try:
        manager.fetch_asset("no/such")
    except core.AssetDoesNotExistError:
        return info["path"]


JOB = inspect.getsource(do_main_job)


def do_commands(run, command, store, assets_dir, **where):
    """Do the main job by commands, each in a process of its own."""
    source = assets_dir.parent / "commands"
    source.mkdir()

    def say(*args, **more):
        return run(*command, *args, store=store, **where, **more)

    for verb, text in (("new", "one"), ("update", "two")):
        (source / "vocab.txt").write_text(text)
        minor = 0 if verb == "new" else 1
        assert say(verb, source, "nlp/cli", "--yes") == f"nlp/cli:0.{minor}\n"
    path = f"{assets_dir}/nlp/cli/0.1"
    for from_cache in (False, True):
        (info,) = json.loads(say("fetch", "nlp/cli:0.1", "--json"))
        assert (info["path"], info["from_cache"]) == (path, from_cache)
    assert Path(path, "vocab.txt").read_text() == "two"
    versions = [{"name": "nlp/cli", "version": one} for one in ("0.1", "0.0")]
    assert json.loads(say("list", "*/cli", "--json")) == versions
    error = say("fetch", "no/such", code=3)
    assert error.startswith("modelkit_assets: error: ") and error.count("\n") == 1


@local_and_s3
def test_a_copy_in_a_package_does_the_main_job(
    run, project, make_store, assets_dir, kind
):
    file = copy_core(make_package(project / "app" / "vendor"))
    code = "import app.vendor.modelkit_assets as core\n"
    code += "print(core.__file__, do_main_job(core, 'nlp/bert'), sep='\\n')"
    shown = run("-c", JOB + code, path=[project], store=make_store(kind))
    assert shown.splitlines() == [str(file), f"{assets_dir}/nlp/bert/0.1"]


@local_and_s3
def test_a_copy_that_is_run_as_a_file_does_the_main_job(
    run, project, make_store, assets_dir, kind
):
    store = make_store(kind)
    file = copy_core(make_package(project / "app" / "vendor"))
    do_commands(run, ["-I", file], store, assets_dir)


@pytest.mark.parametrize("core", ["app.vendor.modelkit_assets", "app.vendor.assets"])
def test_a_copy_of_the_core_alone_does_the_main_job_with_folders(
    run, project, make_store, assets_dir, core
):
    name = core.rpartition(".")[2]
    folder = make_package(project / "app" / "vendor")
    copy_core(folder, f"{name}.py", drivers=False)
    store = make_store(LocalStore)
    code = f"import {core} as core\nprint(do_main_job(core, 'nlp/bert'))"
    shown = run("-c", JOB + code, path=[project], store=store)
    assert shown == f"{assets_dir}/nlp/bert/0.1\n"
    do_commands(run, ["-m", core], store, assets_dir, path=[project])
    s3 = ["--provider", "s3", "--bucket", "b"]
    error = run("-m", core, "list", *s3, path=[project], code=2)
    assert "unknown storage provider 's3'" in error
    assert "there are local;" in error


MINE = """
from app.vendor import modelkit_assets as core
class Mine(core.MajorMinorAssetsVersioningSystem):
    @classmethod
    def check_version_valid(cls, version):
        raise core.InvalidVersionError(version, "mine")
"""


def test_a_copy_that_is_run_by_its_name_shares_its_classes_with_a_users_system(
    run, project
):
    """What these raise is then one line with an exit code, and no traceback."""
    copy_core(make_package(project / "app" / "vendor"))
    (project / "app" / "mine.py").write_text(MINE)
    args = ["fetch", "x:1.0", "--versioning", "app.mine:Mine"]
    error = run("-m", "app.vendor.modelkit_assets", *args, path=[project], code=2)
    assert re.fullmatch("modelkit_assets: error: .*mine\n", error)


# ------------------------------------------------------------------- two at once

TWO = """
import importlib, pickle, sys, threading
one = importlib.import_module("one.vendor.modelkit_assets")
two = importlib.import_module("two.vendor.modelkit_assets")
"""


@pytest.fixture
def two(project):
    """Two packages of one program, each with a copy of its own."""
    for package in ("one", "two"):
        copy_core(make_package(project / package / "vendor"))
    return project


@local_and_s3
def test_two_copies_in_one_program_both_do_the_main_job(
    run, two, make_store, assets_dir, kind
):
    code = """
print(do_main_job(one, "nlp/one"))
print(do_main_job(two, "nlp/two"))
for core, name in (one, "nlp/two"), (two, "nlp/one"):  # what the other has fetched
    assert core.AssetsManager().fetch_asset(name, True)["from_cache"]
    assert core.StorageProvider().update("source/" + name, name) == "0.2"
"""
    shown = run("-c", JOB + TWO + code, path=[two], store=make_store(kind))
    expected = [f"{assets_dir}/nlp/{name}/0.1" for name in ("one", "two")]
    assert shown.splitlines() == expected


@local_and_s3
def test_two_copies_in_one_program_do_not_meet(run, two, make_store, kind):
    code = """
for name in one.__all__:
    ours, other = getattr(one, name), getattr(two, name)
    assert ours is not other, name
    if isinstance(ours, type) and issubclass(ours, Exception):
        assert not issubclass(ours, other) and not issubclass(other, ours), name
drivers = [type(core.StorageProvider().driver) for core in (one, two)]
assert drivers[0] is not drivers[1]
for core, package, driver in zip((one, two), ("one", "two"), drivers):
    assert driver.__module__.startswith(package + ".vendor.modelkit_assets")
    assert sys.modules[driver.__module__].__file__.startswith(
        sys.argv[1] + "/" + package + "/vendor/")
    manager = pickle.loads(pickle.dumps(core.AssetsManager()))
    assert type(manager) is core.AssetsManager
    assert type(manager.storage_provider) is core.StorageProvider
    assert type(manager.storage_provider.driver) is driver
    spec = pickle.loads(pickle.dumps(core.AssetSpec("a", version="0.0")))
    assert type(spec) is core.AssetSpec
    try:
        manager.fetch_asset("no/such")
    except core.AssetDoesNotExistError as error:
        assert type(pickle.loads(pickle.dumps(error))) is core.AssetDoesNotExistError
    else:
        raise AssertionError
assert "drivers" not in sys.modules
"""
    run("-c", TWO + code, two, path=[two], store=make_store(kind))


def test_two_copies_in_one_program_download_an_asset_once(
    run, two, make_store, assets_dir, tmp_path
):
    """A lock holds between copies too, though they share a process."""
    store = make_store(LocalStore)
    (tmp_path / "weights").write_bytes(b"weights")
    modelkit_assets.StorageProvider().new(tmp_path / "weights", "nlp/bert")
    code = """
downloads, results = [], []
waits, may_go_on = threading.Event(), threading.Event()
def fetch(core):
    manager = core.AssetsManager(timeout=60)
    driver = manager.storage_provider.driver
    iterate = driver.iterate_bytes
    def iterate_bytes(name, *args):
        downloads.append(name)
        may_go_on.wait(30)
        return iterate(name, *args)
    driver.iterate_bytes = iterate_bytes
    try_lock = core._try_lock
    def see_lock(*args):
        is_ours = try_lock(*args)
        if not is_ours:
            waits.set()
        return is_ours
    core._try_lock = see_lock
    results.append(manager.fetch_asset("nlp/bert:0.0", return_info=True))
threads = [threading.Thread(target=fetch, args=[core]) for core in (one, two)]
for thread in threads:
    thread.start()
assert waits.wait(30), "neither waited for the other"
may_go_on.set()
for thread in threads:
    thread.join(30)
assert len(downloads) == 1, downloads
assert sorted(info["from_cache"] for info in results) == [False, True]
print(*{info["path"] for info in results})
"""
    shown = run("-c", TWO + code, path=[two], store=store)
    assert shown == f"{assets_dir}/nlp/bert/0.0\n"


# ------------------------------------------------- another package called `drivers`


def test_the_trap_would_be_seen(run, project):
    trap = make_trap(project)
    assert "imported: " in run("-c", "import drivers", path=[trap], code=1)
    assert "imported: " in run("-m", "drivers.s3", cwd=trap, code=1)


@local_and_s3
def test_another_package_called_drivers_is_left_alone(
    run, project, tmp_path, make_store, assets_dir, kind
):
    """Neither first on the path nor in the current folder, as it is for `python -m`."""
    store, trap = make_store(kind), make_trap(tmp_path / "elsewhere")
    copy_core(project)
    code = "import modelkit_assets as core\n"
    code += "print(core.__file__, do_main_job(core, 'nlp/bert'), sep='\\n')"
    shown = run("-c", JOB + code, path=[trap, project], cwd=trap, store=store)
    file = str(project / "modelkit_assets.py")
    assert shown.splitlines() == [file, f"{assets_dir}/nlp/bert/0.1"]
    where = {"path": [project], "cwd": trap}
    do_commands(run, ["-m", "modelkit_assets"], store, assets_dir, **where)


# ------------------------------------------------------------------ a zip application

CALL = "import sys\nimport modelkit_assets\nsys.exit(modelkit_assets.main())\n"
zips = pytest.mark.parametrize("is_main", [False, True], ids=["called", "as_main"])


@pytest.fixture
def make_zip(tmp_path):
    """Return a function that zips the core, called by `__main__.py`, or being that."""

    def make(is_main):
        folder = tmp_path / "zipped"
        copy_core(folder, "__main__.py" if is_main else "modelkit_assets.py")
        if not is_main:
            (folder / "__main__.py").write_text(CALL)
        zipapp.create_archive(folder, tmp_path / "app.pyz")
        return tmp_path / "app.pyz"

    return make


@zips
def test_a_zip_application_does_the_main_job_with_folders(
    run, make_zip, make_store, assets_dir, is_main
):
    app, store = make_zip(is_main), make_store(LocalStore)
    do_commands(run, ["-I", "-S", app], store, assets_dir)


@zips
def test_a_zip_application_serves_what_was_downloaded_before(
    run, make_zip, assets_dir, is_main
):
    (assets_dir / "a").mkdir()
    (assets_dir / "a" / "0.0").write_text("baked in")
    shown = run("-I", "-S", make_zip(is_main), "fetch", "a")
    assert shown == f"{assets_dir}/a/0.0\n"


@zips
def test_a_zip_application_says_that_it_has_no_drivers(run, make_zip, is_main):
    """They are loaded by their paths, and in a zip nothing has one."""
    s3 = ["--provider", "s3", "--bucket", "b"]
    error = run("-I", "-S", make_zip(is_main), "list", *s3, code=2)
    assert error.startswith("modelkit_assets: error: unknown storage provider 's3'")
    assert error.count("\n") == 1


# ------------------------------------------------------------------- what a copy is


def test_every_head_says_licence_version_and_origin():
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (origin,) = re.findall(r'^Homepage = "(.*)"$', pyproject, re.MULTILINE)
    (name,) = re.findall(r'^name = "(.*)"$', pyproject, re.MULTILINE)
    (licence,) = re.findall(r'^license = "(.*)"$', pyproject, re.MULTILINE)
    assert (licence, name in origin) == ("MIT", True)
    head = f"# SPDX-License-Identifier: {licence}\n# {name} {VERSION}, {origin}\n"
    files = [CORE, *DRIVERS.glob("*.py")]
    assert len(files) > 3
    for file in files:
        assert file.read_text(encoding="utf-8").startswith(head), file.name


def show_version(digest):
    return f"modelkit_assets {VERSION} sha256:{digest}\n"


def digest(data):
    return hashlib.sha256(data).hexdigest()


def test_the_version_comes_with_the_digest_of_the_file(run):
    expected = show_version(digest(CORE.read_bytes()))
    assert run("-I", "-S", CORE, "--version") == expected
    assert run("-m", "modelkit_assets", "--version", path=[ROOT]) == expected
    assert run(CORE.name, "--version", cwd=ROOT) == expected


def test_a_changed_copy_has_another_digest(run, project):
    file = Path(copy_core(project))
    assert run(file, "--version") == show_version(digest(CORE.read_bytes()))
    changed = file.read_bytes().replace(b"\n", b"\r\n")
    file.write_bytes(changed)
    assert run(file, "--version") == show_version(digest(changed))
    assert changed != CORE.read_bytes()


@zips
def test_a_copy_in_a_zip_application_has_its_digest_too(run, make_zip, is_main):
    shown = run("-I", "-S", make_zip(is_main), "--version")
    assert shown == show_version(digest(CORE.read_bytes()))


def test_the_version_is_one_line_in_a_narrow_terminal(run, monkeypatch, project):
    code = "import os; os.environ['COLUMNS'] = '40'\n"
    code += "import modelkit_assets; modelkit_assets.main(['--version'])"
    assert run("-c", code, path=[ROOT]) == show_version(digest(CORE.read_bytes()))


def test_the_digest_is_taken_when_it_is_asked_for_alone(run):
    code = "import sys, modelkit_assets as core\ncore._get_main_parser().format_help()"
    code += "\nassert 'hashlib' not in sys.modules"
    run("-S", "-c", code, path=[ROOT])
