"""The README's commands do what it says, in an empty folder and a clean environment."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import modelkit_assets

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def find_blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


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
    command, shown = find_blocks("sh")[0], find_blocks("text")[0]
    done = subprocess.run(
        ["sh", "-eu", "-c", command],
        cwd=project, env=environ, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    printed = re.sub(r"\S*/tmp\.[^/]*", "/tmp/demo", done.stdout)
    assert printed == shown


def test_the_tests_that_attack_the_promises_are_there():
    named = re.findall(r"`(test_\w+\.py)`: `(test_\w+)`", TEXT)
    assert len(named) > 15
    for file, test in named:
        source = (ROOT / "tests" / file).read_text(encoding="utf-8")
        assert f"def {test}(" in source, test


def test_the_python_example_runs(project, environ):
    (block,) = find_blocks("python")
    (project / "model").mkdir()
    (project / "model" / "vocab.txt").write_text("one")
    for folder in ("store", "assets"):
        (project / folder).mkdir()
    subprocess.run([sys.executable, "-c", block], cwd=project, env=environ, check=True)


def read_moving_table():
    """Return (module, names, what they have become here) of each row of names."""
    section = TEXT.partition("## Moving from modelkit\n")[2].partition("\n## ")[0]
    rows, module = [], ""
    for cells in re.findall(r"^\| (.*)\| (.*) \| (.*) \|$", section, re.MULTILINE):
        first, names, new = (re.findall("`([^`]+)`", cell) for cell in cells)
        if first and not first[0].startswith("modelkit"):
            break
        module = first[0] if first else module
        if cells[2].startswith("the same"):
            new = names
        if names:
            rows.append((module, names, new))
    return rows


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
