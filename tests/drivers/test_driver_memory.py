"""Memory: a large object takes hardly more than a small one, both ways.

It is the peak of resident memory of a process that moves one object, from `VmHWM`;
`ru_maxrss` will not do, as Linux begins it at the parent's size.
"""

import subprocess
import sys
from pathlib import Path

import pytest
from stores import AzuriteStore, GcsStore, RcloneStore

import modelkit_assets as ma

pytestmark = pytest.mark.server

MIB = 1 << 20
SMALL, LARGE = 16 * MIB, 1024 * MIB
ALLOWED_KB = 100 * 1024

MOVE = """
import sys
sys.path.insert(0, sys.argv[1])
import modelkit_assets

driver, moved = modelkit_assets.StorageProvider().driver, []
if sys.argv[2] == "push":
    driver.upload_object(sys.argv[3], sys.argv[4], moved.append)
else:
    moved += map(len, driver.iterate_bytes(sys.argv[4]))
with open("/proc/self/status") as file:
    peak = [line.split()[1] for line in file if line.startswith("VmHWM")]
print(sum(moved), *peak)
"""


def measure(way, path, name):
    """Return how many bytes came, and the peak of a process that moved them, in KB."""
    core = str(Path(ma.__file__).parent)
    command = [sys.executable, "-c", MOVE, core, way, str(path), name]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    size, peak = map(int, done.stdout.split())
    return size, peak


@pytest.mark.attack
@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="there is no VmHWM here"
)
@pytest.mark.parametrize("kind", [RcloneStore, AzuriteStore, GcsStore])
def test_1_gib_takes_hardly_more_memory_than_16_mib(make_store, tmp_path, kind):
    make_store(kind)  # moto would take minutes
    peaks = {}
    for size in (SMALL, LARGE):
        path, name = tmp_path / str(size), f"object-{size}"
        with open(path, "wb") as file:
            file.truncate(size)
        told, pushed = measure("push", path, name)
        got, fetched = measure("fetch", path, name)
        assert told == got == size
        peaks["push", size] = pushed
        peaks["fetch", size] = fetched
        assert min(pushed, fetched) > 10 * 1024, "no interpreter is that small"
        ma.StorageProvider().driver.delete_object(name)
    for way in ("push", "fetch"):
        assert peaks[way, LARGE] - peaks[way, SMALL] <= ALLOWED_KB, peaks
