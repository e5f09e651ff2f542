"""One mirrored request: sends it over a pooled connection and collects the answer, bounded, with its times.

A twin is the shadow's receiver (models.upstream). It gathers what the router's exchange streams on, never more than a bound:
whatever green sends, the shadow holds `limit` bytes of it and then hangs up.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from time import perf_counter

from models.framing import unframed
from models.http1_response import ResponseHead
from models.pool import Pool, Server
from models.tasks import spawn
from models.upstream import Upstream
from shadow.fields import answered_fields
from shadow.observation import Outcome

MAX_GAPS = 4096
Dial = tuple[float, ssl.SSLContext | None, str | None]  # connect timeout in seconds, and how to make sure of an https server


class Twin:
    """One request to one server. `finished` is called once, with the outcome."""

    # Class attributes stand for what holds until something happens: a twin is made for every pair.
    started = 0.0
    _server: Server | None = None
    _upstream: Upstream | None = None
    _head: ResponseHead | None = None
    _first = _last = 0.0
    _size = 0
    _truncated = False
    _stale_retried = False
    _attempt = 0
    _body: list[bytes]  # these two from the head of an answer on that comes in pieces
    _gaps: list[float]

    def __init__(
        self, pool: Pool, method: bytes, data: bytes, limit: int, dial: Dial, finished: Callable[[Outcome], None]
    ) -> None:
        self.pool = pool
        self._method = method
        self._data = data
        self._limit = limit
        self._finished: Callable[[Outcome], None] | None = finished
        self._dial = dial

    def send(self) -> None:
        """Send the request, over a warm connection if there is one."""
        now = perf_counter()
        server = self.pool.choose(now)
        server.in_flight += 1
        self._server = server
        warm = server.warm()
        if warm is not None:
            self._send_on(warm)
        else:
            self._attempt += 1
            self.started = now
            spawn(self._open(server, self._attempt), "mirror connection")

    def give_up(self) -> None:
        """It took too long."""
        self._end("timeout")

    async def _open(self, server: Server, attempt: int) -> None:
        try:
            connection = await server.connect(*self._dial)
        except OSError as error:
            if self._finished is not None and attempt == self._attempt:
                self._end("timeout" if isinstance(error, TimeoutError) else "connect")
            return
        if self._finished is None:
            server.keep(connection)
        elif connection.transport.is_closing():
            self._end("broken")  # accepted and closed at once: nobody would tell us again
        else:
            self._send_on(connection)

    def _send_on(self, connection: Upstream) -> None:
        self._upstream = connection
        # The clock starts when the request leaves on an open connection: what is compared is the servers, not the handshakes.
        self.started = self._last = perf_counter()
        connection.send(self, self._method, self._data, whole=True)

    # --- models.upstream.Receiver ---

    def interim(self, head: ResponseHead) -> None:
        """A 1xx before the answer says nothing that is compared."""

    def answer(self, head: ResponseHead, data: bytes, done: bool) -> None:
        """The head, with what of the body came along."""
        now = perf_counter()
        finished, server = self._finished, self._server
        if done and finished is not None and server is not None and len(data) <= self._limit:
            # The usual answer, whole in one piece, without a detour.
            self._finished = self._server = self._upstream = None
            server.in_flight -= 1
            server.failures = 0
            ms = (now - self.started) * 1e3
            finished(Outcome(head.status, answered_fields(head), unframed(data, head.length), ms, ms))
            return
        self._first = self._last = now
        self._head = head
        self._body, self._gaps = [], []
        self._take(data)
        if done:
            self._end(None)

    def more(self, data: bytes, done: bool) -> None:
        """More of the body."""
        now = perf_counter()
        if data and len(self._gaps) < MAX_GAPS:
            self._gaps.append((now - self._last) * 1e3)
        self._last = now
        self._take(data)
        if done:
            self._end(None)

    def upgraded(self, head: ResponseHead, data: bytes) -> None:
        """Upgrades are not mirrored; a server that changes protocols unasked is broken."""
        self._end("broken")

    def broken(self, detail: str, answered: bool) -> None:
        """The connection failed."""
        upstream, self._upstream = self._upstream, None
        if not answered and upstream is not None and upstream.reused and not self._stale_retried and self._server is not None:
            self._stale_retried = True
            self._server.in_flight -= 1
            self._server = None
            for server in self.pool.servers:
                while (connection := server.warm()) is not None:
                    connection.transport.close()
            self.send()
            return
        self._end("broken")

    def writable(self, ready: bool) -> None:
        """A request leaves in one piece that is bounded already."""

    def _take(self, data: bytes) -> None:
        if self._truncated or not data:
            return
        self._size += len(data)
        if self._size > self._limit:
            self._truncated = True
            self._body.append(data[: len(data) - (self._size - self._limit)])
            self._end(None)
        else:
            self._body.append(data)

    def _end(self, failure: str | None) -> None:
        finished, self._finished = self._finished, None
        if finished is None:
            return
        server, self._server = self._server, None
        if server is not None:
            server.in_flight -= 1
            if failure is None:
                server.failures = 0
            else:
                self.pool.failed(server, perf_counter())
        upstream, self._upstream = self._upstream, None
        if upstream is not None and upstream.receiver is self:
            upstream.drop()
        now = perf_counter()
        head = self._head
        total_ms = (now - self.started) * 1e3
        if head is None:
            finished(Outcome(0, {}, b"", 0.0, total_ms, (), failure))
            return
        finished(
            Outcome(
                head.status,
                answered_fields(head),
                unframed(b"".join(self._body), head.length),
                (self._first - self.started) * 1e3,
                total_ms,
                tuple(self._gaps),
                failure,
                self._truncated,
            )
        )
