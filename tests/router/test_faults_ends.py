"""Where an exchange ends or changes hands: nothing is sent twice that must not be, and no half passes for the whole."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from certificates import Authority
from plane import PATIENT, Client, Connection, Ended, Router, Seen, Upstream, arm, ok, until

from router import counters as c

MIB = 1 << 20
GET = b"GET /v1/models HTTP/1.1\r\nHost: models.example\r\n\r\n"
POST = b"POST /infer HTTP/1.1\r\nHost: models.example\r\nContent-Length: 5\r\n\r\nhello"
SETTINGS: dict[str, Any] = {"timeouts": PATIENT, "health": {"interval": 60, "eject_after": 10_000}}
NOT_REPEATED = {**SETTINGS, "fallback": {"on": []}}


# --- changing hands --------------------------------------------------------------------------------------------------------


def test_promotion_takes_no_request_back_from_the_servers_that_are_blue_now(
    router: Router, blue: Upstream, green: Upstream
) -> None:
    go = threading.Event()
    green.answers_after(go, ok(b"green"))
    promoted = arm(green)
    router.obeys(green=promoted, percent=100)
    with router.counting() as n:
        clients = [router.client().sends(POST) for _ in range(5)]
        green.request(4)
        router.obeys(blue=promoted, green={**arm(blue), "name": "former"}, percent=0)
        go.set()
        assert [client.receives().payload for client in clients] == [b"green"] * 5
    assert (len(green.seen), len(blue.seen), n.word(c.RECALLED)) == (5, 0, 0)


def test_connection_that_nobody_waited_for_goes_stale_like_any_other(router: Router, blue: Upstream) -> None:
    """Its client left while it was opened; the server closes it just as the next request takes it (RFC 9112, 9.3.1)."""
    blue.drops_connections()
    router.sweeps()
    with router.stopped():
        router.client().sends(POST).resets()
    accepted = blue.accepted + 1
    until(lambda: blue.accepted >= accepted or router.counts.word(c.CLIENTS_LEFT), "it is opened")
    time.sleep(0.05)
    for _ in range(5):
        with router.client() as client:
            with router.stopped():
                client.sends(POST)
                time.sleep(0.02)
                blue.ends_idle()
                time.sleep(0.02)
            assert client.receives().status == 200


# --- what is repeated, and what is not -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("request_", "again"), [(GET, True), (POST, False)], ids=["GET", "POST"])
def test_where_requests_must_not_be_repeated_a_server_that_broke_off_was_the_last(
    router: Router, blue: Upstream, green: Upstream, request_: bytes, again: bool
) -> None:
    """RFC 9110, 9.2.2: what a server may have acted on is not sent to another one, unless the method is idempotent."""
    with router.reset_to(NOT_REPEATED):
        router.obeys(blue=[blue, green], green=None)
        for server in (blue, green):
            server.does(lambda connection, _seen: connection.close())
        assert router.asks(request_).status == 502
        assert (len(blue.seen) + len(green.seen) > 1) is again


@pytest.mark.parametrize(("request_", "status", "asked"), [(GET, 200, 3), (POST, 502, 2)], ids=["GET", "POST"])
def test_where_requests_must_not_be_repeated_a_stale_connection_is_replaced_for_idempotent_ones(
    router: Router, blue: Upstream, request_: bytes, status: int, asked: int
) -> None:
    with router.reset_to(NOT_REPEATED), router.client() as client:
        assert client.asks(GET).status == 200
        blue.does(lambda connection, _seen: connection.close(), once=True)
        assert client.asks(request_).status == status
        assert len(blue.seen) == asked


def test_server_that_cannot_be_reached_is_replaced_everywhere(router: Router, blue: Upstream, green: Upstream) -> None:
    """Nothing has been sent yet, so that nothing is repeated."""
    green.refuses()
    with router.reset_to(NOT_REPEATED):
        router.obeys(blue=[green, blue], green=None)
        assert {router.asks(POST).status for _ in range(20)} == {200}


def test_server_that_closes_before_the_request_has_been_sent_is_replaced_everywhere(
    router: Router, blue: Upstream, green: Upstream
) -> None:
    """As a balancer without a server does."""
    green.resets_at_accept()
    with router.reset_to(NOT_REPEATED):
        router.obeys(blue=[green, blue], green=None)
        sent = len(green.heads)
        for _ in range(20):
            answer = router.asks(POST)
            # One that found the connection still open was sent, and may have been acted on for all that the worker knows.
            assert answer.status == 200 or "before the answer was whole" in answer.problem()["detail"]
        assert len(green.heads) == sent


def test_request_that_the_server_has_acknowledged_is_no_stale_one(router: Router, blue: Upstream, client: Client) -> None:
    """102 (Processing) is an answer (RFC 9110, 15.2): what follows it is a failure, and not a connection that had ended."""
    assert client.asks(GET).status == 200

    def acknowledges(connection: Connection, _seen: Seen) -> None:
        connection.send(b"HTTP/1.1 102 Processing\r\n\r\n")
        time.sleep(0.05)
        connection.close()

    blue.does(acknowledges, once=True)
    with router.counting() as n:
        assert client.asks(POST).status == 102
        assert client.receives().status == 502
    assert (n.blue(c.RETRIES), len(blue.seen)) == (0, 2)


# --- the server ends first -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"HTTP/1.1 413 Content Too Large\r\nConnection: close\r\n\r\ntoo large", (413, b"too large")),
        (b"HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 3\r\n\r\nbig", (413, b"big")),
        (b"", (502, None)),
    ],
    ids=["until the close", "with a length", "none"],
)
def test_end_of_a_server_that_takes_no_more_of_the_request_is_heard_at_once(
    router: Router, blue: Upstream, answer: bytes, expected: tuple[int, bytes | None]
) -> None:
    """The worker holds a part of the request that will never leave; the exchange does not wait for it."""
    go = threading.Event()

    def half_closes(connection: Connection, _seen: Seen) -> None:
        go.wait(30)
        connection.send(answer)
        connection.sock.shutdown(socket.SHUT_WR)
        until(lambda: not connection.open, "the end of the test", 60)

    blue.does(half_closes, early=True)
    with router.reset_to({**SETTINGS, "limits": {"body": 64 * MIB}}), router.client() as client:
        client.sends(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (60 * MIB))
        client.sock.settimeout(0.3)
        with contextlib.suppress(TimeoutError):
            while client.sock.send(bytes(MIB // 4)):
                pass
        go.set()
        client.sock.settimeout(20)  # less than the worker's patience with a server
        got = client.receives()
        assert (got.status, got.payload if expected[1] is not None else None) == expected


# --- no half passes for the whole ------------------------------------------------------------------------------------------


def streams(connection: Connection, _seen: Seen) -> None:
    connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
    connection.watch()


def test_answer_that_a_drain_s_deadline_breaks_off_ends_with_a_reset(tmp_path: Path, blue: Upstream) -> None:
    """An HTTP/1.0 client knows the end of such an answer by the close alone (RFC 9112, 8)."""
    blue.does(streams)
    with (
        Router(tmp_path, blue, settings={**SETTINGS, "timeouts": {**PATIENT, "drain": 0.3}}) as router,
        router.client() as client,
    ):
        client.sends(b"GET / HTTP/1.0\r\n\r\n").reader.through(b"hello")
        router.terminates()
        with pytest.raises(Ended, match="reset"):
            client.rest()


def test_answer_to_a_client_that_stopped_taking_it_ends_with_a_reset(router: Router, blue: Upstream) -> None:
    blue.answers(lambda seen: b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + bytes(int(seen.target[1:])), close=True)
    outcomes = []
    with router.reset_to({**SETTINGS, "timeouts": {**PATIENT, "idle": 0.5}}):
        for size in range(2_800_000, 3_000_000, 60_000):
            with router.client(receive_buffer=4096) as client:
                client.sends(b"GET /%d HTTP/1.0\r\n\r\n" % size).reader.through(b"\r\n\r\n")
                router.empty()  # it has been given up, or all of it is in the kernel's buffers
                try:
                    assert len(client.rest()) == size
                    outcomes.append("whole")
                except Ended as error:
                    assert "reset" in str(error)
                    outcomes.append("reset")
    assert "reset" in outcomes


def test_client_that_half_closes_in_the_middle_of_its_answer_is_told_by_a_reset(router: Router, blue: Upstream) -> None:
    """It counts as leaving, which it may not know."""
    blue.does(streams)
    with router.client() as client:
        client.sends(b"GET / HTTP/1.0\r\n\r\n").reader.through(b"hello")
        client.sock.shutdown(socket.SHUT_WR)
        with pytest.raises(Ended, match="reset"):
            client.rest()


# --- TLS: a close takes two ------------------------------------------------------------------------------------------------


@pytest.fixture
def tls_router(tmp_path: Path, authority: Authority, blue: Upstream) -> Any:
    issued = authority.issues("models.example")
    files = {"certificate": str(issued.certificate), "key": str(issued.key)}
    with Router(tmp_path, blue, settings={**SETTINGS, "listen_tls": files}) as router:
        yield router


def test_client_that_does_not_answer_the_closing_alert_holds_no_drain_up(tls_router: Router, authority: Authority) -> None:
    with tls_router.tls_client(authority.client()) as client:
        assert client.asks(GET).status == 200
        tls_router.terminates()
        assert tls_router.process.wait(20) == 0  # a drain may last 30 s, and the alert's answer was waited for so long
