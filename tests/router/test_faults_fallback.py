"""Green fails and the client does not notice: fallback to blue, the breaker with its budget, and recall by a switch."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from plane import PATIENT, Client, Connection, Ended, Router, Seen, Upstream, arm, chunked, ok, until

from router import counters as c

SETTINGS: dict[str, Any] = {
    "timeouts": PATIENT,
    "health": {"interval": 60, "eject_after": 10_000},
    "fallback": {"body": 65536, "open_after": 10_000, "budget_percent": 100},
}

GET = b"GET /v1/models HTTP/1.1\r\nHost: models.example\r\n\r\n"
POST = b"POST /infer?x=1 HTTP/1.1\r\nHost: models.example\r\nContent-Length: 11\r\nx-own: kept\r\n\r\nhello world"
CHUNKS = chunked(b"hello", b" world", trailers=b"x-sum: 11\r\n")
CHUNKED = b"POST /infer HTTP/1.1\r\nHost: models.example\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKS
ERROR = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 6\r\n\r\nbroken"

FAILURES: dict[str, tuple[Callable[[Upstream], Any], int]] = {
    "refuses": (Upstream.refuses, c.CONNECT_FAILURES),
    "hangs": (Upstream.hangs, c.TIMEOUTS),
    "resets": (Upstream.resets_mid_head, c.BROKEN),
    "garbage": (Upstream.garbage, c.BROKEN),
    "500": (lambda u: u.answers(ERROR), c.SERVER_ERRORS),
    "503 and close": (lambda u: u.answers(ERROR.replace(b"500", b"503"), close=True), c.SERVER_ERRORS),
    "502 of many pieces": (
        lambda u: u.answers(b"HTTP/1.1 502 Bad\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(*[b"x" * 1000] * 500)),
        c.SERVER_ERRORS,
    ),
}


def while_green_hangs(router: Router, attempt: Callable[[], None]) -> None:
    """Make an attempt with a short time for green to answer in, which is blue's time then as well.

    Should blue be kept waiting for a processor, the attempt fails, but only after both have had their time: then they get more.
    """
    for seconds in (0.5, 2.0, 8.0):
        with router.timing(first_byte=seconds):
            began = time.monotonic()
            try:
                attempt()
            except AssertionError:
                if seconds == 8.0 or time.monotonic() - began < 1.9 * seconds:
                    raise
            else:
                return


@pytest.mark.parametrize(
    ("failure", "request_"),
    [(failure, request) for failure in FAILURES for request in (GET, POST, CHUNKED) if failure != "hangs" or request is POST],
)
def test_blue_answers_for_a_failing_green(
    router: Router, blue: Upstream, green: Upstream, failure: str, request_: bytes
) -> None:
    misbehave, word = FAILURES[failure]
    router.obeys(percent=100)

    def attempt() -> None:
        blue.anew()
        misbehave(green.anew())
        with router.counting() as n, router.client() as client:
            answer = client.asks(request_)
            assert (answer.status, answer.payload, answer.arm) == (200, b"ok", "blue")
            assert client.asks(request_).status == 200  # on the same connection
        seen = blue.request(0)
        assert seen.wire == request_.partition(b"\r\n\r\n")[2]  # the body, byte for byte
        assert seen.line == request_.split(b"\r\n")[0]
        if green.seen:
            assert green.seen[0].head == seen.head  # the same request, under the same request id
        assert (n.green(c.ERRORS), n.green(word), n.green(c.FALLBACKS)) == (2, 2, 2)
        assert (n.blue(c.STATUS + 1), n.blue(c.ERRORS)) == (2, 0)
        assert n.green(c.STATUS + 4) == 0

    if failure == "hangs":
        while_green_hangs(router, attempt)
    else:
        attempt()


@pytest.mark.parametrize("size", [65537, 2 << 20])  # just over the bound, and over what the shadow has kept for itself too
def test_body_over_the_bound_is_not_sent_twice(
    router: Router, blue: Upstream, green: Upstream, client: Client, size: int
) -> None:
    router.obeys(percent=100)
    green.answers(ERROR)
    with router.counting() as n:
        client.sends(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size, bytes(size))
        answer = client.receives()
        assert (answer.status, answer.payload, answer.arm) == (500, b"broken", "green")
    assert not blue.seen
    assert (n.green(c.ERRORS), n.green(c.FALLBACKS), n.green(c.STATUS + 4)) == (1, 0, 1)


def test_answer_that_has_begun_is_not_begun_again(router: Router, blue: Upstream, green: Upstream, client: Client) -> None:
    router.obeys(percent=100)
    green.resets_mid_body()
    with router.counting() as n, pytest.raises(Ended):
        client.asks(POST)
    assert not blue.seen
    assert (n.green(c.ERRORS), n.green(c.BROKEN), n.green(c.FALLBACKS)) == (1, 1, 0)


def test_client_error_is_green_s_answer(router: Router, blue: Upstream, green: Upstream, client: Client) -> None:
    router.obeys(percent=100)
    green.answers(b"HTTP/1.1 422 Unprocessable Content\r\nContent-Length: 0\r\n\r\n")
    with router.counting() as n:
        assert (client.asks(POST).status, len(blue.seen)) == (422, 0)
    assert (n.green(c.ERRORS), n.green(c.STATUS + 3)) == (0, 1)


def test_both_arms_failing_is_told_once(router: Router, blue: Upstream, green: Upstream, client: Client) -> None:
    router.obeys(percent=100)
    green.resets_mid_head()
    blue.resets_mid_head()
    with router.counting() as n:
        answer = client.asks(POST)
        assert (answer.status, answer.arm) == (502, "blue")
        answer.problem()
    assert (n.green(c.ERRORS), n.green(c.FALLBACKS), n.blue(c.ERRORS), n.own(502)) == (1, 1, 1, 1)


def test_blue_s_own_error_is_passed_on(router: Router, blue: Upstream, green: Upstream, client: Client) -> None:
    router.obeys(percent=100)
    green.answers(ERROR)
    blue.answers(ERROR.replace(b"broken", b"b.l.u."))
    with router.counting() as n:
        answer = client.asks(POST)
        assert (answer.status, answer.payload, answer.arm) == (500, b"b.l.u.", "blue")
    assert (n.green(c.ERRORS), n.blue(c.ERRORS), n.blue(c.STATUS + 4)) == (1, 1, 1)


def test_fallback_in_the_middle_of_a_request(router: Router, blue: Upstream, green: Upstream, client: Client) -> None:
    """Green refuses before the body is whole: blue gets what was read so far, and then the rest."""
    router.obeys(percent=100)
    green.answers_early(ERROR)
    with router.counting() as n:
        client.sends(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\nhello")
        until(lambda: blue.heads, "blue has the head")
        client.sends(b" world")
        assert (client.receives().status, blue.request().payload) == (200, b"hello world")
    assert (n.green(c.FALLBACKS), n.blue(c.STATUS + 1)) == (1, 1)


def test_nothing_falls_back_when_nothing_is_armed(router: Router, blue: Upstream, green: Upstream) -> None:
    with router.reset_to({**SETTINGS, "fallback": {"on": []}}):
        router.obeys(green=new(green), percent=100)
        with router.counting() as n:
            green.answers(ERROR)
            assert (router.asks(GET).status, router.asks(GET).arm) == (500, "green")
            green.hangs()
            with router.timing(first_byte=0.5):
                assert router.asks(GET).status == 504
            green.refuses()
            assert router.asks(GET).status == 502
        assert not blue.seen
        assert (n.green(c.ERRORS), n.green(c.FALLBACKS), n.green(c.SKIPPED)) == (4, 0, 0)


@pytest.mark.parametrize(
    ("armed", "expected"), [("connect", [200, 504, 500]), ("timeout", [502, 200, 500]), ("5xx", [502, 504, 200])]
)
def test_only_what_is_armed_falls_back(
    router: Router, blue: Upstream, green: Upstream, armed: str, expected: list[int]
) -> None:
    def attempt(misbehave: Callable[[Upstream], Any], status: int) -> None:
        blue.anew()
        misbehave(green.anew())
        assert router.asks(POST).status == status

    settings = {**SETTINGS, "fallback": {"on": [armed], "open_after": 1000}}
    with router.reset_to(settings):
        router.obeys(green=new(green), percent=100)
        refused, hung, failed = expected
        attempt(Upstream.refuses, refused)
        while_green_hangs(router, lambda: attempt(Upstream.hangs, hung))
        attempt(FAILURES["500"][0], failed)


def new(green: Upstream) -> dict[str, Any]:
    """An arm that the worker has not seen before: with a closed breaker."""
    return {**arm(green), "name": f"green-{next(_numbers)}"}


_numbers = itertools.count()


# --- the breaker ---------------------------------------------------------------------------------------------------------


def breaking(**fallback: Any) -> dict[str, Any]:
    return {**SETTINGS, "fallback": {"open_after": 3, "open_for": 60, "budget_percent": 100, **fallback}}


def test_breaker_opens_tries_and_closes(router: Router, blue: Upstream, green: Upstream) -> None:
    with router.reset_to(breaking()), router.client() as client:
        router.obeys(green=new(green), percent=100)
        before = router.counts
        green.resets_mid_head()
        with router.counting() as n:
            for _ in range(10):
                assert client.asks(POST).status == 200
        assert len(green.seen) == 3
        assert (n.green(c.FALLBACKS), n.green(c.SKIPPED), n.blue(c.STATUS + 1)) == (3, 7, 10)
        assert router.counts.green(c.BREAKER) == 1
        # One trial after `open_for`; it fails, and the breaker opens anew.
        router.rereads(breaking(open_for=0.3))
        until(lambda: client.asks(POST).status == 200 and len(green.seen) == 4, "a trial")
        router.sweeps()
        assert router.counts.green(c.BREAKER) == 1
        green.answers(ok(b"green"))
        until(lambda: client.asks(POST).arm == "green", "the next trial goes well")
        assert [client.asks(POST).arm for _ in range(5)] == ["green"] * 5
        router.sweeps()
        assert router.counts.green(c.BREAKER) == 0
        assert (router.counts - before).green(c.ERRORS) == 4


def test_one_trial_at_a_time(router: Router, blue: Upstream, green: Upstream) -> None:
    with router.reset_to(breaking()):
        router.obeys(green=new(green), percent=100)
        green.resets_mid_head()
        for _ in range(3):
            assert router.asks(POST).status == 200
        go = threading.Event()
        green.answers_after(go, ok(b"green"))
        router.rereads(breaking(open_for=0.05))
        time.sleep(0.1)
        clients = [router.client().sends(POST)]
        until(lambda: len(green.seen) == 4, "a trial")
        router.rereads(breaking())  # for a trial that does not come back is waited as long as for the first
        clients += [router.client().sends(POST) for _ in range(5)]
        until(lambda: len(blue.seen) == 3 + 5, "five are skipped")
        assert len(green.seen) == 4
        go.set()
        assert sorted(str(client.receives().arm) for client in clients) == ["blue"] * 5 + ["green"]


def test_blue_failing_in_the_same_way_does_not_open_green_s_breaker(router: Router, blue: Upstream, green: Upstream) -> None:
    """An error that blue gives too is the request's fault, not green's."""
    with router.reset_to(breaking()), router.client() as client:
        router.obeys(green=new(green), percent=100)
        blue.answers(ERROR)
        green.answers(ERROR)
        for _ in range(6):
            assert client.asks(POST).status == 500
        assert len(green.seen) == 6
        router.sweeps()
        assert router.counts.green(c.BREAKER) == 0


def test_successes_in_between_keep_it_closed(router: Router, blue: Upstream, green: Upstream) -> None:
    with router.reset_to(breaking()), router.client() as client:
        router.obeys(green=new(green), percent=100)
        for _ in range(5):
            green.resets_mid_head()
            assert [client.asks(POST).arm for _ in range(2)] == ["blue", "blue"]
            green.answers(ok(b"green"))
            assert client.asks(POST).arm == "green"


def test_budget_opens_the_breaker(router: Router, blue: Upstream, green: Upstream) -> None:
    """Failures that never come in a row: it is their share of all requests that opens it."""
    with router.reset_to(breaking(open_after=1000, budget_percent=20)):
        router.obeys(green=new(green), percent=100)
        green.answers(lambda seen: ERROR if b"bad" in seen.target else ok(b"green"))
        before, began = router.counts, time.monotonic()
        with router.client() as client:
            for i in itertools.count():
                client.asks(b"GET /%s HTTP/1.1\r\nHost: a\r\n\r\n" % (b"bad" if i % 2 else b"good"))
                n = router.counts - before
                if n.green(c.SKIPPED) > 20:
                    break
                # Ten of a window of one second open it.
                assert n.green(c.FALLBACKS) <= 10 + 9 * (time.monotonic() - began)
        assert n.green(c.FALLBACKS) >= 10
        router.sweeps()
        assert router.counts.green(c.BREAKER) == 1


def test_new_green_starts_with_a_closed_breaker(router: Router, blue: Upstream, green: Upstream) -> None:
    with router.reset_to(breaking()), router.client() as client:
        router.obeys(green={**arm(green), "name": "v2"}, percent=100)
        green.resets_mid_head()
        for _ in range(4):
            assert client.asks(POST).arm == "blue"
        green.answers(ok(b"green"))
        assert client.asks(POST).arm == "blue"
        router.obeys(green={**arm(green), "name": "v3"})
        assert client.asks(POST).arm == "green"


# --- recall --------------------------------------------------------------------------------------------------------------


def test_switch_recalls_what_hangs_at_green(router: Router, blue: Upstream, green: Upstream) -> None:
    """Requests without a byte of an answer are answered by blue; green's connections are closed."""
    router.obeys(percent=100)
    green.hangs()
    requests = [GET, POST, CHUNKED, GET, POST]
    with router.counting() as n:
        clients = [router.client().sends(request) for request in requests]
        until(lambda: len(green.seen) == 5, "all hang at green")
        router.obeys(percent=0)
        for client in clients:
            answer = client.receives()
            assert (answer.status, answer.arm) == (200, "blue")
            client.closes()
        until(lambda: green.working == 0, "green's connections are closed")
    assert n.word(c.RECALLED) == 5
    assert (n.green(c.ERRORS), n.green(c.FALLBACKS), n.blue(c.STATUS + 1)) == (0, 0, 5)
    assert sorted(s.wire for s in blue.seen) == sorted(r.partition(b"\r\n\r\n")[2] for r in requests)


def test_switch_recalls_in_the_middle_of_a_request(router: Router, blue: Upstream, green: Upstream, client: Client) -> None:
    router.obeys(percent=100)
    with router.counting() as n:
        client.sends(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\nhello")
        until(lambda: green.heads, "green has the head")
        router.obeys(percent=0)
        client.sends(b" world")
        assert (client.receives().arm, blue.request().payload) == ("blue", b"hello world")
    assert n.word(c.RECALLED) == 1


def test_switch_leaves_alone_what_green_has_begun_to_answer(
    router: Router, blue: Upstream, green: Upstream, client: Client
) -> None:
    go = threading.Event()

    def deed(connection: Connection, _seen: Seen) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst")
        go.wait(30)
        connection.send(b" last")

    green.does(deed)
    router.obeys(percent=100)
    with router.counting() as n:
        client.sends(GET)
        client.reader.through(b"first")
        router.obeys(percent=0)
        go.set()
        assert client.reader.exactly(5) == b" last"
        assert client.asks(GET).arm == "blue"
    assert n.word(c.RECALLED) == 0
    assert (n.green(c.STATUS + 1), n.blue(c.STATUS + 1)) == (1, 1)


def test_switch_recalls_what_waits_for_a_place_or_a_connection(router: Router, blue: Upstream, green: Upstream) -> None:
    green.hangs()
    with router.reset_to({**SETTINGS, "limits": {"in_flight": 1, "queue": 5, "queue_wait": 30}}):
        router.obeys(green=new(green), percent=100)
        with router.counting() as n:
            clients = [router.client().sends(POST) for _ in range(4)]
            until(lambda: router.counts.green(c.QUEUED) == 3, "three wait")
            router.obeys(percent=0)
            assert [one.receives().arm for one in clients] == ["blue"] * 4
        assert n.word(c.RECALLED) == 4
        assert len(green.seen) == 1


def test_removed_green_is_recalled_from(router: Router, blue: Upstream, green: Upstream, client: Client) -> None:
    green.hangs()
    router.obeys(percent=100)
    with router.counting() as n:
        client.sends(GET)
        green.request()
        router.obeys(green=None, percent=0)
        assert client.receives().arm == "blue"
    assert n.word(c.RECALLED) == 1


def test_requests_sent_after_a_switch_never_reach_green(router: Router, blue: Upstream, green: Upstream) -> None:
    """Without a nudge, and without waiting: the page alone decides."""
    blue.answers(ok(b"blue"))
    green.answers(ok(b"green"))
    with router.counting(), router.client() as client:
        for i in range(200):
            percent = 100 if i % 2 else 0
            router.obeys(percent=percent, wait=False)
            assert client.asks(GET).payload == (b"green" if percent else b"blue")
