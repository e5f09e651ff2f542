"""The model server for what nginx cannot play: a stream of events, a sink of large bodies, and answers that hang.

GET /events?count=N&every_ms=M   N server-sent events, one chunk each, each with the monotonic clock at its writing
POST /upload                     reads the body to its end, then answers
anything else                    reads the body, answers after --hang seconds

Runs by itself (no import from the project), on uvloop, reading into one shared buffer so that a 1 MiB body costs few calls.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import time
from typing import cast

import uvloop

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)
_TARGET = re.compile(rb"[A-Z]+ (\S+) HTTP/1\.[01]\r\n")
_QUERY = re.compile(rb"[?&](\w+)=(\d+)")
_READ = bytearray(256 * 1024)
_READ_VIEW = memoryview(_READ)
_BODY = b'{"model_name":"slow","model_version":"2","outputs":[{"name":"label","shape":[1],"datatype":"INT64","data":[2]}]}'
_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(_BODY), _BODY)
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-store\r\ntransfer-encoding: chunked\r\n\r\n"
)
_TOKEN = "abcdefgh" * 8


class Slow(asyncio.BufferedProtocol):
    """One connection; requests come one after the other, never pipelined."""

    def __init__(self, hang_s: float) -> None:
        self.hang_s = hang_s
        self.transport: asyncio.Transport
        self.head = b""
        self.left = -1  # body bytes still to come; -1 while the head is read
        self.target = b""
        self.timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's are not subclasses

    def connection_lost(self, exc: Exception | None) -> None:
        if self.timer is not None:
            self.timer.cancel()

    def get_buffer(self, sizehint: int) -> memoryview:
        return _READ_VIEW

    def buffer_updated(self, nbytes: int) -> None:
        if self.left < 0:
            self.head += _READ[:nbytes]
            end = self.head.find(b"\r\n\r\n")
            if end < 0:
                return
            length = _LENGTH.search(self.head, 0, end + 2)
            target = _TARGET.match(self.head)
            if target is None or (length is None and not self.head.startswith(b"GET ")):
                self.transport.abort()  # only what our own clients and the proxies send is understood: a length, or no body
                return
            self.target = target[1]
            self.left = (int(length[1]) if length else 0) - (len(self.head) - end - 4)
            self.head = b""
        else:
            self.left -= nbytes
        if self.left <= 0:
            self.left = -1
            self.answer()

    def answer(self) -> None:
        if self.target.startswith(b"/events"):
            wanted = {name: int(value) for name, value in _QUERY.findall(self.target)}
            self.transport.write(_STREAM_HEAD)
            self.event(wanted[b"count"], wanted[b"every_ms"] / 1e3, asyncio.get_running_loop().time())
        elif self.target == b"/upload":
            self.transport.write(_ANSWER)
        else:
            self.timer = asyncio.get_running_loop().call_later(self.hang_s, self.transport.write, _ANSWER)

    def event(self, left: int, every_s: float, due: float) -> None:
        if left == 0:
            self.transport.write(b"0\r\n\r\n")
            return
        data = b'data: {"t":%d,"left":%d,"token":"%s"}\n\n' % (time.monotonic_ns(), left, _TOKEN.encode())
        self.transport.write(b"%x\r\n%s\r\n" % (len(data), data))
        due += every_s
        self.timer = asyncio.get_running_loop().call_at(due, self.event, left - 1, every_s, due)


async def serve(port: int, hang_s: float) -> None:
    server = await asyncio.get_running_loop().create_server(lambda: Slow(hang_s), "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--hang", type=float, default=5.0)
    arguments = parser.parse_args()
    uvloop.run(serve(arguments.port, arguments.hang))
