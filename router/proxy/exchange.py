"""One request's life, from its head to the last byte of its answer.

    reading key -> waiting for a place -> connecting -> sent -> answering -> over
                        ^                      |           |
                        +---- another server, blue in green's place, or a recall

Until the first byte of an answer has gone to the client nothing is final: as long as the request's body is kept (up to a
bound) it can be sent again, to a fresh connection when a kept-alive one had gone stale (RFC 9112, 9.3.1), to another server
when one refuses, to blue when green fails or a switch takes it back. After that a failure can only be told by closing.

A request that a server may have acted on is repeated only when its method is idempotent (RFC 9110, 9.2.2) or the settings allow
it, as they do by default: a prediction changes nothing on the server. Where requests must not be repeated, `fallback.on` is
without `connect`; one that certainly did not arrive still goes to another server.
"""

from __future__ import annotations

import socket
import ssl
from time import perf_counter
from typing import TYPE_CHECKING, Final

from models.framing import CHUNKED, Body, BodyTooLarge, ChunkedBody, FramingError, body_of
from models.http1 import RequestHead
from models.http1_response import ResponseHead
from models.pool import Server
from models.tasks import spawn
from models.upstream import Upstream
from router import counters as c
from router.counters import bin_of
from router.proxy import answers
from router.proxy.forwarded import trusted_fields
from router.proxy.handover import Handover
from router.proxy.reframing import Reframing, needed
from router.proxy.routing import Routing, Target

if TYPE_CHECKING:
    from router.proxy.downstream import Downstream
    from router.proxy.gateway import Gateway

_IDEMPOTENT: Final = frozenset((b"GET", b"HEAD", b"PUT", b"DELETE", b"OPTIONS", b"TRACE"))  # RFC 9110, 9.2.2
_NOT_SENT: Final = ("connect", "closed")  # failures of requests that no server can have acted on
_HOLD_WHILE_WAITING: Final = 256 * 1024  # of a body, read before there is a connection to send it on


class Exchange:
    """One request and its answer. It is its own upstream's receiver."""

    # What most requests never have is a class attribute: see models.http1.RequestHead.
    target: Target | None = None
    upstream: Upstream | None = None
    whole: bool = False  # the request has been read to its end
    answered: bool = False  # part of an answer has gone to the client
    tunnel: bool = False
    connecting: bool = False
    queued_at: float = 0.0
    active: float = 0.0  # when something last moved
    fell_back: bool = False
    recalled: bool = False
    first_byte: float = 0.0
    status: int = 0
    _server: Server | None = None
    _body: Body | None = None
    _kept: list[bytes] | None = None
    _kept_size: int = 0
    _handover: Handover | None = None  # when it is in a sample
    _attempts: int = 0
    _tried: frozenset[Server] | None = None
    _stale_retried: bool = False
    _suspect: Target | None = None
    _continued: bool = False
    _held_up: bool = False  # the server takes no more of the request for now
    _keep_alive: bool = True
    _reframing: Reframing | None = None

    def __init__(self, gateway: Gateway, downstream: Downstream, head: RequestHead) -> None:
        self.gateway = gateway
        self.downstream = downstream
        self.head = head
        self.started = perf_counter()
        self.request_id = head.request_id or gateway.new_request_id()
        # What `obey_plan` does, without the call.
        self.routing: Routing = gateway.routing if gateway.plan_word[0] == gateway.plan_seen else gateway.obey_plan()

    # --- the request ---

    def begin(self, data: bytes) -> int:
        """Start with the bytes that hold the head; returns where this request ends in them."""
        head, gateway = self.head, self.gateway
        size, length = head.size, head.length
        end = size + length
        if length < 0 or end > len(data) or length > gateway.most_body:
            return self._begin_partly(data)
        self.whole = True
        if length:
            self._kept = [data[size:end]]
            self._kept_size = length
        else:
            self._kept = []
        routing = self.routing
        if routing.waits or not head.passed or not head.keep_alive:
            self._keep_alive = head.keep_alive
            self._route()
            return end
        # The usual request, without a detour: one piece, a place at the arm, and a warm connection to its one server.
        if routing.shadowed or (routing.splits and gateway.logs_exposures):
            self._handover = gateway.samples(self)
        self.target = target = routing.choose(head, b"")
        server = target.only
        if (
            server is None
            or not server.idle
            or target.in_flight >= gateway.most_in_flight
            or target.breaker.state
            or length > gateway.most_quick
        ):
            self.dispatch(target)
            return end
        connection = server.idle.pop()
        self._server = server
        server.in_flight += 1
        target.in_flight += 1
        downstream = self.downstream
        if downstream.host != head.host:
            self._name_host()
        self.upstream = connection
        connection.receiver = self
        connection.method = head.method
        connection.sent = True
        connection.transport.write(
            b"%s%sx-request-id: %s\r\n\r\n%s" % (head.passed, downstream.own_fields, self.request_id, data[size:end])
        )
        return end

    def _begin_partly(self, data: bytes) -> int:
        """A request whose body is chunked, goes on, or is over the limit."""
        head = self.head
        self._keep_alive = head.keep_alive
        self._kept = []
        try:
            self._body = body_of(head.length, self.gateway.most_body)
            end = self._body.feed(data, head.size)
        except (FramingError, BodyTooLarge) as error:
            self._refuse_body(error)
            return len(data)
        self.whole = self._body.done
        self.active = perf_counter()
        if end > head.size:
            self._keep(data[head.size : end])
        self._route()
        return end

    def _name_host(self) -> None:
        """The lines that the router adds are the same for all requests of a connection that name the same host."""
        downstream, host = self.downstream, self.head.host
        downstream.host = host
        named = b"x-forwarded-host: %s\r\n" % host if host is not None else b""
        downstream.own_fields = downstream.forwarded + named

    def feed(self, data: bytes) -> int:
        """More of the request's body; returns where the request ends in it."""
        assert self._body is not None
        try:
            end = self._body.feed(data)
        except (FramingError, BodyTooLarge) as error:
            self._refuse_body(error)
            return len(data)
        self.whole = self._body.done
        self.active = perf_counter()
        piece = data if end == len(data) else data[:end]
        self._keep(piece)
        if self.target is None:
            self._route()
        elif self.upstream is not None:
            self.upstream.write(piece, whole=self.whole)
        elif self._kept_size > _HOLD_WHILE_WAITING:
            self.downstream.pause()
        return end

    def _keep(self, piece: bytes) -> None:
        """Keep the body for a second attempt, and for the shadow, as long as it is within the bound."""
        kept = self._kept
        if kept is None:
            return
        self._kept_size += len(piece)
        if self._kept_size > self.gateway.keep_bytes and self.upstream is not None:
            self._kept = None
        else:
            kept.append(piece)

    def _route(self) -> None:
        """Choose the target, as soon as what decides it is there."""
        routing = self.routing
        if routing.waits and not self.whole and (routing.renames or self._kept_size <= self.gateway.keep_bytes):
            if self.head.expects:
                self._continue()
            return
        body = self._payload() if routing.needs_body and self.whole else b""
        self._handover = self.gateway.samples(self)
        self.dispatch(routing.choose(self.head, body))

    def _payload(self) -> bytes:
        data = b"".join(self._kept or ())
        if self.head.length != CHUNKED:
            return data
        body = ChunkedBody(collect=True)
        body.feed(data)
        return b"".join(body.payload)

    def _continue(self) -> None:
        """Ask for the body ourselves: the upstream took too long to, or the body decides where the request goes."""
        if not self._continued and not self.answered and not self.downstream.transport.is_closing():
            self._continued = True
            self.downstream.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    # --- to a server ---

    def dispatch(self, target: Target) -> None:
        """Send the request to an arm, now or as soon as there is a place for it."""
        gateway = self.gateway
        if target.is_green and gateway.breaker_armed and not target.breaker.allows(self.started):
            gateway.words[target.base + c.SKIPPED] += 1
            target = self.routing.blue
        self.target = target
        if target.in_flight >= gateway.most_in_flight and not gateway.queue(self, target):
            self._fail(503, "this arm has as many requests in flight as it may have; try again in a moment")
            return
        if not self.queued_at:
            self.connect()

    def connect(self) -> None:
        """Take a place at the arm and a connection to one of its servers."""
        target = self.target
        assert target is not None
        self.queued_at = 0.0
        target.in_flight += 1
        pool = target.pool
        server = pool.servers[0] if len(pool.servers) == 1 else pool.choose(self.started, self._tried)
        server.in_flight += 1
        self._server = server
        warm = server.warm()
        if warm is not None:
            self._send(warm)
        else:
            self._attempts += 1
            self.connecting = True
            self.active = perf_counter()
            spawn(self._open(server, self._attempts), "upstream connection")

    async def _open(self, server: Server, attempt: int) -> None:
        gateway = self.gateway
        try:
            connection = await server.connect(gateway.timeouts.connect, gateway.tls, gateway.server_name)
        except Exception as error:  # an OSError, TimeoutError and ssl.SSLError among them; any other must not leave it waiting
            if self.connecting and attempt == self._attempts:
                self.connecting = False
                self._failed("connect", _why_not_connected(error))
            if not isinstance(error, OSError):
                raise
            return
        if not self.connecting or attempt != self._attempts:
            server.keep(connection)  # its request went elsewhere in the meantime; the next one finds it warm
            return
        self.connecting = False
        if connection.transport.is_closing():
            # Accepted and closed at once: nobody would ever tell us so again.
            self._failed("closed", "the server closed the connection at once")
            return
        gateway.words[self.target.base + c.OPENED] += 1  # type: ignore[union-attr]  # connecting implies a target
        self._send(connection)

    def _send(self, connection: Upstream) -> None:
        target = self.target
        assert target is not None
        self.upstream = connection
        self.active = perf_counter()
        self._held_up = False
        kept = self._kept
        head, downstream, rewrite = self.head, self.downstream, target.rewrite
        trusted = bool(self.gateway.options.trusted) and self.gateway.trusts(downstream.peer)
        if trusted:
            own = trusted_fields(head, downstream.forwarded)
        else:
            if downstream.host != head.host or not downstream.own_fields:
                self._name_host()
            own = downstream.own_fields
        own = b"%sx-request-id: %s\r\n" % (own, self.request_id)
        renamed = None
        if rewrite.model is not None and self.whole and kept is not None:
            renamed = rewrite.renamed(head, own, self._payload(), trusted=trusted)
        if renamed is not None:
            data = renamed
        else:
            data = rewrite.head(head, own, trusted=trusted)
            if kept:
                data = data + kept[0] if len(kept) == 1 else b"".join((data, *kept))
        if self._kept_size > self.gateway.keep_bytes:
            self._kept = None
        if not self.whole:
            downstream.resume()  # first: the server may at once take no more, and then nothing must undo the pause
        connection.send(self, head.method, data, whole=self.whole)

    # --- from the server (models.upstream.Receiver) ---

    def interim(self, head: ResponseHead) -> None:
        """Pass a 1xx answer on; 100 (Continue) at most once, and none to an HTTP/1.0 client (RFC 9110, 15.2)."""
        if head.status == 100:
            if self.head.expects:
                self._continue()
        elif self.head.minor:
            self.downstream.transport.write(head.passed + b"\r\n")

    def answer(self, head: ResponseHead, data: bytes, done: bool) -> None:
        """The final head, with what of the body came along; in the usual case the whole answer."""
        self.first_byte = now = perf_counter()
        target = self.target
        assert target is not None
        self.status = status = head.status
        if status >= 500 or self._suspect is not None:
            self._count_server_error(target, status, now)
            if status >= 500 and target.is_green and "5xx" in self.gateway.fallback.on and self._replayable():
                if not done:
                    self.upstream.drop()  # type: ignore[union-attr]  # an answer comes from an upstream
                self._suspect = target
                self._to_blue(now)
                return
        self.answered = True
        if done:
            self.upstream = None  # it is idle by now, perhaps another request's: a slow client must not pause it
        gateway, downstream = self.gateway, self.downstream
        if done and self.whole and self._keep_alive and not gateway.draining and self.head.minor:
            downstream.transport.write(
                b"%s%sx-request-id: %s\r\n\r\n%s" % (head.passed, target.arm_line, self.request_id, data)
            )
        else:
            self.active = now
            if not self.whole:
                self._keep_alive = False  # the rest of the request will not be read
            downstream.transport.write(self._answer_start(head, target, data, done))
        if self._handover is not None:
            self._handover.answer(head.raw, data)
        if done:
            self._over(now)
        elif downstream.full:
            self.client_ready(False)

    def _count_server_error(self, target: Target, status: int, now: float) -> None:
        if status >= 500:
            self._count_error(c.SERVER_ERRORS)
        elif self._suspect is not None:
            # Blue answers the very request well that green could not: so it was green's fault and not the client's.
            self._suspect.breaker.failed(now)
            self._suspect = None

    def more(self, data: bytes, done: bool) -> None:
        """More of the body, passed on as it is framed, or of the tunnel."""
        if self._handover is not None:
            self._handover.more(data)
        if done:
            self.upstream = None
        self.active = perf_counter()
        if self._reframing is not None:
            data = self._reframing.body(data, done)
        if data:
            self.downstream.transport.write(data)
        if done:
            self._over(self.active)

    def upgraded(self, head: ResponseHead, data: bytes) -> None:
        """101: both sides become a tunnel (RFC 9110, 7.8)."""
        asked = {protocol.strip(b" \t") for protocol in self.head.upgrade.split(b",")}
        if not self.head.upgrade or not asked >= {protocol.strip(b" \t") for protocol in head.upgrade.split(b",")}:
            # RFC 9110, 7.8: only to a protocol that the client has named.
            self.upstream.drop()  # type: ignore[union-attr]  # an answer comes from an upstream
            self.broken("the server changed protocols without being asked to", True)
            return
        target = self.target
        assert target is not None
        self.answered = self.tunnel = True
        self.whole = True
        self._keep_alive = False
        self._handover = None
        self.status = 101
        self.first_byte = perf_counter()
        self.gateway.words[c.TUNNELS] += 1
        agreed = b"Connection: upgrade\r\nUpgrade: %s\r\n\r\n%s" % (head.upgrade, data)
        self.downstream.transport.write(b"%s%sx-request-id: %s\r\n%s" % (head.passed, target.arm_line, self.request_id, agreed))
        early = self.downstream.take_held()
        if early:
            self.tunnel_send(early)
        if self.downstream.full:
            self.client_ready(False)

    def tunnel_send(self, data: bytes) -> None:
        """Bytes of the client's side of the tunnel."""
        self.active = perf_counter()
        if self.upstream is not None:
            self.upstream.write(data, whole=True)

    def broken(self, detail: str, answered: bool) -> None:
        """The connection to the server failed."""
        upstream, self.upstream = self.upstream, None
        stale = not answered and upstream is not None and upstream.reused and not self._stale_retried
        if stale and self._repeatable():
            # The server closed a kept-alive connection while the request was on its way: nobody's failure.
            self._stale_retried = True
            self._leave()
            assert self.target is not None
            self.gateway.words[self.target.base + c.RETRIES] += 1
            self._reconnect()
            return
        self._failed("broken", detail)

    def writable(self, ready: bool) -> None:
        """The server takes more of the request, or for now no more."""
        self._held_up = not ready
        if ready:
            self.active = perf_counter()
            self.downstream.resume()
        else:
            self.downstream.pause()

    def client_ready(self, ready: bool) -> None:
        """The client takes more of the answer, or for now no more.

        Nothing is paused before the answer itself: that could become idle in the same turn, and would stay paused.
        """
        if self.upstream is not None:
            transport = self.upstream.transport
            if ready:
                self.active = perf_counter()
                transport.resume_reading()
            elif self.answered:
                transport.pause_reading()

    def _reconnect(self) -> None:
        """Again to the same arm, on a fresh connection."""
        target = self.target
        assert target is not None
        for server in target.pool.servers:
            # What was idle as long as the stale one is likely stale as well.
            while (connection := server.warm()) is not None:
                connection.transport.close()
        self.connect()

    # --- the answer's head ---

    def _answer_start(self, head: ResponseHead, target: Target, data: bytes, done: bool) -> bytes:
        """Head and first bytes of an answer that is not the usual one."""
        if self.gateway.draining:
            self._keep_alive = False
        passed, minor = head.passed, self.head.minor
        fields = b""
        if minor == 0:
            if head.length < 0:
                self._keep_alive = False  # RFC 9112, 9.3: to this client only the close can tell the end
            fields = b"Connection: keep-alive\r\n" if self._keep_alive else b""
        if not self._keep_alive:
            fields += b"Connection: close\r\n"
        if needed(head, minor):
            self._reframing = reframing = Reframing(head)
            passed, data = reframing.head(passed), reframing.body(data, done)
        return b"%s%sx-request-id: %s\r\n%s\r\n%s" % (passed, target.arm_line, self.request_id, fields, data)

    # --- failures ---

    def _replayable(self) -> bool:
        """Whether blue may answer in green's place. The body may also have been kept for the shadow, up to another bound."""
        return self._kept is not None and not self.answered and self._kept_size <= self.gateway.fallback.body

    def _repeatable(self) -> bool:
        """Whether a request that a server may have acted on may be sent to its arm again.

        RFC 9110, 9.2.2: with an idempotent method it may. With others where the settings say that requests may be repeated.
        """
        return self._kept is not None and (self.head.method in _IDEMPOTENT or "connect" in self.gateway.fallback.on)

    def _failed(self, kind: str, detail: str) -> None:
        """An attempt failed: try another server, or blue in green's place, or tell the client.

        `kind`: "connect", "closed" (as soon as it stood), "broken" (when the request had been sent) or "timeout".
        """
        now = perf_counter()
        target, server = self.target, self._server
        assert target is not None
        self._count_error({"connect": c.CONNECT_FAILURES, "timeout": c.TIMEOUTS}.get(kind, c.BROKEN))
        if server is not None:
            target.pool.failed(server, now)
            self._tried = (self._tried or frozenset()) | {server}
        if self.answered:
            self._cut_off()
            return
        armed = ("timeout" if kind == "timeout" else "connect") in self.gateway.fallback.on
        again = self._kept is not None if kind in _NOT_SENT else kind == "broken" and self._repeatable()
        if again and len(self._tried or ()) < len(target.pool.servers):
            self._leave()
            self.connect()
        elif target.is_green and armed and self._replayable():
            target.breaker.failed(now)
            self._to_blue(now)
        else:
            if target.is_green and self.gateway.breaker_armed:
                target.breaker.failed(now)
            self._fail(504 if kind == "timeout" else 502, detail)

    def _to_blue(self, now: float) -> None:
        """Blue answers in green's place; the client never knows."""
        target = self.target
        assert target is not None
        words = self.gateway.words
        words[target.base + c.FALLBACKS] += 1
        target.breaker.fell_back(now, self.gateway.total_requests())
        self.fell_back = True
        self._leave()
        self.upstream = None
        self._tried = None
        self._stale_retried = False
        self.active = now
        self.dispatch(self.routing.blue)

    def recall(self, routing: Routing) -> bool:
        """A switch takes the request back from green; False when its answer has begun or its body was not kept.

        A promotion takes nothing back: its request is at the arm that is blue from now on.
        """
        target = self.target
        if target is None:
            self.routing = routing
            return False
        if not target.is_green or target.arm == routing.blue.arm or self.answered or self._kept is None or self.tunnel:
            return False
        if self.upstream is not None:
            self.upstream.drop()
            self.upstream = None
        self.gateway.unqueue(self)
        self._leave()
        self.connecting = False
        self._attempts += 1
        self._tried = None
        self.recalled = True
        self.routing = routing
        self.active = perf_counter()
        self.dispatch(routing.blue)
        return True

    def check_time(self, now: float) -> None:
        """The sweep looks whether anything took too long."""
        timeouts = self.gateway.timeouts
        if self.downstream.full and self.downstream.drains():
            self.active = now  # slow, but it takes its answer
        active = max(self.active, self.started)
        if self.queued_at:
            if now - self.queued_at > self.gateway.limits.queue_wait:
                self.gateway.unqueue(self)
                self._fail(503, "this arm has as many requests in flight as it may have; try again in a moment")
        elif self.connecting or self.tunnel:
            if self.tunnel and now - active > timeouts.idle:
                self._cut_off()
        elif not self.whole and not self.answered:
            if self.head.expects and not self._continued and now - self.started > timeouts.continue_:
                self._continue()
            if self._held_up and now - active > timeouts.idle:
                self._give_up("timeout", "the server stopped taking the request")
            elif now - active > timeouts.idle or now - self.started > timeouts.body:
                self._fail(408, "the request's body did not arrive in time")
        elif not self.answered:
            if now - active > timeouts.first_byte:
                self._give_up("timeout", f"the server did not answer within {timeouts.first_byte:g} s")
        elif now - active > timeouts.idle and not self.downstream.full:
            self._give_up("timeout", "the server stopped in the middle of its answer")
        elif now - active > timeouts.idle:
            self._cut_off()  # the client takes nothing any more

    def _give_up(self, kind: str, detail: str) -> None:
        if self.upstream is not None:
            self.upstream.drop()
            self.upstream = None
        self._failed(kind, detail)

    def _refuse_body(self, error: FramingError | BodyTooLarge) -> None:
        status = 413 if isinstance(error, BodyTooLarge) else 400
        self._fail(status, str(error))

    def _fail(self, status: int, detail: str) -> None:
        """Tell the client, with a problem document; or, once an answer has begun, by closing in its middle."""
        if self.upstream is not None:
            self.upstream.drop()
            self.upstream = None
        self.connecting = False
        if self.answered:
            self._cut_off()
            return
        gateway, target, downstream = self.gateway, self.target, self.downstream
        self._leave()
        gateway.unqueue(self)
        gateway.count_own(status)
        keep_alive = self.whole and self._keep_alive and not gateway.draining and status not in (400, 408, 413)
        self.status = status
        answer = answers.problem(
            status,
            detail,
            self.request_id,
            keep_alive=keep_alive,
            minor=self.head.minor,
            arm_line=target.arm_line if target is not None else b"",
            head_only=self.head.method == b"HEAD",
        )
        downstream.transport.write(answer)
        now = perf_counter()
        if self._handover is not None and status >= 500 and target is not None and self.whole:
            self.first_byte = now
            end = answer.index(b"\r\n\r\n") + 4
            self._handover.answer(answer[:end], answer[end:])
            self._handover.offer(self, self._kept, now)
        gateway.log(self, now)
        if self.whole and status != 400:
            downstream.finished(keep_alive, now)
        else:
            downstream.close_after_reading()

    def _cut_off(self) -> None:
        """The client has part of an answer that will never be whole: the reset of its connection tells it so."""
        downstream = self.downstream
        downstream.exchange = None
        self._let_go()
        self.gateway.log(self, perf_counter())
        downstream.reset()

    def client_left(self) -> None:
        """The client is gone: so is the reason for the request."""
        if not self.tunnel:
            self.gateway.words[c.CLIENTS_LEFT] += 1
        self._let_go()

    def _let_go(self) -> None:
        if self.upstream is not None:
            self.upstream.drop()
            self.upstream = None
        self.connecting = False
        self._attempts += 1
        self.gateway.unqueue(self)
        self._leave()

    def _leave(self) -> None:
        """Give up the place at the arm and at its server, if it has one."""
        server, target = self._server, self.target
        if server is not None and target is not None:
            self._server = None
            server.in_flight -= 1
            target.in_flight -= 1
            if target.waiting:
                self.gateway.advance(target)

    def _count_error(self, kind: int) -> None:
        target = self.target
        assert target is not None
        words = self.gateway.words
        words[target.base + c.ERRORS] += 1
        words[target.base + kind] += 1

    # --- the end ---

    def _over(self, now: float) -> None:
        """The answer is whole: count it, hand it to the shadow, and let the connection go on."""
        target, server, gateway = self.target, self._server, self.gateway
        assert target is not None
        words = gateway.words
        self.upstream = None
        if server is not None:
            self._server = None
            if server.troubled:
                server.succeeded(now)
            server.in_flight -= 1
            target.in_flight -= 1
            if target.waiting:
                gateway.advance(target)
        words[target.base + self.status // 100 - 1] += 1
        words[target.histogram + bin_of(int((now - self.started) * 1e6))] += 1
        if target.breaker.troubled and self.status < 500:
            target.breaker.succeeded()
        if self._handover is not None:
            # Half a request would be no prediction to the other arm.
            self._handover.offer(self, self._kept if self.whole else None, now)
        if gateway.logging:
            gateway.log(self, now)
        if self.whole:
            self.downstream.finished(self._keep_alive, now)
        else:
            self.downstream.close_after_reading()


def _why_not_connected(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "the server did not accept a connection in time"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the server's certificate does not prove who it is: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"the TLS handshake with the server failed: {error.reason}"
    return "the server's name has no address" if isinstance(error, socket.gaierror) else "the server refuses connections"
