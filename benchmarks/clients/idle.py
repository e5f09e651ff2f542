"""Open many connections, make one request on each, and keep them open without a word until standard input ends.

Prints `ready N` when N connections have had their answer.
"""

from __future__ import annotations

import argparse
import resource
import socket
import sys


def open_one(port: int, number: int) -> socket.socket:
    """A connection that has had one whole answer with status 200. Raises OSError."""
    one = socket.create_connection(("127.0.0.1", port), timeout=10)
    body = b'{"inputs":[]}'
    one.sendall(
        b"POST /v2/models/iris/infer HTTP/1.1\r\nhost: 127.0.0.1:%d\r\nx-user-id: u%d\r\ncontent-length: %d\r\n\r\n%s"
        % (port, number, len(body), body)
    )
    got = b""
    while not got.endswith(b"}]}"):
        data = one.recv(4096)
        if not data:
            raise ConnectionError(f"connection {number} was closed by the proxy: {got[:200]!r}")
        got += data
    if got[9:12] != b"200":
        raise ConnectionError(f"connection {number} got {got[:200]!r}")
    return one


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--connections", type=int, required=True)
    arguments = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    held = [open_one(arguments.port, number) for number in range(arguments.connections)]
    print("ready", len(held), flush=True)
    sys.stdin.read()
