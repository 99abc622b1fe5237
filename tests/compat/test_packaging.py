"""The wheel: the module and its drivers, and the main job in an empty environment."""

import subprocess
import sys
import zipfile

import pytest
from places import ROOT
from stores import LocalStore
from trees import write_tree


@pytest.fixture
def store(make_store):
    return make_store(LocalStore)


def run(*command, **settings):
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, **settings
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "-q"]
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", folder, ROOT)
    (wheel,) = folder.glob("*.whl")
    return wheel


def test_the_wheel_holds_the_module_and_the_drivers_and_no_more(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    content = [name for name in names if ".dist-info/" not in name]
    drivers = (path.name for path in (ROOT / "drivers").glob("*.py"))
    expected = {f"modelkit_assets_drivers/{name}" for name in drivers}
    assert sorted(content) == sorted(expected | {"modelkit_assets.py"})


def test_an_installed_wheel_does_the_main_job(wheel, tmp_path, store, assets_dir):
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "-q", "--python", python]
    run(*pip, "install", "--no-index", "--no-deps", wheel)
    command = tmp_path / "venv" / "bin" / "modelkit-assets"
    source = write_tree(tmp_path / "source", {"vocab.txt": b"a b"})
    assert run(command, "new", source, "nlp/bert", "--yes") == "nlp/bert:0.0\n"
    path = run(command, "fetch", "nlp/bert[vocab.txt]", cwd=tmp_path)
    assert path == f"{assets_dir}/nlp/bert/0.0/vocab.txt\n"
    code = "import modelkit_assets as m; print(m.__file__); m._load_driver('s3')"
    assert "site-packages" in run(python, "-c", code, cwd=tmp_path)
