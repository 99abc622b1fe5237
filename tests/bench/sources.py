"""The data that is moved: seeded, so that each run has the same."""

import filecmp
import os
import random
from pathlib import Path

MIB = 1 << 20
KIB = 1 << 10
_BLOCK = 16 * MIB


def write_object(path, size):
    """Write a file of random bytes; no two of its blocks of 16 MiB are equal."""
    block = random.Random(size).randbytes(min(_BLOCK, size))
    with open(path, "wb") as file:
        for start in range(0, size, _BLOCK):
            begin = start.to_bytes(8, "big")
            file.write((begin + block[8:])[: size - start])
    return path


def write_folder(path, number, size=8 * KIB):
    """Write files of random bytes, a hundred in each sub-folder."""
    numbers = random.Random(number)
    for index in range(number):
        file = Path(path, f"part-{index // 100:03}", f"{index:05}.bin")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(numbers.randbytes(size))
    return path


def check_same(got, expected):
    """Raise AssertionError unless a file or a folder has the expected content."""
    got, expected = Path(got), Path(expected)
    parts = [""] if expected.is_file() else sorted(_list_files(expected))
    found = [""] if got.is_file() else sorted(_list_files(got))
    assert found == parts, f"{got} has {len(found)} files, not {len(parts)}"
    for part in parts:
        same = filecmp.cmp(got / part, expected / part, shallow=False)
        assert same, f"{got / part} has another content"
    filecmp.clear_cache()


def _list_files(top):
    for folder, _, names in os.walk(top):
        for name in names:
            if name != ".SUCCESS":  # the marker of a cached folder
                yield os.path.relpath(os.path.join(folder, name), top)
