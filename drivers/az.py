# SPDX-License-Identifier: MIT
# modelkit-assets 0.1.0, https://pypi.org/project/modelkit-assets/
"""Azure Blob Storage, through azure-storage-blob."""

from __future__ import annotations

import errno
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from math import inf
from typing import Any, Optional

_CHUNK = 1 << 18  # bytes yielded at a time
_SMALL = 64 << 20  # what is larger is not read at once
_BLOCK = 4 << 20  # larger files go up in blocks, of at least this size
_MOST_BLOCKS = 50_000  # of one blob
_STRING, _URL = "AZURE_STORAGE_CONNECTION_STRING", "AZURE_STORAGE_ACCOUNT_URL"
_Etag = Optional[str]
_Length = Optional[int]
_locks: dict[int, threading.Lock] = {}  # for making clients, by process
_ERRORS: dict[Any, Any] = dict.fromkeys((408, 429, *range(500, 600)), ConnectionError)
_ERRORS.update({401: PermissionError, 403: PermissionError, 404: FileNotFoundError})
_ERRORS.update({412: FileExistsError, 501: NotImplementedError})
_ERRORS.update({None: ConnectionError, 200: ConnectionError})  # an answer broke off
# codes whose own status would mislead
_ERRORS.update({"BlobAlreadyExists": FileExistsError, "ContainerNotFound": ValueError})
_ERRORS["InvalidBlockList"] = ConnectionError  # it was committed, and the answer lost


@contextmanager
def _builtin_errors(ignore: int = 0) -> Iterator[None]:
    """Raise the contract's built-in exceptions in place of the SDK's."""
    from azure.core import exceptions as sdk
    from requests.exceptions import RequestException
    from urllib3.exceptions import HTTPError  # a raw body's, which nobody wraps

    garbage = (UnicodeDecodeError, IndexError)  # what the SDK makes of it
    try:
        yield
    except (sdk.AzureError, RequestException, HTTPError, *garbage) as error:
        status = getattr(error, "status_code", None)
        if status == ignore:
            return
        headers = getattr(getattr(error, "response", None), "headers", {})
        code = headers.get("x-ms-error-code", "")
        kind = _ERRORS.get(code) or _ERRORS.get(status, OSError)
        # the first line, without the signature that its URL may hold
        text = re.sub(r"\?[^\s'\"]*", "", str(error).partition("\n")[0])
        if isinstance(error, sdk.ClientAuthenticationError) and not status:
            kind = ValueError  # without credentials, nobody was asked
        if isinstance(error, sdk.ServiceRequestError):  # nothing could be sent
            kind = ConnectionRefusedError
        if kind is ValueError:
            text += f": check MODELKIT_STORAGE_BUCKET, {_STRING} and {_URL}"
        raise kind(f"{status or ''} {code} {text}".strip()) from None


class Driver:
    """An Azure container, which is called the bucket here.

    Permissions: reading needs the role Storage Blob Data Reader, publishing Storage
    Blob Data Contributor; a shared access signature rl, or rlcw.
    """

    package = "azure-storage-blob"  # what pip installs
    variables = {  # the keyword that stands for each, and whether it is secret
        _STRING: ("connection_string", True),
        _URL: ("account_url", True),  # which may hold a signature
    }
    workers = 16  # transfers at once that suit it
    timeout_s = 30.0  # without a byte, after which a request fails; the core sets it

    def __init__(self, bucket: str, client: Any = None, **settings: str) -> None:
        self.bucket, self._given, self._settings = bucket, client, settings
        self._clients: dict[int, Any] = {}  # by process
        if not (client or settings):
            raise ValueError(f"the provider az needs {_STRING} or {_URL}")
        url = settings.get("account_url", "https://account")
        found = re.match(r"https?://[^/?#@:\s]+(?::(\d{1,5}))?(?:[/?]\S*)?$", url)
        if not found or int(found[1] or 0) > 65535:
            raise ValueError(f"{_URL} must be http(s)://HOST[:PORT], maybe with more")

    @_builtin_errors()
    def stat_object(self, name: str) -> tuple[int, str]:
        """Return an object's size in bytes and its etag."""
        properties = self._get_blob(name).get_blob_properties()
        return properties.size, properties.etag

    @_builtin_errors()
    def read_object(self, name: str) -> tuple[bytes, str]:
        """Return a small object whole, and its etag."""
        answer = self._open(name, {})
        data = b"".join(_read(answer, 0, None, _SMALL))
        return data, answer.headers.get("ETag", "")

    @_builtin_errors()
    def write_object(self, data: bytes, name: str, *, if_match: _Etag = None) -> str:
        """Write an object, if the condition holds, and return its new etag."""
        # no retry, as a second attempt would meet what the first one wrote
        options = {"retry_total": 0, "overwrite": True, "headers": _condition(if_match)}
        return str(self._get_blob(name).upload_blob(data, **options)["etag"])

    def iterate_bytes(
        self, name: str, start: int = 0, length: _Length = None, if_match: _Etag = None
    ) -> Iterator[bytes]:
        """Yield an object's bytes, or those of a range, as they are stored."""
        if length == 0:
            return
        headers = _condition(if_match or None)
        if start or length:
            end = start + length - 1 if length else ""
            headers["x-ms-range"] = f"bytes={start}-{end}"
        with _builtin_errors(ignore=416):  # what begins past the end has no bytes
            yield from _read(self._open(name, headers), start, length, inf)

    def upload_object(
        self, path: str, name: str, advance: Callable[[int], Any], *, if_match: str = ""
    ) -> None:
        """Upload a file, in blocks where it is large, which expire unless committed."""
        from concurrent.futures import ThreadPoolExecutor

        from azure.storage.blob import BlobBlock

        size = os.path.getsize(path)
        if size <= _BLOCK:
            with open(path, "rb") as file:
                data = file.read()
            advance(len(data))  # before, so that what it raises leaves no object
            self.write_object(data, name, if_match=if_match)
            return
        step = max(_BLOCK, -(-size // _MOST_BLOCKS))
        own = os.urandom(8).hex()  # a block of another upload's id would replace it
        blocks = {f"{own}-{start:020}": start for start in range(0, size, step)}
        blob = self._get_blob(name)

        def send(block: str) -> int:
            with _builtin_errors(), open(path, "rb") as file:
                file.seek(blocks[block])
                data = file.read(step)
                blob.stage_block(block, data)
                return len(data)

        pool = ThreadPoolExecutor(4)
        try:
            for number in pool.map(send, blocks):
                advance(number)
        finally:
            pool.shutdown(cancel_futures=True)
        with _builtin_errors():
            latest = [BlobBlock(block) for block in blocks]
            blob.commit_block_list(latest, headers=_condition(if_match))

    @_builtin_errors()
    def copy_object(self, source: str, name: str) -> None:
        """Copy an object within the store, only if absent."""
        blob, url = self._get_blob(name), self._get_blob(source).url
        # not `requires_sync`, which would need a signature for the source:
        # https://learn.microsoft.com/rest/api/storageservices/copy-blob-from-url
        status = blob.start_copy_from_url(url, headers=_condition(""))["copy_status"]
        while status == "pending":
            time.sleep(0.2)
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
                self._clients[process] = _make_client(self._settings, self.timeout_s)
            return self._given or self._clients[process]

    def _get_blob(self, name: str) -> Any:
        return self.client.get_blob_client(self.bucket, name)

    def _open(self, name: str, headers: dict[str, str]) -> Any:
        # not `download_blob`, which reads ahead and decompresses
        download = self._get_blob(name)._client.blob.download
        answer = download(headers=headers, cls=lambda answer, *_: answer)
        return answer.http_response.internal_response


def _condition(if_match: _Etag) -> dict[str, str]:
    """Return the headers of a condition."""
    if if_match is None:
        return {}
    return {"If-Match": if_match} if if_match else {"If-None-Match": "*"}


def _read(answer: Any, start: int, length: _Length, most: float) -> Iterator[bytes]:
    """Yield an answer's bytes, if they are those that were asked for."""
    came, size = 0, float(answer.headers.get("Content-Length", inf))
    read = getattr(answer.raw, "read1", answer.raw.read)  # what has come
    with closing(answer):
        if size and (start or length):
            area = answer.headers.get("Content-Range", "")
            found = re.fullmatch(rf"bytes {start}-\d+/(\d+)", area)
            if answer.status_code != 206 or not found:
                raise ConnectionError(f"a range from {start} on came as {area!r}")
            size = min(length or inf, int(found[1]) - start)
        while data := read(_CHUNK):
            came += len(data)
            if came > min(size, most):
                break
            yield data
    if came > most:
        raise OSError(errno.EFBIG, "it is too large to be read at once")
    if came != size < inf:
        raise ConnectionError(f"{came} bytes came, not {size:.0f}")


def _make_client(settings: dict[str, str], timeout_s: float) -> Any:
    import logging

    from azure.core.pipeline.transport import RequestsTransport
    from azure.storage.blob import BlobServiceClient
    from requests.adapters import HTTPAdapter

    logging.getLogger("urllib3.connectionpool").addFilter(_mask_signature)
    timeouts = {"connection_timeout": min(5, timeout_s), "read_timeout": timeout_s}
    transport = RequestsTransport(**timeouts)
    transport.open()
    for scheme in ("https://", "http://"):  # the default keeps 10 connections
        transport.session.mount(scheme, HTTPAdapter(pool_maxsize=64))
    # of an upload's blocks the SDK repeats one, where the core would repeat all; three
    # attempts within 2 s, much as boto3's; else it were four within a minute
    options: dict[str, Any] = {"retry_total": 2 if timeout_s >= 30 else 0}
    options.update(initial_backoff=0.2, increment_base=1, random_jitter_range=0.2)
    options["transport"] = transport
    text, url = settings.get("connection_string"), settings.get("account_url", "")
    try:
        if text:
            return BlobServiceClient.from_connection_string(text, **options)
        if "sig=" in url:  # a signature, which is a credential
            return BlobServiceClient(url, **options)
        from azure.identity import DefaultAzureCredential

        return BlobServiceClient(url, DefaultAzureCredential(), **options)
    except ValueError:  # not shown, as it may quote the key
        raise ValueError(f"{_STRING if text else _URL} is malformed") from None


def _mask_signature(record: Any) -> bool:
    """Mask the shared access signature in the URLs that urllib3 logs at DEBUG."""
    text = re.sub(r"([?&]sig=)[^&\s'\"]+", r"\1***", record.getMessage())
    record.msg, record.args = text, ()
    return True
