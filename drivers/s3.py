# SPDX-License-Identifier: MIT
# modelkit-assets 0.1.0, https://pypi.org/project/modelkit-assets/
"""S3, and other stores that speak its protocol, through boto3."""

from __future__ import annotations

import errno
import os
import re
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from math import inf
from typing import Any, Callable, Optional

_CHUNK = 1 << 18  # bytes yielded at a time
_SMALL = 64 << 20  # what is larger is not read at once
_PART = 16 << 20  # larger files go up in parts, of at least this size
_MOST_PARTS = 10_000  # of one object
_USER_AGENT = "modelkit-assets"
_Etag = Optional[str]
_Length = Optional[int]
_Advance = Callable[[int], Any]
_ERRORS: dict[int, Any] = {401: PermissionError, 403: PermissionError}
_ERRORS.update({404: FileNotFoundError, 412: FileExistsError})
_ERRORS.update({408: ConnectionError, 429: ConnectionError, 501: NotImplementedError})
_locks: dict[int, threading.Lock] = {}  # for making clients, by process
_CODES = {  # whose own status would mislead
    "ExpiredToken": 403,
    "InvalidToken": 403,
    "RequestTimeout": 408,
    "NoSuchUpload": 408,  # it was completed, and the answer was lost
    "ConditionalRequestConflict": 412,
    "ConcurrentModification": 412,  # Ceph's name for it
}


@contextmanager
def _builtin_errors(ignore: int = 0) -> Iterator[None]:
    """Raise the contract's built-in exceptions in place of the SDK's."""
    from botocore import exceptions as sdk
    from botocore.parsers import ResponseParserError
    from urllib3.exceptions import HTTPError  # a refusal's body's, which nobody wraps

    broken = (sdk.HTTPClientError, sdk.ConnectionError, sdk.IncompleteReadError)
    garbled = (sdk.FlexibleChecksumError, ResponseParserError, HTTPError)
    try:
        yield
    except sdk.ClientError as error:
        status = error.response["ResponseMetadata"].get("HTTPStatusCode", 500)
        if status != ignore:
            raise _find_error(status, error.response["Error"], str(error)) from error
    except sdk.ParamValidationError as error:
        raise ValueError(f"{error}: check MODELKIT_STORAGE_BUCKET") from error
    except (sdk.NoCredentialsError, sdk.ProfileNotFound) as error:
        hint = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_DEFAULT_PROFILE"
        raise ValueError(f"{error}; {hint}") from error
    except RecursionError:  # when sent on, the SDK asks where to, and is sent on
        hint = "check S3_ENDPOINT and AWS_DEFAULT_REGION"
        raise ValueError(f"the store redirects without end: {hint}") from None
    except (*broken, *garbled) as error:
        raise ConnectionError(str(error)) from None  # whose request holds the token
    except sdk.BotoCoreError as error:
        raise OSError(str(error)) from error


def _find_error(status: int, answer: dict[str, str], text: str) -> Exception:
    code = answer.get("Code", "")
    if code == "NoSuchBucket":
        return ValueError(f"{text}: check MODELKIT_STORAGE_BUCKET")
    status = 501 if "larger than the maximum" in text else _CODES.get(code, status)
    kind = _ERRORS.get(status, ConnectionError if status >= 500 else OSError)
    return kind(text)  # type: ignore[no-any-return]


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
        "AWS_DEFAULT_REGION": ("region_name", False),
        "S3_ENDPOINT": ("endpoint_url", False),
        "AWS_KMS_KEY_ID": ("aws_kms_key_id", False),
    }
    workers = 16  # transfers at once that suit it

    def __init__(self, bucket: str, client: Any = None, **settings: str) -> None:
        self.bucket, self._given = bucket, client
        self._readers: dict[int, _Reader] = {}  # by process
        found = (settings.get(keyword) for keyword, _ in self.variables.values())
        *self._settings, kms_key = found
        encryption: dict[str, Any] = {"ServerSideEncryption": "aws:kms"}
        self._encryption = {**encryption, "SSEKMSKeyId": kms_key} if kms_key else {}
        key, secret, token, _, endpoint = self._settings
        if (key or secret or token) and not (key and secret):
            missing = "AWS_SECRET_ACCESS_KEY" if key else "AWS_ACCESS_KEY_ID"
            raise ValueError(f"{missing} is not set, but another part of the key is")
        if endpoint and not re.match("https?://[^/@]+(/[^@]*)?$", endpoint):
            raise ValueError("S3_ENDPOINT must be http(s)://HOST, without a password")

    @_builtin_errors()
    def stat_object(self, name: str) -> tuple[int, str]:
        """Return an object's size in bytes and its etag."""
        answer = self.client.head_object(Bucket=self.bucket, Key=name)
        return answer["ContentLength"], answer["ETag"]

    @_builtin_errors()
    def read_object(self, name: str) -> tuple[bytes, str]:
        """Return a small object whole, and its etag."""
        answer = self._get(name)
        with closing(answer["Body"]) as body:
            size = _measure(answer, 0, None)
            data = body.read(int(min(size, _SMALL)) + 1)
            if len(data) > _SMALL:
                raise OSError(errno.EFBIG, "it is too large to be read at once")
            body.read(1)  # at the end, it checks what has come
            return data, answer.get("ETag", "")

    def write_object(
        self, data: bytes, name: str, *, if_match: str | None = None
    ) -> str:
        """Write an object, if the condition holds, and return its new etag."""
        arguments = {"Bucket": self.bucket, "Key": name, **self._encryption}
        send = partial(self.client.put_object, Body=data, **arguments)
        try:
            return self._write(send, name, if_match)
        except FileExistsError as error:
            # after a retry, boto3 may have met what its own first attempt wrote
            metadata = vars(error.__cause__)["response"]["ResponseMetadata"]
            found, etag = None, ""
            if metadata.get("RetryAttempts"):
                found, etag = self.read_object(name)
            if found == data:
                return etag
            raise

    def iterate_bytes(
        self, name: str, start: int = 0, length: _Length = None, if_match: _Etag = None
    ) -> Iterator[bytes]:
        """Yield an object's bytes, or those of a range, as they are stored."""
        if length == 0:
            return
        with _builtin_errors(ignore=416):  # what begins past the end has no bytes
            answer = self._get(name, start, length, if_match)
            with closing(answer["Body"]) as body:
                left = _measure(answer, start, length)
                etag = answer.get("ETag", "")  # rclone, for one, knows no If-Match
                if if_match and etag.strip('W/"') != if_match.strip('W/"'):
                    raise FileExistsError(f"{name!r} has changed")
                while (data := body.read(_CHUNK)) and len(data) <= left:
                    left -= len(data)
                    yield data
            if data or 0 < left < inf:
                raise ConnectionError(f"{name!r} came with {left:.0f} bytes to go")

    def upload_object(
        self, path: str, name: str, advance: _Advance, *, if_match: _Etag = ""
    ) -> None:
        """Upload a file, in parts where it is large; none outlives a failure."""
        size = os.path.getsize(path)
        if size > _PART:
            self._upload_parts(path, name, advance, if_match)
            return

        def send(**condition: Any) -> Any:
            condition.update(Bucket=self.bucket, Key=name, **self._encryption)
            with open(path, "rb") as file:
                return self.client.put_object(Body=file, **condition)

        advance(size)  # before, so that what it raises leaves no object
        self._write(send, name, if_match)

    @_builtin_errors()
    def copy_object(self, source: str, name: str) -> None:
        """Copy an object within the store, only if absent, and of at most 5 GiB."""
        model = self.client.meta.service_model.operation_model("CopyObject")
        if "IfNoneMatch" not in model.input_shape.members:
            raise NotImplementedError("this botocore cannot copy only if absent")
        origin, target = ({"Bucket": self.bucket, "Key": key} for key in (source, name))
        target.update(IfNoneMatch="*", **self._encryption)
        self.client.copy_object(CopySource=origin, **target)

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
        return {**vars(self), "_given": None, "_readers": {}}

    @property
    def client(self) -> Any:
        """The SDK's client: the one given, else made on first use in each process."""
        return self._given or self._reader.client

    @property
    def _reader(self) -> _Reader:
        process = os.getpid()
        with _locks.setdefault(process, threading.Lock()):
            if process not in self._readers:
                self._readers[process] = _Reader(_make_client(*self._settings))
            return self._readers[process]

    def _get(
        self, name: str, start: int = 0, length: _Length = None, if_match: _Etag = None
    ) -> Any:
        """Return get_object's answer, or one of the same shape."""
        options = {"Bucket": self.bucket, "Key": name}
        options.update({"IfMatch": if_match} if if_match else {})
        if start or length is not None:
            end = "" if length is None else start + length - 1
            options["Range"] = f"bytes={start}-{end}"
        if self._given:  # which may have retries and headers of its own
            return self._given.get_object(**options)
        return self._reader.get_object(**options)

    def _write(self, send: Callable[..., Any], name: str, if_match: _Etag) -> str:
        """Call send with its condition, and return the object's new etag."""
        condition = {"IfMatch": if_match} if if_match else {"IfNoneMatch": "*"}
        try:
            with _builtin_errors():
                return str(send(**({} if if_match is None else condition))["ETag"])
        except (FileExistsError, FileNotFoundError) as error:
            if not if_match:
                raise
            if not self._has(name, if_match):
                raise FileExistsError(f"{name!r} has changed") from error.__cause__
        with _builtin_errors():  # Ceph 16 to 18 take its quotes for a part of an etag
            return str(send(IfMatch=if_match.strip('"'))["ETag"])

    def _has(self, name: str, etag: str) -> bool:
        with suppress(OSError):  # the condition has failed, whatever else does
            return self.stat_object(name)[1] == etag
        return False

    def _upload_parts(
        self, path: str, name: str, advance: _Advance, if_match: _Etag
    ) -> None:
        """Upload four parts at once: https://github.com/boto/boto3/issues/4366."""
        from concurrent.futures import ThreadPoolExecutor, as_completed

        from s3transfer.utils import ReadFileChunk

        size = os.path.getsize(path)
        target: dict[str, Any] = {"Bucket": self.bucket, "Key": name}
        step = max(_PART, -(-size // _MOST_PARTS))
        with _builtin_errors():
            begun = self.client.create_multipart_upload(**target, **self._encryption)
            target["UploadId"] = begun["UploadId"]

        def send(start: int) -> tuple[int, dict[str, Any]]:
            part: Any = {"PartNumber": start // step + 1}
            with _builtin_errors(), ReadFileChunk.from_filename(path, start, step) as f:
                answer = self.client.upload_part(Body=f, **part, **target)
            about = {key: answer[key] for key in answer if key.startswith("Checksum")}
            return min(step, size - start), {**part, "ETag": answer["ETag"], **about}

        with ThreadPoolExecutor(4) as pool:
            try:
                sent = [pool.submit(send, start) for start in range(0, size, step)]
                for part in as_completed(sent):
                    advance(part.result()[0])
                parts = {"Parts": [part.result()[1] for part in sent]}
                end = partial(self.client.complete_multipart_upload, **target)
                self._write(partial(end, MultipartUpload=parts), name, if_match)
            except BaseException:
                pool.shutdown(cancel_futures=True)  # a part that came later would stay
                with suppress(Exception):
                    self.client.abort_multipart_upload(**target)
                raise


class _Reader:
    """Sends what the SDK's get_object sends, in 0.8 ms of processor time, not 1.2.

    That is what a folder of many small files is bound by. A client's first request is
    the SDK's own: it shows where objects lie, and how requests for them are signed.
    """

    def __init__(self, client: Any) -> None:
        self.client, self._base = client, ""
        self._seen: Any = None  # the last request, and what signed it
        self._model: Any = None  # those that others are to be like
        client.meta.events.register("before-sign.s3.GetObject", self._note)

    def get_object(self, **options: str) -> Any:
        """Return a dict with Body, ContentLength, ContentRange and ETag."""
        answer = self._send(**options) if self._base and self._is_alone() else None
        if not answer:
            answer = self.client.get_object(**options)
            seen, path = self._seen, _quote(options["Key"])
            url = seen[0].url  # where it was redirected, the last one tells
            if url.endswith(path) and self._is_safe(url):
                self._model, self._base = seen, url[: -len(path)]
        return answer

    def _note(self, request: Any, request_signer: Any, **_: Any) -> None:
        self._seen = request, request_signer

    def _is_safe(self, url: str) -> bool:
        """Tell whether TLS guards the bytes, or nobody expects checksums to do so."""
        expected = self.client.meta.config.response_checksum_validation
        is_guarded = url.startswith("https:") or expected == "when_required"
        return is_guarded and hasattr(self.client, "_endpoint")

    def _is_alone(self) -> bool:
        """Tell whether nobody else is to send the SDK's requests, as mock_aws does."""
        with suppress(AttributeError):
            handlers = self.client.meta.events._emitter._handlers
            return not handlers.prefix_search("before-send.s3.GetObject")
        return False

    def _send(self, Key: str, Range: str = "", IfMatch: str = "", **_: str) -> Any:
        """Answer as the SDK; None where the SDK itself must see to it."""
        from botocore.awsrequest import AWSRequest
        from botocore.exceptions import ClientError
        from botocore.response import StreamingBody

        first, signer = self._model
        headers = {"Range": Range, "If-Match": IfMatch}
        headers = {key: value for key, value in headers.items() if value}
        headers["User-Agent"] = first.headers["User-Agent"]
        url = self._base + _quote(Key)
        request = AWSRequest("GET", url, headers, stream_output=True)
        request.context.update(first.context)
        signer.sign("GetObject", request)
        answer = self.client._endpoint.http_session.send(request.prepare())
        about, status = answer.headers, answer.status_code
        if status < 300:
            size = about.get("Content-Length")
            found = {"ContentLength": int(size)} if size else {}
            found.update(ContentRange=about.get("Content-Range", ""))
            body = StreamingBody(answer.raw, size)
            return {**found, "ETag": about.get("ETag", ""), "Body": body}
        with closing(answer.raw) as raw:
            text = raw.read(_CHUNK).decode(errors="replace")
            error = dict(re.findall("<(Code|Message)>([^<]*)<", text))
        if status <= 400:  # what may belong to another region, among others
            return None
        metadata = {"ResponseMetadata": {"HTTPStatusCode": status}}
        raise ClientError({"Error": {"Code": status, **error}, **metadata}, "GetObject")


def _measure(answer: Any, start: int, length: _Length) -> float:
    """Return how many bytes an answer is to have; it may be of another range."""
    size: float = answer.get("ContentLength", inf)
    is_part = start > 0 or length is not None
    if not (is_part and size):
        return size
    area = answer.get("ContentRange", "")
    found = re.fullmatch(rf"bytes {start}-(\d+)/(\d+)", area)
    last, whole = map(int, found.groups()) if found else (-2, 0)
    end = whole if length is None else min(start + length, whole)
    if last + 1 != end:  # the status tells less, as rclone's is 200
        raise ConnectionError(f"a range from {start} on came as {area!r}")
    return end - start


def _quote(name: str) -> str:
    from urllib.parse import quote  # which a cached fetch has no need of

    return "/" + quote(name, safe="/~")


@_builtin_errors()
def _make_client(key: Any, secret: Any, token: Any, region: Any, endpoint: Any) -> Any:
    import logging

    import boto3
    import botocore.config

    for name in ("botocore.auth", "botocore.endpoint"):
        logging.getLogger(name).addFilter(_mask_token)
    session = boto3.session.Session(key, secret, token, region)
    # a name of its own spares each request a quarter of its 1.3 ms of processor time,
    # in which boto3 would write down what it runs on
    options: dict[str, Any] = {"max_pool_connections": 64, "user_agent": _USER_AGENT}
    options.update(connect_timeout=5, read_timeout=30)  # seconds
    # not every store knows the checksums that boto3 sends and expects since 1.36:
    # https://docs.aws.amazon.com/sdkref/latest/guide/feature-dataintegrity.html
    own = botocore.session.Session().get_scoped_config() if endpoint else {}
    for option in ("request_checksum_calculation", "response_checksum_validation"):
        is_set = own.get(option) or os.environ.get(f"AWS_{option}".upper())
        if endpoint and not is_set and option in botocore.config.Config.OPTION_DEFAULTS:
            options[option] = "when_required"
    config = botocore.config.Config(**options)
    region = session.region_name or "us-east-1"  # it is "" where the variable is
    return session.client("s3", region, endpoint_url=endpoint, config=config)


def _mask_token(record: Any) -> bool:
    """Mask the session token in the requests that botocore logs at DEBUG."""
    header = r"(?i)(x-amz-security-token(?::|': b?'))[^'\s]+"
    record.msg, record.args = re.sub(header, r"\1***", record.getMessage()), ()
    return True
