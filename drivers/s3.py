# SPDX-License-Identifier: MIT
# modelkit-assets 0.1.0, https://pypi.org/project/modelkit-assets/
"""S3, and other stores that speak its protocol, through boto3."""

from __future__ import annotations

import errno
import os
import re
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

_CHUNK = 1 << 20  # bytes written to a sink at a time
_USER_AGENT = "modelkit-assets"
_SMALL = 64 << 20  # what is larger is not read at once
_PART = 16 << 20  # larger files go up in parts of at least this size
_ERRORS = {401: PermissionError, 403: PermissionError, 404: FileNotFoundError}
_ERRORS.update({408: ConnectionError, 412: FileExistsError, 429: ConnectionError})
_locks: dict[int, threading.Lock] = {}  # for making clients, by process


@contextmanager
def _builtin_errors(ignore: int = 0) -> Iterator[None]:
    """Raise the contract's built-in exceptions in place of the SDK's."""
    from boto3.exceptions import S3UploadFailedError
    from botocore import exceptions as sdk

    broken = (sdk.HTTPClientError, sdk.ConnectionError, sdk.IncompleteReadError)
    try:
        yield
    except (sdk.ClientError, S3UploadFailedError) as error:
        # an upload wraps what its parts met
        cause: Any = error if isinstance(error, sdk.ClientError) else error.__context__
        answer = getattr(cause, "response", {"ResponseMetadata": {}, "Error": {}})
        status = answer["ResponseMetadata"].get("HTTPStatusCode", 500)
        if status != ignore:
            raise _find_error(status, answer["Error"], str(cause)) from cause
    except sdk.ParamValidationError as error:
        raise ValueError(f"{error}: check MODELKIT_STORAGE_BUCKET") from error
    except (sdk.NoCredentialsError, sdk.ProfileNotFound) as error:
        hint = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_DEFAULT_PROFILE"
        raise ValueError(f"{error}; {hint}") from error
    except (*broken, sdk.FlexibleChecksumError) as error:
        raise ConnectionError(str(error)) from None  # whose request holds the token
    except sdk.BotoCoreError as error:
        raise OSError(str(error)) from error


def _find_error(status: int, answer: dict[str, str], text: str) -> Exception:
    code = answer.get("Code", "")
    if code == "NoSuchBucket":
        return ValueError(f"{text}: check MODELKIT_STORAGE_BUCKET")
    if code in ("ExpiredToken", "InvalidToken", "RequestTimeout"):  # which are 400s
        status = 408 if code == "RequestTimeout" else 403
    if code == "ConditionalRequestConflict":  # which is a 409
        status = 412
    return _ERRORS.get(status, ConnectionError if status >= 500 else OSError)(text)


class Driver:
    """An S3 bucket; what is not set is left to boto3: `~/.aws`, instance roles.

    Permissions: reading needs s3:GetObject, and s3:ListBucket (without which S3 refuses
    what does not exist); publishing also s3:PutObject and s3:AbortMultipartUpload. With
    AWS_KMS_KEY_ID, reading also kms:Decrypt, and publishing kms:GenerateDataKey.
    """

    package = "boto3"  # what pip installs
    variables = {  # and whether they are secret
        "AWS_ACCESS_KEY_ID": True,
        "AWS_SECRET_ACCESS_KEY": True,
        "AWS_SESSION_TOKEN": True,
        "AWS_DEFAULT_REGION": False,
        "AWS_DEFAULT_PROFILE": False,
        "S3_ENDPOINT": False,
        "AWS_KMS_KEY_ID": False,
    }

    def __init__(self, bucket: str, client: Any = None, **settings: Any) -> None:
        def get(name: str, alias: str = "") -> str | None:
            given = settings.get(name) or settings.get(alias)
            # without the line end of a file that it was read from
            return (given or os.environ.get(name.upper()) or "").strip() or None

        self.bucket, self._given = bucket, client
        self._readers: dict[int, _Reader] = {}  # by process
        key = get("aws_access_key_id")
        secret, token = get("aws_secret_access_key"), get("aws_session_token")
        region = get("aws_default_region", "region_name")
        endpoint = get("s3_endpoint", "endpoint_url")
        self._settings = (key, secret, token, region, endpoint)
        kms_key = get("aws_kms_key_id")
        encryption = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": kms_key}
        self._encryption = encryption if kms_key else {}
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
            if answer["ContentLength"] > _SMALL:
                raise OSError(errno.EFBIG, "it is too large to be read at once")
            return body.read(), answer["ETag"]

    def write_object(
        self, data: bytes, name: str, *, if_match: str | None = None
    ) -> str:
        """Write an object, if the condition holds, and return its new etag."""
        condition = {"IfMatch": if_match} if if_match else {"IfNoneMatch": "*"}
        try:
            return self._put(data, name, **({} if if_match is None else condition))
        except FileNotFoundError as error:
            if if_match:
                raise FileExistsError(f"{name!r} has gone") from error
            raise
        except FileExistsError as error:
            # after a retry, boto3 may have met what its own first attempt wrote
            metadata = vars(error.__cause__)["response"]["ResponseMetadata"]
            if metadata.get("RetryAttempts") and self.read_object(name)[0] == data:
                return self.read_object(name)[1]
            raise

    @_builtin_errors(ignore=416)  # what begins past the end has no bytes
    def download_object(
        self, name: str, sink: Any, start: int = 0, length: int | None = None
    ) -> None:
        """Write an object's bytes from start on to the sink."""
        end = "" if length is None else max(start + length - 1, 0)
        area = {"Range": f"bytes={start}-{end}"} if start or length is not None else {}
        if length != 0:
            with closing(self._get(name, **area)["Body"]) as body:
                for data in body.iter_chunks(_CHUNK):
                    sink.write(data)

    @_builtin_errors()
    def upload_object(self, path: str, name: str, advance: Any = None) -> None:
        """Upload a file, in parts where it is large."""
        from boto3.s3.transfer import TransferConfig

        if os.path.getsize(path) > _PART:
            parts = TransferConfig(_PART, max_concurrency=4, multipart_chunksize=_PART)
            arguments = (self._encryption, advance, parts)
            self.client.upload_file(path, self.bucket, name, *arguments)
        else:
            with open(path, "rb") as file:
                self._put(file, name)

    @_builtin_errors()
    def copy_object(self, source: str, name: str) -> None:
        """Copy an object within the store, of at most 5 GB."""
        origin = {"Bucket": self.bucket, "Key": source}
        self.client.copy_object(
            Bucket=self.bucket, Key=name, CopySource=origin, **self._encryption
        )

    def iterate_objects(self, prefix: str) -> Iterator[str]:
        """Yield the names below a prefix, page by page."""
        below = prefix.rstrip("/") + "/" if prefix else ""
        with _builtin_errors():
            pages = self.client.get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self.bucket, Prefix=below):
                yield from (item["Key"] for item in page.get("Contents", ()))

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

    def _get(self, name: str, **headers: str) -> Any:
        """Return get_object's answer, or one of the same shape."""
        if self._given:  # which may have retries and headers of its own
            return self._given.get_object(Bucket=self.bucket, Key=name, **headers)
        return self._reader.get_object(self.bucket, name, headers)

    @_builtin_errors()
    def _put(self, body: Any, name: str, **condition: Any) -> str:
        arguments = {"Body": body, **self._encryption, **condition}
        return str(
            self.client.put_object(Bucket=self.bucket, Key=name, **arguments)["ETag"]
        )


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

    def get_object(self, bucket: str, name: str, headers: dict[str, str]) -> Any:
        """Return a dict with Body, ContentLength and ETag."""
        answer = self._send(name, headers) if self._base else None
        if not answer:
            answer = self.client.get_object(Bucket=bucket, Key=name, **headers)
            seen, path = self._seen, _quote(name)
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

    def _send(self, name: str, headers: dict[str, str]) -> Any:
        """Answer as the SDK; None where the SDK itself must see to it."""
        from botocore.awsrequest import AWSRequest
        from botocore.exceptions import ClientError
        from botocore.response import StreamingBody

        url = self._base + _quote(name)
        first, signer = self._model
        headers = {"User-Agent": first.headers["User-Agent"], **headers}
        request = AWSRequest("GET", url, headers, stream_output=True)
        request.context.update(first.context)
        signer.sign("GetObject", request)
        answer = self.client._endpoint.http_session.send(request.prepare())
        status, size = answer.status_code, answer.headers.get("Content-Length")
        if status < 300 and size:
            body, etag = StreamingBody(answer.raw, size), answer.headers.get("ETag", "")
            return {"Body": body, "ContentLength": int(size), "ETag": etag}
        with closing(answer.raw) as raw:
            text = raw.read(_CHUNK).decode(errors="replace")
            found = dict(re.findall("<(Code|Message)>([^<]*)<", text))
        if status <= 400:  # what may belong to another region, among others
            return None
        metadata = {"ResponseMetadata": {"HTTPStatusCode": status}}
        raise ClientError({"Error": {"Code": status, **found}, **metadata}, "GetObject")


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
