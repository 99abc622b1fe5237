"""What README.md and its pages show is so, in an empty folder and a clean environ."""

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest
from contract import DriverContract
from readme import (
    PAGES,
    ROOT,
    TEXT,
    TEXTS,
    find_blocks,
    find_section,
    read_moving_table,
)
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
    text = TEXTS["guarantees"]
    named = re.findall(r"`([\w/]+/test_\w+\.py)`: `(test_\w+)`", text)
    assert len(named) > 35
    assert len(named) == len(re.findall(r"^\| .* \| `.*test_.*\|$", text, re.MULTILINE))
    for file, test in named:
        source = (ROOT / "tests" / file).read_text(encoding="utf-8")
        assert f"def {test}(" in source, test


def find_example(word, page="readme"):
    """Return the one Python example that a word occurs in."""
    (block,) = (block for block in find_blocks("python", TEXTS[page]) if word in block)
    return block


def test_every_example_is_run_by_a_test():
    found = {
        page: [len(find_blocks(kind, text)) for kind in ("python", "sh", "dockerfile")]
        for page, text in TEXTS.items()
    }
    assert found == {
        # sh: the demonstration, S3, a copy (test_packaging.py), publish, fetch, pin;
        # Docker's are in test_images.py
        "readme": [2, 6, 2],
        "drivers": [1, 0, 0],
        "moving": [0, 0, 0],
        "guarantees": [0, 0, 0],
        "processes": [1, 0, 0],
        "figures": [0, 1, 0],  # which takes half an hour
        "tests": [0, 2, 0],  # run by .ci/run, by developers
    }


# ------------------------------------------------------------------- what it names


def test_it_can_be_read_to_its_end():
    assert len(TEXT.splitlines()) <= 300


def read_anchors(text):
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page):
    links = re.findall(r"\]\(([^)]*)\)", TEXTS[page])
    assert links or page in ("moving", "guarantees", "processes")
    for link in links:
        path, _, anchor = link.partition("#")
        target = (PAGES[page].parent / path) if path else PAGES[page]
        assert target.is_file(), link
        assert not anchor or anchor in read_anchors(target.read_text("utf-8")), link


def test_every_page_is_linked():
    targets = re.findall(r"\]\(([^)#]+)", TEXT)
    own = {path.relative_to(ROOT).as_posix() for path in PAGES.values()}
    assert own - {"README.md"} <= set(targets)


def test_every_setting_is_named():
    tables = find_section("Stores and permissions") + find_section("Settings")
    named = set(re.findall(r"`([A-Z0-9_]+)`", tables))
    older = {old for _, _, old in modelkit_assets._SETTINGS.values() if old}
    assert {*modelkit_assets._SETTINGS, *older} <= named
    drivers = [path.stem for path in (ROOT / "drivers").glob("*.py")]
    assert len(drivers) > 3
    for driver in drivers:
        assert f"| `{driver}` |" in TEXT
        for variable, (keyword, _) in modelkit_assets._load_driver(
            driver
        ).variables.items():
            assert variable in named
            same = keyword in (variable.lower(), "profile")
            assert same or f"(`{keyword}`)" in TEXT, keyword


def test_every_command_and_exit_code_is_named():
    table = find_section("Commands")
    for command in modelkit_assets._COMMANDS:
        assert re.search(rf"^\|.*`{command}\b.*\|.*\|$", table, re.MULTILINE), command
    codes = re.sub(r"\s+", " ", table).partition("Exit codes: ")[2]
    help_text = modelkit_assets._get_main_parser().format_help()
    for code in re.findall(r"(\d+) \w", help_text.partition("exit codes:")[2]):
        assert re.search(rf"\b{code} \w", codes), code


def test_every_message_that_is_explained_is_one():
    sources = [ROOT / "modelkit_assets.py", *(ROOT / "drivers").glob("*.py")]
    said = "".join(path.read_text("utf-8") for path in sources)
    cells = re.findall(r"^\| (`.*?) \| ", find_section("Troubleshooting"), re.MULTILINE)
    assert len(cells) > 5
    for text in re.findall("`([^`]+)`", "".join(cells)):
        assert text in said, text


def test_the_permissions_are_those_that_the_drivers_name():
    table = find_section("Stores and permissions")
    for driver in ("s3", "gcs"):
        text = modelkit_assets._load_driver(driver).__doc__
        names = re.findall(r"\b(?:s3:|kms:|storage\.objects\.)\w+", text)
        assert len(names) > 3
        assert all(f"`{name}`" in table for name in names)


@pytest.mark.server
def test_the_policy_and_the_rule_for_s3_are_what_s3_takes(tmp_path):
    policy, rule = map(json.loads, find_blocks("json", TEXTS["drivers"]))
    actions = {one for part in policy["Statement"] for one in part["Action"]}
    table = find_section("Stores and permissions")
    assert actions == set(re.findall(r"`(s3:\w+)` ?[,|(]", table))
    with Moto(tmp_path / "moto") as server:
        server.create_bucket("models")
        client = server.client()
        client.put_bucket_lifecycle_configuration(
            Bucket="models", LifecycleConfiguration=rule
        )
        (kept,) = client.get_bucket_lifecycle_configuration(Bucket="models")["Rules"]
    assert kept["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 7}


# ------------------------------------------------------------------ what it runs


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
    shown = run("-c", block, cwd=project, env=environ).decode().splitlines()
    assert shown[0] == f"{project}/assets/nlp/bert/0.0 0.0 True"
    assert shown[1] == "('checking', 'nlp/bert:0.0', 0, 7)"
    assert shown[-1] == "('checking', 'nlp/bert:0.0', 7, 7)"
    assert [path.name for path in (project / "mine").iterdir()] == ["vocab.txt"]
    manifest = json.loads(
        (project / "store/modelkit-assets/nlp/bert/0.0.meta").read_text()
    )
    assert manifest["metadata"] == {"commit": "3f2a1c"}


def test_the_example_of_a_versioning_system_is_used(project, model, environ):
    (project / "versions.py").write_text(find_example("Builds"))
    (option,) = re.findall(r"`(--versioning \S+:\w+)`", TEXT)
    environ["MODELKIT_STORAGE_PROVIDER"] = "local"
    environ["MODELKIT_STORAGE_BUCKET"] = "store"
    environ["MODELKIT_ASSETS_DIR"] = "assets"

    def command(*args):
        args = ["modelkit_assets.py", *args, *option.split()]
        return run(*args, cwd=project, env=environ).decode()

    assert command("new", model, "x", "--yes") == "x:b0001\n"
    for number in range(2, 12):
        assert command("update", model, "x", "--yes") == f"x:b{number:04}\n"
    assert command("resolve", "x", "x:b0001") == "x:b0011\nx:b0001\n"
    assert command("fetch", "x") == f"{project}/assets/x/b0011\n"
    args = ["modelkit_assets.py", "fetch", "x:1.0", *option.split()]
    done = subprocess.run(
        [sys.executable, *args], cwd=project, env=environ, capture_output=True
    )
    assert (done.returncode, done.stderr.decode().count("\n")) == (2, 1)
    assert b"it is not b0001, b0002 and so on" in done.stderr


def run_shell(commands, **where):
    """Run a block in which `python3` is ours, and what pip installs is there."""
    commands = re.sub(r"^pip install \w+ && ", "", commands, flags=re.MULTILINE)
    # what asks is answered, as nobody is there
    asking = r"^(python3 \S+ (?:new|update|prune) (?!.*--(?:yes|dry-run)).*)$"
    commands = re.sub(asking, r"\1 --yes", commands, flags=re.MULTILINE)
    commands = commands.replace("python3 ", f"{sys.executable} ")
    command = ["bash", "-euc", commands]
    done = subprocess.run(command, capture_output=True, timeout=60, **where)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def test_the_commands_of_publish_fetch_and_pin_run(project, model, environ):
    environ["MODELKIT_STORAGE_PROVIDER"] = "local"
    environ["MODELKIT_STORAGE_BUCKET"] = "store"
    environ["MODELKIT_ASSETS_DIR"] = "assets"
    (project / "assets.txt").write_text("nlp/bert:0  # the first major\n")
    copy = f"{project}/assets/nlp/bert"
    for title, expected in {
        "Publish": ["nlp/bert:0.0", "nlp/bert:1.0", "nlp/bert:0.1"],
        "Fetch": [
            *(f"{copy}/0.1", f"{copy}/0.1", f"{copy}/0.0/vocab.txt"),
            *(f"{project}/models", f"{copy}/0.1"),
        ],
        "Pin versions": [f"{copy}/0.1"],
    }.items():
        (commands,) = find_blocks("sh", find_section(title))
        shown = run_shell(commands, cwd=project, env=environ)
        assert shown.splitlines() == expected
    assert [path.name for path in (project / "models").iterdir()] == ["vocab.txt"]
    assert (project / "assets.lock").read_text() == "nlp/bert:0.1\n"


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
    (project / "drivers" / "sqlite.py").write_text(find_example("sqlite", "drivers"))
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
        path.write_text(find_example("sqlite", "drivers"))
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
    (project / "job.py").write_text(find_example("dask", "processes"))
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
    (function,) = re.findall(r"`rdd\.mapPartitions\((.*)\)`", TEXTS["processes"])
    pickled = run("-c", SEND, function, cwd=project, env=environ)
    executor = tmp_path / "executor"
    executor.mkdir()
    shutil.copy(ROOT / "modelkit_assets.py", executor)
    bare = {"PATH": environ["PATH"], "PYTHONPATH": str(executor)}
    shown = run("-c", RECEIVE, input=pickled, cwd=executor, env=bare)
    assert shown == b"[1, 0]\n"


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
