"""A TCP proxy on loopback that makes each round trip longer, and nothing else slower.

    python delay.py --port 9001 --to 9000 --milliseconds 20

Bytes wait for half of that in each direction; how many are under way is not limited
(but by memory). Opening a connection takes no longer.
"""

import argparse
import asyncio
import contextlib
import sys
from collections import deque

MOST_WAITING = 64 << 20  # bytes of one direction; far more than 20 ms of loopback


class Direction(asyncio.Protocol):
    """Reads from one side, and writes to the other side later."""

    def __init__(self, delay_s):
        self.delay_s, self.loop = delay_s, asyncio.get_running_loop()
        self.waiting, self.size = deque(), 0
        self.source = self.target = None

    def connection_made(self, transport):
        self.source = transport

    def data_received(self, data):
        self._append(data)
        if self.size > MOST_WAITING:
            self.source.pause_reading()

    def eof_received(self):
        self._append(None)
        return True  # the other direction goes on

    def connection_lost(self, error):
        self._append(error or True)

    def _append(self, item):
        self.waiting.append((self.loop.time() + self.delay_s, item))
        self.size += len(item) if isinstance(item, bytes) else 0
        if len(self.waiting) == 1:
            self.loop.call_later(self.delay_s, self._send)

    def _send(self):
        """Write what has waited for long enough, in order."""
        while self.waiting and self.waiting[0][0] <= self.loop.time() + 0.0005:
            _, item = self.waiting.popleft()
            self.size -= len(item) if isinstance(item, bytes) else 0
            self._hand_over(item)
        if self.waiting:
            self.loop.call_at(self.waiting[0][0], self._send)
        if self.size <= MOST_WAITING and not self.source.is_closing():
            self.source.resume_reading()

    def _hand_over(self, item):
        if self.target is None or self.target.is_closing():
            return
        if isinstance(item, bytes):
            self.target.write(item)
        elif item is None and self.target.can_write_eof():
            self.target.write_eof()
        elif item is True:
            self.target.close()
        elif item is not None:
            self.target.abort()


class Client(Direction):
    """What a client sends; the connection to the server is opened for it."""

    def __init__(self, delay_s, port):
        super().__init__(delay_s)
        self.port = port

    def connection_made(self, transport):
        super().connection_made(transport)
        transport.pause_reading()
        self.opening = self.loop.create_task(self._open())

    async def _open(self):
        back = Direction(self.delay_s)
        back.target = self.source
        try:
            self.target, _ = await self.loop.create_connection(
                lambda: back, "127.0.0.1", self.port
            )
        except OSError:
            self.source.abort()
        else:
            self.source.resume_reading()


async def serve(options):
    loop = asyncio.get_running_loop()
    delay_s = options.milliseconds / 2000
    server = await loop.create_server(
        lambda: Client(delay_s, options.to), "127.0.0.1", options.port, backlog=1024
    )
    async with server:
        await server.serve_forever()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--to", type=int, required=True)
    parser.add_argument("--milliseconds", type=float, default=20)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
