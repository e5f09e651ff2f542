"""One client's connection: cuts its bytes into requests, one exchange at a time, in order.

What follows a request that is being answered (a pipelined request, or a body that goes on) waits in the kernel or in a
bounded buffer, so answers leave in the order of their requests (RFC 9112, 9.3.2) and a client cannot make the worker hold
more than the bound.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import sys
from typing import TYPE_CHECKING, Final, cast

from models.familiar import Familiar
from models.http1 import HttpError
from models.upstream import unsent
from router.proxy import answers
from router.proxy.exchange import Exchange
from router.proxy.forwarded import connection_fields
from router.proxy.options import Timeouts
from router.proxy.probes import PATHS, Probe

if TYPE_CHECKING:
    from router.proxy.gateway import Gateway

PIPELINE_BYTES: Final = 64 * 1024
LINGER_SECONDS: Final = 2.0
_BYTES_ACKED, _TCP_INFO_BYTES = 120, 128  # tcpi_bytes_acked in Linux's struct tcp_info (linux/tcp.h), 64 bits


class Downstream:
    """A client's connection: an asyncio.Protocol, without that base for the reason given in models.upstream.Upstream.

    `exchange` is the request that is being answered; `since` is when the connection last became idle, or when the first byte of
    an unfinished head came. `full` says that the client is slow to take its answer; `reserved`, that the place which was
    taken for it among the connections is not its own yet.
    """

    __slots__ = (
        "_acked",
        "_buffer",
        "_empty_line",
        "_heads",
        "_last",
        "exchange",
        "forwarded",
        "full",
        "gateway",
        "host",
        "own_fields",
        "paused",
        "peer",
        "reading_head",
        "reserved",
        "since",
        "transport",
    )

    def __init__(self, gateway: Gateway, scheme: bytes, *, reserved_for: str = "") -> None:
        """`reserved_for`: the client's address, when a place among the connections has been taken for it already."""
        self.gateway = gateway
        self.transport: asyncio.Transport  # from connection_made on
        self.exchange: Exchange | Probe | None = None
        self.peer = reserved_for
        self.reserved = reserved_for != ""
        self.forwarded = scheme
        self.full = False
        self.since = 0.0
        self.reading_head = False
        self.host: bytes | None = None
        self.own_fields = b""  # the lines that the router adds for requests to `host`
        self.paused = False
        self._buffer = b""
        self._empty_line = False  # one has been passed over before this request
        self._heads = Familiar()
        self._last = False  # no further request is read
        self._acked = 0  # bytes, ever, when last looked at

    # --- asyncio's side ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected."""
        self.transport = cast(asyncio.Transport, transport)
        if not self.reserved:
            self.peer = peer_name(transport.get_extra_info("peername"))
        self.since = self.gateway.now()
        self.forwarded = connection_fields(self.peer, self.forwarded)
        if not self.gateway.admit(self):
            request_id = self.gateway.new_request_id()
            self.gateway.count_own(503)
            self.transport.write(answers.problem(503, "too many connections; try again later", request_id, keep_alive=False))
            self.close_after_reading()

    def data_received(self, data: bytes) -> None:
        """Bytes from the client."""
        exchange = self.exchange
        if exchange is None:
            if self.full and not self._last:
                # It takes nothing of the last answer: no further one is made for it.
                self._hold(data)
            elif not self._last:
                self._next(self._buffer + data if self._buffer else data)
            return
        if not exchange.whole:
            end = exchange.feed(data)
            if end == len(data):
                return
            data = data[end:]
            if self.idle:
                # Answered already (refused, say); what follows is the next request.
                if not self._last:
                    self._buffer = data
                    self.gateway.loop.call_soon(self._go_on)
                return
        elif exchange.tunnel:
            exchange.tunnel_send(data)
            return
        self._hold(data)

    def _hold(self, data: bytes) -> None:
        self._buffer += data
        if len(self._buffer) > PIPELINE_BYTES:
            self.pause()

    def take_held(self) -> bytes:
        """What came after an upgrade was asked for and before it was agreed to: it belongs to the tunnel."""
        data, self._buffer = self._buffer, b""
        self.resume()
        return data

    def eof_received(self) -> None:
        """The client has closed its side. As with other gateways that counts as leaving: the transport closes itself."""
        exchange = self.exchange
        if exchange is not None and exchange.answered and not exchange.tunnel:
            self.reset()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone; its request, if one runs, is called off."""
        self.gateway.leave(self)
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            exchange.client_left()

    def pause_writing(self) -> None:
        """The client is slow to take its answer: read no more of it from the server."""
        self.full = True
        if self.exchange is not None:
            self.exchange.client_ready(False)

    def resume_writing(self) -> None:
        """The client has caught up."""
        self.full = False
        if self.exchange is not None:
            self.exchange.client_ready(True)
        elif not self._last:
            self.resume()
            if self._buffer:
                self.gateway.loop.call_soon(self._go_on)

    # --- requests ---

    def _next(self, data: bytes) -> None:
        """Begin the exchange of the request at the start of `data`, or wait for the rest of it."""
        gateway = self.gateway
        self._buffer = b""
        if data[0] == 13 and data.startswith(b"\r\n") and not self._empty_line:
            # RFC 9112, 2.2: an empty line before the request line is passed over; one, in however many pieces it all comes.
            self._empty_line = True
            data = data[2:]
        try:
            head = self._heads.parse(data, gateway.most_head, gateway.most_fields)
        except HttpError as error:
            self._refuse(error)
            return
        if head is None:
            if not self.reading_head and data:
                self.reading_head = True
                self.since = gateway.now()
            self._buffer = data
            return
        self.reading_head = self._empty_line = False
        if head.target.startswith(b"/-/") and head.target.partition(b"?")[0] in PATHS:
            self.exchange = probe = Probe(gateway, self, head)
            self._buffer = data[head.size :] if not head.length else b""
            probe.begin()
            return
        self.exchange = exchange = Exchange(gateway, self, head)
        end = exchange.begin(data)
        if end < len(data):
            if self.idle:
                # Answered at once; what follows is the next request.
                if not self._last:
                    self._buffer = data[end:]
                    gateway.loop.call_soon(self._go_on)
            elif exchange.tunnel:
                exchange.tunnel_send(data[end:])
            else:
                self._buffer = data[end:]

    def finished(self, keep_alive: bool, now: float) -> None:
        """The exchange is over and its answer written."""
        self.exchange = None
        self.since = now
        if not keep_alive:
            self.close()
        elif self.full:
            self.pause()
        elif self._buffer:
            # Not from here: a thousand pipelined requests would be a thousand frames of the stack.
            self.gateway.loop.call_soon(self._go_on)
        elif self.paused:
            self.resume()

    def pause(self) -> None:
        """Read no more from the client for now."""
        self.paused = True
        self.transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        if self.paused:
            self.paused = False
            self.transport.resume_reading()

    def close(self) -> None:
        """No further request: close once the answer has left."""
        self._last = True
        self.since = self.gateway.now()
        self.transport.close()

    def close_after_reading(self) -> None:
        """Close so that an answer given in the middle of a request still arrives (RFC 9112, 9.6).

        A socket closed with unread bytes resets the connection, which may destroy the answer on its way: so only the sending
        side is closed first, and for a moment what the client still sends is read and thrown away. Over TLS uvloop's `close`
        does that: it sends the closing alert and reads on until the client's.
        """
        self._last = True
        self.reading_head = False
        self.exchange = None
        self._buffer = b""
        self.since = self.gateway.now()
        if self.transport.can_write_eof():
            self.transport.write_eof()
            self.resume()
        else:
            self.transport.close()

    @property
    def idle(self) -> bool:
        """Whether no request is being answered."""
        return self.exchange is None

    def reset(self) -> None:
        """Close in the middle of an answer: with a reset, not a FIN, or half of it could pass for the whole (RFC 9112, 8)."""
        sock = self.transport.get_extra_info("socket")
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def break_off(self) -> None:
        """Close at once; with a reset when an answer may be cut in two by that."""
        if self.idle and not self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            self.reset()

    def drains(self) -> bool:
        """Whether the client has taken anything of what was written since the last look.

        Told by what its side has acknowledged, which only grows. What still waits would not do: it is in the transport, in the
        one below it over TLS, and in the kernel, which takes more of it whenever some has left.
        """
        sock = self.transport.get_extra_info("socket")
        if sock is None:
            return False
        with contextlib.suppress(OSError):
            info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
            acked, self._acked = self._acked, int.from_bytes(info[_BYTES_ACKED:_TCP_INFO_BYTES], sys.byteorder)
            return self._acked > acked
        return False

    def _has_left(self) -> bool:
        """Whether nothing of what was written would be lost by closing now; what the kernel has of it still leaves."""
        # Over TLS the transport does not tell all that it holds, but while it holds any the kernel has as much as it takes.
        return not (self.transport.get_write_buffer_size() if self.transport.can_write_eof() else unsent(self.transport))

    def check_time(self, now: float, timeouts: Timeouts, drained: bool) -> None:
        """The sweep looks whether anything took too long; `drained` when an idle connection may be closed early."""
        idle = now - self.since
        if self.exchange is not None:
            self.exchange.check_time(now)
        elif self._last or self.full:
            # Its answer is written: it may take it as slowly as it likes, but not stop taking it.
            if self.drains():
                self.since = now
            elif idle > timeouts.idle:
                self.reset()
            if self._last and now - self.since > LINGER_SECONDS and self._has_left():
                self.transport.abort()
        elif self.reading_head:
            if idle > timeouts.head:
                # RFC 9110, 15.5.9
                self._refuse(HttpError(408, "the request's head did not arrive in time"))
        elif idle > timeouts.keep_alive or drained:
            self.close()

    def _go_on(self) -> None:
        if self.exchange is None and self._buffer and not self._last and not self.transport.is_closing():
            self.resume()
            data, self._buffer = self._buffer, b""
            self._next(data)

    def _refuse(self, error: HttpError) -> None:
        self.gateway.count_own(error.status)
        request_id = self.gateway.new_request_id()
        self.transport.write(answers.problem(error.status, error.detail, request_id, keep_alive=False))
        self.close_after_reading()


def peer_name(address: object) -> str:
    """A client's address as the router tells it, from what the socket says; "unix" where it has none.

    A port for both IPs tells an IPv4 client as ::ffff:192.0.2.1 (RFC 4291, 2.5.5.2); everybody else knows it without.
    """
    return str(address[0]).removeprefix("::ffff:") if isinstance(address, tuple) else "unix"
