"""What all connections of a worker share: the plan it obeys, its targets, counters, limits, and the one sweep.

`obey_plan` is called for every request and compares one word of the plan page with the last one seen; everything else about a
new plan happens only when they differ. The sweep is the only timer: it looks at every open connection a few times per second,
so that no request pays for a timer of its own.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import os
import random
import ssl
from pathlib import Path
from time import perf_counter, time
from typing import TYPE_CHECKING, Final

from models.pool import Server, probe
from models.tasks import spawn
from models.upstream import SMALL
from router import counters as c
from router.counters import CounterPage
from router.errors import PlanError, StartError
from router.page import PlanPage
from router.plan import read_plan
from router.proxy.handover import Handover
from router.proxy.options import ProxyOptions
from router.proxy.probes import Readiness
from router.proxy.routing import Routing, Target, Targets
from router.proxy.tap import Tap

if TYPE_CHECKING:
    from router.proxy.downstream import Downstream
    from router.proxy.exchange import Exchange

_log = logging.getLogger("gateway")
_ID_ENDINGS: Final = [b"%03x" % i for i in range(4096)]
_OWN_STATUS: Final = {status: c.OWN_BASE + i for i, status in enumerate(c.OWN_STATUSES)}
DRAIN_GRACE_SECONDS: Final = 1.0  # an idle connection may send one more request before a drain closes it


class Gateway:
    """One worker's shared state."""

    def __init__(
        self,
        page: PlanPage,
        counters: CounterPage,
        options: ProxyOptions,
        tap: Tap,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.loop = loop
        self.words = counters.words
        self.tap = tap
        self.downstreams: set[Downstream] = set()
        self.draining = False
        self._counters = counters
        self._page = page
        self.plan_word = page.word
        self.routing: Routing  # set by the first obey_plan
        self.plan_seen = -1
        self._places = 0  # connections, and handshakes that may become one
        self._clients: dict[str, int] = {}  # of those, by the client's address
        self._id_prefix = os.urandom(8).hex().encode()
        self._id_start = self._id_prefix + b"0" * 13
        self._id_count = 0
        self._drain_began = 0.0
        self._log_lines: list[str] = []
        self._refused: set[Downstream] = set()  # over a limit, and only open until their answer has left
        self._checked_at = 0.0
        self._targets = Targets(options)
        self.take_options(options)
        self.readiness = Readiness(self)
        self.words[c.DRAINING] = self.words[c.CONNECTIONS] = 0
        for base in c.COLOUR_BASE:
            self.words[base + c.IN_FLIGHT] = self.words[base + c.QUEUED] = 0

    def take_options(self, options: ProxyOptions) -> None:
        """Obey these options from now on. Raises OSError or ssl.SSLError when a TLS file cannot be used."""
        # First what may fail: half of the options would be neither the old ones nor the new.
        self.tls: ssl.SSLContext = options.upstream_tls.context()
        self.options = options
        self.timeouts = options.timeouts
        self.limits = options.limits
        # Asked for by every request; an attribute of a compiled class costs next to nothing.
        self.most_head = options.limits.head
        self.most_fields = options.limits.headers
        self.most_body = options.limits.body
        self.most_in_flight = options.limits.in_flight
        self.fallback = options.fallback
        self.logs_exposures = options.mirroring.logged > 0
        self.breaker_armed = bool(options.fallback.on)
        self.keep_bytes = max(options.fallback.body, options.mirroring.body)
        self.most_quick = min(self.keep_bytes, SMALL)
        self.server_name = options.upstream_tls.server_name
        self._targets.take_options(options)
        self.logging = options.access_log.path is not None and options.access_log.sample > 0

    # --- the plan ---

    def obey_plan(self) -> Routing:
        """The routing of the plan that holds now."""
        if self.plan_word[0] != self.plan_seen:
            self._take_plan()
        return self.routing

    def _take_plan(self) -> None:
        seen = self.plan_word[0]
        try:
            revision, content = self._page.read()
            plan = read_plan(content)
        except (StartError, PlanError) as error:
            # Nothing but control writes the page; should it be damaged all the same, the plan in force stays in force.
            if self.plan_seen < 0:
                raise
            _log.error("the plan page cannot be read, revision %d stays in force: %s", self.routing.revision, error)
            self.plan_seen = seen
            return
        # The word as it was before the read: if the page has moved on since, the next request sees that and reads again.
        self.plan_seen = seen
        routing = self._targets.route(plan, self._counters.release_cell(plan.release))
        self.routing = routing
        self.words[c.REVISION] = revision
        if not routing.share:
            recalled = 0
            for downstream in list(self.downstreams):
                exchange = downstream.exchange
                if exchange is not None and exchange.recall(routing):
                    recalled += 1
            self.words[c.RECALLED] += recalled
        self.words[c.RECALLED_REVISION] = revision

    def samples(self, exchange: Exchange) -> Handover | None:
        """Where to gather what the shadow shall have of this exchange, or None when it shall have nothing.

        Predictions alone are handed over, told by method and path: in the shadow's sample to be mirrored; else, while traffic
        is split between the arms, for the prediction log.
        """
        routing, mirroring, head = exchange.routing, self.options.mirroring, exchange.head
        if head.method not in mirroring.methods or not head.target.startswith(mirroring.paths) or head.upgrade:
            return None
        share = routing.shadowed
        if share and (share >= 1.0 or random.random() < share):
            return Handover(True, mirroring.body)
        share = mirroring.logged if routing.splits else 0.0
        return Handover(False, mirroring.body) if share and (share >= 1.0 or random.random() < share) else None

    # --- connections and their limits ---

    def now(self) -> float:
        """Seconds of the monotonic clock."""
        return perf_counter()

    def new_request_id(self) -> bytes:
        """An id that no other request of any worker has: 32 hexadecimal digits."""
        self._id_count = count = self._id_count + 1
        ending = count & 0xFFF
        if not ending:
            self._id_start = b"%s%013x" % (self._id_prefix, count >> 12)
        return self._id_start + _ID_ENDINGS[ending]

    def admit(self, downstream: Downstream) -> bool:
        """Whether this connection is within the limits. It has a place then, until it leaves."""
        if downstream.reserved:
            downstream.reserved = False  # the place was taken before the handshake, and is the connection's own from now on
        elif not self.take_place(downstream.peer):
            self._refused.add(downstream)
            return False
        self.downstreams.add(downstream)
        return True

    def leave(self, downstream: Downstream) -> None:
        """A connection has ended."""
        if downstream not in self.downstreams:
            self._refused.discard(downstream)
            return
        self.downstreams.remove(downstream)
        self.leave_place(downstream.peer)

    def take_place(self, peer: str) -> bool:
        """Whether one more connection, of this client, is within the limits; it counts from here on."""
        limits = self.limits
        count = self._clients.get(peer, 0)
        if self._places >= limits.connections or 0 < limits.connections_per_client <= count:
            self.words[c.REFUSED] += 1
            return False
        self._places += 1
        self._clients[peer] = count + 1
        return True

    def leave_place(self, peer: str) -> None:
        """What took a place needs it no longer."""
        self._places -= 1
        count = self._clients[peer]
        if count == 1:
            del self._clients[peer]
        else:
            self._clients[peer] = count - 1

    def trusts(self, peer: str) -> bool:
        """Whether a peer's X-Forwarded fields are believed."""
        try:
            address = ipaddress.ip_address(peer)
        except ValueError:
            return False
        return any(address in network for network in self.options.trusted)

    def queue(self, exchange: Exchange, target: Target) -> bool:
        """Have a request wait for a place at a full arm; False when the queue is full as well."""
        if len(target.waiting) >= self.limits.queue:
            return False
        exchange.queued_at = perf_counter()
        target.waiting.append(exchange)
        return True

    def unqueue(self, exchange: Exchange) -> None:
        """A waiting request waits no longer."""
        if exchange.queued_at and exchange.target is not None:
            exchange.queued_at = 0.0
            exchange.target.waiting.remove(exchange)

    def advance(self, target: Target) -> None:
        """A place is free: the longest-waiting request takes it."""
        while target.waiting and target.in_flight < self.most_in_flight:
            target.waiting.popleft().connect()

    # --- counting ---

    def count_own(self, status: int) -> None:
        """An answer that the router made itself."""
        position = _OWN_STATUS.get(status)
        if position is not None:
            self.words[position] += 1

    def total_requests(self) -> int:
        """How many requests this worker has answered from any arm, ever."""
        return sum(sum(self.words[base : base + 5]) for base in c.COLOUR_BASE)

    def log(self, exchange: Exchange, now: float) -> None:
        """One line for the access log, if this request is in its sample. Written by the sweep."""
        if not self.logging:
            return
        sample = self.options.access_log.sample
        if sample < 1.0 and random.random() >= sample:
            return
        head, target = exchange.head, exchange.target
        self._log_lines.append(
            json.dumps(
                {
                    "time": round(time(), 3),
                    "request_id": exchange.request_id.decode("ascii"),
                    "client": exchange.downstream.peer,
                    "method": head.method.decode("ascii"),
                    # The query may hold what identifies a user; the path is enough to tell requests apart.
                    "path": head.target.partition(b"?")[0].decode("ascii"),
                    "status": exchange.status,
                    "arm": target.colour.value if target else None,
                    "revision": exchange.routing.revision,
                    "ms": round((now - exchange.started) * 1e3, 3),
                    "fell_back": exchange.fell_back,
                    "recalled": exchange.recalled,
                }
            )
        )

    # --- the sweep ---

    @property
    def sweep_seconds(self) -> float:
        """How often the sweep runs: several times within the shortest of the times it watches."""
        times = self.timeouts
        shortest = min(times.first_byte, times.idle, times.head, times.keep_alive, times.continue_, self.limits.queue_wait)
        return min(max(shortest / 5, 0.05), 0.5)

    def sweep(self) -> None:
        """Look at everything that may take too long, once."""
        now = perf_counter()
        routing = self.obey_plan()
        timeouts = self.timeouts
        # A drain closes idle connections, but not at once: a request may be on its way to us. One that comes within the grace
        # is answered, with `Connection: close`.
        drained_before = now - DRAIN_GRACE_SECONDS if self.draining and now - self._drain_began > DRAIN_GRACE_SECONDS else 0.0
        for downstream in [*self.downstreams, *self._refused]:
            try:
                downstream.check_time(now, timeouts, downstream.since < drained_before)
            except Exception:
                # One connection in a state it should not be in must not lose the others their bounds.
                _log.exception("a connection's times could not be checked; it is closed")
                downstream.transport.abort()
        for server in self._targets.servers:
            server.reap(now, timeouts.upstream_keep_alive)
        self.tap.keep_connected(now)
        self._show(routing, now)
        self._write_log()
        if now - self._checked_at >= self.options.health.interval and not self.draining:
            self._checked_at = now
            for server in self._targets.servers:
                spawn(self._check(server), "health check")

    async def _check(self, server: Server) -> None:
        good = await probe(server, self.options.health, self.tls, self.server_name)
        server.checked(good, self.options.health)

    def _show(self, routing: Routing, now: float) -> None:
        """The gauges, for whoever maps the page."""
        words = self.words
        words[c.CONNECTIONS] = self._places
        words[c.BEAT] = int(now * 1000)
        for index, target in enumerate((routing.blue, routing.green)):
            base = c.COLOUR_BASE[index]
            words[base + c.IN_FLIGHT] = target.in_flight if target else 0
            words[base + c.QUEUED] = len(target.waiting) if target else 0
            words[base + c.DOWN] = target.pool.down_bits(now) if target else 0
            words[base + c.BREAKER] = target.breaker.state if target else 0

    def _write_log(self) -> None:
        if not self._log_lines or self.options.access_log.path is None:
            return
        lines, self._log_lines = self._log_lines, []
        # One append per batch: lines of several workers never mix, since O_APPEND writes of a batch are one call each.
        text = ("\n".join(lines) + "\n").encode()
        try:
            handle = os.open(Path(self.options.access_log.path), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
            try:
                os.write(handle, text)
            finally:
                os.close(handle)
        except OSError as error:
            _log.error("%d lines of the access log are lost: %s", len(lines), error)

    # --- the drain ---

    def drain(self) -> None:
        """Answer what runs and close: each answer from now on is its connection's last."""
        self.draining = True
        self._drain_began = perf_counter()
        self.words[c.DRAINING] = 1

    @property
    def drained(self) -> bool:
        """Whether all connections and handshakes have ended, or the deadline has passed."""
        return self.draining and (not self._places or perf_counter() - self._drain_began > self.timeouts.drain)

    def finish(self) -> None:
        """The last things a worker does."""
        for downstream in [*self.downstreams, *self._refused]:
            downstream.break_off()
        self._write_log()
        self.tap.close()
        self.words[c.CONNECTIONS] = self.words[c.PID] = 0
