"""A client that sends at a fixed rate whatever comes back, and times each answer from the moment it was *meant* to be sent.

wrk sends the next request when an answer arrives, so a proxy that stalls is asked less and its stall is counted once
(coordinated omission). Here request i is due at start + i/rate; when no connection is free it waits, and the wait counts.
The clock is a timerfd, since event-loop timers and epoll timeouts are rounded to whole milliseconds. Standard library only,
one thread, no garbage collection while it runs. Prints one JSON document; with --log it also writes, per answered request,
three little-endian doubles: seconds sent, seconds answered (CLOCK_MONOTONIC), and which upstream answered (1 blue, 2 green).
"""

from __future__ import annotations

import argparse
import array
import ctypes
import gc
import json
import os
import re
import select
import socket
import struct
import sys
import time
from collections import deque
from pathlib import Path

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)
_VERSION = re.compile(rb'"model_version":"(\d)"')
_CLOCK_MONOTONIC = 1
_BODY = (
    b'{"id":"bench","inputs":[{"name":"input-0","shape":[1,24],"datatype":"FP64","data":['
    + b",".join(b"%.4f" % (i * 37 % 100 / 10 + 0.0625) for i in range(1, 25))
    + b']}],"outputs":[{"name":"label"},{"name":"probability"}]}'
)


def start_timer(interval_s: float) -> int:
    """A timerfd that becomes readable every `interval_s` seconds, timerfd_create(2)."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor: int = libc.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
    seconds, nanoseconds = divmod(round(interval_s * 1e9), 10**9)
    spec = struct.pack("@4q", seconds, nanoseconds, seconds, nanoseconds)
    if descriptor < 0 or libc.timerfd_settime(descriptor, 0, spec, None) != 0:
        raise OSError(ctypes.get_errno(), "timerfd")
    return descriptor


class Connection:
    """One kept-alive connection with at most one request under way."""

    __slots__ = ("due", "got", "need", "sent", "socket", "version")

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=5)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.due = 0.0
        self.sent = 0.0
        self.got = b""
        self.need = -1
        self.version = 0


class Pacer:
    """Sends `rate` requests a second for `seconds`, after `warmup` seconds that are not recorded."""

    def __init__(self, port: int, rate: float, seconds: float, warmup: float, connections: int, tag: str) -> None:
        self.port = port
        self.rate = rate
        self.total = int(rate * (seconds + warmup))
        self.unrecorded = int(rate * warmup)
        self.poll = select.epoll()
        self.by_descriptor: dict[int, Connection] = {}
        self.free: deque[Connection] = deque()
        for _ in range(connections):
            self.connect()
        self.waiting: deque[float] = deque()
        self.before = b"POST /v2/models/iris/infer HTTP/1.1\r\nhost: 127.0.0.1:%d\r\nx-user-id: u%s" % (port, tag.encode())
        self.after = b"\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(_BODY), _BODY)
        self.latencies = array.array("d")
        self.late = array.array("d")  # how long after its due time each request was written: waiting, and the pacer's own delay
        self.log = array.array("d")
        self.issued = self.sent = self.errors = self.answered = 0
        self.colours = [0, 0, 0]
        self.first_due = 0.0

    def connect(self) -> None:
        connection = Connection(self.port)
        self.by_descriptor[connection.socket.fileno()] = connection
        self.poll.register(connection.socket.fileno(), select.EPOLLIN)
        self.free.append(connection)

    def run(self, keep_log: bool) -> None:
        timer = start_timer(1 / self.rate)
        self.poll.register(timer, select.EPOLLIN)
        gc.disable()
        start = time.monotonic()
        self.first_due = start + self.unrecorded / self.rate
        end = start + self.total / self.rate + 2.0
        while (self.answered + self.errors < self.total) and time.monotonic() < end:
            for descriptor, _ in self.poll.poll(0.1):
                if descriptor == timer:
                    os.read(timer, 8)
                    self.issue(start)
                else:
                    self.receive(self.by_descriptor[descriptor], keep_log)
        gc.enable()
        self.count_unanswered()

    def issue(self, start: float) -> None:
        due = min(self.total, int((time.monotonic() - start) * self.rate) + 1)
        while self.issued < due:
            self.waiting.append(start + self.issued / self.rate)
            self.issued += 1
        while self.waiting and self.free:
            self.send(self.free.popleft(), self.waiting.popleft())

    def send(self, connection: Connection, due: float) -> None:
        self.sent += 1
        connection.due = due
        connection.sent = now = time.monotonic()
        if due >= self.first_due:
            self.late.append(now - due)
        try:
            connection.socket.send(b"%s%d\r\nx-sequence: %d%s" % (self.before, self.sent, self.sent, self.after))
        except OSError:
            self.fail(connection)

    def receive(self, connection: Connection, keep_log: bool) -> None:
        try:
            data = connection.socket.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.fail(connection)
            return
        connection.got += data
        if connection.need < 0:
            end = connection.got.find(b"\r\n\r\n")
            if end < 0:
                return
            length = _LENGTH.search(connection.got, 0, end + 2)
            if length is None or connection.got[9:12] != b"200":
                self.fail(connection)
                return
            connection.need = end + 4 + int(length[1])
        if len(connection.got) >= connection.need:
            self.finish(connection, keep_log)

    def finish(self, connection: Connection, keep_log: bool) -> None:
        now = time.monotonic()
        self.answered += 1
        version = _VERSION.search(connection.got)
        colour = int(version[1]) if version else 0
        self.colours[colour] += 1
        if connection.due >= self.first_due:
            self.latencies.append(now - connection.due)
        if keep_log:
            self.log.extend((connection.sent, now, colour))
        connection.got = b""
        connection.need = -1
        if self.waiting:
            self.send(connection, self.waiting.popleft())
        else:
            self.free.append(connection)

    def fail(self, connection: Connection) -> None:
        """Anything but a whole 200: counted, and the connection replaced by a new one."""
        self.errors += connection.sent > 0
        del self.by_descriptor[connection.socket.fileno()]
        self.poll.unregister(connection.socket.fileno())
        connection.socket.close()
        if connection in self.free:
            self.free.remove(connection)
        self.connect()

    def count_unanswered(self) -> None:
        """A request without an answer at the end took at least as long as it has waited until now."""
        now = time.monotonic()
        under_way = [c.due for c in self.by_descriptor.values() if c.sent and c not in self.free]
        for due in [*under_way, *self.waiting]:
            if due >= self.first_due:
                self.latencies.append(now - due)
        self.unanswered = len(under_way) + len(self.waiting)

    def report(self) -> dict[str, object]:
        latencies = sorted(self.latencies)
        late = sorted(self.late)

        def at(values: list[float], q: float) -> float:
            return values[min(len(values) - 1, int(q * len(values)))] * 1e6 if values else 0.0

        return {
            "requests": len(latencies),
            "errors": self.errors,
            "unanswered": self.unanswered,
            "blue": self.colours[1],
            "green": self.colours[2],
            "us": {
                "p50": at(latencies, 0.5),
                "p90": at(latencies, 0.9),
                "p99": at(latencies, 0.99),
                "p999": at(latencies, 0.999),
            },
            "max_us": at(latencies, 1.0),
            "late_us": {"p50": at(late, 0.5), "p99": at(late, 0.99)},
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--warmup", type=float, default=1.0)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--tag", default="p")
    parser.add_argument("--log", type=Path)
    arguments = parser.parse_args()
    pacer = Pacer(arguments.port, arguments.rate, arguments.seconds, arguments.warmup, arguments.connections, arguments.tag)
    pacer.run(arguments.log is not None)
    if arguments.log is not None:
        if sys.byteorder == "big":
            pacer.log.byteswap()
        arguments.log.write_bytes(pacer.log.tobytes())
    json.dump(pacer.report(), sys.stdout)


if __name__ == "__main__":
    main()
