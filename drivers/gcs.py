# SPDX-License-Identifier: MIT
# modelkit-assets 0.1.0, https://pypi.org/project/modelkit-assets/
"""Google Cloud Storage, through google-cloud-storage."""

from __future__ import annotations

import errno
import io
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_SMALL = 64 << 20  # what is larger is not read at once
_PART = 8 << 20  # larger files go up in parts of this size, each held in memory
_VARIABLE = "GOOGLE_APPLICATION_CREDENTIALS"
_ERRORS = {401: PermissionError, 403: PermissionError, 404: FileNotFoundError}
_ERRORS.update({408: ConnectionError, 412: FileExistsError, 429: ConnectionError})
_locks: dict[int, threading.Lock] = {}  # for making clients, by process


@contextmanager
def _builtin_errors(ignore: int = 0) -> Iterator[None]:
    """Raise the contract's built-in exceptions in place of the SDK's."""
    from google.api_core.exceptions import GoogleAPICallError, RetryError
    from google.auth import exceptions as auth
    from google.resumable_media import DataCorruption
    from requests.exceptions import RequestException
    from urllib3.exceptions import HTTPError  # a raw download's, which nobody wraps

    try:
        yield
    except GoogleAPICallError as error:
        if error.code != ignore:
            raise _find_error(error.code or 500, str(error)) from error
    except (RequestException, HTTPError, RetryError, auth.TransportError) as error:
        raise ConnectionError(str(error)) from error
    except DataCorruption as error:  # the answer's checksum is another
        raise ConnectionError(str(error)) from error
    except (auth.RefreshError, auth.InvalidOperation) as error:
        raise PermissionError(str(error)) from error
    except auth.GoogleAuthError as error:
        raise ValueError(f"{error}; set {_VARIABLE}") from error


class _SmallBuffer(io.BytesIO):
    """Takes a small object, whose size nothing tells before its bytes come."""

    def write(self, data: Any) -> int:
        if self.tell() + len(data) > _SMALL:
            raise OSError(errno.EFBIG, "it is too large to be read at once")
        return super().write(data)


class _WatchedFile(io.FileIO):
    """Tells how much of it the SDK has read, which does not tell itself."""

    advance: Any = None

    def read(self, size: int | None = -1) -> Any:
        data = super().read(size)
        if self.advance:
            self.advance(len(data))
        return data


def _find_error(status: int, text: str) -> Exception:
    if status == 404 and "bucket does not exist" in text:
        return ValueError(f"{text}: check MODELKIT_STORAGE_BUCKET")
    return _ERRORS.get(status, ConnectionError if status >= 500 else OSError)(text)


class Driver:
    """A GCS bucket; an etag is an object's generation.

    Permissions: reading needs storage.objects.get and storage.objects.list; publishing
    also storage.objects.create, and storage.objects.delete to replace version lists.
    """

    package = "google-cloud-storage"  # what pip installs
    variables = {_VARIABLE: False}  # and whether they are secret

    def __init__(self, bucket: str, client: Any = None, **settings: Any) -> None:
        given = settings.get("service_account_path") or settings.get(_VARIABLE.lower())
        path = given or os.environ.get(_VARIABLE)
        self.bucket, self._given, kind = bucket, client, None
        self._clients: dict[int, Any] = {}  # by process
        if path and not client:
            try:
                with open(path, encoding="utf-8") as file:
                    kind = json.load(file)["type"]
            except (OSError, ValueError, TypeError, KeyError) as error:
                shown = "JSON, not its path" if "{" in path else repr(path)
                reason = f"{shown}, {type(error).__name__}"
                raise ValueError(
                    f"{_VARIABLE} is no credentials file: {reason}"
                ) from None
        self._settings = (path, kind)

    @_builtin_errors()
    def stat_object(self, name: str) -> tuple[int, str]:
        """Return an object's size in bytes and its etag."""
        blob = self._get_blob(name)
        blob.reload(retry=None)
        return blob.size, str(blob.generation)

    @_builtin_errors()
    def read_object(self, name: str) -> tuple[bytes, str]:
        """Return a small object whole, and its etag."""
        blob = self._get_blob(name)
        buffer = _SmallBuffer()
        blob.download_to_file(buffer, raw_download=True, retry=None)
        return buffer.getvalue(), str(blob.generation)

    @_builtin_errors()
    def write_object(
        self, data: bytes, name: str, *, if_match: str | None = None
    ) -> str:
        """Write an object, if the condition holds, and return its new etag."""
        blob = self._get_blob(name)
        condition = None if if_match is None else int(if_match or 0)
        # no retry, as a second attempt would meet what the first one wrote
        blob.upload_from_string(data, if_generation_match=condition, retry=None)
        return str(blob.generation)

    @_builtin_errors(ignore=416)  # what begins past the end has no bytes
    def download_object(
        self, name: str, sink: Any, start: int = 0, length: int | None = None
    ) -> None:
        """Write an object's bytes from start on to the sink."""
        end = None if length is None else start + length - 1
        whole = not start and length is None  # a range of nothing would be refused
        area: dict[str, Any] = {} if whole else {"start": start, "end": end}
        if length != 0:
            # no retry, as the core goes on from what has reached the sink
            area.update(raw_download=True, retry=None)
            self._get_blob(name).download_to_file(sink, **area)

    @_builtin_errors()
    def upload_object(self, path: str, name: str, advance: Any = None) -> None:
        """Upload a file, in parts where it is large."""
        from google.cloud.storage.retry import DEFAULT_RETRY

        blob = self._get_blob(name)
        blob.chunk_size = _PART
        # what is one request is the core's to repeat; of more, the SDK repeats one
        size = os.path.getsize(path)
        retry = DEFAULT_RETRY if size > _PART else None
        kind = "application/octet-stream"
        with _WatchedFile(path) as file:
            file.advance = advance
            blob.upload_from_file(file, size=size, content_type=kind, retry=retry)

    @_builtin_errors()
    def copy_object(self, source: str, name: str) -> None:
        """Copy an object within the store."""
        blob, token = self._get_blob(name), ""
        while token is not None:
            token = blob.rewrite(self._get_blob(source), token or None)[0]

    def iterate_objects(self, prefix: str) -> Iterator[str]:
        """Yield the names below a prefix, page by page."""
        below = prefix.rstrip("/") + "/" if prefix else None
        with _builtin_errors():
            for blob in self.client.list_blobs(self.bucket, prefix=below, retry=None):
                yield blob.name

    @_builtin_errors(ignore=404)
    def delete_object(self, name: str) -> None:
        """Delete an object, if it is there."""
        self._get_blob(name).delete(retry=None)

    def get_object_uri(self, name: str) -> str:
        """Return the object's `gs://` address."""
        return f"gs://{self.bucket}/{name}"

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_given": None, "_clients": {}}

    @property
    def client(self) -> Any:
        """The SDK's client: the one given, else made on first use in each process."""
        process = os.getpid()
        with _locks.setdefault(process, threading.Lock()):
            if not (self._given or process in self._clients):
                self._clients[process] = _make_client(*self._settings)
            return self._given or self._clients[process]

    def _get_blob(self, name: str) -> Any:
        return self.client.bucket(self.bucket).blob(name)


@_builtin_errors()
def _make_client(path: str | None, kind: str | None) -> Any:
    from google.auth import load_credentials_from_file
    from google.cloud.storage import Client
    from requests.adapters import HTTPAdapter

    # or the SDK asks for each bucket, in the background, to trace requests with
    os.environ.setdefault("DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA", "true")
    # no project, which only the listing of buckets needs
    if kind == "service_account":
        client = Client.from_service_account_json(path)
    elif path and path != os.environ.get(_VARIABLE):
        client = Client(project=None, credentials=load_credentials_from_file(path)[0])
    else:
        client = Client(project=None)
    for scheme in ("https://", "http://"):  # the default keeps 10 connections
        client._http.mount(scheme, HTTPAdapter(pool_maxsize=64))
    return client
