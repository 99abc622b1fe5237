"""Folders with known content, and what is on the disk afterwards."""

import os
import shutil
from pathlib import Path

DATA = Path(__file__).parent / "data" / "modelkit-0.1.3"


def write_tree(folder: Path, files: dict) -> Path:
    """Write {path: bytes}; a path that ends in `/` is an empty folder."""
    for path, data in files.items():
        target = folder / path
        if path.endswith("/"):
            target.mkdir(parents=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
    return folder


def read_tree(folder: Path) -> dict:
    """Return {path: bytes} of a folder, empty folders as `path/`, markers left out."""
    found = {}
    for path, folders, files in os.walk(folder):
        below = os.path.relpath(path, folder)
        prefix = "" if below == "." else below.replace(os.sep, "/") + "/"
        for name in files:
            if not (name.startswith(".") and name.endswith(".SUCCESS")):
                found[prefix + name] = Path(path, name).read_bytes()
        if prefix and not folders and not files:
            found[prefix] = b""
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
    shutil.copytree(DATA / part, folder, dirs_exist_ok=True)
    return folder
