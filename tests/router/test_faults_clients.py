"""Clients that vanish, drip, send too much or take nothing: no server works for nobody, no worker holds more than its bounds."""

from __future__ import annotations

import contextlib
import itertools
import select
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from plane import PATIENCE, PATIENT, Client, Connection, Ended, Router, Seen, Upstream, chunked, deaf, ok, until

from router import counters as c

SETTINGS: dict[str, Any] = {
    "timeouts": PATIENT,
    "limits": {"body": 1 << 20, "head": 8192, "headers": 50},
    "health": {"interval": 60, "eject_after": 10_000},
    "fallback": {"body": 65536, "open_after": 10_000, "budget_percent": 100},
}

GET = b"GET /v1/models HTTP/1.1\r\nHost: models.example\r\n\r\n"
MIB = 1 << 20


# --- clients that leave --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [Client.resets, Client.closes], ids=["RST", "FIN"])
def test_client_that_leaves_calls_its_request_off(router: Router, blue: Upstream, how: Any) -> None:
    blue.hangs()
    with router.counting() as n:
        client = router.client().sends(GET)
        blue.request()
        how(client)
        until(lambda: blue.left == 1, "the server's connection is closed")
    assert n.word(c.CLIENTS_LEFT) == 1
    assert n.blue(c.ERRORS) == 0  # not the server's fault


def test_client_that_leaves_in_its_body(router: Router, blue: Upstream) -> None:
    ended = threading.Event()

    def deed(connection: Connection, _seen: Seen) -> None:
        with contextlib.suppress(OSError, Ended):
            while True:
                connection.reader.more()
        ended.set()

    blue.does(deed, early=True)
    with router.counting() as n:
        client = router.client().sends(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nonly this")
        blue.request()
        client.resets()
        assert ended.wait(30)
    assert n.word(c.CLIENTS_LEFT) == 1


def test_client_that_leaves_in_its_answer(router: Router, blue: Upstream) -> None:
    ended = threading.Event()

    def deed(connection: Connection, _seen: Seen) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        with contextlib.suppress(OSError):
            while True:
                connection.send(b"5\r\nevent\r\n")
                time.sleep(0.01)
        ended.set()

    blue.does(deed)
    with router.counting() as n:
        client = router.client().sends(GET)
        client.reader.through(b"event")
        client.resets()
        assert ended.wait(30)
    assert n.word(c.CLIENTS_LEFT) == 1


def test_client_that_leaves_while_its_connection_is_being_opened(router: Router) -> None:
    with deaf() as url, router.counting() as n:
        router.obeys(blue=[url])
        client = router.client().sends(GET)
        until(lambda: router.counts.blue(c.IN_FLIGHT) == 1, "it is being connected")
        client.resets()
    assert (n.word(c.CLIENTS_LEFT), n.own(502)) == (1, 0)


def test_many_clients_that_leave_at_any_moment(router: Router, blue: Upstream) -> None:
    """Nothing stays behind: neither a place at the arm nor a file descriptor."""
    blue.answers(lambda _seen: ok(b"x" * 50_000))
    request = b"POST /infer HTTP/1.1\r\nHost: a\r\nContent-Length: 200\r\n\r\n" + b"y" * 200
    assert router.asks(request).status == 200
    router.quiet()
    before = router.descriptors
    with router.counting():
        for i in range(150):
            client = router.client().sends(request[: 1 + (i * 7) % (len(request) + 1)])
            if i % 3 == 0:
                time.sleep(0.002)
            client.resets() if i % 2 else client.closes()
        router.empty()
    assert router.asks(request).status == 200
    # Connections to the server that came too late for their clients are kept for others, until the server ends them.
    until(lambda: blue.ends_idle() and router.descriptors <= before + 4, "descriptors are given back")


# --- clients that are slow to send ---------------------------------------------------------------------------------------


def test_request_byte_by_byte(router: Router, blue: Upstream, client: Client) -> None:
    body = chunked(b"abc", b"defgh", trailers=b"x-sum: 8\r\n")
    request = b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + body
    with router.counting() as n:
        client.sends(*(request[i : i + 1] for i in range(len(request))), pause=0.001)
        assert client.receives().status == 200
    seen = blue.request()
    assert (seen.wire, seen.payload) == (body, b"abcdefgh")
    assert n.own(400) == 0


def test_slow_loris_is_408(router: Router, blue: Upstream, client: Client) -> None:
    """RFC 9110, 15.5.9. Bytes that trickle in do not prolong the time for a head."""
    with router.counting() as n, router.timing(head=0.5):
        slow = itertools.chain(b"GET / HTTP/1.1\r\nHost: a\r\nx-slow: ", itertools.repeat(ord("z")))
        with contextlib.suppress(OSError):
            until(lambda: client.sends(bytes([next(slow)])) and not client.hears_nothing(0.01), "an answer")
        answer = client.receives()
        assert answer.status == 408
        assert answer.header(b"connection") == b"close"
        answer.problem()
        assert client.is_cut_off()
    assert n.own(408) == 1
    assert not blue.seen


def test_body_that_stops_is_408_and_calls_the_server_off(router: Router, blue: Upstream, client: Client) -> None:
    with router.counting() as n, router.timing(idle=0.5):
        client.sends(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nonly this")
        answer = client.receives()
        assert answer.status == 408
        answer.problem()
        assert client.is_cut_off()
    assert n.own(408) == 1
    assert n.blue(c.ERRORS) == 0
    assert not blue.seen  # never whole
    until(lambda: blue.working == 0, "the server is let go")


def test_body_that_trickles_has_a_deadline(router: Router, client: Client) -> None:
    with router.counting() as n, router.timing(body=1.0):
        client.sends(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n")
        with contextlib.suppress(OSError):
            until(lambda: client.sends(b"x") and not client.hears_nothing(0.05), "an answer")
        assert client.receives().status == 408
    assert n.own(408) == 1


def test_complaint_about_a_trickled_head_does_not_disturb_the_sweep(router: Router, client: Client) -> None:
    """A head that comes in pieces and turns out to be bad: refused once, lingering ends, and no other deadline is missed."""
    client.sends(b"GET / HTTP/1.1\r\n")
    router.catches_up()
    client.sends(b"Host: a\r\nbad header\r\n\r\n")
    with router.counting() as n:
        assert client.receives().status == 400
        with router.timing(head=0.5), router.client() as other:  # while the first one lingers
            other.sends(b"GET / HTTP/1.1\r\n")
            assert other.receives().status == 408
        router.empty()
    assert n.own(408) == 1
    assert router.complaints() == []


def test_idle_connections_are_reaped(router: Router, client: Client) -> None:
    assert client.asks(GET).status == 200
    with router.client() as fresh, router.timing(keep_alive=0.5):
        assert client.closed()
        assert fresh.closed()
    router.empty()


# --- clients that send too much ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "request_"),
    [
        (413, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (MIB + 1)),
        (413, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n" % (MIB + 1)),
        (413, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(*[b"x" * 65536] * 17)),
        (413, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n"),
        (413, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999999999999999\r\n\r\n"),
        (414, b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n"),
        (414, b"GET /" + b"a" * 9000),
        (431, b"GET / HTTP/1.1\r\nHost: a\r\nx: " + b"a" * 9000 + b"\r\n\r\n"),
        (431, b"GET / HTTP/1.1\r\nHost: a\r\n" + b"x: a\r\n" * 1600),
        (431, b"GET / HTTP/1.1\r\nHost: a\r\n" + b"x: a\r\n" * 50 + b"\r\n"),
    ],
    ids=["length", "one chunk", "many chunks", "2^64", "10^19", "target", "target alone", "field", "fields", "count"],
)
def test_too_much(router: Router, blue: Upstream, client: Client, status: int, request_: bytes) -> None:
    with router.counting() as n:
        with contextlib.suppress(OSError):
            client.sends(request_)
        answer = client.receives()
        assert answer.status == status
        answer.problem()
        assert answer.header(b"connection") == b"close"
        assert client.is_cut_off()
    assert n.own(status) == 1
    assert not blue.seen


def test_just_enough(router: Router, blue: Upstream, client: Client) -> None:
    with router.counting():
        body = b"x" * MIB
        assert client.asks(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s" % (MIB, body)).status == 200
        assert blue.request().payload == body
        framed = chunked(*[b"x" * 65536] * 16)
        assert client.asks(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + framed).status == 200
        assert blue.request(1).wire == framed
        head = b"GET / HTTP/1.1\r\nHost: a\r\n" + b"x: a\r\n" * 49
        assert client.asks(head + b"\r\n").status == 200
        filler = 8192 - len(b"GET / HTTP/1.1\r\nHost: a\r\nx: \r\n\r\n")
        assert client.asks(b"GET / HTTP/1.1\r\nHost: a\r\nx: " + b"a" * filler + b"\r\n\r\n").status == 200


# --- clients that take nothing -------------------------------------------------------------------------------------------


def test_slow_client_holds_its_server_back(tmp_path: Path, blue: Upstream) -> None:
    """A long answer to a client that does not read: the server is stopped, and the worker holds a bounded piece of it."""
    sent = 0

    def deed(connection: Connection, _seen: Seen) -> None:
        nonlocal sent
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (200 * MIB))
        for _ in range(800):
            connection.send(bytes(MIB // 4))
            sent += MIB // 4

    blue.does(deed)
    with Router(tmp_path, blue, settings={"health": {"interval": 60}}) as router:
        before = router.resident
        with router.client(receive_buffer=4096) as client:
            client.sends(GET)
            client.reader.through(b"\r\n\r\n")
            last = -1
            while sent != last:  # until the server cannot send any more
                last = sent
                time.sleep(0.3)
            assert sent < 60 * MIB  # what sits in the kernel's buffers
            assert router.resident - before < 8 * MIB
        until(lambda: router.counts.blue(c.IN_FLIGHT) == 0, "the request is called off")


def test_slow_server_holds_its_client_back(tmp_path: Path, blue: Upstream) -> None:
    blue.never_reads()
    with Router(tmp_path, blue, settings={"health": {"interval": 60}, "limits": {"body": 1 << 30}}) as router:
        before = router.resident
        with router.client() as client:
            client.sends(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (500 * MIB))
            client.sock.settimeout(0.5)
            sent = 0
            with contextlib.suppress(TimeoutError):
                while sent < 500 * MIB:
                    sent += client.sock.send(bytes(MIB // 4))
            assert sent < 100 * MIB
            assert router.resident - before < 8 * MIB


def test_server_that_stops_taking_the_body_is_504(router: Router, blue: Upstream) -> None:
    """The client is not to blame for a server that does not read (RFC 9110, 15.5.9 and 15.6.5)."""
    blue.never_reads()
    with router.reset_to({**SETTINGS, "limits": {"body": 1 << 30}}), router.client() as client:
        with router.counting() as n:
            client.sends(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (100 * MIB))
            _fills(router, client, 100 * MIB)
            with router.timing(idle=0.5):
                assert client.receives().status == 504
        assert (n.blue(c.TIMEOUTS), n.own(408)) == (1, 0)


def _fills(router: Router, client: Client, most: int) -> None:
    """Offer bytes until the worker has had twenty turns and taken none of them: so it is not a processor that it waits for."""
    sent = turns = 0
    client.sock.setblocking(False)
    while turns < 20:
        router.catches_up()
        turns += 1
        with contextlib.suppress(BlockingIOError):
            sent += client.sock.send(bytes(MIB // 4))
            turns = 0
        assert sent < most
    client.sock.settimeout(PATIENCE)


def test_requests_of_a_client_that_takes_no_answers_wait(tmp_path: Path, blue: Upstream) -> None:
    """Each answer is small, but there is no end of them: the worker must stop beginning new ones."""
    blue.answers(ok(b"x" * 100_000))
    with Router(tmp_path, blue, settings={"health": {"interval": 60}}) as router:
        before = router.resident
        with router.client(receive_buffer=4096) as client:
            client.sock.settimeout(0.3)
            with contextlib.suppress(TimeoutError):
                for _ in range(600):  # 60 MB of answers
                    client.sends(GET)
                    time.sleep(0.0015)
            assert router.resident - before < 12 * MIB
            assert len(blue.seen) < 200


def test_connection_of_a_slow_client_is_fit_for_the_next(router: Router, blue: Upstream) -> None:
    """Reading from the server is stopped for a slow client; the connection that becomes idle meanwhile must be readable."""
    for size in range(200_000, 6_000_000, 400_000):
        blue.answers(ok(bytes(size)), once=True)
        with router.client(receive_buffer=4096) as slow:
            slow.sends(GET)
            slow.reader.through(b"\r\n\r\n")
            time.sleep(0.03)
            with router.client() as other:
                answers = [other.asks(GET).status for _ in range(2)]
            assert answers == [200, 200], size


def test_client_that_takes_nothing_is_ended(router: Router, blue: Upstream) -> None:
    clients = []
    for size in range(100_000, 5_000_000, 100_000):  # some of them end while a piece waits in the worker
        blue.answers(ok(bytes(size)), once=True)
        client = router.client(receive_buffer=4096)
        client.sends(GET)
        client.reader.through(b"\r\n\r\n")
        clients.append(client)
    with router.timing(idle=0.5, keep_alive=0.5):
        router.empty()
    for client in clients:
        client.closes()


# --- more clients than there is room for ---------------------------------------------------------------------------------


def test_connections_over_the_limit_are_told(router: Router, blue: Upstream) -> None:
    with router.reset_to({**SETTINGS, "limits": {"connections": 5}}):
        held = [router.client() for _ in range(5)]
        assert all(client.asks(GET).status == 200 for client in held)
        with router.counting() as n:
            for _ in range(20):
                with router.client() as client:
                    with contextlib.suppress(OSError):
                        client.sends(GET)
                    answer = client.receives()
                    assert answer.status == 503
                    assert answer.header(b"retry-after") == b"1"
                    answer.problem()
        assert n.word(c.REFUSED) == 20
        assert all(client.asks(GET).status == 200 for client in held)
        held.pop().closes()
        until(lambda: router.counts.word(c.CONNECTIONS) == 4, "one has gone")
        assert router.asks(GET).status == 200


def test_connections_of_one_address_over_its_limit_are_told(router: Router, blue: Upstream) -> None:
    with router.reset_to({**SETTINGS, "limits": {"connections_per_client": 3}}):
        held = [router.client() for _ in range(3)]
        assert all(client.asks(GET).status == 200 for client in held)
        with router.client() as client:
            with contextlib.suppress(OSError):
                client.sends(GET)
            assert client.receives().status == 503
        for client in held:
            client.closes()
        router.empty()
        assert router.asks(GET).status == 200


LIMITED: dict[str, Any] = {
    "limits": {"in_flight": 2, "queue": 1, "queue_wait": 30},
    "health": {"interval": 60},
    "timeouts": PATIENT,
}


def test_requests_over_in_flight_and_queue_are_503(router: Router, blue: Upstream) -> None:
    go = threading.Event()
    blue.answers_after(go)
    with router.reset_to(LIMITED):
        with router.counting() as n:
            at_work = [router.client().sends(GET) for _ in range(2)]
            blue.request(1)
            queued = router.client().sends(GET)
            until(lambda: router.counts.blue(c.QUEUED) == 1, "one waits")
            with router.client() as client:
                answer = client.asks(GET)
                assert answer.status == 503
                assert answer.header(b"retry-after") == b"1"
                assert answer.arm == "blue"
                answer.problem()
                assert len(blue.seen) == 2
                go.set()
                assert [one.receives().status for one in [*at_work, queued]] == [200, 200, 200]
                assert client.asks(GET).status == 200  # the refused client's connection goes on
        assert (n.own(503), n.blue(c.STATUS + 1), n.blue(c.ERRORS)) == (1, 4, 0)


def test_request_that_waits_too_long_in_the_queue_is_503(router: Router, blue: Upstream) -> None:
    blue.hangs()
    settings = {**LIMITED, "limits": {"in_flight": 1, "queue": 5, "queue_wait": 0.3}}
    with router.reset_to(settings), router.client().sends(GET):
        blue.request()
        with router.client() as queued:
            answer = queued.asks(GET)
            assert answer.status == 503
            assert answer.header(b"retry-after") == b"1"
        assert len(blue.seen) == 1


def test_queued_client_that_leaves_gives_its_place_up(router: Router, blue: Upstream) -> None:
    go = threading.Event()
    blue.answers_after(go)
    settings = {**LIMITED, "limits": {"in_flight": 1, "queue": 1, "queue_wait": 30}}
    with router.reset_to(settings):
        with router.counting() as n, router.client().sends(GET) as first:
            blue.request()
            queued = router.client().sends(GET)
            until(lambda: router.counts.blue(c.QUEUED) == 1, "one waits")
            queued.resets()
            until(lambda: router.counts.blue(c.QUEUED) == 0, "none waits")
            with router.client().sends(GET) as other:
                until(lambda: router.counts.blue(c.QUEUED) == 1, "another waits")
                go.set()
                assert (first.receives().status, other.receives().status) == (200, 200)
        assert len(blue.seen) == 2
        assert n.word(c.CLIENTS_LEFT) == 1


def test_pipelined_request_behind_a_refused_one_is_answered(router: Router, blue: Upstream) -> None:
    """The 503 is given while the last piece of the body is read, and the next request is in the same piece."""
    blue.hangs()
    settings = {**LIMITED, "limits": {"in_flight": 1, "queue": 0}}
    with router.reset_to(settings):
        router.obeys(green=blue, percent=50, key="json:/user")  # the body decides, so it is read before a place is asked for
        with router.client().sends(GET), router.client() as client:
            blue.request()
            client.sends(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello")
            router.catches_up()
            client.sends(b"worldGET /-/healthz HTTP/1.1\r\nHost: a\r\n\r\n")
            assert client.receives().status == 503
            assert client.receives().status == 200


def test_connected_and_silent_clients_cost_little(router: Router) -> None:
    """A thousand idle connections: all served, all counted, and little memory for each."""
    before = router.resident
    clients = [router.client() for _ in range(1000)]
    for client in clients[::100]:
        assert client.asks(GET).status == 200
    assert router.resident - before < 1000 * 32768
    for client in clients:
        client.closes()
    router.empty()


def test_slow_but_steady_client_is_not_cut_off(router: Router, blue: Upstream) -> None:
    """`idle` bounds the time in which nothing moves. What moves may be what lies in the kernel's buffers.

    It must be shorter than they need to drain, and so is no longer than a busy machine may keep the client, the server or the
    worker waiting. An attempt in which none of them was kept for long decides.
    """
    for _ in range(5):
        pauses = _Pauses(router)
        try:
            _reads_steadily(router, blue.anew(), pauses)
        except (AssertionError, Ended, OSError):
            if pauses.longest <= 0.1:
                raise
        else:
            return
    pytest.fail("somebody was kept waiting at each attempt")


class _Pauses:
    """The longest time that client, server or worker did nothing in the block, though they never wait for long by choice."""

    def __init__(self, router: Router) -> None:
        self.longest = 0.0
        self._router = router
        self._beat = 0
        self._since: dict[str, float] = {}

    def __enter__(self) -> None:
        self._beat = self._router.counts.word(c.BEAT)

    def __exit__(self, *_: object) -> None:
        until(lambda: self._router.counts.word(c.BEAT) != self._beat, "the sweep that may have cut the client off")
        for who in list(self._since):
            self.turn(who)

    def leaves(self, who: str) -> None:
        """From now on it has nothing to do."""
        self._since.pop(who, None)

    def turn(self, who: str) -> None:
        """Client or server does something. The client also looks how far the worker's last sweeps were apart."""
        now = time.monotonic()
        self.longest = max(self.longest, now - self._since.get(who, now))
        self._since[who] = now
        if who == "client":
            beat = self._router.counts.word(c.BEAT)
            self.longest = max(self.longest, (beat - self._beat) / 1000)
            self._beat = beat


def _reads_steadily(router: Router, blue: Upstream, pauses: _Pauses) -> None:
    size = 6 * MIB

    def deed(connection: Connection, _seen: Seen) -> None:
        data = memoryview(ok(bytes(size)))
        while data:
            select.select([], [connection.sock], [], 0.02)
            pauses.turn("server")
            with contextlib.suppress(BlockingIOError):
                data = data[connection.sock.send(data[:65536], socket.MSG_DONTWAIT) :]
        pauses.leaves("server")

    blue.does(deed)
    with router.timing(idle=0.25), router.counting() as n, router.client(receive_buffer=65536) as client:
        client.sends(GET)
        with pauses:
            client.reader.through(b"\r\n\r\n")
            left = size - len(client.reader.buffer)
            while left > 0:
                pauses.turn("client")
                piece = client.sock.recv(65536)
                assert piece, f"cut off with {left} bytes left"
                left -= len(piece)
                time.sleep(0.025)  # never nearly as long as `idle`
    assert (n.blue(c.ERRORS), n.blue(c.STATUS + 1)) == (0, 1)
