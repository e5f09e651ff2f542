"""Messages as tests see them, read by parsers of their own: nothing here uses the code under test."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

PATIENCE = 30.0  # seconds after which a test gives up waiting; nothing is ever asserted to be faster than this


class Ended(Exception):
    """The other side closed or reset where more was expected."""


def until(true: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
    """Wait for something to become true and return it."""
    deadline = time.monotonic() + seconds
    while True:
        value = true()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"did not happen: {what}")
        time.sleep(0.005)


def ok(body: bytes = b"ok", fields: bytes = b"") -> bytes:
    """A plain good answer."""
    return b"HTTP/1.1 200 OK\r\n%sContent-Length: %d\r\n\r\n%s" % (fields, len(body), body)


def chunked(*pieces: bytes, trailers: bytes = b"") -> bytes:
    """Pieces in chunk framing."""
    return b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in pieces if p) + b"0\r\n" + trailers + b"\r\n"


@dataclass(frozen=True, slots=True)
class Message:
    """A head as it came, with the body as it was framed and without its framing."""

    head: bytes
    wire: bytes
    payload: bytes
    trailers: bytes = b""

    @property
    def line(self) -> bytes:
        """The first line."""
        return self.head.split(b"\r\n", 1)[0]

    @property
    def fields(self) -> list[tuple[bytes, bytes]]:
        """All fields in order, names in lower case."""
        out = []
        for line in self.head.split(b"\r\n")[1:-2]:
            name, colon, value = line.partition(b":")
            assert colon, self.head
            out.append((name.lower(), value.strip(b" \t")))
        return out

    def values(self, name: bytes) -> list[bytes]:
        """The values of every field of this name."""
        return [value for key, value in self.fields if key == name.lower()]

    def header(self, name: bytes) -> bytes | None:
        """The value of the one field of this name; a repeated one fails the test."""
        values = self.values(name)
        assert len(values) <= 1, (name, self.head)
        return values[0] if values else None


@dataclass(frozen=True, slots=True)
class Answer(Message):
    """An answer as the client got it."""

    @property
    def status(self) -> int:
        """The status code."""
        return int(self.line.split(b" ")[1])

    @property
    def arm(self) -> str | None:
        """Who answered: blue, green, or None for the router itself."""
        value = self.header(b"x-bluegreen-arm")
        return value.decode() if value else None

    def problem(self) -> dict[str, Any]:
        """The RFC 9457 document of an answer that the router made; asserts that it is one."""
        assert self.header(b"content-type") == b"application/problem+json", self.head
        document: dict[str, Any] = json.loads(self.payload)
        assert document["status"] == self.status
        assert document["request_id"].encode() == self.header(b"x-request-id")
        assert document["title"]
        assert document["detail"]
        return document


@dataclass(frozen=True, slots=True)
class Seen(Message):
    """A request as a server got it. `connection` numbers that server's connections from 0."""

    connection: int = 0

    @property
    def method(self) -> bytes:
        """The method."""
        return self.line.split(b" ")[0]

    @property
    def target(self) -> bytes:
        """The request target."""
        return self.line.split(b" ")[1]


class Reader:
    """Bytes of a socket, cut as asked. `taken` is everything that was read off it so far by a message."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.buffer = b""

    def more(self) -> None:
        """At least one more byte. Raises Ended, or TimeoutError."""
        try:
            piece = self.sock.recv(262144)
        except ConnectionError as error:
            raise Ended(f"reset ({error}) after {self.buffer!r}") from None
        if not piece:
            raise Ended(f"closed after {self.buffer[:2000]!r}")
        self.buffer += piece

    def through(self, mark: bytes) -> bytes:
        """All bytes up to and with `mark`."""
        start = 0
        while (at := self.buffer.find(mark, start)) < 0:
            start = max(len(self.buffer) - len(mark), 0)
            self.more()
        return self.exactly(at + len(mark))

    def exactly(self, count: int) -> bytes:
        """So many bytes."""
        if len(self.buffer) < count:
            pieces, have = [self.buffer], len(self.buffer)
            while have < count:
                self.buffer = b""
                self.more()
                pieces.append(self.buffer)
                have += len(self.buffer)
            self.buffer = b"".join(pieces)
        out, self.buffer = self.buffer[:count], self.buffer[count:]
        return out

    def to_the_end(self) -> bytes:
        """Everything until the other side closes. Raises Ended when it resets instead."""
        out = self.buffer
        self.buffer = b""
        while True:
            try:
                piece = self.sock.recv(262144)
            except ConnectionError as error:
                raise Ended(f"reset ({error})") from None
            if not piece:
                return out
            out += piece

    def chunked(self) -> tuple[bytes, bytes, bytes]:
        """A chunked body: its bytes on the wire, its payload, its trailer lines."""
        wire, payload = [], []
        while True:
            line = self.through(b"\r\n")
            wire.append(line)
            size = int(line.split(b";")[0].strip(), 16)
            if size == 0:
                break
            data = self.exactly(size + 2)
            assert data.endswith(b"\r\n"), data
            wire.append(data)
            payload.append(data[:-2])
        trailers = b""
        while (line := self.through(b"\r\n")) != b"\r\n":
            trailers += line
        return b"".join(wire) + trailers + b"\r\n", b"".join(payload), trailers

    def body(self, head: bytes, *, until_close: bool) -> tuple[bytes, bytes, bytes]:
        """The body that a head announces: on the wire, its payload, its trailers."""
        for line in head.lower().split(b"\r\n"):
            name, _, value = line.partition(b":")
            if name == b"transfer-encoding":
                assert value.strip(b" \t") == b"chunked", head
                return self.chunked()
            if name == b"content-length":
                data = self.exactly(int(value))
                return data, data, b""
        if until_close:
            data = self.to_the_end()
            return data, data, b""
        return b"", b"", b""
