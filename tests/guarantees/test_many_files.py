"""Memory grows with the number of files, and no faster; for time see the benchmark."""

import os
import subprocess
import sys

import pytest
from places import CORE

FEW, MANY = 5_000, 50_000
MEASURED = """
import resource, runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as end:
    assert not end.code, end.code
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
"""


def measure(*args):
    """Run a command, and return its peak memory in MB."""
    command = [sys.executable, "-c", MEASURED, str(CORE), *map(str, args), "-q"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    return int(done.stderr.split()[-1]) / 1000


def run_all(folder, number):
    """Publish so many files, fetch them, fetch them again, and verify them."""
    source = folder / f"source-{number}"
    for at in range(number):
        path = source / f"{at // 1000:03}"
        if at % 1000 == 0:
            path.mkdir(parents=True)
        (path / str(at)).write_text(str(at))
    name = f"files-{number}"
    commands = [["new", source, name, "--yes"], ["fetch", name], ["fetch", name]]
    return [measure(*command) for command in [*commands, ["verify", name]]]


@pytest.mark.attack
def test_a_file_more_costs_two_kilobytes_at_most(local, assets_dir, tmp_path):
    few, many = run_all(tmp_path, FEW), run_all(tmp_path, MANY)
    for megabytes, more in zip(few, many):
        assert more < megabytes + 2 * (MANY - FEW) / 1000
    copy = assets_dir / f"files-{MANY}" / "0.0"
    assert sum(len(names) for _, _, names in os.walk(copy)) == MANY + 1
