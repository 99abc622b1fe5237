# SPDX-License-Identifier: MIT
# modelkit-assets 0.1.0, https://pypi.org/project/modelkit-assets/
"""S3, and other stores that speak its protocol, through boto3's botocore."""

from __future__ import annotations

import errno
import os
import re
import threading
from binascii import b2a_base64, crc32
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from io import DEFAULT_BUFFER_SIZE, BytesIO
from math import inf
from typing import Any, Optional

_CHUNK = 1 << 19  # bytes yielded at a time; a quarter faster than of half as many
_SMALL = 64 << 20  # what is larger is not read at once
_PART = 16 << 20  # larger files go up in parts, of at least this size
_MOST_PARTS = 10_000  # of one object
_MOST_LINE, _MOST_HEADERS = 1 << 16, 100  # bytes of one, and how many of an answer
_ENDPOINT = (
    r"https?://(?:\[[\da-fA-F:.]+\]|[^][/?#@:\s\\]+)(?::(\d{1,5}))?(?:/[^?#@]*)?"
)
_NO_HEADER = "what no header may, as a line end"
_SIGNED = r"AWS4-HMAC-SHA256 Credential=(.+)/\d{8}/([^/]+)/s3/aws4_request, "
_Etag = Optional[str]
_Length = Optional[int]
_locks: dict[int, threading.Lock] = {}  # for making clients, by process
_ERRORS: dict[Any, Any] = dict.fromkeys((408, 429, *range(500, 600)), ConnectionError)
_ERRORS.update({401: PermissionError, 403: PermissionError, 404: FileNotFoundError})
_ERRORS.update({412: FileExistsError, 501: NotImplementedError})
# codes whose own status would mislead
_ERRORS.update({"ExpiredToken": PermissionError, "InvalidToken": PermissionError})
_ERRORS.update({"NoSuchBucket": ValueError, "RequestTimeout": ConnectionError})
_ERRORS["NoSuchUpload"] = ConnectionError  # it was completed, and the answer lost
_ERRORS["ConditionalRequestConflict"] = FileExistsError
_ERRORS["ConcurrentModification"] = FileExistsError  # Ceph's name for it


@contextmanager
def _builtin_errors(ignore: int = 0) -> Iterator[None]:
    """Raise the contract's built-in exceptions in place of the SDK's."""
    from botocore import exceptions as sdk
    from botocore.parsers import ResponseParserError
    from urllib3.exceptions import HTTPError  # a refusal's body's, which nobody wraps

    refused = (sdk.EndpointConnectionError, sdk.ConnectTimeoutError, sdk.SSLError)
    broken = (sdk.HTTPClientError, sdk.ConnectionError, sdk.IncompleteReadError)
    garbled = (sdk.FlexibleChecksumError, ResponseParserError, HTTPError)
    try:
        yield
    except sdk.ClientError as error:
        status = error.response["ResponseMetadata"].get("HTTPStatusCode", 500)
        if status == ignore:
            return
        code = error.response["Error"].get("Code")
        # a refusal echoes the request, and with it the session token
        error.response["Error"] = {"Code": code}
        kind, text = _ERRORS.get(code, _ERRORS.get(status, OSError)), str(error)
        if "larger than the maximum" in text:  # a copy
            kind = NotImplementedError
        if kind is ValueError:
            text += ": check MODELKIT_STORAGE_BUCKET"
        raise kind(text) from error
    except sdk.ParamValidationError as error:
        raise ValueError(f"{error}: check MODELKIT_STORAGE_BUCKET") from error
    except (sdk.NoCredentialsError, sdk.ProfileNotFound) as error:
        hint = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        raise ValueError(f"{error}; {hint}") from error
    except RecursionError:  # when sent on, the SDK asks where to, and is sent on
        hint = "check S3_ENDPOINT and AWS_DEFAULT_REGION"
        raise ValueError(f"the store redirects without end: {hint}") from None
    except refused as error:
        raise ConnectionRefusedError(str(error)) from None
    except sdk.EndpointProviderError as error:
        raise ValueError(f"{error}: check S3_ENDPOINT") from error
    except (*broken, *garbled) as error:  # whose request holds the token
        if "Invalid header value" in str(error):  # and which shows it
            raise ValueError(f"a credential holds {_NO_HEADER}") from None
        raise ConnectionError(str(error)) from None
    except sdk.BotoCoreError as error:
        raise OSError(str(error)) from error


class Driver:
    """An S3 bucket; what is not set is left to boto3: `~/.aws`, instance roles.

    Permissions: reading needs s3:GetObject, and s3:ListBucket (without which S3 refuses
    what does not exist); publishing also s3:PutObject and s3:AbortMultipartUpload. With
    AWS_KMS_KEY_ID, reading also kms:Decrypt, and publishing kms:GenerateDataKey.
    """

    package = "boto3"  # what pip installs
    variables = {  # the keyword that stands for each, and whether it is secret
        "AWS_ACCESS_KEY_ID": ("aws_access_key_id", True),
        "AWS_SECRET_ACCESS_KEY": ("aws_secret_access_key", True),
        "AWS_SESSION_TOKEN": ("aws_session_token", True),
        "AWS_PROFILE": ("profile", False),
        "AWS_DEFAULT_REGION": ("region_name", False),
        "AWS_ENDPOINT_URL_S3": ("endpoint_url", False),
        "S3_ENDPOINT": ("endpoint_url", False),  # which beats it
        "AWS_KMS_KEY_ID": ("aws_kms_key_id", False),
    }
    # transfers at once that suit it: 1000 small files take as long as with 16 near the
    # store, and half of that with 20 ms of round trip
    workers = 64
    timeout_s = 30.0  # without a byte, after which a request fails; the core sets it

    def __init__(self, bucket: str, client: Any = None, **settings: str) -> None:
        self.bucket, self._given, self._settings = bucket, client, settings
        self._clients: dict[int, Any] = {}  # by process
        self._seen: dict[int, Any] = {}  # the SDK's last request, by thread
        self._short_way: Any = None  # for others like it
        kms_key = settings.pop("aws_kms_key_id", "")
        encryption = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": kms_key}
        self._encryption = encryption if kms_key else {}
        key, secret = map(settings.get, ("aws_access_key_id", "aws_secret_access_key"))
        if (key or secret or "aws_session_token" in settings) and not (key and secret):
            missing = "AWS_SECRET_ACCESS_KEY" if key else "AWS_ACCESS_KEY_ID"
            raise ValueError(f"{missing} is not set, but another part of the key is")
        for part in ("aws_access_key_id", "aws_secret_access_key", "aws_session_token"):
            if re.search(r"[\x00-\x1f\x7f]", settings.get(part, "")):
                raise ValueError(f"{part.upper()} holds {_NO_HEADER}")
        endpoint = re.fullmatch(_ENDPOINT, settings.get("endpoint_url", "http://host"))
        if not endpoint or int(endpoint[1] or 0) > 65535:
            text = "S3_ENDPOINT must be http(s)://HOST[:PORT], without a password"
            raise ValueError(text)

    @_builtin_errors()
    def stat_object(self, name: str) -> tuple[int, str]:
        """Return an object's size in bytes and its etag."""
        answer = self.client.head_object(Bucket=self.bucket, Key=name)
        return answer["ContentLength"], answer["ETag"]

    @_builtin_errors()
    def read_object(self, name: str) -> tuple[bytes, str]:
        """Return a small object whole, and its etag."""
        body, headers = self._open(name)
        data = b"".join(map(bytes, _read(body, headers, 0, None, _SMALL)))
        return data, headers.get("etag", "")

    def write_object(self, data: bytes, name: str, *, if_match: _Etag = None) -> str:
        """Write an object, if the condition holds, and return its new etag."""
        put = self.client.put_object
        send = partial(self._call, None, put, Body=data, **self._encryption)
        try:
            return self._write(send, name, if_match)
        except FileExistsError as error:
            # after a retry, boto3 may have met what its own first attempt wrote
            answer = vars(error.__cause__)["response"]["ResponseMetadata"]
            if answer.get("RetryAttempts"):
                found, etag = self.read_object(name)
                if found == data:
                    return etag
            raise

    def iterate_bytes(
        self, name: str, start: int = 0, length: _Length = None, if_match: _Etag = None
    ) -> Iterator[Any]:
        """Yield an object's bytes, or those of a range, as they are stored."""
        if length == 0:
            return
        options = _condition(if_match or None)
        if start or length:
            end = start + length - 1 if length else ""
            options["Range"] = f"bytes={start}-{end}"
        with _builtin_errors(ignore=416):  # what begins past the end has no bytes
            body, headers = self._open(name, **options)
            etag = headers.get("etag", "")  # rclone, for one, knows no If-Match
            if if_match and etag.strip('W/"') != if_match.strip('W/"'):
                body.close()
                raise FileExistsError(f"{name!r} has changed")
            yield from _read(body, headers, start, length, inf)

    def upload_object(
        self, path: str, name: str, advance: Callable[[int], Any], *, if_match: str = ""
    ) -> None:
        """Upload a file, in parts where it is large; none outlives a failure."""
        size = os.path.getsize(path)
        if size > _PART:
            self._upload_parts(path, name, advance, if_match)
            return
        is_plain = size <= _CHUNK and not self._encryption

        def send(**options: str) -> Any:
            way = self.client and self._short_way if is_plain else None
            with open(path, "rb") as file:
                if way and (etag := way.put(file.read(size), **options)):
                    return {"ETag": etag}
                file.seek(0)
                options.update(self._encryption)
                return self._call(way, self.client.put_object, Body=file, **options)

        advance(size)  # before, so that what it raises leaves no object
        self._write(send, name, if_match)

    @_builtin_errors()
    def copy_object(self, source: str, name: str) -> None:
        """Copy an object within the store, only if absent, and of at most 5 GiB."""
        model = self.client.meta.service_model.operation_model("CopyObject")
        if "IfNoneMatch" not in model.input_shape.members:
            raise NotImplementedError("this botocore cannot copy only if absent")
        origin, target = ({"Bucket": self.bucket, "Key": key} for key in (source, name))
        options = {**target, **_condition(""), **self._encryption}
        self.client.copy_object(CopySource=origin, **options)

    def iterate_objects(self, prefix: str) -> Iterator[tuple[str, int, str]]:
        """Yield names, sizes and etags below a prefix, page by page."""
        below = prefix.rstrip("/") + "/" if prefix else ""
        with _builtin_errors():
            pages = self.client.get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self.bucket, Prefix=below):
                for item in page.get("Contents", ()):
                    # here alone, some stores leave out its quotes
                    yield item["Key"], item["Size"], '"' + item["ETag"].strip('"') + '"'

    @_builtin_errors()
    def delete_object(self, name: str) -> None:
        """Delete an object, if it is there."""
        self.client.delete_object(Bucket=self.bucket, Key=name)

    def get_object_uri(self, name: str) -> str:
        """Return the object's `s3://` address."""
        return f"s3://{self.bucket}/{name}"

    def __getstate__(self) -> dict[str, Any]:
        made = dict.fromkeys(("_given", "_short_way"))
        return {**vars(self), **made, "_clients": {}, "_seen": {}}

    @property
    def client(self) -> Any:
        """The SDK's client: the one given, else made on first use in each process."""
        process = os.getpid()
        with _locks.setdefault(process, threading.Lock()):
            if not (self._given or process in self._clients):
                client = _make_client(self._settings, self.timeout_s)
                self._clients[process] = client
                self._short_way = None  # its connections are the parent process's
                for operation in ("GetObject", "PutObject"):
                    event = f"before-sign.s3.{operation}"
                    client.meta.events.register(event, self._note)
            return self._given or self._clients[process]

    def _note(self, request: Any, **_: Any) -> None:
        self._seen[threading.get_ident()] = request

    def _open(self, name: str, **options: str) -> Any:
        """Return get_object's body and headers, or such as came by the short way.

        The first request is the SDK's own: it shows where objects lie, and how requests
        for them are signed. What is not plain is left to it, too, as is any refusal.
        """
        way = self.client and self._short_way
        if way and (answer := way.open(name, options)):
            return answer, answer.headers
        target = {"Bucket": self.bucket, "Key": name}
        answer = self._call(way, self.client.get_object, **target, **options)
        return answer["Body"], answer["ResponseMetadata"]["HTTPHeaders"]

    def _call(self, tried: Any, method: Callable[..., Any], **options: Any) -> Any:
        """Ask the SDK, and learn the short way from what it sent with success.

        tried: the way that was not taken there, if there was one; no other is replaced.
        """
        try:
            answer = method(**options)
        finally:  # it holds the session token
            seen = self._seen.pop(threading.get_ident(), None)  # of a given client none
        if seen and self._short_way is tried:
            about = (self.client, seen, options["Key"], self.timeout_s)
            self._short_way = _find_short_way(*about)
        return answer

    def _write(self, send: Callable[..., Any], name: str, if_match: _Etag) -> str:
        """Call send with its target and condition, and return the object's new etag."""
        target = {"Bucket": self.bucket, "Key": name}
        try:
            with _builtin_errors():
                return str(send(**target, **_condition(if_match))["ETag"])
        except (FileExistsError, FileNotFoundError) as error:
            if not if_match:
                raise
            stored = ""
            with suppress(OSError):  # the condition has failed, whatever else does
                stored = self.stat_object(name)[1]
            if stored != if_match:
                raise FileExistsError(f"{name!r} has changed") from error.__cause__
        with _builtin_errors():  # Ceph 16 to 18 take its quotes for a part of an etag
            return str(send(**target, IfMatch=if_match.strip('"'))["ETag"])

    def _upload_parts(
        self, path: str, name: str, advance: Callable[[int], Any], if_match: str
    ) -> None:
        """Upload four parts at once: https://github.com/boto/boto3/issues/4366."""
        from concurrent.futures import ThreadPoolExecutor, wait

        from s3transfer.utils import ReadFileChunk

        size = os.path.getsize(path)
        step = max(_PART, -(-size // _MOST_PARTS))
        target = {"Bucket": self.bucket, "Key": name}
        with _builtin_errors():
            begun = self.client.create_multipart_upload(**target, **self._encryption)
        upload = {"UploadId": begun["UploadId"]}

        def send(start: int) -> dict[str, Any]:
            part: Any = {"PartNumber": start // step + 1}
            with _builtin_errors(), ReadFileChunk.from_filename(path, start, step) as f:
                answer = self.client.upload_part(Body=f, **part, **target, **upload)
            about = {key: answer[key] for key in answer if key.startswith("Checksum")}
            return {**part, "ETag": answer["ETag"], **about}

        with ThreadPoolExecutor(4) as pool:
            try:
                sent = {pool.submit(send, n): n for n in range(0, size, step)}
                for part, start in sent.items():
                    while not wait([part], 0.2).done:
                        advance(0)  # what it raises ends the upload now
                    part.result()
                    advance(min(step, size - start))
                parts = {"Parts": [part.result() for part in sent]}
                end = partial(self.client.complete_multipart_upload, **upload)
                self._write(partial(end, MultipartUpload=parts), name, if_match)
            except BaseException:
                for _ in range(2):  # a part that came after the first would stay
                    with suppress(Exception):
                        self.client.abort_multipart_upload(**target, **upload)
                    pool.shutdown(cancel_futures=True)
                raise


def _find_short_way(client: Any, seen: Any, name: str, timeout_s: float) -> Any:
    """Return a way for requests like this one of the SDK's, where it was plain.

    That is: signed in its headers, with what the credentials are now, and to no proxy.
    TLS has to guard the bytes, unless nobody expects checksums to do so.
    """
    path = _make_path(name)
    # another botocore's inner parts, a file of certificates that has gone: what was
    # asked has succeeded all the same
    with suppress(Exception):
        session = client._endpoint.http_session
        key = client._get_credentials().get_frozen_credentials()
        signed = re.search(_SIGNED, str(seen.headers.get("Authorization")))
        is_ours = signed and signed[1] == key.access_key and seen.url.endswith(path)
        is_direct = not session._proxy_config.proxy_url_for(seen.url)
        is_safe = client.meta.config.response_checksum_validation == "when_required"
        if seen.url.startswith("https:"):
            is_safe = session._verify and not session._cert_file
        if signed and is_ours and is_direct and is_safe:
            return _ShortWay(client, seen, path, signed[2], timeout_s)
    return None


def _make_path(name: str) -> str:
    from urllib.parse import quote  # which a cached fetch has no need of

    return "/" + quote(name, safe="/~")


class _ShortWay:
    """Asks for objects as the SDK has asked for one, in a fifth of its time.

    That is 0.1 ms of a processor, not 0.7, which folders of small files are bound by.
    """

    def __init__(
        self, client: Any, seen: Any, path: str, region: str, timeout_s: float
    ) -> None:
        import ssl
        from http import client as http
        from urllib.parse import urlsplit

        from botocore.httpsession import get_cert_path

        self._idle: list[Any] = []  # connections, which others may have
        self._find_listeners = client.meta.events._emitter._handlers.prefix_search
        self._credentials, self._region = client._get_credentials(), region
        # whether the store is to keep a checksum, as the SDK's do unless told otherwise
        config = client.meta.config
        self._has_checksums = config.request_checksum_calculation != "when_required"
        self._agent, self._timeout_s = seen.headers["User-Agent"], timeout_s
        self._answer_class = type("Answer", (_Answer, http.HTTPResponse), {})
        url, port = urlsplit(seen.url), ":80"
        make: Any = http.HTTPConnection
        if url.scheme == "https":
            # not create_default_context, which may refuse what the SDK takes
            context, port = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), ":443"
            verify = client._endpoint.http_session._verify
            context.load_verify_locations(get_cert_path(verify))
            make = partial(http.HTTPSConnection, context=context)
        self._root = url.path[: -len(path)]
        self._host = url.netloc.rpartition("@")[2].lower().removesuffix(port)
        self._make = partial(make, self._host, timeout=min(5, timeout_s))

    def open(self, name: str, options: dict[str, str]) -> Any:
        """Return an object's answer, or None where the SDK is to ask."""
        answer = self._ask("GET", name, options)
        if answer and (answer.status not in (200, 206) or answer.length is None):
            answer.close()
            return None
        return answer

    def put(self, data: bytes, Bucket: str, Key: str, **options: str) -> str:
        """Write an object and return its etag, or "" where the SDK is to do it."""
        if self._has_checksums:
            checksum = b2a_base64(crc32(data).to_bytes(4, "big"), newline=False)
            options["x-amz-checksum-crc32"] = checksum.decode()
        answer = self._ask("PUT", Key, options, data)
        if not answer:
            return ""
        answer.close()
        return str(answer.headers.get("etag", "")) if answer.status == 200 else ""

    def _ask(self, method: str, name: str, options: Any, data: bytes = b"") -> Any:
        """Send a request, and return its answer; None where the SDK is to ask.

        Where a server has closed what was kept, it is sent again, though the first may
        have come: a write is conditional, so that the second finds the first's.
        """
        from http.client import HTTPException
        from socket import timeout

        # who answers in the store's place, as moto's mock_aws does
        if self._find_listeners(f"before-send.s3.{method.capitalize()}Object"):
            return None
        path = self._root + _make_path(name)
        words = re.compile("(?<=[a-z])(?=[A-Z])")  # of the SDK's IfNoneMatch
        headers = {words.sub("-", key).lower(): options[key] for key in options}
        self._sign(method, path, headers, data)
        headers["user-agent"] = self._agent
        if data:
            headers["content-length"] = str(len(data))
        kept = None
        with suppress(IndexError):  # none is idle
            kept = self._idle.pop()
        while True:
            connection = kept
            try:
                connection = connection or self._connect()
                # as a file, of which each block has a time-out of its own
                body = BytesIO(data) if data else None
                connection.request(method, path, body, headers)
                answer = connection.getresponse()
                answer.connection, answer.idle = connection, self._idle
                return answer
            except (OSError, HTTPException, ValueError) as error:
                if connection:
                    connection.close()
                if not kept or isinstance(error, timeout):
                    text = error if isinstance(error, OSError) else type(error).__name__
                    raise ConnectionError(str(text)) from None
            kept = None  # which the server has closed meanwhile

    def _sign(
        self, method: str, path: str, headers: dict[str, str], data: bytes
    ) -> None:
        """Add what has to be signed to a request's headers, and the signature.

        https://docs.aws.amazon.com/IAM/latest/UserGuide/create-signed-request.html
        """
        import hmac
        import time
        from hashlib import sha256

        key = self._credentials.get_frozen_credentials()
        headers["host"] = self._host
        headers["x-amz-content-sha256"] = digest = sha256(data).hexdigest()
        headers["x-amz-date"] = now = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        if key.token:
            headers["x-amz-security-token"] = key.token
        names = ";".join(sorted(headers))
        lines = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
        request = f"{method}\n{path}\n\n{lines}\n{names}\n{digest}".encode()
        scope = f"{now[:8]}/{self._region}/s3/aws4_request"
        text = f"AWS4-HMAC-SHA256\n{now}\n{scope}\n{sha256(request).hexdigest()}"
        secret = f"AWS4{key.secret_key}".encode()
        for part in (*scope.split("/"), text):
            secret = hmac.digest(secret, part.encode(), "sha256")
        found = f"Credential={key.access_key}/{scope}, SignedHeaders={names}"
        signature = f"{found}, Signature={secret.hex()}"
        headers["authorization"] = f"AWS4-HMAC-SHA256 {signature}"

    def _connect(self) -> Any:
        connection = self._make()
        connection.response_class = self._answer_class
        connection.connect()
        connection.sock.settimeout(self._timeout_s)
        connection.buffer = memoryview(bytearray())
        return connection

    def __del__(self) -> None:
        for connection in self._idle:  # else Python warns of each
            connection.close()


class _Answer:
    """Is mixed into http.client's answer, which a cached fetch has no need of.

    Its headers are not read as those of an e-mail: that takes 0.07 ms of a processor
    for each, of 0.3 that a small file takes in all. Its bytes come in a buffer of its
    connection, which is kept.
    """

    connection: Any = None  # once its headers have come
    idle: list[Any]  # connections, which others may have
    fp: Any
    # first what came with the headers: readinto1 would wait for more
    _most = DEFAULT_BUFFER_SIZE

    def begin(self) -> None:
        from http.client import BadStatusLine, HTTPException

        line, headers = self.fp.readline(_MOST_LINE), dict[str, str]()
        if not line.startswith(b"HTTP/1."):
            raise BadStatusLine(repr(line))
        is_old, self.status = line[7:8] == b"0", int(line[9:12])
        for _ in range(_MOST_HEADERS):
            line = self.fp.readline(_MOST_LINE)
            if not line.strip():
                break
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        if line not in (b"\r\n", b"\n"):
            raise HTTPException("its headers are cut off, or too long")
        self.will_close = is_old or headers.get("connection", "").lower() == "close"
        size, self.headers = headers.get("content-length", ""), headers
        is_told = size.isdigit() and "transfer-encoding" not in headers
        self.length: Any = int(size) if is_told else None

    def read1(self, _: int) -> Any:
        """Return what has come."""
        size = min(self.length, _CHUNK)
        if len(self.connection.buffer) < size:
            self.connection.buffer = memoryview(bytearray(size))
        part = self.connection.buffer[: min(size, self._most)]
        try:
            part = part[: self.fp.readinto1(part)]
        except OSError as error:
            raise ConnectionError(str(error)) from None
        self.length, self._most = self.length - len(part), _CHUNK
        return part

    def close(self) -> None:
        """End the request, or let another have the connection where all has come."""
        if self.fp:
            self.fp.close()
        # none from here on, as to close it is to close what it has answered
        connection, self.connection, self.fp = self.connection, None, None
        if connection and connection.sock and self.length == 0:
            self.idle.append(connection)
        elif connection:
            connection.close()


def _condition(if_match: _Etag) -> dict[str, str]:
    """Return what the SDK calls a condition."""
    if if_match is None:
        return {}
    return {"IfMatch": if_match} if if_match else {"IfNoneMatch": "*"}


def _read(
    body: Any, headers: Any, start: int, length: _Length, most: float
) -> Iterator[Any]:
    """Yield an answer's bytes, if they are those that were asked for."""
    came, size = 0, float(headers.get("content-length", inf))
    # what has come, without waiting for more; the SDK's own has no such method, and
    # what it checks as it reads is left to it
    raw = getattr(body, "_raw_stream", body)
    is_checked = type(body).__name__ == "StreamingChecksumBody"
    read = body.read if is_checked else getattr(raw, "read1", raw.read)
    with closing(body):
        if size and (start or length):
            area = headers.get("content-range", "")
            found = re.fullmatch(rf"bytes {start}-\d+/(\d+)", area)
            if not found:  # the status tells less, as rclone's is 200
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


@_builtin_errors()
def _make_client(settings: dict[str, str], timeout_s: float) -> Any:
    import logging

    # not boto3, whose own import takes 70 ms more, and adds nothing to a client's
    import botocore.config
    import botocore.session

    for name in ("botocore.auth", "botocore.endpoint", "botocore.parsers"):
        logging.getLogger(name).addFilter(_mask_token)
    session = botocore.session.Session(profile=settings.get("profile"))
    endpoint = settings.get("endpoint_url")
    # a name of its own spares each request a quarter of its 1.3 ms of processor time,
    # in which the SDK would write down what it runs on
    options: dict[str, Any] = {"user_agent": "modelkit-assets"}
    options["max_pool_connections"] = 128  # four parts of a file go up at once
    options.update(connect_timeout=min(5, timeout_s), read_timeout=timeout_s)
    if timeout_s < 30:  # else it may repeat a part, where the core would repeat all
        options["retries"] = {"total_max_attempts": 1}
    # not every store knows the checksums that the SDK sends and expects since 1.36:
    # https://docs.aws.amazon.com/sdkref/latest/guide/feature-dataintegrity.html
    own = session.get_scoped_config() if endpoint else {}
    for option in ("request_checksum_calculation", "response_checksum_validation"):
        is_set = own.get(option) or os.environ.get(f"AWS_{option}".upper())
        if endpoint and not is_set:
            options[option] = "when_required"
    region = session.get_config_variable("region") or "us-east-1"  # "" as the variable
    config = botocore.config.Config(**options)
    about: dict[str, Any] = {"region_name": region, **settings}
    about.pop("profile", None)
    try:
        return session.create_client("s3", config=config, **about)
    except ValueError as error:
        hint = "check S3_ENDPOINT and AWS_DEFAULT_REGION"
        raise ValueError(f"{error}: {hint}") from error


def _mask_token(record: Any) -> bool:
    """Mask the session token in what botocore logs at DEBUG: a refusal echoes it."""
    before = r"(?i)(x-amz-security-token(?::|': b?'|%3a)|<token-0>)"
    text = re.sub(before + r"[^'\s\\<]+", r"\1***", record.getMessage())
    record.msg, record.args = text, ()
    return True
