"""Model servers that misbehave: the client gets the right answer or a problem document, the account of connections balances,
and the counters say what happened.

Each test ends with a quiet router (`counting` waits for it): every place that a request took at an arm has been given back.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from plane import PATIENT, Client, Connection, Ended, Router, Seen, Upstream, chunked, deaf, ok, until

from router import counters as c

SETTINGS: dict[str, Any] = {
    "timeouts": PATIENT,
    "limits": {"body": 64 << 20},
    "health": {"interval": 60, "eject_after": 10_000},
    "fallback": {"body": 65536, "open_after": 10_000, "budget_percent": 100},
}

GET = b"GET /v1/models HTTP/1.1\r\nHost: models.example\r\n\r\n"
POST = b"POST /infer HTTP/1.1\r\nHost: models.example\r\nContent-Length: 11\r\n\r\nhello world"


def test_refused_connection_is_502(router: Router, blue: Upstream) -> None:
    blue.refuses()
    with router.counting() as n, router.client() as client:
        answer = client.asks(GET)
        assert answer.status == 502
        assert answer.arm == "blue"
        assert "refuses" in answer.problem()["detail"]
        assert client.asks(GET).status == 502  # the client's connection is not to blame and stays
    assert (n.blue(c.ERRORS), n.blue(c.CONNECT_FAILURES), n.own(502)) == (2, 2, 2)


def test_name_that_cannot_be_one_is_502(router: Router) -> None:
    router.obeys(blue=["http://" + "a" * 64 + ".example:9"])
    with router.counting() as n:
        assert router.asks(GET).status == 502
    assert n.blue(c.CONNECT_FAILURES) == 1


def test_connect_that_hangs_is_502(router: Router) -> None:
    with deaf() as url, router.timing(connect=0.5), router.counting() as n:
        router.obeys(blue=[url])
        answer = router.asks(GET)
        assert answer.status == 502
        assert "in time" in answer.problem()["detail"]
    assert (n.blue(c.CONNECT_FAILURES), n.blue(c.TIMEOUTS)) == (1, 0)


def test_silent_server_is_504(router: Router, blue: Upstream) -> None:
    blue.hangs()
    with router.counting() as n, router.client() as client:
        with router.timing(first_byte=0.5):
            answer = client.asks(POST)
        assert answer.status == 504
        assert answer.arm == "blue"
        answer.problem()
        until(lambda: blue.left == 1, "the abandoned request is called off")
        blue.answers(ok(b"again"))
        assert client.asks(GET).payload == b"again"
    assert (n.blue(c.ERRORS), n.blue(c.TIMEOUTS), n.own(504)) == (1, 1, 1)


def test_reset_at_accept_never_hangs(router: Router, blue: Upstream) -> None:
    blue.drops_connections()
    blue.resets_at_accept()
    with router.counting() as n, router.client() as client:
        for _ in range(40):
            answer = client.asks(GET)
            assert answer.status == 502, answer.problem()
    assert n.blue(c.ERRORS) == 40
    assert n.blue(c.TIMEOUTS) == 0
    assert n.blue(c.CONNECT_FAILURES) + n.blue(c.BROKEN) == 40


@pytest.mark.parametrize(
    "misbehave",
    [
        Upstream.resets_mid_head,
        Upstream.garbage,
        lambda u: u.sends_then_closes(b"HTTP/1.1 200 O"),
        lambda u: u.sends_then_closes(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n"),
        lambda u: u.sends_then_closes(b"\r\n"),
        lambda u: u.sends_then_resets(b"H"),
        lambda u: u.garbage(b"HTTP/1.1 200 OK\nContent-Length: 0\n\n"),
        lambda u: u.garbage(b"HTTP/2 200\r\n\r\n"),
        lambda u: u.garbage(b"SSH-2.0-OpenSSH_9.6\r\n"),
        lambda u: u.garbage(b"A" * 100_000),
        lambda u: u.garbage(b"HTTP/1.1 200 OK\r\nx: " + b"a" * 100_000),
        lambda u: u.garbage(b"HTTP/1.1 100 Continue\r\n\r\n" * 100),
        lambda u: u.garbage(b"HTTP/1.1 200 OK\r\nContent-Length: 9999999999999999999\r\n\r\n"),
        lambda u: u.garbage(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFF\r\nx"),
        lambda u: u.garbage(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
        lambda u: u.garbage(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n"),
    ],
    ids=[
        *("reset in the head", "garbage", "close in the status line", "close in the fields", "an empty line", "one byte"),
        *("bare LF", "HTTP/2", "another protocol", "endless status line", "endless field", "endless interim answers"),
        *("length over 2^62", "chunk over 2^62", "bad chunk", "101 that nobody asked for"),
    ],
)
@pytest.mark.parametrize("reused", [False, True], ids=["fresh", "reused"])
def test_broken_answer_is_502(router: Router, blue: Upstream, misbehave: Callable[[Upstream], Any], reused: bool) -> None:
    if reused:
        assert router.asks(GET).status == 200
        before = len(blue.seen)
    else:
        router.drops_idle()
        before = 0
    misbehave(blue)
    with router.counting() as n, router.client() as client:
        answer = client.asks(POST)
        assert answer.status == 502
        assert answer.arm == "blue"
        answer.problem()
        blue.answers(ok(b"again"))
        assert client.asks(GET).payload == b"again"
    assert [s.method for s in blue.seen[before:]] == [b"POST", b"GET"]  # bytes had come: not a stale connection, no second try
    assert (n.blue(c.ERRORS), n.blue(c.BROKEN), n.blue(c.RETRIES), n.own(502)) == (1, 1, 0, 1)


@pytest.mark.parametrize(
    "start",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npartial",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\npartial",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7\r\npartial\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7\r\npartial\r\n0\r\n",
    ],
    ids=["in a length", "in a chunk", "between chunks", "before the trailers"],
)
@pytest.mark.parametrize("how", [Upstream.sends_then_resets, Upstream.sends_then_closes], ids=["RST", "FIN"])
def test_answer_cut_off_is_never_whole(
    router: Router, blue: Upstream, client: Client, start: bytes, how: Callable[..., Any]
) -> None:
    how(blue, start)
    with router.counting() as n, pytest.raises(Ended):  # noqa: PT012  the answer is cut off while or after it is received
        answer = client.asks(GET)
        client.rest()
        pytest.fail(f"a cut-off answer looks whole: {answer}")
    assert (n.blue(c.ERRORS), n.blue(c.BROKEN)) == (1, 1)
    assert sum(n.counts.words[c.COLOUR_BASE[0] : c.COLOUR_BASE[0] + 5]) == 0  # it is no answer


def test_until_close_answer_that_is_reset_is_never_whole(router: Router, blue: Upstream, client: Client) -> None:
    blue.sends_then_resets(b"HTTP/1.1 200 OK\r\n\r\npartial")
    with router.counting() as n, pytest.raises(Ended):
        client.asks(GET)
    assert n.blue(c.BROKEN) == 1


@pytest.mark.parametrize(
    "start", [b"HTTP/1.1 200 OK\r\n\r\npartial", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\npartial"]
)
def test_answer_cut_off_is_never_whole_for_an_http_1_0_client(
    router: Router, blue: Upstream, client: Client, start: bytes
) -> None:
    """To such a client the close is the end of the answer: only a reset can tell that it is not whole (RFC 9112, 8)."""
    blue.sends_then_resets(start)
    with router.counting() as n:
        client.sends(b"GET / HTTP/1.0\r\n\r\n").reader.through(b"\r\n\r\n")
        with pytest.raises(Ended, match="reset"):
            client.rest()
    assert n.blue(c.BROKEN) == 1


def test_bad_chunk_in_the_middle_cuts_the_answer_off(router: Router, blue: Upstream, client: Client) -> None:
    go = threading.Event()

    def deed(connection: Connection, _seen: Seen) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        go.wait(30)
        connection.send(b"-1\r\n")

    blue.does(deed)
    with router.counting() as n:
        client.sends(GET).reader.through(b"hello\r\n")
        go.set()
        with pytest.raises(Ended):
            client.reader.chunked()
    assert n.blue(c.BROKEN) == 1


def test_server_that_stops_in_the_middle_is_cut_off(router: Router, blue: Upstream, client: Client) -> None:
    def deed(connection: Connection, _seen: Seen) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npartial")
        connection.watch()

    blue.does(deed)
    with router.timing(idle=0.5), router.counting() as n, pytest.raises(Ended):
        client.asks(GET)
    assert (n.blue(c.ERRORS), n.blue(c.TIMEOUTS)) == (1, 1)


def test_answer_byte_by_byte(router: Router, blue: Upstream, client: Client) -> None:
    body = chunked(b"abc", b"defgh", trailers=b"x-sum: 8\r\n")
    blue.drips(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n" + body)
    with router.counting() as n:
        answer = client.asks(GET)
        assert (answer.payload, answer.trailers) == (b"abcdefgh", b"x-sum: 8\r\n")
        blue.drips(ok(b"0123456789"))
        assert client.asks(POST).payload == b"0123456789"
    assert (n.blue(c.STATUS + 1), n.blue(c.ERRORS)) == (2, 0)


def test_pieces_of_an_answer_are_passed_on_as_they_come(router: Router, blue: Upstream, client: Client) -> None:
    go = threading.Event()

    def deed(connection: Connection, _seen: Seen) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        connection.send(b"9\r\ndata: 1\n\n\r\n")
        go.wait(30)
        connection.send(b"9\r\ndata: 2\n\n\r\n0\r\n\r\n")

    blue.does(deed)
    client.sends(GET)
    client.reader.through(b"data: 1\n\n\r\n")  # comes while the server still waits
    go.set()
    assert client.reader.through(b"0\r\n\r\n").startswith(b"9\r\ndata: 2")


def test_answer_before_the_request_ends(router: Router, blue: Upstream, client: Client) -> None:
    """RFC 9112, 9.6: the answer arrives although the rest of the request is never read, then the connection closes."""
    blue.answers_early(b"HTTP/1.1 422 Unprocessable Content\r\nContent-Length: 4\r\n\r\nno!\n")
    with router.counting() as n:
        client.sends(b"POST /infer HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nbegin")
        answer = client.receives()
        assert (answer.status, answer.payload) == (422, b"no!\n")
        assert answer.header(b"connection") == b"close"
        assert client.closed()
        blue.answers()
        assert router.asks(GET).status == 200
    assert n.blue(c.STATUS + 3) == 1
    assert n.blue(c.ERRORS) == 0
    assert len({s.connection for s in blue.seen[-2:]}) == 2  # that connection is not used again


def test_answer_before_a_large_request_ends(router: Router, blue: Upstream, client: Client) -> None:
    blue.answers_early(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", close=True)
    with router.counting():
        client.sends(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 200_000)
        assert client.receives().status == 413


def test_bytes_after_an_answer_are_answers_to_nothing(router: Router, blue: Upstream, client: Client) -> None:
    """RFC 9112, 6.3: what follows the answer is not taken for the next request's."""
    blue.answers(ok(b"one") + ok(b"smuggled"), once=True)
    with router.counting() as n:
        assert client.asks(GET).payload == b"one"
        assert client.asks(GET).payload == b"ok"
    assert n.blue(c.ERRORS) == 0


def test_bytes_on_an_idle_connection_are_answers_to_nothing(router: Router, blue: Upstream, client: Client) -> None:
    idle, ended = threading.Event(), threading.Event()

    def deed(connection: Connection, _seen: Seen) -> None:
        connection.send(ok(b"one"))
        idle.wait(30)
        connection.send(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 8\r\n\r\nunwanted")
        connection.watch()
        ended.set()

    blue.does(deed, once=True)
    with router.counting() as n:
        assert client.asks(GET).payload == b"one"
        idle.set()
        assert ended.wait(30)  # the router hangs up
        assert client.asks(GET).payload == b"ok"
    assert n.blue(c.ERRORS) == 0


# --- connections that went stale -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [Connection.close, Connection.reset], ids=["FIN", "RST"])
@pytest.mark.parametrize("request_", [GET, POST], ids=["GET", "POST"])
def test_stale_connection_is_replaced_unnoticed(
    router: Router, blue: Upstream, client: Client, end: Callable[[Connection], None], request_: bytes
) -> None:
    """RFC 9112, 9.3.1: the server closes a kept-alive connection just as the request arrives."""
    assert client.asks(GET).status == 200  # warms a connection
    blue.does(lambda connection, _seen: end(connection), once=True)
    before = len(blue.seen)
    with router.counting() as n:
        answer = client.asks(request_)
        assert (answer.status, answer.payload) == (200, b"ok")
    first, second = blue.seen[before:]
    assert (first.head, first.payload) == (second.head, second.payload)
    assert (n.blue(c.RETRIES), n.blue(c.ERRORS), n.blue(c.STATUS + 1)) == (1, 0, 1)


def test_stale_connection_is_replaced_once(router: Router, blue: Upstream, client: Client) -> None:
    assert client.asks(GET).status == 200
    blue.does(lambda connection, _seen: connection.close())
    before = len(blue.seen)
    with router.counting() as n:
        assert client.asks(GET).status == 502
    assert len(blue.seen) - before == 2
    assert (n.blue(c.RETRIES), n.blue(c.ERRORS), n.blue(c.BROKEN)) == (1, 1, 1)


def test_fresh_connection_that_closes_is_not_stale(router: Router, blue: Upstream, client: Client) -> None:
    router.drops_idle()
    blue.does(lambda connection, _seen: connection.close())
    with router.counting() as n:
        assert client.asks(GET).status == 502
    assert len(blue.seen) == 1
    assert (n.blue(c.RETRIES), n.blue(c.BROKEN)) == (0, 1)


def test_stale_connection_with_a_body_over_the_bound_is_502(router: Router, blue: Upstream, client: Client) -> None:
    assert client.asks(GET).status == 200
    with router.counting() as n:
        blue.does(lambda connection, _seen: connection.close())
        size = 2 << 20  # kept are 65,536 bytes for a fallback, and 1 MiB for the shadow
        client.sends(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size, bytes(size))
        assert client.receives().status == 502
    assert (n.blue(c.RETRIES), n.blue(c.BROKEN)) == (0, 1)


# --- several servers -----------------------------------------------------------------------------------------------------


def test_dead_server_of_two_is_not_noticed(router: Router, blue: Upstream, green: Upstream) -> None:
    green.refuses()
    router.obeys(blue=[blue, green], green=None)
    with router.counting() as n, router.client() as client:
        for _ in range(30):
            assert client.asks(POST).status == 200
    assert len(blue.seen) == 30
    assert n.blue(c.CONNECT_FAILURES) == n.blue(c.ERRORS) > 0
    assert n.blue(c.STATUS + 1) == 30


def test_server_that_breaks_off_is_replaced_by_the_other(router: Router, blue: Upstream, green: Upstream) -> None:
    green.resets_mid_head()
    router.obeys(blue=[blue, green], green=None)
    with router.counting() as n, router.client() as client:
        for _ in range(30):
            assert client.asks(POST).payload == b"ok"
    assert n.blue(c.BROKEN) == n.blue(c.ERRORS) == len(green.seen) > 0
    assert all(s.payload == b"hello world" for s in blue.seen)


def test_both_of_two_servers_dead_is_502_after_one_try_each(router: Router, blue: Upstream, green: Upstream) -> None:
    blue.resets_mid_head()
    green.resets_mid_head()
    router.obeys(blue=[blue, green], green=None)
    with router.counting() as n:
        assert router.asks(POST).status == 502
    assert (len(blue.seen), len(green.seen)) == (1, 1)
    assert n.blue(c.BROKEN) == 2
    assert n.own(502) == 1


def test_server_that_fails_in_a_row_is_ejected_and_comes_back(tmp_path: Path, blue: Upstream, green: Upstream) -> None:
    settings = {"health": {"interval": 60, "eject_after": 3, "eject_for": 1}, "timeouts": PATIENT}
    green.resets_mid_head()
    with Router(tmp_path, [blue.url, green.url], settings=settings) as router, router.client() as client:
        until(lambda: client.asks(GET).status == 200 and len(green.seen) == 3, "three failures")
        # Whoever misses the gauge in this time sees it after three more failures, which have it rest for longer.
        until(lambda: client.asks(GET).status == 200 and router.counts.blue(c.DOWN) == 0b10, "the gauge shows it")
        green.answers(ok(b"ok"))
        before = len(green.seen)
        until(lambda: client.asks(GET).status == 200 and len(green.seen) > before, "it is asked again")
        until(lambda: router.counts.blue(c.DOWN) == 0, "the gauge shows that too")
        router.quiet()


def test_only_half_of_the_servers_are_ejected(tmp_path: Path, blue: Upstream, green: Upstream) -> None:
    settings = {"health": {"interval": 60, "eject_after": 2, "eject_for": 60}, "timeouts": PATIENT}
    green.resets_mid_head()
    blue.resets_mid_head()
    with Router(tmp_path, [blue.url, green.url], settings=settings) as router, router.client() as client:
        for _ in range(12):
            assert client.asks(GET).status == 502
        until(lambda: router.counts.blue(c.DOWN) in (0b01, 0b10), "one of two rests")
        blue.answers(ok(b"blue"))
        green.answers(ok(b"green"))
        assert client.asks(GET).status == 200


def test_failed_health_checks_take_a_server_out_and_back(tmp_path: Path, blue: Upstream, green: Upstream) -> None:
    settings = {"health": {"path": "/v2/health/ready", "interval": 0.05, "timeout": 10}, "timeouts": PATIENT}
    sick, answering = threading.Event(), threading.Lock()

    def health(connection: Connection, seen: Seen) -> None:
        with answering:
            bad = sick.is_set() and seen.target == b"/v2/health/ready"
            connection.send(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n" if bad else ok(b"green"))

    green.does(health)
    with Router(tmp_path, [blue.url, green.url], settings=settings) as router, router.client() as client:
        until(lambda: client.asks(GET).payload == b"green", "it is asked")
        with answering:  # no good answer is under way that could come after the bad ones
            sick.set()
        until(lambda: router.counts.blue(c.DOWN) == 0b10, "the sick server is down")
        assert {client.asks(GET).payload for _ in range(20)} == {b"ok"}
        assert client.asks(b"GET /-/readyz HTTP/1.1\r\nHost: a\r\n\r\n").status == 200
        sick.clear()
        until(lambda: router.counts.blue(c.DOWN) == 0, "it is back")
        until(lambda: client.asks(GET).payload == b"green", "it is asked again")


@pytest.mark.parametrize("family", ["unix", "ipv6"])
def test_other_addresses(router: Router, tmp_path: Path, family: str) -> None:
    import socket

    server = Upstream(path=str(tmp_path / "s")) if family == "unix" else Upstream(family=socket.AF_INET6)
    try:
        router.obeys(blue=server)
        with router.counting() as n:
            assert router.asks(POST).payload == b"ok"
        assert server.request().payload == b"hello world"
        assert n.blue(c.STATUS + 1) == 1
    finally:
        server.close()


@pytest.mark.parametrize("end", [Connection.close, Connection.reset], ids=["FIN", "RST"])
@pytest.mark.parametrize(
    "request_", [GET, POST, GET.replace(b"\r\n\r\n", b"\r\nTE: x\r\n\r\n")], ids=["GET", "POST", "slow path"]
)
def test_idle_connections_that_end_in_the_same_turn_as_requests_come(
    router: Router, blue: Upstream, end: Callable[[Connection], None], request_: bytes
) -> None:
    """The worker wakes up to both at once: it hears of the ends first and takes the requests before it has cleaned up."""
    with router.counting() as n:
        go = threading.Event()
        blue.answers_after(go)
        clients = [router.client() for _ in range(8)]
        for client in clients:
            client.sends(GET)
        until(lambda: blue.working == 8, "eight connections at work")
        go.set()
        assert [client.receives().status for client in clients] == [200] * 8  # now eight are idle
        until(lambda: blue.working == 0, "their server knows it too")
        blue.answers(ok(b"again"))
        with router.stopped():
            blue.ends_idle(end)
            time.sleep(0.02)
            for client in clients:
                client.sends(request_)
            time.sleep(0.02)
        assert [client.receives().payload for client in clients] == [b"again"] * 8
    assert (n.blue(c.ERRORS), n.blue(c.STATUS + 1)) == (0, 16)
    assert router.complaints() == []


def test_interim_answers_are_counted_for_each_request_anew(router: Router, blue: Upstream, client: Client) -> None:
    blue.answers(b"HTTP/1.1 103 Early Hints\r\n\r\n" + ok(b"final"))
    with router.counting() as n:
        for _ in range(40):
            assert client.asks(GET).status == 103
            assert client.receives().payload == b"final"
    assert n.blue(c.ERRORS) == 0
