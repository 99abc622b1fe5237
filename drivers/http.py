# SPDX-License-Identifier: MIT
# modelkit-assets 0.1.0, https://pypi.org/project/modelkit-assets/
"""A store that is only read, over HTTP(S), with the standard library alone."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from math import inf
from typing import Any, NoReturn, Optional

_CHUNK = 1 << 18  # bytes yielded at a time
_SMALL = 64 << 20  # what is larger is not read at once
_MOST_REDIRECTS = 5
# encodings that are none; some S3-like stores keep the one that an upload came in
_AS_STORED = ("", "identity", "aws-chunked")
_VARIABLE = "MODELKIT_HTTP_AUTHORIZATION"
# its scheme, host, port and the rest; what is before an @ fits nowhere
_URL = r"(https?)://(\[[\da-f:.]+\]|[^][/?#@:\s\\]+)(?::(\d{1,5}))?([/?].*)?"
_Etag = Optional[str]
_Length = Optional[int]
_Origin = tuple[str, str, int]  # scheme, host and port
_ERRORS: dict[Any, Any] = dict.fromkeys((408, 429, *range(500, 600)), ConnectionError)
_ERRORS.update(dict.fromkeys((401, 403, 407), PermissionError))
_ERRORS.update({404: FileNotFoundError, 410: FileNotFoundError})
_ERRORS.update({412: FileExistsError, 501: NotImplementedError})


@contextmanager
def _builtin_errors(kind: Any = ConnectionError, at: str = "") -> Iterator[None]:
    """Raise the contract's built-in exceptions in place of the network's."""
    from http.client import HTTPException

    try:
        yield
    except (OSError, HTTPException) as error:
        text = str(error) or type(error).__name__
        if refusal := re.match(r"Tunnel connection failed: (\d+)", text):
            raise _ERRORS.get(int(refusal[1]), OSError)(f"the proxy: {text}") from error
        if isinstance(error, ValueError):  # a certificate's verification is one
            text += ": SSL_CERT_FILE may name other authorities to trust"
            raise ValueError(text) from error
        if "WRONG_VERSION" in text or "RECORD_LAYER_FAILURE" in text:
            raise ValueError(f"no TLS is spoken there: {text}") from error
        raise kind(at + text) from error


def _refuse(*_: Any, **__: Any) -> NoReturn:
    """Refuse to write, and to list, for which HTTP has no request."""
    text = "an http store is only read: list it, and publish, where its files are kept"
    raise NotImplementedError(text)


class Driver:
    """What a server has below a base URL, which is called the bucket here.

    An etag is the server's own; where it gives none, an object's date and size. A
    server that ignores ranges sends each object from its beginning, whatever is needed.
    client: an ssl.SSLContext in place of the machine's own.

    Permissions: reading needs GET, and HEAD where modelkit published; there must be 404
    for what is absent, as S3 says without s3:ListBucket is 403. Publishing: elsewhere.
    """

    package = ""  # what pip installs
    variables = {_VARIABLE: ("authorization", True)}  # its keyword; is it secret
    workers = 16  # transfers at once that suit it
    timeout_s = 30.0  # without a byte, after which a request fails; the core sets it

    def __init__(self, bucket: str, client: Any = None, **settings: str) -> None:
        self.bucket, self._context = bucket.rstrip("/"), client
        self._authorization = settings.get("authorization", "")
        # connections that wait for a request, by process and origin
        self._idle: dict[tuple[int, _Origin], list[Any]] = {}
        try:
            self._origin, path = _split(bucket)
        except ValueError as error:
            text = f"MODELKIT_STORAGE_BUCKET must be a base URL: {error}"
            raise ValueError(f"{text}; what is secret goes into {_VARIABLE}") from None
        if "?" in path or "#" in bucket:
            raise ValueError("MODELKIT_STORAGE_BUCKET, a base URL, may have no ? or #")
        if re.search(r"[^\t\x20-\x7e]", self._authorization):
            raise ValueError(f"{_VARIABLE} holds what no header may, as a line end")

    def stat_object(self, name: str) -> tuple[int, str]:
        """Return an object's size in bytes and its etag."""
        answer = self._open(name, {}, "HEAD")
        self._give_back(answer)
        size = _get_size(answer)
        if size is None:
            raise OSError("the server does not tell its size")
        return size, _get_etag(answer, size)

    def read_object(self, name: str) -> tuple[bytes, str]:
        """Return a small object whole, and its etag."""
        answer = self._open(name, {})
        data = b"".join(self._read(answer, 0, None, _SMALL))
        return data, _get_etag(answer, len(data))

    write_object = _refuse

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
        if if_match and if_match[0] == '"':  # not a weak one, which never matches
            headers["If-Match"] = if_match
        answer = self._open(name, headers)
        if answer.status == 416:  # what begins past the end has no bytes
            self._give_back(answer)
            return
        etag = _get_etag(answer, _get_size(answer))
        if if_match and etag.strip('W/"') != if_match.strip('W/"'):
            self._give_back(answer)
            raise FileExistsError(f"{name!r} has changed")
        yield from self._read(answer, start, length, inf)

    upload_object = copy_object = iterate_objects = delete_object = _refuse

    def get_object_uri(self, name: str) -> str:
        """Return the object's URL, as people write it."""
        return f"{self.bucket}/{name}"

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_context": None, "_idle": {}}

    def _open(self, name: str, headers: dict[str, str], method: str = "GET") -> Any:
        """Return the answer that has an object's bytes, or 416 where they end."""
        from urllib.parse import quote  # which a cached fetch has no need of

        # of the base URL, what is encoded already stays as it is
        url = quote(self.bucket, "%/:@!$&'()*+,;=[]~") + f"/{quote(name, '/~')}"
        for _ in range(_MOST_REDIRECTS + 1):
            answer = self._send(method, url, headers)
            if answer.status in (200, 206):
                encoding = answer.headers.get("Content-Encoding", "").lower()
                if encoding not in _AS_STORED:
                    answer.connection.close()
                    text = f"it came compressed ({encoding}), for which nobody asked"
                    raise OSError(f"{text}: let the server send what it stores")
                return answer
            if answer.status == 416 and "Range" in headers:
                return answer
            self._give_back(answer)
            location = answer.headers.get("Location", "")
            if not (location and answer.status in (301, 302, 303, 307, 308)):
                kind = _ERRORS.get(answer.status, OSError)
                raise kind(f"{answer.status} {answer.reason}")
            url = _follow(url, location)
        raise OSError(f"it is redirected more than {_MOST_REDIRECTS} times")

    def _send(self, method: str, url: str, headers: dict[str, str]) -> Any:
        """Return the answer to a request, which has its connection."""
        origin, target = _split(url)
        connection = self._find_idle(origin) or self._connect(*origin)
        sent = {"Accept-Encoding": "identity", "User-Agent": "modelkit-assets"}
        sent.update({**headers, **connection.headers})
        if self._authorization and origin == self._origin:  # for nobody else to see
            sent["Authorization"] = self._authorization
        try:
            with _builtin_errors():
                connection.request(method, connection.base + target, headers=sent)
                answer: Any = connection.getresponse()
        except BaseException:
            connection.close()
            raise
        answer.connection = connection
        return answer

    def _read(
        self, answer: Any, start: int, length: _Length, most: float
    ) -> Iterator[bytes]:
        """Yield an answer's bytes, if they are those that were asked for."""
        came, size = 0, answer.length  # there is none where it comes in chunks
        begin, end = start, start + (length or inf)
        try:
            if answer.status == 206:
                area = answer.headers.get("Content-Range", "")
                found = re.fullmatch(rf"bytes {start}-\d+/(\d+)", area)
                total = int(found[1]) if found else 0
                begin, end = 0, min(length or inf, total - start)
                if end <= 0 or size not in (None, end):
                    raise ConnectionError(f"a range from {start} on came as {area!r}")
                size = end
            elif size is None and not answer.chunked:
                raise OSError("the server does not tell where it ends")
            while came < end and max(came, size or 0) <= most:
                with _builtin_errors():
                    data = answer.read1(min(_CHUNK, end - came))
                if not data:
                    break
                came += len(data)
                if came > begin:  # what is before comes where ranges are ignored
                    yield data[max(0, begin - came + len(data)) :]
            if max(came, size or 0) > most:
                raise OSError(errno.EFBIG, "it is too large to be read at once")
            if came < min(size or 0, end):
                raise ConnectionError(f"{came} bytes came, not {size}")
        finally:
            self._give_back(answer)

    def _give_back(self, answer: Any) -> None:
        """Keep an answer's connection for other requests, if all of it has come."""
        from http.client import HTTPException

        connection = answer.connection
        if answer.status >= 300 and (answer.length or inf) < _CHUNK:
            with suppress(OSError, HTTPException):  # the status has told enough
                answer.read()
        is_read = answer.isclosed() or answer.length == 0
        answer.close()
        if is_read and connection.sock:
            owner = (os.getpid(), connection.origin)
            self._idle.setdefault(owner, []).append(connection)
        else:
            connection.close()

    def _find_idle(self, origin: _Origin) -> Any:
        """Return a connection that the server has not closed, if there is one."""
        idle = self._idle.get((os.getpid(), origin), [])
        with suppress(IndexError):  # when there is none, or another thread was faster
            while True:
                connection = idle.pop()
                if _is_silent(connection.sock):
                    connection.sock.settimeout(self.timeout_s)
                    return connection
                connection.close()
        return None

    def _connect(self, scheme: str, host: str, port: int) -> Any:
        """Return a new connection, with what its requests begin with and hold."""
        from http.client import HTTPConnection, HTTPSConnection

        (via, headers), timeout_s = _find_proxy(scheme, host, port), self.timeout_s
        how: dict[str, Any] = {"timeout": min(5, timeout_s)}
        make: Any = HTTPConnection
        if scheme == "https":
            import ssl  # 20 ms, with the authorities

            make = HTTPSConnection
            self._context = self._context or ssl.create_default_context()
            how["context"] = self._context
        at, port_there = via or (host, port)
        connection = make(at.strip("[]"), port_there, **how)  # those of IPv6
        connection.base, connection.headers = "", {}
        connection.origin = (scheme, host, port)
        if via and scheme == "https":
            connection.set_tunnel(host, port, headers)
        elif via:
            connection.base, connection.headers = f"http://{host}:{port}", headers
        with _builtin_errors(ConnectionRefusedError, f"{at}:{port_there}: "):
            connection.connect()
        connection.sock.settimeout(timeout_s)
        return connection


def _is_silent(sock: Any) -> bool:
    """Tell whether nothing comes, neither the end nor what nobody asked for."""
    sock.settimeout(0)
    try:
        sock.recv(1)
    except OSError as error:
        return type(error).__name__ in ("BlockingIOError", "SSLWantReadError")
    return False


def _split(url: str) -> tuple[_Origin, str]:
    """Return a URL's origin, and what it asks for there."""
    found = re.fullmatch(_URL, url.partition("#")[0], re.I | re.S)
    if not found or int(found[3] or 0) > 65535:  # not shown: it may hold a password
        raise ValueError("it is not like http(s)://HOST[:PORT][/PATH]")
    scheme, host, port, rest = found.groups("")
    default = 443 if scheme.lower() == "https" else 80
    target = rest if rest.startswith("/") else f"/{rest}"
    return (scheme.lower(), host.lower(), int(port or default)), target


def _follow(url: str, location: str) -> str:
    """Return where a redirect leads to, if that is as safe as where it comes from."""
    from urllib.parse import quote, urljoin

    place, path = _split(url)
    try:  # http.client takes what a header holds for latin-1
        target = urljoin(url, quote(location, "%/:@!$&'()*+,;=[]~?#", "latin-1"))
        (scheme, _, _), new_path = _split(target)
    except ValueError:
        raise OSError("it is redirected to what is no URL of HTTP") from None
    if new_path == path + "/":  # so servers answer where there is a folder
        raise FileNotFoundError("it is a folder")
    if (place[0], scheme) == ("https", "http"):
        raise OSError("it is redirected from https to http, which is not followed")
    return target


def _find_proxy(scheme: str, host: str, port: int) -> tuple[Any, dict[str, str]]:
    """Return a proxy's host and port, None without one, and the header it expects."""
    from base64 import b64encode
    from urllib.parse import unquote
    from urllib.request import getproxies, proxy_bypass

    proxy = getproxies().get(scheme, "")
    if not proxy or proxy_bypass(f"{host}:{port}"):
        return None, {}
    kind, _, rest = proxy.rpartition("://")
    user, _, place = rest.rpartition("@")
    try:
        (_, *via), _ = _split(f"http://{place}")
        if kind.lower() not in ("", "http"):
            raise ValueError
    except ValueError:  # which shows no password
        raise ValueError(f"{scheme.upper()}_PROXY must be http://HOST:PORT") from None
    token = b64encode(unquote(user).encode()).decode()
    return via, {"Proxy-Authorization": f"Basic {token}"} if user else {}


def _get_size(answer: Any) -> int | None:
    """Return the size of the whole object, where an answer tells it."""
    text = answer.headers.get("Content-Length", "")
    if answer.status == 206:
        text = answer.headers.get("Content-Range", "").rpartition("/")[2]
    return int(text) if re.fullmatch("[0-9]+", text) else None


def _get_etag(answer: Any, size: int | None) -> str:
    """Return the server's own etag, else what shows that an object has changed."""
    return answer.headers.get("ETag") or f"{answer.headers.get('Last-Modified')} {size}"
