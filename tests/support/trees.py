"""What an asset holds, as a tree in memory and on the disk.

A tree is {part: content}: `""` is a file asset itself, `path/` an empty folder. The
content is a `File`, or just its bytes, and of an empty folder None or no bytes.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Optional

from places import DATA

MODELKIT_DATA = DATA / "modelkit-0.1.3"
PARTIAL = ".modelkit-assets.partial"  # the marker of a copy of some files


class File(NamedTuple):
    """One file of an asset."""

    data: bytes
    executable: bool = False


Tree = dict[str, Optional[File]]


def write_tree(path: Path, tree: Mapping[str, Any]) -> Path:
    """Write a source, or an asset's data, and return the path."""
    for part, file in tree.items():
        target = path / part if part else path
        if part.endswith("/"):
            target.mkdir(parents=True)
            continue
        file = file if isinstance(file, File) else File(file)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.data)
        target.chmod(0o755 if file.executable else 0o644)
    return path


def read_files(path: str | Path) -> Tree:
    """Read an asset's data as they lie there, with modes, without their marker."""
    path = Path(path)
    if not path.is_dir():
        return {"": _read_file(path)}
    tree: Tree = {}
    for folder, folders, files in os.walk(path):
        at = Path(folder)
        if not folders and not files and at != path:
            tree[f"{at.relative_to(path).as_posix()}/"] = None
        for name in files:
            if at != path or name not in (".SUCCESS", PARTIAL):
                part = (at / name).relative_to(path).as_posix()
                tree[part] = _read_file(at / name)
    return tree


def _read_file(path: Path) -> File:
    return File(path.read_bytes(), os.access(path, os.X_OK))


def read_tree(folder: str | Path) -> dict[str, bytes]:
    """Read {path: bytes} of a folder, the markers of all files in it left out."""
    return {
        part: file.data if file else b""
        for part, file in read_files(folder).items()
        if not part.endswith(".SUCCESS")
    }


def read_bytes(tree: Tree) -> dict[str, bytes]:
    """Return what modelkit, which knows no modes and no empty folders, sees of it."""
    return {part: file.data for part, file in tree.items() if file is not None}


def make_content(number: int) -> Tree:
    """Return what one of many publishes: files for some, folders for the others."""
    if number % 2:
        return {"": File(b"%d " % number * 5000)}
    return {"a": File(b"%d " % number * 5000), "b/c": File(b"%d" % number)}


def list_entries(folder: Path, without: Sequence[str] = (".cache",)) -> set[str]:
    """Return all that lies below a folder, folders with a `/` at their end."""
    found = set()
    for at, folders, files in os.walk(folder):
        if Path(at) == folder:
            folders[:] = [name for name in folders if name not in without]
        relative = Path(at).relative_to(folder)
        found |= {(relative / name).as_posix() + "/" for name in folders}
        found |= {(relative / name).as_posix() for name in files}
    return found


def snapshot(folder: Path) -> dict:
    """Return all that an observer can tell of a folder: kinds, bytes, times, modes."""
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        data = path.read_bytes() if path.is_file() else None
        found[str(path)] = (status.st_mode, status.st_mtime_ns, data)
    return found


def copy_data(part: str, folder: Path) -> Path:
    """Copy the store or the assets dir that modelkit 0.1.3 wrote."""
    shutil.copytree(MODELKIT_DATA / part, folder, dirs_exist_ok=True)
    return folder
