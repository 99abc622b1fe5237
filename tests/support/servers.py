"""The servers that the tests run the drivers against: real ones, on loopback.

Each is a class of one form: `with Moto(folder) as server:` starts it on a free port
and stops it. `server.client()` is a raw client of its SDK, for set-up and checks that
bypass the code under test.

| class     | what runs                                  | stands for          |
|-----------|--------------------------------------------|---------------------|
| `Moto`    | moto, see `moto_server.py`                 | S3                  |
| `Rclone`  | `rclone serve s3`: ignores conditions      | other S3-like stores|
| `Azurite` | azurite, from `npm ci` in this folder      | Azure Blob          |
| `Gcs`     | gcp-storage-emulator, see `gcs_server.py`  | GCS                 |
"""

import contextlib
import functools
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, TypeVar

HERE = Path(__file__).resolve().parent
START_TIMEOUT_S = 60.0  # azurite takes 2 s; a loaded CI machine many times that
STOP_TIMEOUT_S = 5.0

AnyServer = TypeVar("AnyServer", bound="Server")


class ServerError(RuntimeError):
    """A server could not be started; the message says why."""


class Server:
    """A server in a process of its own, while in its `with` block.

    - Its data and `server.log` lie in `folder`, or in its memory.
    - `endpoint` is its URL; `environ` is what a process needs to reach it.
    - Raises `ServerError` where it is not installed or does not start.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.port = _find_free_port()
        self.endpoint = f"http://127.0.0.1:{self.port}"

    @property
    def environ(self) -> dict[str, str]:
        """Environment variables that point the SDK at this server."""
        raise NotImplementedError

    def client(self, **settings: Any) -> Any:
        """Make a client of the SDK; `settings` go to its constructor."""
        raise NotImplementedError

    @functools.cached_property
    def shared_client(self) -> Any:
        """The client of this process, as to make one takes 0.1 s."""
        return self.client()

    def create_bucket(self, name: str) -> None:
        """Create a bucket (Azure's word: container)."""
        raise NotImplementedError

    def _command(self) -> list[str]:
        """Say what to run, or raise `ServerError` where it is not installed."""
        raise NotImplementedError

    def __enter__(self: AnyServer) -> AnyServer:
        command = self._command()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._log = self.folder / "server.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # so that its children can be ended with it
            )
        try:
            self._await_start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for signal_number in (signal.SIGTERM, signal.SIGKILL):
            if self._process.poll() is None:  # not reaped: the id is still its own
                os.killpg(self._process.pid, signal_number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_TIMEOUT_S)
                return

    def _await_start(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not _accepts(self.port):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise ServerError(
                    f"{type(self).__name__} did not start "
                    f"(exit status {self._process.poll()}): "
                    + self._log.read_text(errors="replace")[-2000:]
                )
            time.sleep(0.02)


class _S3Server(Server):
    key, secret = "testing", "testing-secret"

    @property
    def environ(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_DEFAULT_REGION": "us-east-1",
            # Without these, a developer's own profile would be used.
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def client(self, **settings: Any) -> Any:
        import boto3

        session = boto3.session.Session(self.key, self.secret, None, "us-east-1")
        return session.client("s3", endpoint_url=self.endpoint, **settings)

    def create_bucket(self, name: str) -> None:
        self.shared_client.create_bucket(Bucket=name)


class Moto(_S3Server):
    """S3 with conditional writes, KMS headers and STS; its data is in memory."""

    def _command(self) -> list[str]:
        _check_module("moto")
        program = str(HERE / "moto_server.py")
        return [sys.executable, program, "-p", str(self.port)]


class Rclone(_S3Server):
    """An S3-like store without conditional writes; a bucket is a folder of `root`.

    It may miss for 5 minutes what is put into `root` by hand: use `client()`. (It
    could do without that cache, ten times slower.)
    """

    @property
    def root(self) -> Path:
        """The folder whose sub-folders are the buckets."""
        return self.folder / "buckets"

    def client(self, **settings: Any) -> Any:
        from botocore.config import Config

        # Like other such stores, it answers a range with the whole object's checksum.
        lenient = Config(response_checksum_validation="when_required")
        return super().client(**{"config": lenient, **settings})

    def _command(self) -> list[str]:
        self.root.mkdir(parents=True, exist_ok=True)
        command = [_find_program("rclone"), "serve", "s3", str(self.root)]
        command += ["--addr", f"127.0.0.1:{self.port}"]
        command += ["--auth-key", f"{self.key},{self.secret}"]
        return [*command, "--config", os.devnull]  # no developer's own remotes


class Azurite(Server):
    """Azure Blob, with the account and the key that every azurite has."""

    account = "devstoreaccount1"
    key = (  # published by Microsoft: not a secret
        "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq"
        "/K1SZFPTOtr/KBHBeksoGMGw=="
    )

    @property
    def connection_string(self) -> str:
        """What the SDK calls a connection string: endpoint, account and key."""
        return (
            f"DefaultEndpointsProtocol=http;AccountName={self.account};"
            f"AccountKey={self.key};BlobEndpoint={self.endpoint}/{self.account};"
        )

    @property
    def environ(self) -> dict[str, str]:
        return {"AZURE_STORAGE_CONNECTION_STRING": self.connection_string}

    def client(self, **settings: Any) -> Any:
        from azure.storage.blob import BlobServiceClient

        return BlobServiceClient.from_connection_string(
            self.connection_string, **settings
        )

    def create_bucket(self, name: str) -> None:
        self.shared_client.create_container(name)

    def _command(self) -> list[str]:
        script = HERE.parent / "node_modules" / ".bin" / "azurite-blob"
        if not script.exists():
            raise ServerError("azurite is not installed: run 'npm ci' in tests/")
        command = [_find_program("node"), str(script), "--silent"]
        command += ["--location", str(self.folder), "--disableTelemetry"]
        command += ["--blobHost", "127.0.0.1", "--blobPort", str(self.port)]
        # The SDK speaks a newer protocol than azurite has heard of.
        return [*command, "--skipApiVersionCheck"]


class Gcs(Server):
    """GCS with generation preconditions; its data is in memory."""

    @property
    def environ(self) -> dict[str, str]:
        return {"STORAGE_EMULATOR_HOST": self.endpoint}

    def client(self, **settings: Any) -> Any:
        from google.auth.credentials import AnonymousCredentials
        from google.cloud.storage import Client

        return Client(
            "test",
            AnonymousCredentials(),
            client_options={"api_endpoint": self.endpoint},
            **settings,
        )

    def create_bucket(self, name: str) -> None:
        self.shared_client.create_bucket(name)

    def _command(self) -> list[str]:
        _check_module("gcp_storage_emulator")
        program = str(HERE / "gcs_server.py")
        return [sys.executable, program, "--port", str(self.port)]


SERVERS: tuple[type[Server], ...] = (Moto, Rclone, Azurite, Gcs)


def _find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def _find_program(name: str) -> str:
    """Find a program beside this Python, then on PATH."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    program = shutil.which(name, path=path)
    if program is None:
        raise ServerError(f"{name} is not installed: see the extra 'test'")
    return program


def _check_module(name: str) -> None:
    if importlib.util.find_spec(name) is None:
        raise ServerError(f"{name} is not installed: see the extra 'test'")
