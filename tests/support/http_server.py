"""Web servers and a proxy for the driver `http`: real ones, on loopback.

| class        | what runs                         | stands for                   |
|--------------|-----------------------------------|------------------------------|
| `PythonHttp` | `python -m http.server`           | servers without ranges       |
| `RcloneHttp` | `rclone serve http`               | servers without etags        |
| `FileServer` | threads of this process, HTTP/1.1 | nginx, a CDN: ranges, etags  |
| `Proxy`      | threads of this process           | what HTTP_PROXY leads to     |
"""

import hashlib
import http.client
import select
import socket
import subprocess
import sys
import threading
from base64 import b64encode
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

from servers import Server, _find_program
from stub_server import Answer, Request, _slice


class PythonHttp(Server):
    """Python's own server: HTTP/1.0, no ranges, no etags; folders are listed."""

    @property
    def root(self) -> Path:
        """The folder that it serves."""
        return self.folder / "root"

    @property
    def environ(self) -> dict[str, str]:
        return {"MODELKIT_STORAGE_BUCKET": self.endpoint}

    def _command(self) -> list[str]:
        self.root.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "http.server", str(self.port)]
        return [*command, "--bind", "127.0.0.1", "--directory", str(self.root)]


class RcloneHttp(PythonHttp):
    """Go's file server; a new file is seen at once, as no folder is remembered."""

    def _command(self) -> list[str]:
        self.root.mkdir(parents=True, exist_ok=True)
        command = [_find_program("rclone"), "serve", "http", str(self.root)]
        command += ["--dir-cache-time", "1ns", "--poll-interval", "0"]
        return [*command, "--addr", f"127.0.0.1:{self.port}"]


class FileServer:
    """A server of `files`, by name, while in its `with` block, which keeps connections.

    `requests` are all it was asked, and `connections` how many came. `script` is asked
    first: a function of a request that returns an `Answer`, or None for the file.
    `hung_up` is set when a client is gone before it has its answer.
    """

    def __init__(self, host="127.0.0.1", context=None):
        self.files, self.requests, self.connections = {}, [], 0
        self.script, self.hung_up = lambda request: None, threading.Event()
        self._host, self._context = host, context

    def __enter__(self):
        handler = type("Handler", (self.handler,), {"owner": self})
        make = _IPv6Server if self._host == "[::1]" else _ThreadingServer
        self._server = make((make.address, 0), handler)
        self._server.owner, self._server.context = self, self._context
        self.port = self._server.server_port
        scheme = "https" if self._context else "http"
        self.endpoint = f"{scheme}://{self._host}:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=[0.02])
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, request):
        """Return what a web server does."""
        name = unquote(request.path.partition("?")[0].lstrip("/"))
        answer = self.script(request)
        if answer or name not in self.files:
            return answer or Answer(404, b"<h1>not found</h1>")
        data = self.files[name]
        etag = f'"{hashlib.sha256(data).hexdigest()[:16]}"'
        if request.headers.get("if-match", etag) != etag:
            return Answer(412)
        status, part, headers = _slice(request, data)
        return Answer(status, part, {"ETag": etag, **headers})

    @property
    def handler(self):
        return _FileHandler


class _ThreadingServer(ThreadingHTTPServer):
    daemon_threads, block_on_close, request_queue_size = True, False, 128
    address = "127.0.0.1"

    def process_request_thread(self, request, address):
        self.owner.connections += 1
        if self.context:
            try:
                request = self.context.wrap_socket(request, server_side=True)
            except OSError:  # who does not trust us hangs up
                self.shutdown_request(request)
                return
        super().process_request_thread(request, address)

    def handle_error(self, request, address):
        """A client that hangs up in the middle is no news here."""


class _IPv6Server(_ThreadingServer):
    address, address_family = "::1", socket.AF_INET6


class _FileHandler(BaseHTTPRequestHandler):
    protocol_version, wbufsize = "HTTP/1.1", 1 << 16
    disable_nagle_algorithm = True

    def do_GET(self):
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, self.path, headers, b"")
        self.owner.requests.append(request)
        self.send_answer(self.owner.answer(request))

    do_HEAD = do_GET

    def send_answer(self, answer):
        """Send it as it is told to, a length that is not true included."""
        self.send_response(answer.status)
        headers = {name.lower(): value for name, value in answer.headers.items()}
        for name, value in {"content-length": len(answer.body), **headers}.items():
            if value is not None:
                self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            try:
                self.wfile.write(answer.body[: answer.cut])
            except OSError:
                self.owner.hung_up.set()
                raise
        self.close_connection |= answer.cut is not None

    def log_message(self, *_):
        pass


class Proxy(FileServer):
    """A proxy that every name leads to loopback through; it may want a password."""

    def __init__(self, password=None):
        super().__init__()
        self.password = password

    @property
    def handler(self):
        return _ProxyHandler


class _ProxyHandler(_FileHandler):
    def is_welcome(self):
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.owner.requests.append(Request(self.command, self.path, headers, b""))
        expected = self.owner.password
        token = "Basic " + b64encode(str(expected).encode()).decode()
        if expected and headers.get("proxy-authorization") != token:
            self.send_answer(Answer(407))
            return False
        return True

    def do_GET(self):
        if not self.is_welcome():
            return
        _, _, place, path = self.path.split("/", 3)
        connection = http.client.HTTPConnection("127.0.0.1", int(place.split(":")[1]))
        with suppress(OSError):
            connection.request(self.command, "/" + path, headers=dict(self.headers))
            answer = connection.getresponse()
            headers = {"content-length": answer.headers["Content-Length"]}
            headers.update(answer.getheaders())
            self.send_answer(Answer(answer.status, answer.read(), headers))
        connection.close()

    do_HEAD = do_GET

    def do_CONNECT(self):
        if not self.is_welcome():
            return
        port = int(self.path.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as there:
            self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            self.wfile.flush()
            ways = {there: self.connection, self.connection: there}
            with suppress(OSError):
                while ready := select.select(list(ways), [], [], 30)[0]:
                    for one in ready:
                        data = one.recv(1 << 16)
                        if not data:
                            raise OSError("it has ended")
                        ways[one].sendall(data)
        self.close_connection = True


def make_certificate(folder):
    """Make a certificate for `localhost` that nobody trusts; return it and its key."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "9"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    command += ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key
