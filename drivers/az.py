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
from contextlib import contextmanager
from typing import Any

_CHUNK = 4 << 20  # bytes of a request, both ways, and held in memory
_SMALL = 64 << 20  # what is larger is not read at once
_POLL_S = 0.2  # between questions whether a copy is done
_VARIABLE = "AZURE_STORAGE_CONNECTION_STRING"
_ERRORS = {401: PermissionError, 403: PermissionError, 404: FileNotFoundError}
_ERRORS.update({408: ConnectionError, 412: FileExistsError, 429: ConnectionError})
_locks: dict[int, threading.Lock] = {}  # for making clients, by process


@contextmanager
def _builtin_errors(ignore: int = 0) -> Iterator[None]:
    """Raise the contract's built-in exceptions in place of the SDK's."""
    from azure.core import exceptions as sdk

    broken = (
        sdk.ServiceRequestError,
        sdk.ServiceResponseError,
        sdk.IncompleteReadError,
    )
    try:
        yield
    except sdk.HttpResponseError as error:
        if isinstance(error, sdk.ClientAuthenticationError) and not error.status_code:
            raise ValueError(f"{_VARIABLE} holds no usable key") from None
        status = error.status_code or 500  # it is None where the body was cut short
        if status != ignore:
            raise _find_error(status, error) from None
    except broken as error:
        raise ConnectionError(_clean(error)) from None
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
    if "BlobAlreadyExists" in code:  # which is a 409
        status = 412
    return _ERRORS.get(status, ConnectionError if status >= 500 else OSError)(text)


class Driver:
    """An Azure container, which is called the bucket here.

    Permissions: reading needs the role Storage Blob Data Reader, publishing Storage
    Blob Data Contributor; a shared access signature rl, or rlcw.
    """

    package = "azure-storage-blob"  # what pip installs
    variables = {_VARIABLE: True}  # and whether they are secret

    def __init__(self, bucket: str, client: Any = None, **settings: Any) -> None:
        given = settings.get("connection_string") or settings.get(_VARIABLE.lower())
        self.bucket, self._given = bucket, client
        self._clients: dict[int, Any] = {}  # by process
        self._settings = (given or os.environ.get(_VARIABLE),)
        if not (client or self._settings[0]):
            raise ValueError(f"{_VARIABLE} is not set, which the provider az needs")

    @_builtin_errors()
    def stat_object(self, name: str) -> tuple[int, str]:
        """Return an object's size in bytes and its etag."""
        properties = self._get_blob(name).get_blob_properties()
        return properties.size, properties.etag

    @_builtin_errors()
    def read_object(self, name: str) -> tuple[bytes, str]:
        """Return a small object whole, and its etag."""
        answer = self._get_blob(name).download_blob()
        if answer.size > _SMALL:
            raise OSError(errno.EFBIG, "it is too large to be read at once")
        return answer.readall(), answer.properties.etag

    @_builtin_errors()
    def write_object(
        self, data: bytes, name: str, *, if_match: str | None = None
    ) -> str:
        """Write an object, if the condition holds, and return its new etag."""
        from azure.core import MatchConditions

        unchanged = {"etag": if_match, "match_condition": MatchConditions.IfNotModified}
        # no retry, as a second attempt would meet what the first one wrote
        arguments = {"overwrite": if_match != "", "retry_total": 0}
        arguments.update(unchanged if if_match else {})
        return str(self._get_blob(name).upload_blob(data, **arguments)["etag"])

    @_builtin_errors(ignore=416)  # what begins past the end has no bytes
    def download_object(
        self, name: str, sink: Any, start: int = 0, length: int | None = None
    ) -> None:
        """Write an object's bytes from start on to the sink."""
        area = (
            {"offset": start, "length": length} if start or length is not None else {}
        )
        if length != 0:
            for data in self._get_blob(name).download_blob(**area).chunks():
                sink.write(data)

    @_builtin_errors()
    def upload_object(self, path: str, name: str, advance: Any = None) -> None:
        """Upload a file, in blocks where it is large."""
        sent = [0]

        def report(now: int, size: int | None) -> None:
            advance(now - sent[-1])
            sent.append(now)

        options: dict[str, Any] = {"progress_hook": report} if advance else {}
        options.update(overwrite=True, max_concurrency=4)
        with open(path, "rb") as file:
            self._get_blob(name).upload_blob(file, **options)

    @_builtin_errors()
    def copy_object(self, source: str, name: str) -> None:
        """Copy an object within the store."""
        blob, url = self._get_blob(name), self._get_blob(source).url
        # not `requires_sync`, which would need a signature for the source:
        # https://learn.microsoft.com/rest/api/storageservices/copy-blob-from-url
        status = blob.start_copy_from_url(url)["copy_status"]
        while status == "pending":
            time.sleep(_POLL_S)
            status = blob.get_blob_properties().copy.status
        if status != "success":
            raise OSError(f"the copy of {source!r} ended as {status!r}")

    def iterate_objects(self, prefix: str) -> Iterator[str]:
        """Yield the names below a prefix, page by page."""
        below = prefix.rstrip("/") + "/" if prefix else None
        with _builtin_errors():
            container = self.client.get_container_client(self.bucket)
            yield from container.list_blob_names(name_starts_with=below)

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


def _make_client(connection_string: str | None) -> Any:
    import logging

    import requests.adapters
    from azure.core.pipeline.transport import RequestsTransport
    from azure.storage.blob import BlobServiceClient

    logging.getLogger("urllib3.connectionpool").addFilter(_mask_signature)
    session = requests.Session()
    for scheme in ("https://", "http://"):  # the default keeps 10 connections
        session.mount(scheme, requests.adapters.HTTPAdapter(pool_maxsize=64))
    transport = RequestsTransport(session=session, session_owner=False)
    sizes = ("single_get", "chunk_get", "single_put", "block")
    settings: dict[str, Any] = {f"max_{size}_size": _CHUNK for size in sizes}
    # three attempts within 2 s, much as boto3's; else it were four within a minute
    settings.update(retry_total=2, initial_backoff=0.2, increment_base=1)  # seconds
    settings.update(transport=transport, random_jitter_range=0.2)
    try:
        return BlobServiceClient.from_connection_string(connection_string, **settings)
    except ValueError:  # not shown, as it may quote the key
        raise ValueError(f"{_VARIABLE} is no connection string") from None


def _mask_signature(record: Any) -> bool:
    """Mask the shared access signature in the URLs that urllib3 logs at DEBUG."""
    text = re.sub(r"([?&]sig=)[^&\s'\"]+", r"\1***", record.getMessage())
    record.msg, record.args = text, ()
    return True
