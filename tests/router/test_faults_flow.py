"""Back-pressure where a request or a connection changes hands: what was paused for one is not paused, nor open, for the next."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from certificates import Authority
from plane import PATIENT, Client, Connection, Router, Seen, Upstream, ok, until

from router import counters as c

MIB = 1 << 20
GET = b"GET /v1/models HTTP/1.1\r\nHost: models.example\r\n\r\n"
SETTINGS: dict[str, Any] = {"timeouts": PATIENT, "health": {"interval": 60}, "limits": {"body": 64 * MIB}}


@pytest.fixture
def deaf_ears(tmp_path: Path, router: Router) -> Any:
    """A server behind a Unix socket, whose buffers are small, that reads no body; the router's only one."""
    with contextlib.closing(Upstream(path=str(tmp_path / "s"))) as server:
        server.never_reads()
        router.obeys(blue=server)
        yield server


def pushed(client: Client, most: int) -> int:
    """How many bytes the router takes of a body before it takes no more for half a second."""
    client.sock.settimeout(0.5)
    sent = 0
    with contextlib.suppress(TimeoutError):
        while sent < most:
            sent += client.sock.send(bytes(MIB // 4))
    return sent


def upload(size: int) -> bytes:
    return b"POST /infer HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size


# --- the request -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["first piece", "recalled", "key in the body"])
def test_what_was_kept_fills_the_new_connection_and_the_client_stays_held_back(
    router: Router, green: Upstream, deaf_ears: Upstream, how: str
) -> None:
    """The write that sends what is there pauses the client at once; nothing that follows may undo that."""
    green.never_reads()
    before = router.resident
    if how == "recalled":
        router.obeys(green=green, percent=100)
    elif how == "key in the body":
        router.obeys(green=deaf_ears, percent=50, key="json:/user")
    with router.client() as client:
        if how == "first piece":
            with router.stopped():
                client.sock.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    client.sends(upload(63 * MIB))
                    while client.sock.send(bytes(MIB // 4)):
                        pass
        else:
            client.sends(upload(63 * MIB), bytes(MIB))
        if how == "recalled":
            green.request()
            router.obeys(percent=0)
        assert pushed(client, 50 * MIB) < 20 * MIB  # what sits in the kernel's buffers
        assert router.resident - before < 12 * MIB


def test_connection_whose_server_has_not_taken_the_request_is_not_used_again(router: Router, deaf_ears: Upstream) -> None:
    """An answer before the request was read: another one behind its unread rest could wait for ever, and would not be held back."""

    def early(connection: Connection, _seen: Seen) -> None:
        until(lambda: router.counts.blue(c.IN_FLIGHT) == 1 and router.counts.word(c.BEAT), "the request is on its way")
        connection.send(ok(b"early"))
        until(lambda: not connection.open, "the end of the test")

    deaf_ears.does(early, early=True, once=True)
    with router.client() as client:
        assert client.asks(upload(400_000) + bytes(400_000)).payload == b"early"
    deaf_ears.answers()
    assert router.asks(GET).payload == b"ok"
    assert deaf_ears.accepted == 2


# --- the answer ------------------------------------------------------------------------------------------------------------


def test_interim_answers_that_fill_a_slow_client_leave_the_server_s_connection_readable(router: Router, blue: Upstream) -> None:
    """The final answer may come in the same piece, and the connection be idle before the client has taken the interim ones."""
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: " + b"l" * 50_000 + b"\r\n\r\n"
    large = ok(bytes(30_000))
    with router.client(receive_buffer=4096) as slow:
        room = answered_unread(slow, blue.answers(large), 1000)
    for free in range(1, 5):  # answers for which there is room; in some of these the hints fill it in their middle
        with router.client(receive_buffer=4096) as slow:
            answered_unread(slow, blue.answers(large), room - free)
            answered_unread(slow, blue.answers(hints * 4 + ok(b"after the hints")), 1)
            blue.answers(ok(b"another's"))
            with router.client() as other:
                assert [other.asks(GET).payload for _ in range(2)] == [b"another's"] * 2
    router.quiet()


def answered_unread(client: Client, server: Upstream, most: int) -> int:
    """How many requests, one after the other, reach the server of a client that reads no answer; at most so many are sent."""
    for count in range(most):
        seen = len(server.seen)
        client.sends(GET)
        deadline = time.monotonic() + 0.5
        while len(server.seen) == seen:
            if time.monotonic() > deadline:
                return count
            time.sleep(0.001)
        time.sleep(0.002)  # for the answer
    return most


@pytest.fixture(scope="module")
def issued(authority: Authority) -> Any:
    return authority.issues("127.0.0.1")


def test_answer_of_an_https_server_that_closes_reaches_a_slow_client_whole(
    tmp_path: Path, authority: Authority, issued: Any
) -> None:
    """The end of the connection must not overtake what the worker has not been able to pass on yet."""

    def closing(connection: Connection, seen: Seen) -> None:
        size = int(seen.target[1:])
        connection.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % size + bytes(size))
        connection.sock.settimeout(0)
        with contextlib.suppress(OSError):
            connection.sock.unwrap()  # type: ignore[attr-defined]  # the closing alert; the client's is not waited for
        connection.open = False
        connection.sock.close()

    def slowly(router: Router, size: int) -> int:
        with router.client(receive_buffer=4096) as client:
            client.sends(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % size)
            client.reader.through(b"\r\n\r\n")
            time.sleep(0.7)
            return len(client.reader.exactly(size))

    settings = {**SETTINGS, "upstream_tls": {"ca": str(authority.file)}}
    with contextlib.closing(Upstream(tls=issued.serving())) as server, Router(tmp_path, server, settings=settings) as router:
        server.does(closing)
        sizes = [600_000, 3_000_000, 4_200_000, 5_000_000, 6_000_000]
        with ThreadPoolExecutor(len(sizes)) as pool:
            assert list(pool.map(lambda size: slowly(router, size), sizes)) == sizes
        assert router.counts.blue(c.BROKEN) == 0


def test_slow_but_steady_clients_over_tls_are_not_cut_off(tmp_path: Path, authority: Authority, blue: Upstream) -> None:
    """What counts is what they acknowledge: of what still waits, uvloop hides a part below TLS."""
    issued = authority.issues("models.example")
    files = {"certificate": str(issued.certificate), "key": str(issued.key)}
    blue.answers(lambda seen: ok(bytes(int(seen.target[1:]))))

    pauses: list[float] = []

    def steadily(router: Router, rate: int, request: bytes) -> None:
        with router.tls_client(authority.client(), receive_buffer=8192, segment=1400) as client:
            client.sends(request)
            began = last = time.monotonic()
            taken = 0
            while last - began < 7.0:
                taken += len(client.sock.recv(max(256, rate // 50)))
                ahead = taken / rate - (time.monotonic() - began)
                time.sleep(min(max(ahead, 0.0), 0.1))
                now = time.monotonic()
                pauses.append(now - last)
                last = now

    settings = {**SETTINGS, "listen_tls": files, "timeouts": {**PATIENT, "idle": 1.5}}
    requests = [
        (rate, b"GET /%d HTTP/1.1\r\nHost: models.example\r\n%s\r\n" % (size, fields))
        for rate in (20_000, 40_000)
        for size, fields in ((6 * MIB, b""), (500_000, b"Connection: close\r\n"))  # in its middle, and when it is written
    ]

    with Router(tmp_path, blue, settings=settings) as router:
        for _ in range(5):
            pauses.clear()
            with ThreadPoolExecutor(4) as pool:
                failures = [one.exception() for one in [pool.submit(steadily, router, *request) for request in requests]]
            if max(pauses) < 0.5:  # else they were not steady themselves: a busy machine kept them waiting
                break
        assert failures == [None] * 4


def test_early_answer_reaches_a_slow_client_that_never_sent_the_rest_of_its_request(router: Router, blue: Upstream) -> None:
    """Its connection is closed after the answer, but the wait for what the client still sends must not cut the answer."""

    def early(connection: Connection, seen: Seen) -> None:
        connection.send(ok(bytes(int(seen.target[1:])), b"Connection: close\r\n"))
        connection.watch()

    blue.does(early, early=True)

    def slowly(size: int) -> int:
        with router.client(receive_buffer=4096) as client:
            client.sends(b"POST /%d HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nhalf" % size)
            client.reader.through(b"\r\n\r\n")
            for _ in range(8):  # for longer than the worker waits for the rest of a request
                time.sleep(0.5)
                client.reader.more()
            return len(client.reader.exactly(size))

    sizes = list(range(2_700_000, 3_300_000, 80_000))  # in some of them the end of the answer waits in the worker
    with ThreadPoolExecutor(len(sizes)) as pool:
        assert list(pool.map(slowly, sizes)) == sizes


def test_half_closed_https_server_does_not_leave_a_dead_connection_behind(
    tmp_path: Path, authority: Authority, issued: Any
) -> None:
    """An early answer, then FIN without the alert, while part of the request has not left."""
    with (
        contextlib.closing(Upstream(tls=issued.serving())) as server,
        Router(
            tmp_path,
            server,
            settings={**SETTINGS, "fallback": {"body": 16 * MIB}, "upstream_tls": {"ca": str(authority.file)}},
        ) as router,
    ):

        def early(connection: Connection, _seen: Seen) -> None:
            until(lambda: router.counts.blue(c.IN_FLIGHT) == 1, "the request is on its way")
            connection.send(ok(b"early"))
            time.sleep(0.2)
            other = socket.socket(fileno=os.dup(connection.sock.fileno()))  # the TLS socket would end the session first
            other.shutdown(socket.SHUT_WR)
            other.close()
            until(lambda: not connection.open, "the end of the test", 60)

        for size in (1_000_000, 3_000_000, 4_000_000, 5_000_000):
            server.does(early, early=True, once=True)
            with router.client() as client:
                pushing = threading.Thread(target=_sends_all, args=(client, upload(size) + bytes(size)))
                pushing.start()
                assert client.receives().payload == b"early"
                time.sleep(0.4)
            pushing.join()
            assert router.asks(GET).status == 200, size


def _sends_all(client: Client, data: bytes) -> None:
    with contextlib.suppress(OSError):
        client.sock.sendall(data)
