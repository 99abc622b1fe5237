"""Large manifests: they are read, or refused, in less than 1 GB of memory."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import attacks
import pytest
from commands import fails, ok
from manifests import DATE, SHA
from stores import LocalStore
from trees import read_tree

import modelkit_assets as ma

MIB = 1 << 20
ALLOWED_KB = 1000 * 1000
META, DATA = "modelkit-assets/x/0.0.meta", "modelkit-assets/x/0.0"
READ = """
import sys
sys.path.insert(0, sys.argv[1])
import modelkit_assets

spec, found = modelkit_assets.AssetSpec("x", version="0.0"), None
try:
    manager = modelkit_assets.AssetsManager()
    found = len(modelkit_assets._find_copy(manager, spec)[1].files)
except modelkit_assets.AssetIntegrityError as error:
    assert len(str(error)) < 1000
with open("/proc/self/status") as file:
    peak = [line.split()[1] for line in file if line.startswith("VmHWM")]
print(found, *peak)
"""


@pytest.fixture
def store(make_store):
    store = make_store(LocalStore)
    yield store
    shutil.rmtree(store.bucket)  # or pytest would keep some GB


def directory(contents, **more):
    date = {"push_date": DATE, "is_directory": True}
    return json.dumps({**date, "contents": contents, **more})


def ours(number):
    paths = [f"data/{i % 997:03}/part-{i:07}.bin" for i in range(number)]
    files = [{"path": path, "size": 1, "sha256": SHA} for path in paths]
    return directory(paths, files=files)


def with_key(value):
    return directory([])[:-1] + f', "its own": {value}}}'


def listed(item, size):
    return with_key("[" + ",".join([item] * (size // (len(item) + 1))) + "]")


def wide(item, values):
    """Repeat an item as often as the bounds allow, filled up with spaces."""
    text = listed(item, len(item) * (2 * MIB) // values)
    return text + " " * (64 * MIB - len(text))


# how many files it has, or None where it is refused, and how it is made
DOCUMENTS = {
    "a million of modelkit's": (
        1_000_000,
        lambda: directory([f"data/part-{i:07}" for i in range(1_000_000)]),
    ),
    "350,000 of ours": (350_000, lambda: ours(350_000)),
    "a million of ours": (None, lambda: ours(1_000_000)),
    "100 MB of a text": (None, lambda: with_key(f'"{"x" * 100_000_000}"')),
    "100 MB of numbers": (None, lambda: listed("1234", 100_000_000)),
    "100 MB of lists": (None, lambda: listed("[" * 500 + "]" * 500, 100_000_000)),
    "60 MB of lists": (None, lambda: listed("[" * 500 + "]" * 500, 60_000_000)),
    "the most of lists": (0, lambda: wide("[" * 500 + "]" * 500, 501)),
    "the most of objects": (0, lambda: wide('{"%s": {}}' % ("a" * 20), 3)),
    "a path of 100 kB": (None, lambda: directory(["a/" * 50_000 + "a"])),
    "deep paths": (
        40_000,
        lambda: directory([f"{i:x}/" + "a/" * 100 + "a" for i in range(40_000)]),
    ),
}


def measure():
    """Return how many files a process found, and the peak of its memory in KB."""
    command = [sys.executable, "-c", READ, str(Path(ma.__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    files, peak = done.stdout.split()
    assert int(peak) > 10 * 1024, "no interpreter is that small"
    return None if files == "None" else int(files), int(peak)


needs_peak = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="there is no VmHWM here"
)


@pytest.mark.attack
@needs_peak
@pytest.mark.parametrize(("files", "make"), DOCUMENTS.values(), ids=DOCUMENTS)
def test_a_large_manifest_takes_less_than_1_gb(store, assets_dir, files, make):
    store.write_object(META, make().encode())
    found, peak = measure()
    assert found == files
    assert peak < ALLOWED_KB


@pytest.mark.attack
@needs_peak
@pytest.mark.parametrize(("number", "size"), [(100_000, None), (None, 10 << 30)])
def test_a_large_marker_takes_less_than_1_gb(assets_dir, number, size):
    marker = assets_dir / "x" / "0.0" / ".SUCCESS"
    marker.parent.mkdir(parents=True)
    marker.write_text(ours(number or 0))
    if size:
        os.truncate(marker, size)
    found, peak = measure()
    assert found == number
    assert peak < ALLOWED_KB


@needs_peak
@attacks.parametrize("name", [META, "modelkit-assets/x.versions"])
def test_10_gb_in_place_of_a_document_are_not_read(store, assets_dir, name):
    store.write_object(name, b"")
    with open(store.bucket / name, "wb") as file:
        file.truncate(10 << 30)  # a hole, which takes no room
    text = fails(6, "fetch", "x:0.0" if name == META else "x")
    assert f"the content of '{name}' is wrong: expected at most 64 MiB" in text
    if name == META:
        assert measure()[1] < 300 * 1000


# a path whose JSON is twelve times as long as it is, and a number of files in it that
# make a manifest of 64 MiB with sizes and digests, but not without
LONG_PATH = "/".join(["\U0001f600" * 63] * 13)
NUMBER = 3_500


def make_many(folder):
    (folder / LONG_PATH).mkdir(parents=True)
    for i in range(NUMBER):
        (folder / LONG_PATH / f"{i:04}").write_bytes(b"")


@pytest.mark.attack
def test_what_no_manifest_can_hold_is_refused_before_anything_is_written(
    store, tmp_path
):
    make_many(tmp_path / "s")
    text = fails(2, "new", tmp_path / "s", "x", "--yes")
    assert f"{NUMBER} files are more than a manifest holds" in text
    assert store.read_objects() == {}


@pytest.mark.attack
def test_a_marker_that_would_be_too_large_to_be_read_is_just_as_good(store, assets_dir):
    make_many(store.bucket / DATA)
    paths = [f"{LONG_PATH}/{i:04}" for i in range(NUMBER)]
    store.write_object(META, directory(paths).encode())
    path = ok("fetch", "x:0.0")
    assert len(read_tree(Path(path.strip()))) == NUMBER
    marker = json.loads(Path(f"{path.strip()}/.SUCCESS").read_bytes())
    assert marker.pop("copy_of")["name"] == "x"
    assert marker == json.loads(directory(paths))  # and without digests
    assert ok("fetch", "x:0.0") == path
    assert "manifest" in json.loads(ok("info", "x:0.0", "--json"))
