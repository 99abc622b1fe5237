"""Commands run as a script or a user runs them, and what they print."""

import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time

from places import CORE

import modelkit_assets as ma

# no site packages, no environment, no current folder: what a bare Python has
BARE = [sys.executable, "-I", "-S", str(CORE)]


# root may read and write all, unless it gives that up
_GIVE_UP = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]


MORTAL = [*(_GIVE_UP if os.geteuid() == 0 else []), *BARE]


def run(*args, command=BARE, **settings):
    return subprocess.run(
        [*command, *map(str, args)],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, **settings,
    )  # fmt: skip


def ok(*args, **settings):
    done = run(*args, **settings)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


def fails(code, *args, **settings):
    """Run a command that must fail with one line, and return that."""
    done = run(*args, **settings)
    assert done.returncode == code, done
    assert done.stdout == ""
    assert done.stderr.startswith("modelkit_assets: error: ")
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


COMMANDS = ["new", "update", "list", "fetch", "resolve", "info", "verify", "remove"]
COMMANDS += ["prune", "doctor"]


def answer(text, *args):
    """Run a command on a terminal, and answer its question."""
    mine, theirs = pty.openpty()
    os.write(mine, text.encode())
    done = subprocess.run(
        [*BARE, *map(str, args)], stdin=theirs, capture_output=True, text=True
    )
    os.close(mine)
    os.close(theirs)
    return done


def publish_as_modelkit(store, source):
    ma.StorageProvider().new(source, "x")
    meta = "modelkit-assets/x/0.0.meta"
    manifest = json.loads(store.read_object(meta))
    del manifest["files"]
    store.write_object(meta, json.dumps(manifest).encode())


class Terminal:
    """A process on a pseudo-terminal, and the bytes that it wrote, each with its time.

    both   its stdout is the terminal, too; else that is a pipe
    """

    def __init__(self, command, columns=80, both=False, **settings):
        self.mine, theirs = pty.openpty()
        self.size, self.written = (24, columns), []
        self.resize(columns)
        streams = {"stdout": theirs if both else subprocess.PIPE, "stderr": theirs}
        self.process = subprocess.Popen(
            list(map(str, command)),
            **{"stdin": theirs, **streams, **settings},
            start_new_session=True,
            # which a shell that runs the tests in the background has switched off
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        os.close(theirs)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        os.close(self.mine)
        if self.process.stdout:
            self.process.stdout.close()

    def resize(self, columns):
        size = struct.pack("HHHH", 24, columns, 0, 0)
        fcntl.ioctl(self.mine, termios.TIOCSWINSZ, size)

    @property
    def text(self):
        return b"".join(data for _, data in self.written)

    def read(self, is_enough=lambda text: False):
        """Read until that is so, or the process has closed the terminal."""
        deadline = time.monotonic() + 60
        while not is_enough(self.text):
            assert time.monotonic() < deadline, self.text
            if select.select([self.mine], [], [], 0.1)[0]:
                try:
                    data = os.read(self.mine, 1 << 16)
                except OSError:  # Linux's way to say that nobody writes to it any more
                    data = b""
                if not data:
                    break
                self.written.append((time.monotonic(), data))
        return self.text

    def end(self):
        """Read all; return the exit code and what came by the pipe."""
        self.read()
        printed = self.process.stdout.read().decode() if self.process.stdout else ""
        return self.process.wait(60), printed
