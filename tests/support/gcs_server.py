"""A GCS server for the tests: gcp-storage-emulator, with preconditions.

The emulator ignores `ifGenerationMatch`, answers one request at a time, and names
its files after the objects, so that `a` and `a/b` cannot both exist. Here a request
is read first and then handled under one lock, which makes its check and its write
one step. Objects live in memory.

    python tests/support/gcs_server.py --port 9023
"""

import argparse
import functools
import http.server
import re
import threading
from http import HTTPStatus
from typing import Any, Callable, Optional

from gcp_storage_emulator import server
from gcp_storage_emulator.exceptions import BadRequest
from gcp_storage_emulator.handlers import objects
from gcp_storage_emulator.storage import Storage

MISSING_BUCKET = "The specified bucket does not exist."  # as the real one says

_lock = threading.Lock()


class _MemoryStorage(Storage):
    """The emulator's storage, in memory, where any two names may live together."""

    def __init__(self) -> None:
        super().__init__(use_memory_fs=True, data_dir="/")
        self._parts: dict[str, bytearray] = {}

    def _object_path(self, bucket_name: str, file_name: str) -> str:
        # The emulator's own path drops "." and empty parts: two names, one content.
        return f"{bucket_name}/{self.safe_id(file_name)}"

    def _write_config_to_file(self) -> None:
        """Keep no index file: the emulator would write it whole at each request."""

    def get_resumable_byte_count(self, file_id: str) -> int:
        return len(self._parts.get(file_id, b""))

    def add_to_resumable_upload(
        self,
        file_id: str,
        content: bytes,
        total_size: Optional[int] = None,
        expected_start: Optional[int] = None,
    ) -> Optional[bytes]:
        """Append a chunk in place: the emulator copies all that came before it."""
        part = self._parts.setdefault(file_id, bytearray())
        if expected_start is not None and expected_start != len(part):
            raise BadRequest(f"expected the chunk at {len(part)}")
        part += content or b""
        if total_size is None or len(part) < total_size:
            return None
        return bytes(self._parts.pop(file_id))


def _in_turn(handler: Callable[..., None]) -> Callable[..., None]:
    """Wrap one of the emulator's handlers: conditions first, one at a time."""

    @functools.wraps(handler)
    def handle(request: Any, response: Any, storage: Storage) -> None:
        _ = request.data  # cached, so that no slow client is awaited under the lock
        with _lock:
            bucket, name = _get_target(request, storage)
            if bucket and bucket not in storage.buckets:
                _fail(response, HTTPStatus.NOT_FOUND, "notFound", MISSING_BUCKET)
                return
            current = storage.objects.get(bucket, {}).get(name)
            problem = _find_problem(request, current)
            if problem:
                _fail(response, *problem)
                return
            handler(request, response, storage)
            if current and handler in (objects.get, objects.download):
                response["x-goog-generation"] = current["generation"]

    return handle


def _get_target(request: Any, storage: Storage) -> tuple[str, str]:
    """Find the bucket and object that a request reads or writes, or empty strings."""
    query, body = request.query, request.data
    if "upload_id" in query:
        upload = storage.resumable.get(query["upload_id"][0], {})
        return upload.get("bucket", ""), upload.get("name", "")
    params = request.params or {}
    if "dest_object_id" in params:  # a copy, whose conditions are on what it makes
        return params["dest_bucket_name"], params["dest_object_id"]
    meta = body.get("meta", body) if isinstance(body, dict) else {}
    names = [params.get("object_id"), *query.get("name", []), meta.get("name")]
    return params.get("bucket_name", ""), next(filter(None, names), "")


def _find_problem(
    request: Any, current: Optional[dict[str, Any]]
) -> Optional[tuple[HTTPStatus, str]]:
    """Say which status and reason a request earns, or None if it may go on."""
    query = {key: values[0] for key, values in request.query.items()}
    if current is None and request.method not in ("POST", "PUT"):
        return None  # the handler answers 404
    generation = current["generation"] if current else "0"
    if query.get("ifGenerationMatch", generation) != generation:
        return HTTPStatus.PRECONDITION_FAILED, "conditionNotMet"
    if query.get("ifGenerationNotMatch") == generation:
        return HTTPStatus.PRECONDITION_FAILED, "conditionNotMet"
    if query.get("generation", generation) != generation:
        return HTTPStatus.NOT_FOUND, "notFound"
    start = re.match(r"bytes=(\d+)-", request.get_header("range", ""))
    if start and current and int(start[1]) >= int(current["size"]):
        return HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, "invalidRange"
    return None


def _fail(response: Any, status: HTTPStatus, reason: str, text: str = "") -> None:
    """Answer with an error in the form of Google's JSON API."""
    text = text or status.description
    error = {"message": text, "domain": "global", "reason": reason}
    response.status = status
    response.json({"error": {"code": status, "message": text, "errors": [error]}})


class _RequestHandler(server.RequestHandler):
    protocol_version = "HTTP/1.1"  # connections stay open, as with the real one
    disable_nagle_algorithm = True  # header and body are two writes: 40 ms otherwise


class _Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128  # of 5, the kernel drops what 32 threads connect at once


def main() -> None:
    """Serve until the process is ended."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, required=True)
    port = parser.parse_args().port
    server.HANDLERS = tuple(
        (route, {method: _in_turn(handler) for method, handler in methods.items()})
        for route, methods in server.HANDLERS
    )
    handler = functools.partial(_RequestHandler, _MemoryStorage())
    _Server(("127.0.0.1", port), handler).serve_forever()


if __name__ == "__main__":
    main()
