# SPDX-License-Identifier: MIT
# modelkit-assets 0.1.0, https://pypi.org/project/modelkit-assets/
"""Google Cloud Storage, through google-cloud-storage."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from math import inf
from typing import Any, Optional

_CHUNK = 1 << 18  # bytes yielded at a time
_SMALL = 64 << 20  # what is larger is not read at once
_PART = 8 << 20  # larger files go up in parts of this size, each held in memory
_VARIABLE = "GOOGLE_APPLICATION_CREDENTIALS"
_REFUSED = "NewConnection|NameResolution|ConnectTimeout|SSLError"
_Etag = Optional[str]
_Length = Optional[int]
_locks: dict[int, threading.Lock] = {}  # for making clients, by process
_ERRORS: dict[Any, Any] = dict.fromkeys((408, 429, *range(500, 600)), ConnectionError)
_ERRORS.update({401: PermissionError, 403: PermissionError, 404: FileNotFoundError})
_ERRORS.update({412: FileExistsError, 501: NotImplementedError})


@contextmanager
def _builtin_errors(ignore: int = 0) -> Iterator[None]:
    """Raise the contract's built-in exceptions in place of the SDK's."""
    from google.api_core.exceptions import GoogleAPICallError, RetryError
    from google.auth import exceptions as auth
    from google.resumable_media import DataCorruption
    from requests.exceptions import RequestException
    from urllib3.exceptions import HTTPError  # a raw body's, which nobody wraps

    broken = (RequestException, HTTPError, RetryError, auth.TransportError)
    try:
        yield
    except GoogleAPICallError as error:
        if error.code == ignore:
            return
        kind, text = _ERRORS.get(error.code or 500, OSError), str(error)
        if kind is FileNotFoundError and "bucket does not exist" in text:
            kind, text = ValueError, f"{text}: check MODELKIT_STORAGE_BUCKET"
        raise kind(text) from error
    except (*broken, DataCorruption) as error:
        text = str(error)  # which names urllib3's errors, of whatever depth
        kind = ConnectionRefusedError if re.search(_REFUSED, text) else ConnectionError
        raise kind(text) from error
    except (auth.RefreshError, auth.InvalidOperation) as error:
        may_pass = getattr(error, "retryable", False)
        raise (ConnectionError if may_pass else PermissionError)(str(error)) from error
    except auth.GoogleAuthError as error:
        raise ValueError(f"{error}; set {_VARIABLE}") from error


class _WatchedFile(io.FileIO):
    """Tells how much of it the SDK has read, which does not tell itself."""

    advance: Any = None

    def read(self, size: int | None = -1) -> Any:
        data = super().read(size)
        self.advance(len(data))
        return data


class Driver:
    """A GCS bucket; an etag is an object's generation.

    Permissions: reading needs storage.objects.get and storage.objects.list; publishing
    also storage.objects.create, and storage.objects.delete to replace version lists.
    """

    package = "google-cloud-storage"  # what pip installs
    # the keyword that stands for it, and whether it is secret
    variables = {_VARIABLE: ("service_account_path", False)}
    workers = 16  # transfers at once that suit it
    timeout_s = 30.0  # without a byte, after which a request fails; the core sets it

    def __init__(self, bucket: str, client: Any = None, **settings: str) -> None:
        self.bucket, self._given = bucket, client
        self._clients: dict[int, Any] = {}  # by process
        path, kind = settings.get("service_account_path", ""), None
        if path and not client:
            try:
                with open(path, encoding="utf-8") as file:
                    kind = json.load(file)["type"]
            except (OSError, ValueError, TypeError, KeyError) as error:
                shown = "JSON, not its path" if "{" in path else repr(path)
                text = f"{_VARIABLE} is no credentials file: {shown}"
                raise ValueError(f"{text}, {type(error).__name__}") from None
        self._settings = (path, kind)

    @_builtin_errors()
    def stat_object(self, name: str) -> tuple[int, str]:
        """Return an object's size in bytes and its etag."""
        blob = self._get_blob(name)
        blob.reload(**self._once)
        return blob.size, str(blob.generation)

    @_builtin_errors()
    def read_object(self, name: str) -> tuple[bytes, str]:
        """Return a small object whole, and its etag."""
        answer = self._open(name, {})
        data = b"".join(_read(answer, 0, None, _SMALL))
        return data, answer.headers.get("x-goog-generation", "")

    @_builtin_errors()
    def write_object(self, data: bytes, name: str, *, if_match: _Etag = None) -> str:
        """Write an object, if the condition holds, and return its new etag."""
        blob = self._get_blob(name)
        # no retry, as a second attempt would meet what the first one wrote
        blob.upload_from_string(data, **_condition(if_match), **self._once)
        return str(blob.generation)

    def iterate_bytes(
        self, name: str, start: int = 0, length: _Length = None, if_match: _Etag = None
    ) -> Iterator[bytes]:
        """Yield an object's bytes, or those of a range, as they are stored."""
        if length == 0:
            return
        headers = {}
        if start or length:
            end = start + length - 1 if length else ""
            headers["Range"] = f"bytes={start}-{end}"
        with _builtin_errors(ignore=416):  # what begins past the end has no bytes
            answer = self._open(name, headers, **_condition(if_match or None))
            yield from _read(answer, start, length, inf)

    @_builtin_errors()
    def upload_object(
        self, path: str, name: str, advance: Callable[[int], Any], *, if_match: str = ""
    ) -> None:
        """Upload a file, in parts where it is large, which expire unless completed."""
        from google.cloud.storage.retry import DEFAULT_RETRY

        blob, size = self._get_blob(name), os.path.getsize(path)
        blob.chunk_size = _PART
        options = {**self._once, "size": size, **_condition(if_match)}
        if size > _PART:  # of many requests, the SDK repeats one; the core would all
            options["retry"] = DEFAULT_RETRY
        with _WatchedFile(path) as file:
            file.advance = advance
            blob.upload_from_file(file, **options)

    @_builtin_errors()
    def copy_object(self, source: str, name: str) -> None:
        """Copy an object within the store, only if absent."""
        blob, origin, token = self._get_blob(name), self._get_blob(source), ""
        while token is not None:
            options = {**self._once, **_condition("")}
            token = blob.rewrite(origin, token or None, **options)[0]

    def iterate_objects(self, prefix: str) -> Iterator[tuple[str, int, str]]:
        """Yield names, sizes and etags below a prefix, page by page."""
        below = prefix.rstrip("/") + "/" if prefix else None
        options = {"fields": "items(name,size,generation),nextPageToken", **self._once}
        with _builtin_errors():
            for blob in self.client.list_blobs(self.bucket, prefix=below, **options):
                yield blob.name, blob.size, str(blob.generation)

    @_builtin_errors(ignore=404)
    def delete_object(self, name: str) -> None:
        """Delete an object, if it is there."""
        self._get_blob(name).delete(**self._once)

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

    @property
    def _once(self) -> dict[str, Any]:
        """How a request is made: the core tries again."""
        return {"timeout": (min(5, self.timeout_s), self.timeout_s), "retry": None}

    def _get_blob(self, name: str) -> Any:
        return self.client.bucket(self.bucket).blob(name)

    def _open(self, name: str, headers: dict[str, str], **condition: int) -> Any:
        from google.api_core import exceptions

        # the SDK's own downloads write to a file, and show no Content-Range
        url = self._get_blob(name)._get_download_url(self.client, **condition)
        headers["Accept-Encoding"] = "gzip"  # else GCS itself may decompress
        how: Any = {"stream": True, "timeout": self._once["timeout"]}
        answer = self.client._http.request("GET", url, headers=headers, **how)
        if answer.status_code not in (200, 206):
            with closing(answer):
                sdk: Any = exceptions
                raise sdk.from_http_status(answer.status_code, answer.text[:1000])
        return answer


def _condition(if_match: str | None) -> dict[str, int]:
    """Return what the SDK calls a condition; of what is absent it is 0."""
    return {} if if_match is None else {"if_generation_match": int(if_match or 0)}


def _read(answer: Any, start: int, length: _Length, most: float) -> Iterator[bytes]:
    """Yield an answer's bytes, if they are those that were asked for."""
    import google_crc32c  # which comes with the SDK

    sdk: Any = google_crc32c
    came, size = 0, float(answer.headers.get("Content-Length", inf))
    read = getattr(answer.raw, "read1", answer.raw.read)  # what has come
    checksum, is_part = sdk.Checksum(), start or length
    with closing(answer):
        if size and is_part:
            area = answer.headers.get("Content-Range", "")
            found = re.fullmatch(rf"bytes {start}-\d+/(\d+)", area)
            if answer.status_code != 206 or not found:
                raise ConnectionError(f"a range from {start} on came as {area!r}")
            size = min(length or inf, int(found[1]) - start)
        while data := read(_CHUNK):
            came += len(data)
            if came > min(size, most):
                break
            checksum.update(data)
            yield data
    if came > most:
        raise OSError(errno.EFBIG, "it is too large to be read at once")
    if came != size < inf:
        raise ConnectionError(f"{came} bytes came, not {size:.0f}")
    stored = re.search("crc32c=([^,]+)", answer.headers.get("x-goog-hash", ""))
    if stored and not is_part and stored[1] != b64encode(checksum.digest()).decode():
        raise ConnectionError("the bytes came with another checksum")


@_builtin_errors()
def _make_client(path: str | None, kind: str | None) -> Any:
    from google import auth
    from google.cloud.storage import Client
    from requests.adapters import HTTPAdapter

    # or the SDK asks for each bucket, in the background, to trace requests with
    os.environ.setdefault("DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA", "true")
    # no project, which only the listing of buckets needs
    if kind == "service_account":
        client = Client.from_service_account_json(path)
    elif path and path != os.environ.get(_VARIABLE):
        load: Any = auth.load_credentials_from_file
        client = Client(project=None, credentials=load(path)[0])
    else:
        client = Client(project=None)
    for scheme in ("https://", "http://"):  # the default keeps 10 connections
        client._http.mount(scheme, HTTPAdapter(pool_maxsize=64))
    return client
