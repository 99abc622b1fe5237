"""The README's commands do what it says, in an empty folder and a clean environment."""

import os
import re
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest
from contract import DriverContract
from readme import ROOT, TEXT, find_blocks, read_moving_table
from servers import Moto

import modelkit_assets


@pytest.fixture
def project(tmp_path):
    """A folder as a user has it: the core and its drivers, and nothing else."""
    shutil.copy(ROOT / "modelkit_assets.py", tmp_path)
    shutil.copytree(ROOT / "drivers", tmp_path / "drivers")
    return tmp_path


@pytest.fixture
def environ(tmp_path):
    path = os.pathsep.join([os.path.dirname(sys.executable), os.defpath])
    return {"PATH": path, "HOME": str(tmp_path), "TMPDIR": str(tmp_path)}


def test_the_first_command_runs_the_main_job_and_prints_what_is_shown(project, environ):
    (command,) = (block for block in find_blocks("sh") if "core=" in block)
    shown = find_blocks("text")[0]
    done = subprocess.run(
        ["sh", "-eu", "-c", command],
        cwd=project, env=environ, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    printed = re.sub(r"\S*/tmp\.[^/]*", "/tmp/demo", done.stdout)
    assert printed == shown


def test_the_tests_that_attack_the_promises_are_there():
    named = re.findall(r"`([\w/]+/test_\w+\.py)`: `(test_\w+)`", TEXT)
    assert len(named) > 15
    for file, test in named:
        source = (ROOT / "tests" / file).read_text(encoding="utf-8")
        assert f"def {test}(" in source, test


def find_example(word):
    """Return the one Python example that a word occurs in."""
    (block,) = (block for block in find_blocks("python") if word in block)
    return block


def test_every_example_is_run_by_a_test():
    for word in ("provider.new", "on_progress", "dask", "sqlite"):
        assert find_example(word)
    assert len(find_blocks("python")) == 4
    # the demonstration, the two commands, S3, Docker (test_images.py), CI's
    assert len(find_blocks("sh")) == 5


@pytest.fixture
def model(project):
    """The folders that the examples name."""
    for folder in ("model", "store", "assets"):
        (project / folder).mkdir()
    (project / "model" / "vocab.txt").write_text("one two")
    return project / "model"


def run(*args, **where):
    command = [sys.executable, *map(str, args)]
    done = subprocess.run(command, capture_output=True, timeout=60, **where)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def test_the_python_example_runs(project, model, environ):
    block = find_example("provider.new")
    shown = run("-c", block, cwd=project, env=environ)
    assert shown.decode() == f"{project}/assets/nlp/bert/0.1 0.0 False\n"
    told = (
        run("-c", find_example("on_progress"), cwd=project, env=environ)
        .decode()
        .splitlines()
    )
    assert told[0] == "('checking', 'nlp/bert:0.1', 0, 7)"
    assert told[-1] == "('checking', 'nlp/bert:0.1', 7, 7)"


def run_shell(commands, **where):
    """Run a block in which `python3` is ours, and what pip installs is there."""
    commands = re.sub("^pip install .*$", "", commands, flags=re.MULTILINE)
    commands = commands.replace("python3 ", f"{sys.executable} ")
    command = ["bash", "-euc", commands]
    done = subprocess.run(command, capture_output=True, timeout=60, **where)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def test_the_two_commands_run(project, model, environ):
    (commands,) = (block for block in find_blocks("sh") if block.count("\n") == 2)
    environ["MODELKIT_STORAGE_PROVIDER"] = "local"
    environ["MODELKIT_STORAGE_BUCKET"] = "store"
    environ["MODELKIT_ASSETS_DIR"] = "assets"
    shown = run_shell(
        commands.replace("model nlp/bert", "model nlp/bert --yes"),
        cwd=project,
        env=environ,
    )
    assert shown == f"nlp/bert:0.0\n{project}/assets/nlp/bert/0.0\n"


@pytest.mark.server
def test_the_way_to_s3_leads_there(project, environ, tmp_path):
    (commands,) = (block for block in find_blocks("sh") if "S3_ENDPOINT" in block)
    with Moto(tmp_path / "moto") as server:
        server.create_bucket("models")
        for example, real in (
            ("https://s3.example.com", server.endpoint),
            ("=KEY", f"={server.key}"),
            ("=SECRET", f"={server.secret}"),
        ):
            assert example in commands
            commands = commands.replace(example, real)
        shown = run_shell(commands, cwd=project, env=environ)
        assert "failed" not in shown
        assert shown.endswith(f"nlp/bert:0.0\n{project}/assets/nlp/bert/0.0\n")
        names = server.client().list_objects_v2(Bucket="models")["Contents"]
        assert len(names) == 3


def test_the_example_of_a_driver_keeps_its_promises(project, model, environ):
    (project / "drivers" / "sqlite.py").write_text(find_example("sqlite"))
    environ["MODELKIT_STORAGE_PROVIDER"] = "sqlite"
    environ["MODELKIT_STORAGE_BUCKET"] = "store.db"
    environ["MODELKIT_ASSETS_DIR"] = "assets"
    for arguments in (
        ["doctor", "--write"],
        ["new", model, "nlp/bert", "--yes"],
        ["update", model, "nlp/bert", "--yes", "--pack"],
        ["fetch", "nlp/bert:0.0", "nlp/bert[vocab.txt]"],
        ["list", "--long"],
    ):
        shown = run("modelkit_assets.py", *arguments, cwd=project, env=environ)
    assert [line.split()[0] for line in shown.decode().splitlines()] == [
        "nlp/bert:0.1",
        "nlp/bert:0.0",
    ]
    assert (project / "assets/nlp/bert/0.1/vocab.txt").read_text() == "one two"


class TestTheExampleOfADriver(DriverContract):
    """It passes what all drivers do, but for what a whole one would have more."""

    test_an_object_that_is_not_small_is_not_read_at_once = None
    test_a_missing_bucket_is_a_wrong_setting_to_a_reader = None
    test_a_missing_bucket_is_a_wrong_setting_and_no_missing_object = None
    objects_beyond_a_page, increments = 20, 1  # each commit waits for the disk

    @pytest.fixture
    def driver(self, tmp_path):
        path = tmp_path / "sqlite.py"
        path.write_text(find_example("sqlite"))
        name = "modelkit_assets.drivers.sqlite"
        module = modelkit_assets._load_module(name, str(path))
        yield module.Driver(str(tmp_path / "store.db"))
        del sys.modules[name]

    @pytest.fixture(autouse=True)
    def database(self, tmp_path):
        # past the driver, which makes the table when it is first used
        self.path = tmp_path / "store.db"
        columns = "(name TEXT PRIMARY KEY, etag TEXT, data BLOB)"
        self.run(f"CREATE TABLE objects {columns}")

    def run(self, statement, *values):
        with closing(sqlite3.connect(self.path, timeout=60)) as database, database:
            return database.execute(statement, values).fetchall()

    def put(self, name, data):
        statement = "INSERT OR REPLACE INTO objects VALUES (?, hex(randomblob(8)), ?)"
        self.run(statement, name, data)

    def get(self, name):
        rows = self.run("SELECT data FROM objects WHERE name = ?", name)
        return rows[0][0] if rows else None

    def get_expected_uri(self, name):
        return f"sqlite://{self.path}/{name}"


# ------------------------------------------------------------ Dask, and Spark's way


@pytest.fixture
def job(project, model, environ):
    """The Dask example as a file, where its store is configured and has the asset."""
    environ["MODELKIT_STORAGE_PROVIDER"] = "local"
    environ["MODELKIT_STORAGE_BUCKET"] = "store"
    command = ["modelkit_assets.py", "new", model, "nlp/bert", "--yes"]
    run(*command, cwd=project, env=environ)
    (project / "job.py").write_text(find_example("dask"))
    return project / "job.py"


@pytest.mark.attack
@pytest.mark.server
def test_the_dask_example_runs(project, environ, job, dask_cluster):
    environ["DASK_SCHEDULER_ADDRESS"] = dask_cluster.scheduler_address
    shown = run(job, cwd=project, env=environ)
    assert shown == b"[[1, 2], [0]]\n"
    assert (project / "assets/nlp/bert/0.0/vocab.txt").read_text() == "one two"


SEND = """
import functools, runpy, sys, cloudpickle
job = runpy.run_path("job.py")
manager = job["AssetsManager"]("assets")
spec = manager.resolve("nlp/bert[vocab.txt]")
function = eval(sys.argv[1], {**job, **globals()})
sys.stdout.buffer.write(cloudpickle.dumps(function))
"""
RECEIVE = """
import pickle, sys
print(list(pickle.load(sys.stdin.buffer)(iter(["one day", "none"]))))
"""


@pytest.mark.server
def test_the_function_for_spark_runs_where_only_the_core_was_sent(
    project, environ, job, tmp_path, dask_cluster
):
    """It is pickled as Spark does it, by what Dask brings, and called in a process."""
    (function,) = re.findall(r"`rdd\.mapPartitions\((.*)\)`", TEXT)
    pickled = run("-c", SEND, function, cwd=project, env=environ)
    executor = tmp_path / "executor"
    executor.mkdir()
    shutil.copy(ROOT / "modelkit_assets.py", executor)
    bare = {"PATH": environ["PATH"], "PYTHONPATH": str(executor)}
    shown = run("-c", RECEIVE, input=pickled, cwd=executor, env=bare)
    assert shown == b"[1, 0]\n"


# ----------------------------------------------------------------------- vendoring


def test_the_layout_of_a_copy_can_be_imported_and_run(tmp_path, environ):
    sources = {"modelkit_assets.py": ROOT, "s3.py": ROOT / "drivers"}
    for line in find_blocks("text")[1].splitlines():
        path = tmp_path / line.split()[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.name in sources:
            shutil.copy(sources[path.name] / path.name, path)
        else:
            path.touch()
    (code,) = re.findall(r"`(from app\.vendor.*)`", TEXT)
    load = "; import app.vendor.modelkit_assets as core; core._load_driver('s3')"
    run("-c", code + load, cwd=tmp_path, env=environ)
    commands = re.findall(r"`python ((?:-m )?app.vendor.*?)`", TEXT)
    assert len(commands) == 2
    shown = {
        run(*one.split(), "--version", cwd=tmp_path, env=environ) for one in commands
    }
    assert len(shown) == 1


# ------------------------------------------------------------ moving from modelkit


def test_each_name_that_one_of_modelkits_has_become_exists():
    rows = read_moving_table()
    assert len(rows) > 15
    commands = modelkit_assets._get_main_parser().format_help()
    for module, _, new in rows:
        assert new
        for name in new:
            if " " in module:
                assert f"\n    {name} " in commands, name
            elif name.startswith("drivers/"):
                assert "class Driver:" in (ROOT / name).read_text(encoding="utf-8")
            else:
                assert name in (*modelkit_assets.__all__, "Driver"), name
