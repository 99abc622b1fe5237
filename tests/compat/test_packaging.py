"""The wheel: a package of the one file, and the main job in an empty environment."""

import re
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser

import pytest
from places import ROOT
from readme import PAGES, TEXT, find_blocks, find_section
from stores import LocalStore
from trees import write_tree

BUILD = [sys.executable, "-m", "pip", "-q", "wheel", "--no-deps"]
BUILD += ["--no-build-isolation", "-w"]


@pytest.fixture
def store(make_store):
    return make_store(LocalStore)


def run(*command, code=0, **settings):
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, **settings
    )
    assert done.returncode == code, done.stderr
    return done.stderr if code else done.stdout


def call_backend(hook, folder):
    """Let the build backend write what pip would ask it for into a folder."""
    code = f"import sys, hatchling.build as b; b.{hook}(sys.argv[1])"
    run(sys.executable, "-c", code, folder, cwd=ROOT)


def build(folder, source):
    run(*BUILD, folder, source)
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return build(tmp_path_factory.mktemp("wheel"), ROOT)


def install(folder, wheel):
    """Make an empty environment, install into it, and return its programs' folder."""
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "-q", "--python", python]
    run(*pip, "install", "--no-index", "--no-deps", wheel)
    return python.parent


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    return install(tmp_path_factory.mktemp("venv"), wheel)


# ----------------------------------------------------------------- what is in the wheel


def read_names(wheel):
    return sorted(zipfile.ZipFile(wheel).namelist())


def test_the_wheel_is_one_package_and_no_more(wheel):
    drivers = (path.name for path in (ROOT / "drivers").glob("*.py"))
    own = ["__init__.py", "__main__.py", "py.typed", *(f"drivers/{d}" for d in drivers)]
    assert len(own) > 5
    content = [name for name in read_names(wheel) if ".dist-info/" not in name]
    assert content == sorted(f"modelkit_assets/{name}" for name in own)
    core = zipfile.ZipFile(wheel).read("modelkit_assets/__init__.py")
    assert core == (ROOT / "modelkit_assets.py").read_bytes()


def test_a_source_distribution_has_the_pages_and_gives_the_same_wheel(wheel, tmp_path):
    call_backend("build_sdist", tmp_path)
    (source,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(source) as archive:  # PyPI shows links to these
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {path.relative_to(ROOT).as_posix() for path in PAGES.values()} <= names
    assert read_names(build(tmp_path, source)) == read_names(wheel)


@pytest.fixture(scope="module")
def metadata(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (one for one in archive.namelist() if one.endswith("/METADATA"))
        return Parser().parsestr(archive.read(name).decode())


def test_pip_shows_author_licence_and_an_address(metadata):
    address = "https://pypi.org/project/modelkit-assets/"
    assert metadata["Author"] == "modelkit-assets contributors"
    assert metadata["License-Expression"] == "MIT"
    assert metadata.get_all("Project-URL") == [f"Homepage, {address}"]


def test_what_the_project_alone_needs_is_no_extra(metadata):
    extras = {"s3", "gcs", "az", "all", "test"}
    assert set(metadata.get_all("Provides-Extra")) == extras
    needed = metadata.get_all("Requires-Dist")
    azure = {one.partition(">")[0] for one in needed if re.search("extra == 'az'", one)}
    assert azure == {"azure-storage-blob", "azure-identity"}


def test_every_copy_of_the_licence_says_the_same(wheel):
    core = (ROOT / "modelkit_assets.py").read_text(encoding="utf-8")
    lines = core.partition('\n"""')[0].splitlines()
    text = "\n".join(line[2:] for line in lines[3:])
    assert text.startswith("MIT License\n\nCopyright (c) ")
    assert "modelkit-assets contributors\n\nPermission is hereby granted" in text
    assert "this permission notice shall be included in all\ncopies" in text
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (one for one in archive.namelist() if one.endswith("/LICENSE"))
        assert archive.read(name).decode() == f"{text}\n"


# ----------------------------------------------------------- what an installed one does


def test_an_installed_wheel_does_the_main_job(installed, tmp_path, store, assets_dir):
    command = installed / "modelkit-assets"
    source = write_tree(tmp_path / "source", {"vocab.txt": b"a b"})
    assert run(command, "new", source, "nlp/bert", "--yes") == "nlp/bert:0.0\n"
    path = run(command, "fetch", "nlp/bert[vocab.txt]", cwd=tmp_path)
    assert path == f"{assets_dir}/nlp/bert/0.0/vocab.txt\n"
    code = "import modelkit_assets as m; print(m.__file__); m._load_driver('s3')"
    assert "site-packages" in run(installed / "python", "-c", code, cwd=tmp_path)
    # by which a copy is compared with its release
    digest = run(sys.executable, ROOT / "modelkit_assets.py", "--version")
    assert run(command, "--version", cwd=tmp_path) == digest


PICKLE = """
import pickle, sys
import modelkit_assets as core
manager = core.AssetsManager()
driver = core._load_driver("s3")("bucket")
for one in (manager, driver, core.AssetSpec("a"), core.AssetDoesNotExistError("a")):
    assert type(pickle.loads(pickle.dumps(one))) is type(one)
    assert type(one).__module__.partition(".")[0] == "modelkit_assets"
sys.stdout.buffer.write(pickle.dumps((manager, driver)))
"""
UNPICKLE = """
import pickle, sys
manager, driver = pickle.load(sys.stdin.buffer)
print(manager.assets_dir, driver.get_object_uri("a"))
"""


def test_an_installed_ones_values_pickle(installed, store, assets_dir):
    command = [installed / "python", "-c"]
    pickled = subprocess.run([*command, PICKLE], check=True, stdout=subprocess.PIPE)
    shown = subprocess.run(
        [*command, UNPICKLE], check=True, input=pickled.stdout, stdout=subprocess.PIPE
    )
    assert shown.stdout.decode() == f"{assets_dir} s3://bucket/a\n"


VERSIONING = """
import modelkit_assets
class Mine(modelkit_assets.MajorMinorAssetsVersioningSystem):
    @classmethod
    def check_version_valid(cls, version):
        raise modelkit_assets.InvalidVersionError(version, "mine")
"""


@pytest.mark.parametrize(
    "command", [["modelkit-assets"], ["python", "-m", "modelkit_assets"]]
)
def test_an_installed_ones_commands_share_their_classes_with_a_users_system(
    installed, tmp_path, monkeypatch, command
):
    """What its classes raise is one line with an exit code, as the core's own is."""
    (tmp_path / "mine.py").write_text(VERSIONING)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("MODELKIT_ASSETS_VERSIONING_SYSTEM", "mine:Mine")
    program = [installed / command[0], *command[1:]]
    error = run(*program, "fetch", "x:1.0", code=2, cwd=tmp_path)
    assert re.fullmatch("modelkit_assets: error: .*mine\n", error)


def test_a_copy_is_made_and_compared_with_its_release_as_the_readme_says(
    wheel, tmp_path
):
    (commands,) = find_blocks("sh", find_section("Install, or copy the file"))
    assert "pip install --upgrade --target release modelkit-assets\n" in commands
    pip = f"{sys.executable} -m pip -q install --no-index --no-deps"
    commands = commands.replace("pip install", pip)
    commands = commands.replace("modelkit-assets\n", f"{wheel}\n")
    for _ in range(2):  # to copy it, and to update it
        run("sh", "-euc", commands, cwd=tmp_path)
    (code,) = re.findall(r"`(from app\.vendor.*?)`", TEXT)
    code += "; import app.vendor.modelkit_assets as core; core._load_driver('s3')"
    run(sys.executable, "-c", code, cwd=tmp_path)
    ours = re.findall(r"`python ((?:-m )?app.vendor.*?)`", TEXT)
    assert len(ours) == 2
    path, theirs = re.findall(r"`PYTHONPATH=(\S+) python (.*?) --version`", TEXT)[0]
    shown = {
        run(sys.executable, *command.split(), "--version", cwd=tmp_path, env=environ)
        for command, environ in [(theirs, {"PYTHONPATH": path}), *zip(ours, [{}, {}])]
    }
    assert len(shown) == 1


def test_an_editable_install_is_the_files_themselves(tmp_path):
    call_backend("build_editable", tmp_path)
    programs = install(tmp_path / "venv", *tmp_path.glob("*.whl"))
    code = "import modelkit_assets as m; print(m.__file__); m._load_driver('s3')"
    shown = run(programs / "python", "-c", code, cwd=tmp_path)
    assert shown == f"{ROOT / 'modelkit_assets.py'}\n"
    digest = run(programs / "modelkit-assets", "--version", cwd=tmp_path)
    code = "-m", "modelkit_assets", "--version"
    assert run(programs / "python", *code, cwd=tmp_path) == digest
