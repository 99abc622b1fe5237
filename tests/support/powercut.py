"""What a power cut may leave of what a process did, by replay.

Not collected. A child writes down what it had synced, `fsync` by `fsync`; when it has
died, `leave` builds what a disk may hold after a cut at that moment:

- `data lost`: all names are there, and of each file what was synced, maybe nothing
- `zeros`: the same, but where bytes were not synced there are as many zeros
- `names lost`: of each folder the entries that it had when it was last synced

What ext4, XFS and others leave lies between these: a folder's names may be on the disk
before what they name, or long after.
"""

from __future__ import annotations

import _io
import functools
import json
import os
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import harness

CUTS = ("data lost", "zeros", "names lost")


def recording(log: Path, function: Callable[[Path], Any], folder: Path) -> Any:
    """Return function(folder), and write down in a log what it syncs."""
    log = log.with_name(f"{log.name}-{folder.name}")
    log.mkdir()
    fsync = os.fsync

    def record(descriptor: int) -> None:
        fsync(descriptor)
        status = os.fstat(descriptor)
        path = log / f"{time.monotonic_ns():020}-{status.st_ino}"
        if stat.S_ISDIR(status.st_mode):
            with os.scandir(descriptor) as entries:
                names = {entry.name: entry.inode() for entry in entries}
            text = json.dumps(names).encode()
        else:
            with _io.open(f"/proc/self/fd/{descriptor}", "rb") as file:
                text = file.read()
        with _io.open(path, "wb") as file:  # its own, which is no step
            file.write(text)

    os.fsync = record
    try:
        return function(folder)
    finally:
        os.fsync = fsync


def find_log(log: Path, folder: Path) -> Path:
    return log.with_name(f"{log.name}-{folder.name}")


def leave(cut: str, folder: Path, before: Path, log: Path, target: Path) -> Path:
    """Build at target what a cut leaves of a folder, and return it.

    before    what was there, and on the disk, when the child began
    """
    synced: dict[int, bytes] = {}
    for path in sorted(log.iterdir()):
        if text := path.read_bytes():  # else it died while it wrote that down
            synced[int(path.name.rpartition("-")[2])] = text
    inodes = {path.lstat().st_ino: path for path in folder.rglob("*")}
    leave_folder = functools.partial(_leave_folder, cut, synced, inodes)
    leave_folder(folder, before, target)
    return target


def _leave_folder(
    cut: str,
    synced: dict[int, bytes],
    inodes: dict[int, Path],
    folder: Path,
    before: Path | None,
    target: Path,
) -> None:
    target.mkdir()
    for name, path in _list_names(cut, synced, inodes, folder, before).items():
        old = before / name if before and (before / name).exists() else None
        if path.is_dir():
            is_old = old if old and old.is_dir() else None
            _leave_folder(cut, synced, inodes, path, is_old, target / name)
            continue
        now, kept = path.read_bytes(), synced.get(path.stat().st_ino)
        if kept is None and old and old.is_file() and old.read_bytes() == now:
            kept = now  # it was there before
        kept = kept or b""
        if kept != now and cut == "zeros":
            kept = kept[: len(now)] + bytes(max(len(now) - len(kept), 0))
        (target / name).write_bytes(kept)
        shutil.copymode(path, target / name)


def _list_names(
    cut: str,
    synced: dict[int, bytes],
    inodes: dict[int, Path],
    folder: Path,
    before: Path | None,
) -> dict[str, Path]:
    """Return the names in a folder that a cut leaves, and what they name now."""
    now = {path.name: path for path in folder.iterdir()}
    if cut != "names lost":
        return now
    kept = {path.name: path for path in before.iterdir()} if before else {}
    names = synced.get(folder.stat().st_ino)
    if names is None:
        return {name: now.get(name, path) for name, path in kept.items()}
    # what was replaced since is what it was before, and what has gone is gone
    found = {name: inodes.get(inode) for name, inode in json.loads(names).items()}
    found = {name: path or kept.get(name) for name, path in found.items()}
    return {name: path for name, path in found.items() if path}


def each_cut(
    template: Path, function: Callable[[Path], Any], **setup: Any
) -> Iterator[tuple[str, Path, bool]]:
    """Yield (cut, what it left, whether the function had returned) for each moment.

    function(folder) runs in a child that dies just after each of its steps, in a copy
    of the template.
    """
    log = template.with_name(f"{template.name}-log")
    target = template.with_name(f"{template.name}-cut")
    run, last = functools.partial(recording, log, function), template

    def leave_each(folder: Path) -> Iterator[tuple[str, Path]]:
        for cut in CUTS:
            yield cut, leave(cut, folder, template, find_log(log, folder), target)
            shutil.rmtree(target)

    for step, folder in harness.each_death(template, run, after=True, **setup):
        last = template.with_name(f"{template.name}-{step + 1}")
        for cut, left in leave_each(folder):
            yield cut, left, False
    for cut, left in leave_each(last):  # where it completed
        yield cut, left, True
