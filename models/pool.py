"""The connections to an arm's servers: warm ones are used again, the less loaded of two servers is chosen, sick ones rest.

Choosing is pure (`Pool.choose`); opening a connection is the only thing here that waits. A server rests for two reasons: its
health check failed (`down`), or requests to it failed several times in a row (`ejected_until`, which doubles up to a bound
each time). Never more than half of an arm's servers are ejected, and when none is left all are tried: a gateway that has only
doubtful servers does better to ask one than to refuse everybody.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from models.arm import Address, parse_address
from models.upstream import Upstream


@dataclass(frozen=True, slots=True)
class Health:
    """When a server is taken out of use and back. Times in seconds; counts of consecutive results."""

    path: str | None = None
    interval: float = 2.0
    timeout: float = 1.0
    unhealthy_after: int = 2
    healthy_after: int = 1
    eject_after: int = 5
    eject_for: float = 5.0
    eject_most: float = 60.0


@dataclass(frozen=True, slots=True)
class Tls:
    """How to make sure of an https server: trust `ca` (or the system's), show `certificate`, expect `server_name`."""

    ca: str | None = None
    certificate: str | None = None
    key: str | None = None
    server_name: str | None = None
    verify: bool = True

    def context(self) -> ssl.SSLContext:
        """An ssl context of these; TLS 1.2 at least. Raises OSError or ssl.SSLError when a file cannot be used."""
        context = ssl.create_default_context(cafile=self.ca)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.certificate is not None:
            # An empty passphrase, or OpenSSL would ask at the terminal for that of an encrypted key.
            context.load_cert_chain(self.certificate, self.key, password="")
        return context


class Server:
    """One server with its idle connections and what is known of its health."""

    __slots__ = (
        "address",
        "down",
        "ejected_until",
        "ejections",
        "failures",
        "good",
        "idle",
        "in_flight",
        "refused",
        "rested",
        "retired",
        "troubled",
        "url",
    )

    def __init__(self, url: str) -> None:
        self.url = url
        self.address: Address = parse_address(url)
        self.idle: list[Upstream] = []
        self.in_flight = 0
        self.down = False
        self.good = 0  # consecutive good health checks
        self.refused = 0  # consecutive failed health checks
        self.failures = 0  # consecutive failed requests
        self.ejections = 0
        self.ejected_until = 0.0
        self.rested = 0.0  # seconds of the last ejection
        self.troubled = False  # something failed that a success may make good
        self.retired = False  # no plan names it any more

    def warm(self) -> Upstream | None:
        """The most recently used idle connection, which is the least likely to have gone stale."""
        while self.idle:
            connection = self.idle.pop()
            if not connection.transport.is_closing():
                return connection
        return None

    def keep(self, connection: Upstream) -> None:
        """An exchange is over and its connection may carry another."""
        if self.retired or connection.transport.is_closing():
            # One that has ended already would never be forgotten: nobody is told of its end a second time.
            connection.transport.close()
        else:
            connection.idle_since = 0.0
            connection.reused = True  # also one that its first request did not wait for: it may go stale like any other
            self.idle.append(connection)

    def forget(self, connection: Upstream) -> None:
        """A connection is gone."""
        if connection in self.idle:
            self.idle.remove(connection)

    def reap(self, now: float, keep_alive: float) -> None:
        """Close connections that have been idle for longer than `keep_alive` seconds (the first sweep stamps them)."""
        for connection in list(self.idle):
            if not connection.idle_since:
                connection.idle_since = now
            elif now - connection.idle_since > keep_alive:
                self.idle.remove(connection)
                connection.transport.close()

    def retire(self) -> None:
        """No plan names this server any more: idle connections close now, the others when they are done."""
        self.retired = True
        for connection in list(self.idle):
            connection.transport.close()
        self.idle.clear()

    def checked(self, good: bool, health: Health) -> None:
        """The result of one active health check."""
        if good:
            self.good, self.refused = self.good + 1, 0
            if self.good >= health.healthy_after:
                self.down = False
        else:
            self.refused, self.good = self.refused + 1, 0
            if self.refused >= health.unhealthy_after:
                self.down = True

    def succeeded(self, now: float) -> None:
        """A request was answered well. An ejection is forgotten only when the server has held for as long again."""
        self.failures = 0
        if self.ejections and now - self.ejected_until > self.rested:
            self.ejections = 0
        self.troubled = self.ejections > 0

    async def connect(self, timeout: float, tls: ssl.SSLContext | None, server_name: str | None) -> Upstream:
        """Open a connection; names are resolved anew each time. Raises OSError (TimeoutError among them)."""
        try:
            return await self._connect(timeout, tls, server_name)
        except UnicodeError as error:  # a name that cannot be one: the resolver's encoding refuses it
            raise OSError(f"{self.address.host!r} is not a host name") from error

    async def _connect(self, timeout: float, tls: ssl.SSLContext | None, server_name: str | None) -> Upstream:
        loop = asyncio.get_running_loop()
        address = self.address

        def make() -> Any:  # a protocol by its methods: see Upstream
            return Upstream(self)

        async with asyncio.timeout(timeout):
            if address.path is not None:
                _, connection = await loop.create_unix_connection(make, address.path)
            else:
                _, connection = await loop.create_connection(
                    make,
                    address.host,
                    address.port,
                    ssl=tls if address.tls else None,
                    server_hostname=(server_name or address.host) if address.tls else None,
                )
        return cast(Upstream, connection)


class Pool:
    """An arm's servers, as one plan lists them."""

    __slots__ = ("_random", "health", "servers")

    def __init__(self, servers: list[Server], health: Health, choose: Callable[[], float] = random.random) -> None:
        self.servers = servers
        self.health = health
        self._random = choose

    def choose(self, now: float, tried: frozenset[Server] | None = None) -> Server:
        """A server for the next request: the one with fewer requests in flight of two taken at random (Mitzenmacher 2001).

        Servers in `tried` are left out while any other remains.
        """
        servers = self.servers
        if len(servers) == 1:
            return servers[0]
        able = [s for s in servers if not s.down and s.ejected_until <= now] or servers
        if tried:
            able = [s for s in able if s not in tried] or [s for s in servers if s not in tried] or servers
        if len(able) == 1:
            return able[0]
        pick = self._random
        first = able[int(pick() * len(able))]
        second = able[int(pick() * len(able))]
        return first if first.in_flight <= second.in_flight else second

    def failed(self, server: Server, now: float) -> None:
        """A request to `server` failed: after several in a row it rests, unless half of the servers rest already."""
        server.failures += 1
        server.troubled = True
        health = self.health
        if server.failures < health.eject_after or server.ejected_until > now:
            return
        resting = sum(1 for s in self.servers if s.ejected_until > now)
        if (resting + 1) * 2 > len(self.servers):
            return
        server.rested = min(health.eject_for * 2**server.ejections, health.eject_most)
        server.ejected_until = now + server.rested
        server.ejections = min(server.ejections + 1, 16)
        server.failures = 0

    def down_bits(self, now: float) -> int:
        """Which servers are out of use: bit i for the i-th."""
        return sum(1 << i for i, s in enumerate(self.servers) if s.down or s.ejected_until > now)


async def probe(server: Server, health: Health, tls: ssl.SSLContext | None, server_name: str | None) -> bool:
    """One active health check: a GET of `health.path` answered with 2xx or 3xx, or without a path a connection that opens.

    GET, since most model servers answer HEAD with 405. The connection is never kept for requests, even when the server would
    keep it open: one that found it among the idle ones would be lost when the check drops it.
    """
    apart = Server(server.url)
    apart.retire()
    try:
        connection = await apart.connect(health.timeout, tls, server_name)
    except (OSError, ssl.SSLError):
        return False
    if health.path is None:
        connection.transport.close()
        return True
    waiter = _Probe()
    head = f"GET {health.path} HTTP/1.1\r\nHost: {server.address.authority}\r\n"
    head += "User-Agent: bluegreen-health\r\nConnection: close\r\n\r\n"
    connection.send(waiter, b"GET", head.encode("ascii"), whole=True)
    try:
        async with asyncio.timeout(health.timeout):
            return 200 <= await waiter.status < 400
    except TimeoutError:
        return False
    finally:
        connection.drop()


class _Probe:
    """Receives a health check's answer: only the status matters."""

    def __init__(self) -> None:
        self.status: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def interim(self, head: object) -> None:
        """Nothing to do before the final answer."""

    def answer(self, head: object, data: bytes, done: bool) -> None:
        """The final answer's status."""
        if not self.status.done():
            self.status.set_result(getattr(head, "status", 0))

    def more(self, data: bytes, done: bool) -> None:
        """The body does not matter."""

    def upgraded(self, head: object, data: bytes) -> None:
        """Not asked for."""
        self.broken("", False)

    def broken(self, detail: str, answered: bool) -> None:
        """No answer."""
        if not self.status.done():
            self.status.set_result(0)

    def writable(self, ready: bool) -> None:
        """The request is one small piece."""


__all__ = ["Health", "Pool", "Server", "Tls", "probe"]
