"""One connection to a model server, as an asyncio protocol: sends a request, tells a receiver what comes back.

A connection carries one exchange at a time. It knows when an answer is over, hands itself back to its server's idle list
before it says so, and reports a failure once, with its kind and whether any byte of the answer had come; what follows from
that (a retry, a fallback, an error to the client) is the receiver's decision. The router's exchanges stream through it, the
shadow's twins collect.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import termios
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from models.framing import Body, BodyTooLarge, FramingError, UntilCloseBody, body_of
from models.http1 import HttpError
from models.http1_response import ResponseHead, known_answers, parse_response

if TYPE_CHECKING:
    from models.pool import Server

SMALL: Final = 65536  # bytes of a request that nobody looks after: at more a transport begins to complain
MAX_INTERIM = 16  # 1xx answers before the final one; a server that sends more is broken


class Receiver(Protocol):
    """Who made the request. Calls come in the order interim*, answer, more*, with `done` at the end, or `broken` once."""

    def interim(self, head: ResponseHead) -> None:
        """A 1xx answer came before the final one (RFC 9110, 15.2)."""

    def answer(self, head: ResponseHead, data: bytes, done: bool) -> None:
        """The final head, with what of the body came along."""

    def more(self, data: bytes, done: bool) -> None:
        """More of the body, as it is framed on the wire."""

    def upgraded(self, head: ResponseHead, data: bytes) -> None:
        """101: from here on the connection is a tunnel, and its bytes come through `more`."""

    def broken(self, detail: str, answered: bool) -> None:
        """The connection failed; `answered` when at least one byte of an answer had come."""

    def writable(self, ready: bool) -> None:
        """The server takes more bytes, or for now no more."""


class Upstream:
    """A connection to `server`. `reused` says that it has carried an exchange before, so that it may have gone stale.

    An asyncio.Protocol in all but its base: a class that inherits from one that is not compiled cannot be compiled.
    """

    __slots__ = (
        "_body",
        "_held",
        "_interims",
        "_large",
        "_last_head",
        "_reusable",
        "_tunnel",
        "idle_since",
        "method",
        "receiver",
        "reused",
        "sent",
        "server",
        "transport",
    )

    def __init__(self, server: Server) -> None:
        self.server = server
        self.transport: asyncio.Transport  # from connection_made on
        self.receiver: Receiver | None = None
        self.reused = False
        self.idle_since = 0.0
        self.method = b""
        self._held = b""
        self._body: Body | None = None
        self._reusable = True
        self.sent = False  # the request has been handed to the transport whole
        self._large = False  # so much of it that some may not have left yet
        self._tunnel = False
        self._interims = 0
        self._last_head: ResponseHead | None = None  # of an answer to a request other than HEAD

    def send(self, receiver: Receiver, method: bytes, data: bytes, *, whole: bool) -> None:
        """Begin an exchange with the request's head and what of its body is there; `whole` when that is all."""
        self.receiver = receiver
        self.method = method
        self.sent = whole
        self._large = not whole or len(data) > SMALL
        self._interims = 0
        self.transport.write(data)

    def write(self, data: bytes, *, whole: bool) -> None:
        """More of the request's body, or of the tunnel."""
        self.sent = whole
        self.transport.write(data)

    def drop(self) -> None:
        """Leave the exchange and close the connection; the receiver hears nothing more."""
        self.receiver = None
        self.transport.abort()

    # --- asyncio's side ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection stands."""
        self.transport = cast(asyncio.Transport, transport)
        if self.server.address.tls:
            # While a slow client has reading paused, uvloop would by default read 256 KiB ahead; and were the server's end
            # among it, drop with the connection what it has read.
            cast(Any, transport).set_read_buffer_limits(1)

    def data_received(self, data: bytes) -> None:
        """Bytes of the answer."""
        receiver = self.receiver
        if receiver is None:
            # An answer nobody asked for (or bytes after the last one): nothing that follows could be trusted.
            self.server.forget(self)
            self.transport.abort()
        elif self._body is None and not self._held and not self._tunnel:
            # The usual answer without a detour: a head that is known from before, and the whole body with it.
            # Mostly it is the very head of the answer before (a Date lasts a second), which comparing tells without hashing.
            head = self._last_head
            if head is None or not data.startswith(head.raw):
                self._last_head = head = known_answers.get(data[: data.find(b"\r\n\r\n") + 4])
            if (
                head is not None
                and head.length == len(data) - len(head.raw)
                and head.reusable
                and head.status >= 200
                and self.sent
                and not self._large
                and self.method != b"HEAD"
                and not self.server.retired
            ):
                self.receiver = None
                self.reused = True
                self.idle_since = 0.0
                self.server.idle.append(self)
                receiver.answer(head, data[len(head.raw) :], True)
            else:
                self._head_received(receiver, data)
        elif self._tunnel:
            receiver.more(data, False)
        elif self._body is None:
            self._head_received(receiver, self._held + data if self._held else data)
        else:
            self._body_received(receiver, self._body, data)

    def eof_received(self) -> None:
        """The server has said all it will say; the transport closes itself.

        The exchange ends now: the transport would first write what is left of the request, which the server may never take.
        Under TLS only the closing alert calls this, and only it tells the end of an answer without a length (RFC 9112, 9.8).
        """
        self.server.forget(self)
        if self.receiver is not None and not self._tunnel:
            self.transport.abort()
            self._end(isinstance(self._body, UntilCloseBody))

    def connection_lost(self, exc: Exception | None) -> None:
        """The end of a tunnel, or of an exchange in its middle."""
        self.server.forget(self)
        self._end(self._tunnel)

    def _end(self, whole: bool) -> None:
        receiver, self.receiver = self.receiver, None
        if receiver is None:
            return
        if whole:
            receiver.more(b"", True)
        else:
            answered = self._body is not None or bool(self._held) or self._interims > 0
            receiver.broken("the connection was closed before the answer was whole", answered)

    def pause_writing(self) -> None:
        """The server is slow to take the request."""
        if self.receiver is not None:
            self.receiver.writable(False)

    def resume_writing(self) -> None:
        """The server has caught up."""
        if self.receiver is not None:
            self.receiver.writable(True)

    # --- the answer ---

    def _head_received(self, receiver: Receiver, data: bytes) -> None:
        try:
            head = parse_response(data, self.method)
            while head is not None and head.status < 200 and head.status != 101:
                self._interims += 1
                if self._interims > MAX_INTERIM:
                    raise HttpError(502, "the server sends one interim answer after another")
                receiver.interim(head)
                if self.receiver is not receiver:
                    return
                data = data[len(head.raw) :]
                head = parse_response(data, self.method) if data else None
            if head is None:
                self._held = data
                return
            self._held = b""
            self._interims = 0
            start = len(head.raw)
            if head.status == 101:
                self._tunnel = True
                receiver.upgraded(head, data[start:])
                return
            body = body_of(head.length)
            end = body.feed(data, start)
        except (HttpError, FramingError, BodyTooLarge) as error:
            self._garbage(receiver, str(error))
            return
        if body.done:
            # Bytes after the end are not an answer to anything: RFC 9112, 6.3 has the connection closed.
            self._over(head.reusable and end == len(data))
            receiver.answer(head, data[start:end], True)
            return
        self._body = body
        self._reusable = head.reusable
        receiver.answer(head, data[start:end], False)

    def _body_received(self, receiver: Receiver, body: Body, data: bytes) -> None:
        try:
            end = body.feed(data)
        except (FramingError, BodyTooLarge) as error:
            self._garbage(receiver, str(error))
            return
        if not body.done:
            receiver.more(data, False)
            return
        self._over(self._reusable and end == len(data))
        receiver.more(data if end == len(data) else data[:end], True)

    def _over(self, reusable: bool) -> None:
        """The answer is whole: back to the idle connections, or closed if another exchange could not trust it."""
        self.receiver = None
        self._body = None
        self._held = b""
        self.reused = True
        left = self.sent and (not self._large or not unsent(self.transport))
        self._large = False
        if reusable and left:
            self.server.keep(self)
        elif left:
            self.transport.close()
        else:
            self.transport.abort()  # a close would wait until the server has taken a request that nobody needs any more

    def _garbage(self, receiver: Receiver, detail: str) -> None:
        self.receiver = None
        self.transport.abort()
        receiver.broken(detail, True)


def unsent(transport: asyncio.Transport) -> int:
    """How many bytes of what was written have not arrived at the other side: in the transport, and in the kernel (tcp(7))."""
    waiting: int = transport.get_write_buffer_size()
    sock = transport.get_extra_info("socket")
    if sock is not None:
        with contextlib.suppress(OSError, ValueError):
            waiting += int.from_bytes(fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0\0\0\0"), "little")
    return waiting
