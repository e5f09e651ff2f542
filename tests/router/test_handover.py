"""What a worker hands to the shadow, read from the tap's socket: whole exchanges, bounded ones, and answers the router made."""

from __future__ import annotations

import contextlib
import select
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from plane import PATIENT, Router, Upstream, chunked, until

from router.state import StateDir
from shadow import frame
from shadow.frame import Frame, FrameReader

POST = b"POST /infer HTTP/1.1\r\nHost: models.example\r\nContent-Length: 5\r\n\r\nhello"
MARK = b"connected"
MARKED = POST.replace(b"\r\n\r\n", b"\r\nx-request-id: " + MARK + b"\r\n\r\n")
BODY = 64  # bytes of either body that are handed over
SETTINGS: dict[str, Any] = {
    "shadow": {"body": BODY},
    "fallback": {"on": [], "body": 1024},
    "timeouts": PATIENT,
    "health": {"interval": 60, "eject_after": 10_000},
}


class Listener:
    """The shadow's end of the tap."""

    def __init__(self, path: Path) -> None:
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(path))
        self._server.listen()
        self._server.settimeout(30)
        self._reader = FrameReader()
        self._connection: socket.socket | None = None

    def accepts(self) -> None:
        self._connection, _ = self._server.accept()
        self._connection.settimeout(30)

    def hears(self, router: Router) -> bool:
        """Whether the worker, asked to hand something over, does. It may have given a connection up, and makes another."""
        assert self._connection is not None
        router.asks(MARKED, "POST")
        if not select.select([self._connection], [], [], 0.1)[0]:
            return False
        data = self._connection.recv(1 << 20)
        if not data:
            self._connection.close()
            self.accepts()
        self._reader.feed(data)
        return data != b""

    def frames(self, count: int) -> list[Frame]:
        """The next `count` frames, but for those that only showed that the tap is connected."""
        assert self._connection is not None
        found: list[Frame] = []
        while len(found) < count:
            data = self._connection.recv(1 << 20)
            assert data, "the worker closed the tap"
            found += [one for one in self._reader.feed(data) if one.request_id != MARK]
        assert len(found) == count
        return found

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._server.close()


@pytest.fixture
def tapped(tmp_path: Path, blue: Upstream, green: Upstream) -> Iterator[tuple[Router, Listener]]:
    state = StateDir(tmp_path)
    state.create()
    with contextlib.closing(Listener(state.tap)) as listener, Router(tmp_path, blue, settings=SETTINGS) as router:
        listener.accepts()
        router.obeys(green=green, shadow=100)
        until(lambda: listener.hears(router), "the tap is connected")
        yield router, listener


def test_a_mirrored_exchange_is_handed_over_as_it_stood_on_the_wire(tapped: tuple[Router, Listener], blue: Upstream) -> None:
    router, listener = tapped
    answered = router.asks(POST, "POST")
    (found,) = listener.frames(1)
    assert (found.colour, found.flags) == (0, 0)
    assert found.request_head + found.request_body == POST
    assert found.response_body == answered.payload
    assert found.request_id == answered.header(b"x-request-id")
    assert 0 <= found.first_byte_ms <= found.total_ms < 30_000


def test_a_longer_answer_is_cut_at_the_bound(tapped: tuple[Router, Listener], blue: Upstream) -> None:
    router, listener = tapped
    blue.answers(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(*[b"x" * 10] * 50))
    assert len(router.asks(POST, "POST").payload) == 500
    (found,) = listener.frames(1)
    assert found.flags == frame.RESPONSE_CUT
    assert len(found.response_body) == BODY


@pytest.mark.parametrize(("fault", "status"), [("refuses", 502), ("hangs", 504), ("resets_mid_head", 502)])
def test_an_answer_that_the_router_made_is_handed_over_too(
    tapped: tuple[Router, Listener], blue: Upstream, fault: str, status: int
) -> None:
    router, listener = tapped
    getattr(blue, fault)()
    with router.timing(first_byte=0.5) if fault == "hangs" else contextlib.nullcontext():
        assert router.asks(POST, "POST").status == status
    (found,) = listener.frames(1)
    assert found.response_head.startswith(b"HTTP/1.1 %d " % status)
    assert b"problem+json" in found.response_head
    assert found.request_body == b"hello"


def test_while_traffic_is_split_what_is_not_mirrored_is_handed_over_for_the_log(
    tapped: tuple[Router, Listener], green: Upstream
) -> None:
    router, listener = tapped
    router.obeys(shadow=0, percent=50)
    for _ in range(20):
        assert router.asks(POST, "POST").status == 200
    seen = listener.frames(20)
    assert {found.flags for found in seen} == {frame.LOGGED_ONLY}
    assert {found.colour for found in seen} == {0, 1}


def test_half_a_request_is_not_handed_over(tapped: tuple[Router, Listener], blue: Upstream) -> None:
    """An answer that came before the request was whole: the other arm could not be asked the same."""
    router, listener = tapped
    blue.answers_early(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n", once=True)
    with router.client() as client:
        assert client.asks(POST.replace(b"Content-Length: 5", b"Content-Length: 50")).status == 401
    assert router.asks(POST, "POST").status == 200
    (found,) = listener.frames(1)
    assert found.request_head + found.request_body == POST
    assert found.response_head.startswith(b"HTTP/1.1 200 ")
