"""The types that users get: of an installed wheel, and of a copy in their repository.

mypy is the extra `test`'s; pyright comes from `npm ci --prefix tests`.
"""

import json
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from places import ROOT

pytestmark = [pytest.mark.attack, pytest.mark.server]

PYRIGHT = ROOT / "tests" / "node_modules" / "pyright" / "index.js"

USER = """\
from __future__ import annotations

from pathlib import Path

import modelkit_assets
from modelkit_assets import AssetsManager, AssetSpec, FetchInfo, Progress
from modelkit_assets import StorageDriver, StorageProvider


def tell(progress: Progress) -> None:
    print(progress.action, progress.done / progress.size)


provider = StorageProvider(provider="local", bucket="store", on_progress=tell)
version: str = provider.new(Path("model"), "nlp/bert", pack=True)
driver: StorageDriver = provider.driver
manager = AssetsManager("assets", storage_provider=provider)
path: str = manager.fetch_asset("nlp/bert")
name: str = Path(manager.fetch_asset(AssetSpec("nlp/bert"), False)).name
info: FetchInfo = manager.fetch_asset("nlp/bert:0", return_info=True)
is_cached: bool = info["from_cache"]
uri: str | None = info.get("object_name")
code: int = modelkit_assets.main(["list"])


def fetch(is_told: bool) -> str | FetchInfo:
    try:
        return manager.fetch_asset("nlp/bert", is_told)
    except modelkit_assets.AssetDoesNotExistError as error:
        return str(error)


provider.new("model", 3)  # wrong
provider.new("model", "nlp/bert", packed=True)  # wrong
manager.fetch("nlp/bert")  # wrong
manager.fetch_asset(["nlp/bert"])  # wrong
manager.fetch_asset("nlp/bert")["path"]  # wrong
manager.fetch_asset("nlp/bert", True).lower()  # wrong
number: int = manager.fetch_asset("nlp/bert")  # wrong
print(info["form_cache"])  # wrong
AssetsManager(asset_dir="assets")  # wrong
StorageProvider(timeout_s="long")  # wrong
"""
LINES = enumerate(USER.splitlines(), 1)
WRONG = {number for number, line in LINES if line.endswith("# wrong")}


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """The Python of an environment in which the wheel is installed."""
    folder = tmp_path_factory.mktemp("types")
    pip = [sys.executable, "-m", "pip", "-q"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "-w", folder, ROOT]
    subprocess.run([*pip, *build], check=True)
    venv = folder / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    python = venv / "bin" / "python"
    pip += ["--python", python, "install", "--no-index", "--no-deps"]
    subprocess.run([*pip, *folder.glob("*.whl")], check=True)
    return python


@pytest.fixture
def script(tmp_path):
    file = tmp_path / "user.py"
    file.write_text(f"{USER}# pyright: strict, reportUnusedExpression=false\n")
    return file


def test_mypy_finds_what_is_wrong_in_a_users_script_and_no_more(python, script, refuse):
    if not find_spec("mypy"):
        refuse("mypy is not installed: see the extra `test`")
    command = [sys.executable, "-m", "mypy", "--strict", "--python-executable", python]
    command += ["--cache-dir", script.parent / "cache", script.name]
    done = subprocess.run(command, cwd=script.parent, capture_output=True, text=True)
    found = re.findall(r"^user\.py:(\d+): error: ", done.stdout, re.MULTILINE)
    assert set(map(int, found)) == WRONG, done.stdout + done.stderr


@pytest.fixture
def run_pyright(refuse):
    """Return a function that returns (file, line, message) of each error it finds."""
    node = shutil.which("node")
    if not (node and PYRIGHT.exists()):
        refuse("pyright is not installed: run `npm ci --prefix tests`")

    def run_pyright(folder, python, *files):
        command = [node, PYRIGHT, "--outputjson", "--pythonpath", python, *files]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        report = json.loads(done.stdout)
        assert report["summary"]["filesAnalyzed"] == len(files)
        return [
            (Path(one["file"]).name, one["range"]["start"]["line"] + 1, one["message"])
            for one in report["generalDiagnostics"]
            if one["severity"] == "error"
        ]

    return run_pyright


def test_pyright_finds_what_is_wrong_in_a_users_script_and_no_more(
    run_pyright, python, script
):
    """By its strict rules, to which an unknown type in what is used is an error."""
    found = run_pyright(script.parent, python, script.name)
    assert {line for _, line, _ in found} == WRONG, found


def test_pyright_finds_nothing_in_a_vendored_copy(run_pyright, tmp_path):
    folder = tmp_path / "app" / "vendor"
    folder.mkdir(parents=True)
    shutil.copy(ROOT / "modelkit_assets.py", folder)
    shutil.copytree(ROOT / "drivers", folder / "drivers")
    files = [
        "modelkit_assets.py",
        *(f"drivers/{p.name}" for p in folder.glob("*/*.py")),
    ]
    assert len(files) > 3
    assert run_pyright(folder, sys.executable, *files) == []
