"""The README's Docker recipes, built and run without an engine: see `images.py`."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest
from http_server import FileServer
from images import Build, ImageError, share_debian
from readme import ROOT, TEXT, find_blocks
from servers import Moto
from stub_server import Answer
from trees import read_tree, snapshot, write_tree

import modelkit_assets as ma

pytestmark = [pytest.mark.server, pytest.mark.attack]

TWO_STAGES, BY_HTTP = find_blocks("dockerfile")
BASE, COMMAND = re.search(
    r"last stage begins with `(FROM .*)` and ends\nwith `(CMD .*?)`", TEXT
).groups()
LAST = TWO_STAGES.rindex("FROM")
(PRIVATE,) = re.findall(r"`(RUN --mount=.* python) …`", TEXT)
RECIPES = {
    "two stages": TWO_STAGES,
    "distroless": TWO_STAGES[:LAST]
    + re.sub("CMD .*", COMMAND, re.sub("FROM .*", BASE, TWO_STAGES[LAST:])),
    "by HTTP": BY_HTTP,
    "by HTTP, private": BY_HTTP.replace(
        "RUN mkdir /assets && python", f"RUN mkdir /assets\n{PRIVATE}"
    ),
}
DOCKER_BUILD, DOCKER_RUN = re.findall("^# (docker .*)", TWO_STAGES, re.MULTILINE)
RESOLVE = next(one for one in find_blocks("sh") if "resolve" in one).splitlines()[0]

FILES = {"vocab.txt": b"one", "é/ü.bin": b"\xff", "empty": b""}
SECRET = "a-secret-that-nobody-may-find"
APP = """
import json, os, sys
from modelkit_assets import AssetsManager

path = AssetsManager().fetch_asset("nlp/bert")
files = [os.path.join(at, name) for at, _, names in os.walk(path) for name in names]
read = {os.path.relpath(file, path): open(file, "rb").read().hex() for file in files}
print(json.dumps([path, read, os.getuid(), sorted(sys.modules)]))
"""
COPY = "/assets/nlp/bert/0.0"
SPECS = ["nlp/bert", "nlp/bert:0", "nlp/bert:0.0", "nlp/bert:0.0[é/ü.bin]"]
SHOWN = f"{COPY}\n" * 3 + f"{COPY}/é/ü.bin\n"


@pytest.fixture(scope="session")
def debian(tmp_path_factory):
    """A Debian with no more of Python than its standard library."""
    folder = tmp_path_factory.getbasetemp()
    shared = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    try:
        with share_debian(shared) as image:
            yield image
    except ImageError as error:
        pytest.skip(f"no image can be made here: {error}")


# as in distroless, which has no shell and no other program
KEEP_PYTHON = """
import os
for folder in ("/usr/bin", "/usr/sbin"):
    for name in os.listdir(folder):
        if not name.startswith("python3"):
            os.remove(os.path.join(folder, name))
"""


@pytest.fixture(scope="module")
def bases(debian, tmp_path_factory):
    """What stands for the images that the recipes begin with."""
    folder = tmp_path_factory.mktemp("bases")
    slim, distroless = (debian.add_layer(folder / name) for name in ("slim", "bare"))
    slim.change("ln", "-s", "/usr/bin/python3", "/usr/local/bin/python")
    distroless.change("python3", "-c", KEEP_PYTHON)
    assert distroless.run("/bin/sh", "-c", "true", user=0).returncode == 127
    return {
        "python:3.13-slim": slim,
        "gcr.io/distroless/python3-debian12": distroless._replace(
            entrypoint=("/usr/bin/python3",)
        ),
    }


@pytest.fixture(scope="module")
def project(start_server, tmp_path_factory):
    """A folder to build images from; what its lock file names is not the latest."""
    folder, server = tmp_path_factory.mktemp("project"), start_server(Moto)
    bucket = re.search(r"--bucket (\S+)", TWO_STAGES)[1]
    server.create_bucket(bucket)
    for name in ("modelkit_assets.py", "drivers"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "app.py").write_text(APP)
    (folder / "assets.txt").write_text("nlp/bert:0  # of the first major\n")
    provider = ma.StorageProvider(provider="s3", bucket=bucket, client=server.client())
    source = write_tree(folder / "source", FILES)
    provider.new(source, "nlp/bert")
    path = os.pathsep.join([os.path.dirname(sys.executable), os.defpath])
    settings = {"MODELKIT_STORAGE_PROVIDER": "s3", "MODELKIT_STORAGE_BUCKET": bucket}
    environ = {"PATH": path, **server.environ, **settings}
    subprocess.run(["sh", "-eu", "-c", RESOLVE], cwd=folder, env=environ, check=True)
    (source / "vocab.txt").write_text("two")
    provider.update(source, "nlp/bert")
    text = f"[default]\naws_access_key_id = x\naws_secret_access_key = {SECRET}\n"
    text += f"region = us-east-1\nendpoint_url = {server.endpoint}\n"
    (folder / "credentials").write_text(text)
    (folder / "authorization").write_text(f"Bearer {SECRET}")
    return folder


@pytest.fixture(scope="module")
def web(start_server):
    """A web server that has the objects of the bucket."""
    client = start_server(Moto).client()
    bucket = re.search(r"--bucket (\S+)", TWO_STAGES)[1]
    with FileServer() as server:
        for entry in client.list_objects_v2(Bucket=bucket)["Contents"]:
            body = client.get_object(Bucket=bucket, Key=entry["Key"])["Body"]
            server.files[entry["Key"]] = body.read()
        yield server


def check_authorization(request):
    is_known = request.headers.get("authorization") == f"Bearer {SECRET}"
    return None if is_known else Answer(401)


@pytest.fixture(scope="module")
def build(bases, project, web, tmp_path_factory):
    """Return a function that builds a recipe, once."""
    name, source = re.search(r"--secret id=(\w+),src=(\S+)", DOCKER_BUILD).groups()
    assert source == "$HOME/.aws/credentials"
    secrets = {name: project / "credentials", "auth": project / "authorization"}
    builders = {}

    def make(recipe, stage=None):
        if recipe not in builders:
            text = RECIPES[recipe].replace("https://models.example.com", web.endpoint)
            is_private = recipe.endswith("private")
            web.script = check_authorization if is_private else lambda request: None
            builder = Build(tmp_path_factory.mktemp("build"), project, bases, secrets)
            builder.run(text)
            builders[recipe] = builder
        return builders[recipe].stages[stage or builders[recipe].name]

    yield make
    for builder in builders.values():
        shutil.rmtree(builder.folder)


@pytest.fixture(params=RECIPES)
def image(request, build):
    return build(request.param)


def run(image, *args, **settings):
    """Run the image, or the core in it, as the README does."""
    options = shlex.split(DOCKER_RUN)
    assert "--read-only" in options
    user = int(options[options.index("--user") + 1])
    python = () if image.entrypoint else ("python",)
    command = (*python, "/app/modelkit_assets.py", *args) if args else ()
    return image.run(*command, user=user, **settings)


def ok(*args, **settings):
    done = run(*args, **settings)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


def test_an_image_serves_its_assets_on_a_read_only_disk_to_anyone(image):
    path, read, user, modules = json.loads(ok(image))
    assert (path, user) == (COPY, 65534)
    del read[".SUCCESS"]
    assert {name: bytes.fromhex(data) for name, data in read.items()} == FILES
    assert not [name for name in modules if name.startswith("boto")]
    assert ok(image, "fetch", *SPECS) == SHOWN
    found = json.loads(ok(image, "fetch", *SPECS, "--json"))
    assert [one["path"] for one in found] == SHOWN.splitlines()
    assert f"path: {COPY}\n" in ok(image, "info", "nlp/bert")


def test_an_image_says_in_one_line_what_it_has_not(image):
    for args, code, text in (
        (["fetch", "nlp/bert:0.1"], 3, "'nlp/bert:0.1' is not in the assets dir"),
        (["fetch", "nlp/other"], 3, "'nlp/other' does not exist"),
        (["fetch", "nlp/bert", "--download"], 2, "cannot download"),
        (["list"], 2, "no storage provider is configured"),
    ):
        done = run(image, *args)
        assert (done.returncode, done.stdout) == (code, "")
        assert re.fullmatch(f"modelkit_assets: error: .*{text}.*\n", done.stderr), done


def test_no_credential_is_left_in_an_image(image, project):
    assert SECRET in (project / "credentials").read_text()
    data = {
        path: data for path, (*_, data) in snapshot(image.layers[0]).items() if data
    }
    assert [path for path in data if path.endswith(f"{COPY}/vocab.txt")]
    assert not [path for path in data if SECRET.encode() in data[path]]
    assert image.environ == {"MODELKIT_ASSETS_DIR": "/assets"}


def test_the_sdk_is_in_the_stage_that_fetches_alone(build):
    def find_sdk(*layers):
        return [path for layer in layers for path in layer.rglob("boto*")]

    assert find_sdk(build("two stages", "build").layers[0])
    for recipe in ("two stages", "distroless"):
        top, *below = build(recipe).layers
        assert not find_sdk(top, *below)
        own = {name for name in read_tree(top) if not name.startswith("assets/")}
        assert own == {"app/app.py", "app/modelkit_assets.py"}


def test_a_lock_file_builds_the_same_image_whatever_was_published_since(image, project):
    assert (project / "assets.lock").read_text() == "nlp/bert:0.0\n"
    assert ok(image, "resolve", "nlp/bert") == "nlp/bert:0.0\n"
    data = {f"bert/0.0/{name}": data for name, data in FILES.items()}
    assert read_tree(image.find("/assets/nlp")) == data


# what a container may lack: nothing is set but what is named
SURROUNDINGS = {
    "none": {},
    "no home, no TMPDIR": {"HOME": "/nowhere", "TMPDIR": "/nowhere"},
    "LANG=C": {"LANG": "C"},
    "LC_ALL=C": {"LC_ALL": "C"},
    "a locale that is not there": {"LC_ALL": "de_DE.ISO-8859-1"},
}


@pytest.mark.parametrize("environ", SURROUNDINGS.values(), ids=SURROUNDINGS)
@pytest.mark.parametrize("recipe", ["two stages", "distroless"])
def test_a_hit_needs_nothing_but_the_files(build, recipe, environ):
    image = build(recipe)
    assert ok(image, "fetch", *SPECS, environ=environ, umask=0o777) == SHOWN


@pytest.mark.parametrize("environ", SURROUNDINGS.values(), ids=SURROUNDINGS)
def test_a_hit_writes_nothing_on_a_writable_disk_to_one_who_may_not(build, environ):
    image = build("two stages")
    before = snapshot(image.layers[0])
    for command in (["app.py"], ["modelkit_assets.py", "fetch", *SPECS]):
        image.change("python", *command, user=65534, environ=environ)
    assert snapshot(image.layers[0]) == before


# ------------------------------------------------------------------ the smallest Python

PURGE = """
names=$(dpkg-query --show --showformat '${Package} ' 'libpython3*stdlib')
dpkg --purge $names 2>&1
"""


@pytest.fixture
def minimal(debian, build, tmp_path):
    """A Debian with `python3-minimal`, and the assets of an image."""
    image = debian.add_layer(tmp_path / "minimal")
    image.change("sh", "-c", PURGE)
    for folder in ("app", "assets"):
        shutil.copytree(build("two stages").find(folder), image.layers[0] / folder)
    return image._replace(environ={"MODELKIT_ASSETS_DIR": "/assets"})


COMMAND = ("python3", "/app/modelkit_assets.py")


def test_python3_minimal_serves_hits_once_it_has_json_too(minimal, debian, tmp_path):
    done = minimal.run(*COMMAND, "fetch", *SPECS, user=65534)
    assert done.stderr.endswith("\nModuleNotFoundError: No module named 'json'\n")
    image = minimal.add_layer(tmp_path / "with json")
    (folder,) = debian.layers[0].glob("usr/lib/python3.*/json")
    shutil.copytree(folder, image.layers[0] / folder.relative_to(debian.layers[0]))
    assert image.run(*COMMAND, "fetch", *SPECS, user=65534).stdout == SHOWN


def test_python3_minimal_with_libpython3_stdlib_publishes_and_fetches_all(
    debian, tmp_path
):
    image = debian.add_layer(tmp_path / "whole")
    shutil.copy(ROOT / "modelkit_assets.py", image.layers[0])
    image = image._replace(
        environ={
            "MODELKIT_STORAGE_PROVIDER": "local",
            "MODELKIT_STORAGE_BUCKET": "/tmp/store",
            "MODELKIT_ASSETS_DIR": "/tmp/assets",
        }
    )
    script = "set -e; mkdir /tmp/store /tmp/assets /tmp/source; cd /tmp/source; "
    script += "echo one > é; mkdir a; touch a/b"
    image.change("sh", "-c", script, user=65534)

    def core(*args):
        command = ("python3", "/modelkit_assets.py", *args)
        return image.change(*command, user=65534)

    assert core("new", "/tmp/source", "a/folder", "--yes") == "a/folder:0.0\n"
    assert core("new", "/tmp/source", "a/pack", "--yes", "--pack") == "a/pack:0.0\n"
    assert core("update", "/tmp/source/é", "a/folder", "-y") == "a/folder:0.1\n"
    specs = ["a/folder", "a/folder:0.0", "a/pack"]
    paths = [
        f"/tmp/assets/{name}" for name in ("a/folder/0.1", "a/folder/0.0", "a/pack/0.0")
    ]
    assert core("fetch", *specs).splitlines() == paths
    assert core("fetch", "--download", *specs).splitlines() == paths
    for path in paths[1:]:
        assert read_tree(image.find(path)) == {"é": b"one\n", "a/b": b""}
    assert core("list") == "a/folder  0.1 0.0\na/pack    0.0\n"
    assert core("remove", "a/folder", "a/pack:0.0", "--yes").count("\n") == 3
