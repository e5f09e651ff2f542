"""The two paths that the router answers itself on the data port: `/-/healthz` (the process lives) and `/-/readyz`.

A probe stands in the place of an exchange on its connection while it is being answered, so that what was pipelined behind it
waits its turn.
"""

from __future__ import annotations

import asyncio
from time import perf_counter
from typing import TYPE_CHECKING, Final

from models.http1 import RequestHead
from models.pool import probe
from models.tasks import spawn
from router.proxy import answers

if TYPE_CHECKING:
    from router.proxy.downstream import Downstream
    from router.proxy.gateway import Gateway
    from router.proxy.routing import Routing

PATHS: Final = (b"/-/healthz", b"/-/readyz")
_FRESH_SECONDS: Final = 0.25


class Readiness:
    """Whether blue can be reached, as of a moment ago; asked again when that was too long ago, once for all who ask."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._checked = 0.0
        self._ready = False
        self._waiting: list[Probe] = []

    def ask(self, asker: Probe) -> None:
        """Have a probe told."""
        if perf_counter() - self._checked < _FRESH_SECONDS:
            asker.told(self._ready)
            return
        self._waiting.append(asker)
        if len(self._waiting) == 1:
            spawn(self._check(), "readiness")

    async def _check(self) -> None:
        """Ready is what can be seen now: a server of blue that takes a connection (or answers its health path)."""
        gateway = self._gateway
        servers = gateway.obey_plan().blue.pool.servers
        health, tls, name = gateway.options.health, gateway.tls, gateway.server_name
        ready = False
        try:
            ready = any(await asyncio.gather(*(probe(s, health, tls, name) for s in servers)))
        finally:
            self._ready, self._checked = ready, perf_counter()
            waiting, self._waiting = self._waiting, []
            for asker in waiting:
                asker.told(self._ready)


class Probe:
    """One probe on one connection; takes an exchange's place there."""

    whole = True
    answered = False
    tunnel = False

    def __init__(self, gateway: Gateway, downstream: Downstream, head: RequestHead) -> None:
        self._gateway = gateway
        self._downstream: Downstream | None = downstream
        self._head = head

    def begin(self) -> None:
        """Answer, now or when readiness is known."""
        if self._head.target.partition(b"?")[0] == b"/-/healthz":
            self._answer(200, "alive")
        elif self._gateway.draining:
            self._answer(503, "draining")
        else:
            self._gateway.readiness.ask(self)

    def told(self, ready: bool) -> None:
        """What readiness has found."""
        if ready:
            self._answer(200, "ready")
        else:
            self._answer(503, "no server of blue can be reached")

    def _answer(self, status: int, text: str) -> None:
        downstream, head = self._downstream, self._head
        if downstream is None:
            return
        self._downstream = None
        gateway = self._gateway
        request_id = head.request_id or gateway.new_request_id()
        # A probe has no body worth reading; one that comes with a body ends its connection.
        keep_alive = head.keep_alive and not head.length and not gateway.draining
        make = answers.plain if status == 200 else answers.problem
        if status != 200:
            gateway.count_own(status)
        downstream.transport.write(
            make(status, text, request_id, keep_alive=keep_alive, minor=head.minor, head_only=head.method == b"HEAD")
        )
        if head.length:
            downstream.close_after_reading()
        else:
            downstream.finished(keep_alive, perf_counter())

    # --- what an exchange is asked as well ---

    def feed(self, data: bytes) -> int:
        """A probe is whole from the start: nothing of what follows is its own."""
        return 0

    def tunnel_send(self, data: bytes) -> None:
        """Never a tunnel."""

    def client_left(self) -> None:
        """Nobody to answer any more."""
        self._downstream = None

    def client_ready(self, ready: bool) -> None:
        """One line of text needs no back-pressure."""

    def check_time(self, now: float) -> None:
        """Bounded by the health check's own timeout."""

    def recall(self, routing: Routing) -> bool:
        """Never sent anywhere."""
        return False
