"""Everything at once: servers that fail in every way, clients that vanish in every way, and a plan that changes under them.

What must hold in any weather: an answer that is whole and good is the answer to its own request, the account of places balances
afterwards, no descriptor is left open, and the worker has nothing to complain of.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from typing import Any

import pytest
from plane import Client, Connection, Ended, Router, Seen, Upstream, arm, chunked, ok, until

from router import counters as c

SETTINGS: dict[str, Any] = {
    "timeouts": {"connect": 0.5, "first_byte": 0.3, "idle": 0.3, "head": 0.3, "body": 1, "keep_alive": 0.5, "continue": 0.25},
    "limits": {"in_flight": 20, "queue": 10, "queue_wait": 0.3, "body": 100_000},
    "health": {"interval": 0.5, "eject_after": 20, "eject_for": 0.2},
    "fallback": {"body": 20_000, "open_after": 30, "open_for": 0.2, "budget_percent": 60},
}
SECONDS = 2.0
MORE_SECONDS = 20.0  # at most, on a machine too busy to let enough happen in these
CLIENTS = 10


def misbehaving(seed: int) -> Any:
    """A server that mostly echoes the request's name and body, and sometimes does anything else."""
    pick = random.Random(seed)

    def deed(connection: Connection, seen: Seen) -> None:
        body = seen.target + b" " + seen.payload
        kind = pick.random()
        if kind < 0.6:
            connection.send(ok(body))
        elif kind < 0.7:
            connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(body[:7], body[7:]))
        elif kind < 0.75:
            connection.send(b"HTTP/1.1 200 OK\r\n\r\n" + body)
            connection.close()
        elif kind < 0.78:
            connection.send(b"HTTP/1.1 103 Early Hints\r\n\r\n")
            time.sleep(0.005)
            connection.send(ok(body))
            connection.close()
        elif kind < 0.82:
            connection.send(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy")
        elif kind < 0.86:
            connection.close()
        elif kind < 0.89:
            connection.reset()
        elif kind < 0.92:
            connection.send(ok(body)[: pick.randrange(1, 40)])
            connection.close()
        elif kind < 0.94:
            connection.send(b"garbage " * 20 + b"\r\n\r\n")
        elif kind < 0.96:
            connection.send(ok(body) + ok(b"not asked for"))
        elif kind < 0.98:
            time.sleep(pick.choice([0.02, 0.1, 0.5]))
            connection.send(ok(body))
        else:
            connection.watch()

    return deed


class Caller(threading.Thread):
    """A client that asks, checks what it gets, and now and then behaves badly."""

    def __init__(self, router: Router, number: int, over: threading.Event) -> None:
        super().__init__()
        self._router = router
        self._number = number
        self._over = over
        self._pick = random.Random(number)
        self.good = self.problems = self.cut = 0
        self.wrong: list[str] = []

    def run(self) -> None:
        asked = 0
        while not self._over.is_set():
            with contextlib.suppress(OSError), self._router.client() as client:
                for _ in range(self._pick.randrange(1, 12)):
                    asked += 1
                    try:
                        if not self._ask(client, asked):
                            break
                    except (Ended, TimeoutError, OSError):
                        self.cut += 1
                        break

    def _ask(self, client: Client, number: int) -> bool:
        pick = self._pick
        name = b"/%d/%d" % (self._number, number)
        body = bytes(pick.choice(b"abc") for _ in range(pick.choice([0, 0, 3, 300, 30_000])))
        if pick.random() < 0.5:
            raw = b"POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s" % (name, len(body), body)
        else:
            raw = b"POST %s HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n%s" % (
                name,
                chunked(body[:100], body[100:]),
            )
        kind = pick.random()
        if kind < 0.06:
            client.sends(raw[: pick.randrange(len(raw))])
            time.sleep(pick.choice([0, 0.002, 0.01]))
            client.resets() if pick.random() < 0.5 else client.closes()
            return False
        if kind < 0.12:
            client.sends(raw)
            client.resets() if pick.random() < 0.5 else client.closes()
            return False
        if kind < 0.2:
            cut = pick.randrange(len(raw))
            client.sends(raw[:cut], raw[cut:], pause=0.002)
        elif kind < 0.3:
            client.sends(raw + b"GET %s/next HTTP/1.1\r\nHost: a\r\n\r\n" % name)
            return self._check(client, name + b" " + body) and self._check(client, name + b"/next ")
        else:
            client.sends(raw)
        return self._check(client, name + b" " + body)

    def _check(self, client: Client, expected: bytes) -> bool:
        answer = client.receives()
        while answer.status == 103:
            answer = client.receives()
        if answer.status == 200:
            self.good += 1
            if answer.payload != expected or answer.arm not in ("blue", "green"):
                self.wrong.append(f"{expected[:60]!r} was answered with {answer.payload[:60]!r}")
        elif answer.arm is None or answer.header(b"content-type") == b"application/problem+json":
            self.problems += 1
            answer.problem()
            assert answer.status in (408, 502, 503, 504)
        else:
            assert (answer.status, answer.payload) == (503, b"busy")
        return answer.header(b"connection") != b"close"


@pytest.mark.parametrize("seed", [1])
def test_storm(router: Router, blue: Upstream, green: Upstream, seed: int) -> None:
    servers = [blue, green, Upstream(), Upstream()]
    for number, server in enumerate(servers):
        server.does(misbehaving(seed * 100 + number))
    pick = random.Random(seed)
    router.obeys(blue=arm(servers[0], servers[2]), green=arm(servers[1], servers[3]))
    router.quiet()
    descriptors = router.descriptors
    before = router.counts
    over = threading.Event()
    callers = [Caller(router, seed * 1000 + i, over) for i in range(CLIENTS)]
    for caller in callers:
        caller.start()

    def enough() -> bool:
        n = router.counts - before
        fallbacks, retries = n.green(c.FALLBACKS), n.blue(c.RETRIES) + n.green(c.RETRIES)
        return sum(caller.good for caller in callers) > 100 and fallbacks > 0 and retries > 0

    began = time.monotonic()
    while (lasted := time.monotonic() - began) < SECONDS or (lasted < SECONDS + MORE_SECONDS and not enough()):
        time.sleep(0.03)
        kind = pick.random()
        if kind < 0.7:
            router.obeys(percent=pick.choice([0, 10, 50, 100]), wait=False)
        elif kind < 0.8:
            router.obeys(green={**arm(servers[1], servers[3]), "name": f"green-{pick.random()}"}, wait=False)
        elif kind < 0.9:
            server = pick.choice(servers)
            server.refuses()
            time.sleep(0.02)
            server.accepts()
        else:
            pick.choice(servers).ends_idle(pick.choice([Connection.close, Connection.reset]))
    over.set()
    for caller in callers:
        caller.join()
    router.obeys(percent=0)
    router.empty()
    router.quiet()
    n = router.counts - before
    assert [wrong for caller in callers for wrong in caller.wrong] == []
    good = sum(caller.good for caller in callers)
    assert good > 100
    # Every good answer was counted as one; some more were counted that their client did not wait for.
    assert n.blue(c.STATUS + 1) + n.green(c.STATUS + 1) >= good
    assert n.green(c.FALLBACKS) > 0
    assert n.blue(c.RETRIES) + n.green(c.RETRIES) > 0
    until(
        lambda: [server.ends_idle() for server in servers] and router.descriptors <= descriptors + 8,
        "descriptors are given back",
    )
    assert router.complaints() == []
    for server in servers[2:]:
        server.close()
