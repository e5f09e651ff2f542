"""Read many event streams at once and time each event from its writing at the server to its arrival here.

Server and client run on one machine and read the same monotonic clock, so the difference is the delay of that one event. The
streams are opened spread over one interval, so that events do not all come in the same instant. Prints one JSON document.
"""

from __future__ import annotations

import argparse
import array
import gc
import json
import re
import select
import socket
import sys
import time

_SENT = re.compile(rb'data: \{"t":(\d+),[^}]*\}\n\n')


def read_streams(port: int, streams: int, count: int, every_ms: int) -> dict[str, object]:
    """Open the streams, read each to its end, and give the delays' quantiles in microseconds."""
    poll = select.epoll()
    buffers: dict[int, bytes] = {}
    sockets: dict[int, socket.socket] = {}
    delays = array.array("d")
    gc.disable()
    for number in range(streams):
        one = socket.create_connection(("127.0.0.1", port), timeout=5)
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        one.sendall(
            b"GET /events?count=%d&every_ms=%d HTTP/1.1\r\nhost: 127.0.0.1:%d\r\n" % (count, every_ms, port)
            + b"accept: text/event-stream\r\nx-user-id: u%d\r\n\r\n" % number
        )
        sockets[one.fileno()] = one
        buffers[one.fileno()] = b""
        poll.register(one.fileno(), select.EPOLLIN)
        read_ready(poll, sockets, buffers, delays, every_ms / streams / 1e3)
    end = time.monotonic() + count * every_ms / 1e3 + 5.0
    while sockets and time.monotonic() < end:
        read_ready(poll, sockets, buffers, delays, 0.1)
    for one in sockets.values():
        one.close()
    ordered = sorted(delays)
    if not ordered:
        return {"events": 0, "expected": streams * count, "us": {}}
    return {
        "events": len(ordered),
        "expected": streams * count,
        "us": {name: ordered[min(len(ordered) - 1, int(q * len(ordered)))] / 1e3 for name, q in (("p50", 0.5), ("p99", 0.99))},
    }


def read_ready(
    poll: select.epoll, sockets: dict[int, socket.socket], buffers: dict[int, bytes], delays: array.array[float], wait_s: float
) -> None:
    """Take what has arrived within `wait_s` seconds."""
    for descriptor, _ in poll.poll(wait_s):
        data = sockets[descriptor].recv(65536)
        now = time.monotonic_ns()
        got = buffers[descriptor] + data
        used = 0
        for match in _SENT.finditer(got):
            delays.append(now - int(match[1]))
            used = match.end()
        buffers[descriptor] = got = got[used:]
        if not data or got.endswith(b"\r\n0\r\n\r\n"):
            poll.unregister(descriptor)
            sockets.pop(descriptor).close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--streams", type=int, default=20)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--every-ms", type=int, default=20)
    arguments = parser.parse_args()
    json.dump(read_streams(arguments.port, arguments.streams, arguments.count, arguments.every_ms), sys.stdout)
