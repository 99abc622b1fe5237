# SPDX-License-Identifier: MIT
# modelkit-assets 0.1.0, https://pypi.org/project/modelkit-assets/
"""Azure Blob Storage, through azure-storage-blob."""

from __future__ import annotations

import errno
import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from math import inf
from typing import Any, Callable, Optional

_CHUNK = 1 << 18  # bytes yielded at a time
_SMALL = 64 << 20  # what is larger is not read at once
_BLOCK = 4 << 20  # larger files go up in blocks, of at least this size
_MOST_BLOCKS = 50_000  # of one blob
_POLL_S = 0.2  # between questions whether a copy is done
_VARIABLE, _URL = "AZURE_STORAGE_CONNECTION_STRING", "AZURE_STORAGE_ACCOUNT_URL"
_Etag = Optional[str]
_Length = Optional[int]
_Advance = Callable[[int], Any]
_ERRORS: dict[int, Any] = {401: PermissionError, 403: PermissionError}
_ERRORS.update({404: FileNotFoundError, 412: FileExistsError})
_ERRORS.update({408: ConnectionError, 429: ConnectionError, 501: NotImplementedError})
_locks: dict[int, threading.Lock] = {}  # for making clients, by process


@contextmanager
def _builtin_errors(ignore: int = 0) -> Iterator[None]:
    """Raise the contract's built-in exceptions in place of the SDK's."""
    from azure.core import exceptions as sdk
    from requests.exceptions import RequestException
    from urllib3.exceptions import HTTPError  # a raw body's, which nobody wraps

    broken = (sdk.ServiceRequestError, sdk.ServiceResponseError, RequestException)
    garbled = (sdk.IncompleteReadError, sdk.DecodeError, HTTPError)
    garbage = (UnicodeDecodeError, IndexError)  # what the SDK makes of it
    try:
        yield
    except (*broken, *garbled, *garbage) as error:
        raise ConnectionError(_clean(error)) from None
    except sdk.HttpResponseError as error:
        if isinstance(error, sdk.ClientAuthenticationError) and not error.status_code:
            raise ValueError(f"{_VARIABLE} or {_URL}: no usable credentials") from None
        status = error.status_code or 500  # it is None where the body was cut short
        if status != ignore:
            raise _find_error(status, error) from None
    except sdk.AzureError as error:
        raise OSError(_clean(error)) from None


def _clean(error: Any) -> str:
    """Return an error's first line without the signature that its URL may hold."""
    return re.sub(r"\?[^\s'\"]*", "", str(error).partition("\n")[0])


def _find_error(status: int, error: Any) -> Exception:
    code = getattr(error, "error_code", None) or ""
    code = str(getattr(code, "value", code))  # an enum, or its text
    text = f"{status} {code} {_clean(error)}"
    if "ContainerNotFound" in code:
        return ValueError(f"{text}: check MODELKIT_STORAGE_BUCKET")
    # a 409; and a 400, where blocks were committed and the answer was lost
    status = {"BlobAlreadyExists": 412, "InvalidBlockList": 408}.get(code, status)
    kind = _ERRORS.get(status, ConnectionError if status >= 500 else OSError)
    return kind(text)  # type: ignore[no-any-return]


class _AnswerError(Exception):
    """Takes an answer from the SDK, which would read and decompress its body."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer


class Driver:
    """An Azure container, which is called the bucket here.

    Permissions: reading needs the role Storage Blob Data Reader, publishing Storage
    Blob Data Contributor; a shared access signature rl, or rlcw.
    """

    package = "azure-storage-blob"  # what pip installs
    variables = {  # the keyword that stands for each, and whether it is secret
        _VARIABLE: ("connection_string", True),
        _URL: ("account_url", True),  # which may hold a signature
    }
    workers = 16  # transfers at once that suit it

    def __init__(self, bucket: str, client: Any = None, **settings: str) -> None:
        self.bucket, self._given = bucket, client
        self._clients: dict[int, Any] = {}  # by process
        self._settings = [settings.get(one) for one, _ in self.variables.values()]
        if not (client or any(self._settings)):
            raise ValueError(f"the provider az needs {_VARIABLE} or {_URL}")

    @_builtin_errors()
    def stat_object(self, name: str) -> tuple[int, str]:
        """Return an object's size in bytes and its etag."""
        properties = self._get_blob(name).get_blob_properties()
        return properties.size, properties.etag

    @_builtin_errors()
    def read_object(self, name: str) -> tuple[bytes, str]:
        """Return a small object whole, and its etag."""
        with closing(self._open(name)) as answer:
            size = _measure(answer, 0, None)
            data = answer.raw.read(int(min(size, _SMALL)) + 1)
            if len(data) > _SMALL:
                raise OSError(errno.EFBIG, "it is too large to be read at once")
            if len(data) < size < inf:
                raise ConnectionError(f"{name!r} ended early")
            return data, answer.headers.get("ETag", "")

    @_builtin_errors()
    def write_object(
        self, data: bytes, name: str, *, if_match: str | None = None
    ) -> str:
        """Write an object, if the condition holds, and return its new etag."""
        # no retry, as a second attempt would meet what the first one wrote
        options = {"retry_total": 0, "overwrite": True, **_condition(if_match)}
        return str(self._get_blob(name).upload_blob(data, **options)["etag"])

    def iterate_bytes(
        self, name: str, start: int = 0, length: _Length = None, if_match: _Etag = None
    ) -> Iterator[bytes]:
        """Yield an object's bytes, or those of a range, as they are stored."""
        if length == 0:
            return
        with (
            _builtin_errors(ignore=416),  # what begins past the end has no bytes
            closing(self._open(name, start, length, if_match)) as answer,
        ):
            left = _measure(answer, start, length)
            while (data := answer.raw.read(_CHUNK)) and len(data) <= left:
                left -= len(data)
                yield data
            if data or 0 < left < inf:
                raise ConnectionError(f"{name!r} came with {left:.0f} bytes to go")

    def upload_object(
        self, path: str, name: str, advance: _Advance, *, if_match: _Etag = ""
    ) -> None:
        """Upload a file, in blocks where it is large, which expire unless committed."""
        if os.path.getsize(path) > _BLOCK:
            blocks = self._send_blocks(path, name, advance)
            with _builtin_errors():
                blob = self._get_blob(name)
                blob.commit_block_list(blocks, **_condition(if_match))
            return
        with open(path, "rb") as file:
            data = file.read()
        advance(len(data))  # before, so that what it raises leaves no object
        self.write_object(data, name, if_match=if_match)

    @_builtin_errors()
    def copy_object(self, source: str, name: str) -> None:
        """Copy an object within the store, only if absent."""
        blob, url = self._get_blob(name), self._get_blob(source).url
        # not `requires_sync`, which would need a signature for the source:
        # https://learn.microsoft.com/rest/api/storageservices/copy-blob-from-url
        status = blob.start_copy_from_url(url, **_condition(""))["copy_status"]
        while status == "pending":
            time.sleep(_POLL_S)
            status = blob.get_blob_properties().copy.status
        if status != "success":
            raise OSError(f"the copy of {source!r} ended as {status!r}")

    def iterate_objects(self, prefix: str) -> Iterator[tuple[str, int, str]]:
        """Yield names, sizes and etags below a prefix, page by page."""
        below = prefix.rstrip("/") + "/" if prefix else None
        with _builtin_errors():
            container = self.client.get_container_client(self.bucket)
            for blob in container.list_blobs(name_starts_with=below):
                # here alone it comes without its quotes
                yield blob.name, blob.size, '"' + blob.etag.strip('"') + '"'

    @_builtin_errors(ignore=404)
    def delete_object(self, name: str) -> None:
        """Delete an object, if it is there."""
        self._get_blob(name).delete_blob()

    def get_object_uri(self, name: str) -> str:
        """Return the object's `az://` address."""
        return f"az://{self.bucket}/{name}"

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
        return self.client.get_blob_client(self.bucket, name)

    def _open(
        self, name: str, start: int = 0, length: _Length = None, if_match: _Etag = None
    ) -> Any:
        """Return an answer whose `raw` is an object's body, or a part of it."""

        def ask(request: Any) -> None:  # the SDK would, for the first 32 MiB
            headers = request.http_request.headers
            end = "" if length is None else start + length - 1
            headers["x-ms-range"] = f"bytes={start}-{end}"
            if not start and length is None:  # else nothing would be of an empty blob
                del headers["x-ms-range"]

        def take(response: Any) -> None:
            if response.http_response.status_code in (200, 206):
                raise _AnswerError(response.http_response.internal_response)

        options: dict[str, Any] = {"raw_request_hook": ask, "raw_response_hook": take}
        # at a second attempt of its own, the SDK would have lost the hooks
        options.update(offset=start, length=length, retry_total=0)
        options.update(_condition(if_match or None))
        try:
            self._get_blob(name).download_blob(**options)
        except _AnswerError as error:
            return error.answer

    def _send_blocks(self, path: str, name: str, advance: _Advance) -> list[Any]:
        """Send a file's blocks, four at once, and return them in their order."""
        from concurrent.futures import ThreadPoolExecutor, as_completed

        from azure.storage.blob import BlobBlock

        size = os.path.getsize(path)
        step = max(_BLOCK, -(-size // _MOST_BLOCKS))
        own = os.urandom(8).hex()  # a block of another upload's id would replace it

        def send(start: int) -> tuple[int, Any]:
            with open(path, "rb") as file:
                file.seek(start)
                data = file.read(step)
            block = f"{own}-{start:020}"
            with _builtin_errors():
                self._get_blob(name).stage_block(block, data)
            return len(data), BlobBlock(block)

        pool = ThreadPoolExecutor(4)
        try:
            sent = [pool.submit(send, start) for start in range(0, size, step)]
            for block in as_completed(sent):
                advance(block.result()[0])
        finally:
            pool.shutdown(cancel_futures=True)
        return [block.result()[1] for block in sent]


def _condition(if_match: str | None) -> dict[str, Any]:
    """Return what the SDK calls a condition."""
    from azure.core import MatchConditions

    if if_match:
        return {"etag": if_match, "match_condition": MatchConditions.IfNotModified}
    return {} if if_match is None else {"match_condition": MatchConditions.IfMissing}


def _measure(answer: Any, start: int, length: _Length) -> float:
    """Return how many bytes an answer is to have; it may be of another range."""
    headers = answer.headers
    size = float(headers.get("Content-Length", "inf"))
    is_part = start > 0 or length is not None
    if not (is_part and size):
        return size
    area = headers.get("Content-Range", "")
    found = re.fullmatch(rf"bytes {start}-(\d+)/(\d+)", area)
    last, whole = map(int, found.groups()) if found else (-2, 0)
    end = whole if length is None else min(start + length, whole)
    if answer.status_code != 206 or last + 1 != end:
        raise ConnectionError(f"a range from {start} on came as {area!r}")
    return end - start


def _make_client(connection_string: str | None, url: Any) -> Any:
    import logging

    import requests.adapters
    from azure.core.pipeline.transport import RequestsTransport
    from azure.storage.blob import BlobServiceClient

    logging.getLogger("urllib3.connectionpool").addFilter(_mask_signature)
    session = requests.Session()
    for scheme in ("https://", "http://"):  # the default keeps 10 connections
        session.mount(scheme, requests.adapters.HTTPAdapter(pool_maxsize=64))
    timeouts = {"connection_timeout": 5, "read_timeout": 30}  # seconds
    transport = RequestsTransport(session=session, session_owner=False, **timeouts)
    # three attempts within 2 s, much as boto3's; else it were four within a minute
    settings: dict[str, Any] = {"retry_total": 2, "initial_backoff": 0.2}  # seconds
    settings.update(increment_base=1, random_jitter_range=0.2, transport=transport)
    try:
        if connection_string:
            connect = BlobServiceClient.from_connection_string
            return connect(connection_string, **settings)
        return BlobServiceClient(url, _find_credential(url), **settings)
    except ValueError:  # not shown, as it may quote the key
        wrong = f"{_VARIABLE} is no connection string"
        wrong = wrong if connection_string else f"{_URL} is no URL of an account"
        raise ValueError(wrong) from None


def _find_credential(url: str) -> Any:
    if "sig=" in url:  # a signature, which is one
        return None
    from azure.identity import DefaultAzureCredential

    return DefaultAzureCredential()


def _mask_signature(record: Any) -> bool:
    """Mask the shared access signature in the URLs that urllib3 logs at DEBUG."""
    text = re.sub(r"([?&]sig=)[^&\s'\"]+", r"\1***", record.getMessage())
    record.msg, record.args = text, ()
    return True
