"""What measurements are made on: stores with published assets, and timed processes."""

import contextlib
import hashlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path
from typing import NamedTuple, Optional

from servers import Azurite, Rclone, Server

from bench import sources
from bench.machine import CORE

HERE = Path(__file__).resolve().parent
SETTINGS = ("MODELKIT_", "STORAGE_", "ASSETS_DIR", "AWS_", "S3_", "AZURE_", "RCLONE_")
TIMEOUT_S = 1800.0
PREFIX = "modelkit-assets"


class MissingError(Exception):
    """A cell stays empty; the message says why."""


class Sample(NamedTuple):
    """What one process was measured to take."""

    seconds: float
    peak: Optional[int] = None  # bytes
    requests: Optional[int] = None


class DelayProxy(Server):
    """The way to another server, with 20 ms more for each round trip."""

    def __init__(self, folder, server):
        super().__init__(folder)
        self.server = server

    def _command(self):
        command = [sys.executable, "-I", str(HERE / "delay.py")]
        return [*command, "--port", str(self.port), "--to", str(self.server.port)]


class S3Store:
    """A new bucket of `rclone serve s3`; `endpoint` may be a proxy's."""

    provider = "s3"

    def __init__(self, server):
        self.server, self.bucket = server, f"bench-{uuid.uuid4().hex[:8]}"
        server.create_bucket(self.bucket)
        self.endpoint = server.endpoint

    def via(self, endpoint):
        """Return the same store at another endpoint."""
        other = object.__new__(type(self))
        vars(other).update(vars(self), endpoint=endpoint)
        return other

    @property
    def environ(self):
        """Settings for all tools at once."""
        environ = dict(self.server.environ)
        del environ["AWS_ENDPOINT_URL"]
        return {
            **environ,
            "MODELKIT_STORAGE_PROVIDER": self.provider,
            "MODELKIT_STORAGE_BUCKET": self.bucket,
            "S3_ENDPOINT": self.endpoint,
            # this server answers a range with the whole object's checksum
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
            "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
            "RCLONE_CONFIG": os.devnull,
            "RCLONE_S3_PROVIDER": "Rclone",
            "RCLONE_S3_ENDPOINT": self.endpoint,
            "RCLONE_S3_ACCESS_KEY_ID": self.server.key,
            "RCLONE_S3_SECRET_ACCESS_KEY": self.server.secret,
        }

    def find_object(self, name):
        """Return the file that the server keeps an object in."""
        return self.server.root / self.bucket / PREFIX / name

    def read_etag(self, name):
        """Let the server make an object's etag, of all its bytes, once.

        Else the first who asks in 16 threads waits until it has been made 16 times.
        """
        self.server.client().head_object(Bucket=self.bucket, Key=f"{PREFIX}/{name}")

    def write_objects(self, objects):
        """Write objects past the code under test, a few at a time."""
        from concurrent.futures import ThreadPoolExecutor

        client = self.server.client()

        def write(item):
            name, data = item
            client.put_object(Bucket=self.bucket, Key=f"{PREFIX}/{name}", Body=data)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(write, objects.items()))

    def remove(self):
        shutil.rmtree(self.server.root / self.bucket)


class AzureStore:
    """A new container of Azurite."""

    provider = "az"

    def __init__(self, server):
        self.server, self.bucket = server, f"bench-{uuid.uuid4().hex[:8]}"
        server.create_bucket(self.bucket)

    @property
    def environ(self):
        return {
            **self.server.environ,
            "MODELKIT_STORAGE_PROVIDER": self.provider,
            "MODELKIT_STORAGE_BUCKET": self.bucket,
        }


class LocalStore:
    """A folder."""

    provider = "local"

    def __init__(self, folder):
        self.bucket = Path(tempfile.mkdtemp(dir=folder))
        self.environ = {
            "MODELKIT_STORAGE_PROVIDER": self.provider,
            "MODELKIT_STORAGE_BUCKET": str(self.bucket),
        }

    def find_object(self, name):
        """Return the file, or the folder, that an asset's data is in."""
        return self.bucket / PREFIX / name


class Rig(contextlib.ExitStack):
    """Servers, data and published assets, each made once; all gone after `with`."""

    def __init__(self, folder, pythons, programs):
        """Take the Python of each library and the path of each program.

        Where there is none, the value is None.
        """
        super().__init__()
        self.folder = Path(folder)
        self.pythons, self.programs = pythons, programs
        self._made = {}

    def _make_once(self, key, make):
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def start(self, kind, *arguments):
        """Return a running server of a kind."""
        folder = self.folder / kind.__name__
        return self._make_once(
            (kind, *arguments), lambda: self.enter_context(kind(folder, *arguments))
        )

    # --------------------------------------------------------------------- stores

    def make_store(self, kind):
        """Return a new and empty store: "s3", "s3+20ms", "az" or "local"."""
        if kind == "local":
            return LocalStore(self.folder)
        if kind == "az":
            return AzureStore(self.start(Azurite))
        store = S3Store(self.start(Rclone))
        return store.via(self.find_proxy().endpoint) if kind == "s3+20ms" else store

    def find_proxy(self):
        return self.start(DelayProxy, self.start(Rclone))

    def find_source(self, kind, size):
        """Return the path of an "object" of that size, or a "folder" of files."""

        def make():
            path = self.folder / f"{kind}-{size}"
            write = getattr(sources, f"write_{kind}")
            return write(path, size)

        return self._make_once((kind, size), make)

    def find_published(self, kind, source, name, pack=False):
        """Return a store that a source is published in, as version 0.0."""
        slow = kind == "s3+20ms"
        kind = "s3" if slow else kind

        def make():
            store = self.make_store(kind)
            job = {"path": str(source), "name": name, "pack": pack}
            self.run_library("ours", "push", store, **job)
            if kind == "s3" and source.is_file():
                store.read_etag(f"{name}/0.0")
            return store

        store = self._make_once((kind, source, name, pack), make)
        return store.via(self.find_proxy().endpoint) if slow else store

    def find_listed(self, kind, number, size=4):
        """Return a store with a number of small assets, and their specs."""
        names = [f"group-{index % 10}/asset-{index:05}" for index in range(number)]

        def make():
            objects = {}
            for name in names:
                data = name[-4:].encode() * (size // 4)
                file = {"path": "", "size": len(data)}
                file["sha256"] = hashlib.sha256(data).hexdigest()
                about = {"push_date": "2026-01-01T00:00:00+00:00", "files": [file]}
                about.update(is_directory=False, format=1)
                objects[f"{name}/0.0"] = data
                objects[f"{name}/0.0.meta"] = json.dumps(about).encode()
                objects[f"{name}.versions"] = b'{"versions": ["0.0"]}'
            store = self.make_store("s3")
            store.write_objects(objects)
            return store

        store = self._make_once(("listed", number, size), make)
        store = store.via(self.find_proxy().endpoint) if kind == "s3+20ms" else store
        return store, [f"{name}:0.0" for name in names]

    @contextlib.contextmanager
    def new_folder(self):
        """Yield an empty folder, and remove it."""
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        try:
            yield folder
        finally:
            shutil.rmtree(folder)

    # ------------------------------------------------------------------ processes

    def run_library(self, tool, operation, store, **arguments):
        """Run an operation of ours or of modelkit in a process, and return a Sample."""
        job = {"tool": tool, "core": str(CORE), "operation": operation, **arguments}
        command = [self.find_python(tool), "-I", str(HERE / "operations.py")]
        return self._run(lambda out: [*command, out, json.dumps(job)], store.environ)

    def run_program(self, command, environ=None, cwd=None):
        """Run a program to its end, and return a Sample."""
        launch = [sys.executable, "-I", "-S", str(HERE / "launcher.py")]
        command = [str(part) for part in command]
        return self._run(lambda out: [*launch, out, *command], environ or {}, cwd)

    def run_command(self, store, assets_dir, *arguments):
        """Run our whole command, as a module, which is compiled once."""
        command = [self.find_python("ours"), "-E", "-s", "-m", "modelkit_assets"]
        environ = {**store.environ, "MODELKIT_ASSETS_DIR": str(assets_dir)}
        return self.run_program([*command, *arguments], environ, CORE)

    def find_python(self, tool):
        """Return the Python that runs a library."""
        if not self.pythons[tool]:
            raise MissingError(f"{tool} is not installed")
        return self.pythons[tool]

    def find_peer(self, package):
        """Return our Python, where it has another package, too."""
        if not importlib.util.find_spec(package):
            raise MissingError(f"{package} is not installed")
        return self.find_python("ours")

    def find_program(self, name):
        """Return the path of a program."""
        if not self.programs.get(name):
            raise MissingError(f"{name} is not installed")
        return self.programs[name]

    def _run(self, make_command, settings, cwd=None):
        environ = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith((*SETTINGS, "PYTHON"))
        }
        environ.update(settings)
        with self.new_folder() as folder:
            out, log = folder / "result.json", folder / "log"
            command = make_command(str(out))
            status = _run_group(command, environ, cwd or folder, log)
            if status or not out.exists():
                text = log.read_text(errors="replace")[-2000:]
                raise RuntimeError(f"{command} failed with {status}: {text}")
            measured = json.loads(out.read_text())
        if "missing" in measured:
            raise MissingError(measured["missing"])
        return Sample(measured["seconds"], measured["peak"])


def _run_group(command, environ, cwd, log):
    """Run a command with its children, which end with this process's wait."""
    with open(log, "wb") as errors:
        process = subprocess.Popen(
            command,
            env=environ,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,
        )
    try:
        return process.wait(TIMEOUT_S)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
