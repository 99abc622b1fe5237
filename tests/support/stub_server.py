"""A store that answers what it is told to, on loopback, and keeps what it was asked.

    with StubServer() as stub:
        stub.script = in_turn(Answer(503), Answer(200, b"data"))

A script is a function of a request that returns an `Answer`, or `RESET` or `SILENCE`.
`forward` makes the stub a proxy of a real server, and `Faulty` one that breaks some of
the requests.
`S3`, `GCS` and `AZURE` are the protocols: what a store of each kind says on success
and on failure, and the settings that lead its SDK to the stub.
"""

import http.client
import itertools
import json
import os
import re
import socket
import struct
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple, Optional
from urllib.parse import unquote, urlsplit

RESET = "the connection is reset"
SILENCE = "nothing, until the client gives up"
TRICKLE = "a byte at a time"
DRIP = "headers, a byte at a time"
CLOSED = "the connection is closed, which nobody has said before"
WELL, BADLY = "in chunks", "in chunks, whose sizes are no numbers"


class Request(NamedTuple):
    """What a client sent; names of headers are in lower case."""

    method: str
    path: str
    headers: dict
    body: bytes
    sender: tuple = ()  # the connection's other end

    @property
    def range(self) -> Optional[str]:
        return self.headers.get("x-ms-range", self.headers.get("range"))

    @property
    def is_write(self) -> bool:
        return self.method in ("PUT", "POST")

    @property
    def target(self) -> str:
        """The path and, where GCS is to create an object, its name in the body."""
        path = unquote(self.path.partition("?")[0])
        named = re.search(rb'"name": *"([^"]*)"', self.body[:1000])
        return f"{path}/{named[1].decode()}" if named and self.is_write else path


class Answer(NamedTuple):
    """What the server sends; `cut` is how many bytes of the body come in truth.

    After that the connection is closed, or what `ending` says. With `chunks` it comes
    in such, WELL or BADLY, and its length is not told.
    """

    status: int
    body: bytes = b""
    headers: dict = {}  # noqa: RUF012 - never changed
    cut: Optional[int] = None
    ending: Optional[str] = None
    chunks: Optional[str] = None


def in_turn(*answers):
    """Return a script that gives these answers in order, the last one from then on."""
    left = list(answers)
    return lambda request: left.pop(0) if len(left) > 1 else left[0]


def forward(endpoint):
    """Return a script that lets each request through to a real server."""
    address = urlsplit(endpoint).netloc

    def script(request):
        connection = http.client.HTTPConnection(address, timeout=60)
        try:
            headers = {**request.headers, "connection": "close"}
            connection.request(request.method, request.path, request.body, headers)
            answer = connection.getresponse()
            headers = dict(answer.getheaders())
            return Answer(answer.status, answer.read(), headers)
        finally:
            connection.close()

    return script


class Faulty:
    """A script that is another one, but for a fault of those requests it is to choose.

    A fault is a function of a request and the script; `hits` are the requests it met.
    """

    def __init__(self, script, fault, choose):
        self.hits, self._script = [], script
        self._fault, self._choose, self._choosing = fault, choose, threading.Lock()

    def __call__(self, request):
        with self._choosing:
            is_chosen = self._choose(request)
            self.hits += [request] * is_chosen
        return (self._fault if is_chosen else call)(request, self._script)


def call(request, script):
    """No fault."""
    return script(request)


def reset(request, script):
    return RESET


def lose_answer(request, script):
    """Let the server do it, and then reset the connection."""
    script(request)
    return RESET


def delay_answer(request, script):
    """Let the server do it, and then say nothing until the client gives up."""
    script(request)
    return SILENCE


def cut_answer(request, script):
    """Let half of the body through, and then close the connection."""
    answer = script(request)
    return answer._replace(cut=len(answer.body) // 2) if answer.body else answer


def flip_answer(request, script):
    """Change a bit in the middle of the body."""
    answer = script(request)
    return answer._replace(body=_flip(answer.body))


def flip_request(request, script):
    """Change a bit in the middle of what is sent."""
    return script(request._replace(body=_flip(request.body)))


def _flip(data):
    middle = len(data) // 2
    return (
        data[:middle]
        + bytes(b ^ 1 for b in data[middle : middle + 1])
        + (data[middle + 1 :])
    )


def reply(answer):
    """Return a fault: this answer, and the server is not asked."""
    return lambda request, script: answer


def nth(number, is_meant=lambda request: True):
    """Return a function that chooses that one of the requests that are meant."""
    count = itertools.count(1)
    return lambda request: is_meant(request) and next(count) == number


class StubServer:
    """A server in threads of this process, while in its `with` block.

    `requests` are all it was asked, in order; `endpoint` is its URL; `hung_up` is set
    when a client is gone before it has its answer. A connection serves one request,
    unless `keeps_alive`. With a `tls_context` it speaks TLS.
    """

    keeps_alive = False

    def __init__(self, tls_context=None):
        self._tls = tls_context
        self.requests, self.script = [], in_turn(Answer(404))
        self.hung_up = threading.Event()

    @property
    def methods(self):
        return [request.method for request in self.requests]

    def __enter__(self):
        handler = type("Handler", (_Handler,), {"stub": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        scheme = "https" if self._tls else "http"
        if self._tls:
            listening = self._server.socket
            self._server.socket = self._tls.wrap_socket(listening, server_side=True)
        self.endpoint = f"{scheme}://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=[0.02])
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads, block_on_close = True, False  # some wait for a client to give up
    request_queue_size = 128

    def handle_error(self, request, client_address):
        """A client that hangs up in the middle is no news here."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # which has `100 Continue`, that boto3 waits for

    def handle_one_request(self):
        self.raw_requestline = self.rfile.readline(1 << 16)
        self.close_connection = True
        if self.raw_requestline and self.parse_request():
            self._answer(self._read_request())

    def _read_request(self):
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = self.rfile.read(int(headers.get("content-length", 0)))
        request = Request(self.command, self.path, headers, body, self.client_address)
        self.stub.requests.append(request)
        return request

    def _answer(self, request):
        answer = self.stub.script(request)
        if isinstance(answer, Answer):
            self._send(answer, has_body=request.method != "HEAD")
            answer = answer.ending
            self.close_connection = bool(answer) or not self.stub.keeps_alive
        if answer is RESET:
            linger = struct.pack("ii", 1, 0)  # closing then sends RST
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            os.close(self.connection.detach())
        elif answer is SILENCE:
            self.rfile.read(1)  # comes back when the client hangs up

    def _send(self, answer, has_body):
        body = answer.body
        if answer.chunks:
            size = b"%x" % len(body) if answer.chunks is WELL else b"no number"
            body = b"%b\r\n%b\r\n" % (size, body) if body else b""
            body += b"0\r\n\r\n"
        hop_by_hop = ("connection", "transfer-encoding", "keep-alive", "server", "date")
        self.send_response(answer.status)
        headers = {name.lower(): value for name, value in answer.headers.items()}
        length = {} if answer.chunks else {"content-length": len(body)}
        for name, value in {**length, **headers}.items():
            if name not in hop_by_hop:
                self.send_header(name, str(value))
        if answer.chunks:
            self.send_header("Transfer-Encoding", "chunked")
        if not self.stub.keeps_alive:
            self.send_header("Connection", "close")
        if answer.ending is DRIP:
            self.send_header("X-Filler", "x" * 3000)  # a minute of it
            body, self._headers_buffer = b"".join(self._headers_buffer) + body, []
            has_body = True
        else:
            self.end_headers()
        try:
            body = body[: answer.cut] if has_body else b""
            while answer.ending in (TRICKLE, DRIP) and body:
                self.wfile.write(body[:1])
                body = body[1:]
                time.sleep(0.02)
            self.wfile.write(body)
        except OSError:
            self.stub.hung_up.set()
            raise

    def log_message(self, *_):
        pass


# ------------------------------------------------------------------- protocols


def _slice(request, data):
    """Return status, the bytes asked for, and the headers that say which they are."""
    found = re.fullmatch(r"bytes=(\d+)-(\d*)", request.range or "")
    if not found:
        return 200, data, {}
    start, end = int(found[1]), int(found[2] or len(data))
    if start >= len(data):
        return 416, b"", {}
    part = data[start : end + 1]
    area = f"bytes {start}-{start + len(part) - 1}/{len(data)}"
    return 206, part, {"Content-Range": area}


class S3:
    provider, sdk, package = "s3", "boto3", "boto3"
    secrets = ("S3CR3T-KEY", "S3CR3T-T0KEN")
    missing_bucket = (404, "NoSuchBucket")
    slow_down = (503, "SlowDown")

    @staticmethod
    def environ(endpoint):
        return {
            "S3_ENDPOINT": endpoint,
            "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
            "AWS_SECRET_ACCESS_KEY": S3.secrets[0],
            "AWS_SESSION_TOKEN": S3.secrets[1],
            "AWS_DEFAULT_REGION": "eu-west-3",
            "AWS_MAX_ATTEMPTS": "1",
            **S3.bare_environ(),
        }

    @staticmethod
    def bare_environ():
        """Keep the machine's own profiles and roles out."""
        return {
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    @staticmethod
    def fail(status, code=""):
        text = f"<Error><Code>{code or 'Some'}</Code><Message>no</Message></Error>"
        return Answer(status, text.encode(), {"Content-Type": "application/xml"})

    @staticmethod
    def show(request, data):
        status, part, headers = _slice(request, data)
        return Answer(status, part, {"ETag": '"e1"', **headers})

    @staticmethod
    def accept(request):
        return Answer(200, b"", {"ETag": '"e2"'})


class GCS:
    provider, sdk, package = "gcs", "google.cloud.storage", "google-cloud-storage"
    json = "application/json"
    secrets = ("S3CR3T-T0KEN", "S3CR3T-REFRESH")
    missing_bucket = (404, "The specified bucket does not exist.")
    slow_down = (503, "backendError")

    @staticmethod
    def environ(endpoint):
        return {"STORAGE_EMULATOR_HOST": endpoint}

    @staticmethod
    def bare_environ():
        """Keep the machine's own credentials out."""
        return {"CLOUDSDK_CONFIG": os.devnull, "NO_GCE_CHECK": "true"}

    @staticmethod
    def fail(status, code=""):
        error = {"code": status, "message": code or "no", "errors": []}
        body = json.dumps({"error": error}).encode()
        return Answer(status, body, {"Content-Type": GCS.json})

    @staticmethod
    def show(request, data):
        if "alt=media" in request.path:
            status, part, headers = _slice(request, data)
            return Answer(status, part, {"x-goog-generation": "1", **headers})
        about = {"name": "n", "size": str(len(data)), "generation": "1"}
        return Answer(200, json.dumps(about).encode())

    @staticmethod
    def accept(request):
        return Answer(200, json.dumps({"name": "n", "generation": "2"}).encode())


def give_tokens(script):
    """Return a script that is Google's token server, and another script otherwise."""
    token = {"access_token": GCS.secrets[0], "expires_in": 3600}
    token["token_type"] = "Bearer"
    token["issued_token_type"] = "urn:ietf:params:oauth:token-type:access_token"
    answer = Answer(200, json.dumps(token).encode(), {"Content-Type": GCS.json})
    return lambda request: answer if request.path == "/token" else script(request)


def make_service_account(endpoint):
    """Make a service account's JSON, with a new key; its tokens come from there."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    about = {"type": "service_account", "private_key": pem.decode()}
    about.update(project_id="p", private_key_id="k", client_email="robot@example.com")
    return {**about, "token_uri": endpoint + "/token"}


class AZURE:
    provider, sdk, package = "az", "azure.storage.blob", "azure-storage-blob"
    secrets = ("UzNDUjNULUtFWQ==", "S3CR3T-SIGNATURE")
    missing_bucket = (404, "ContainerNotFound")
    slow_down = (503, "ServerBusy")

    @staticmethod
    def environ(endpoint):
        text = f"AccountName=account;AccountKey={AZURE.secrets[0]};"
        text += f"BlobEndpoint={endpoint}/account"
        return {"AZURE_STORAGE_CONNECTION_STRING": text}

    @staticmethod
    def bare_environ():
        return {}

    @staticmethod
    def fail(status, code=""):
        text = f"<Error><Code>{code}</Code><Message>no</Message></Error>"
        headers = {"x-ms-error-code": code} if code else {}
        headers["Content-Type"] = "application/xml"
        return Answer(status, text.encode(), headers)

    @staticmethod
    def show(request, data):
        status, part, headers = _slice(request, data)
        return Answer(status, part, {**AZURE._about(), **headers})

    @staticmethod
    def accept(request):
        return Answer(201, b"", AZURE._about())

    @staticmethod
    def _about():
        date = "Sat, 21 Nov 2026 12:00:00 GMT"
        return {"ETag": '"0x1"', "Last-Modified": date, "x-ms-blob-type": "BlockBlob"}


PROTOCOLS = (S3, GCS, AZURE)


def is_list(request):
    path = request.path
    is_gcs = "/o?" in path and "alt=media" not in path
    return request.method == "GET" and (
        "list-type=" in path or "comp=list" in path or is_gcs
    )


def is_read(request):
    return request.method == "GET" and not is_list(request)


def is_write(request):
    return request.is_write


def is_delete(request):
    return request.method == "DELETE"
