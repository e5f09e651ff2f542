"""A connection to a server tells its receiver what comes, in order, once, however the bytes are cut."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from itertools import pairwise
from typing import Any

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from models.http1_response import ResponseHead
from models.pool import Server
from models.upstream import Upstream

REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


class Listening:
    """A receiver that writes down what it is told."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.body = b""
        self.status = 0
        self.over = False
        self._ended = asyncio.Event()

    def interim(self, head: ResponseHead) -> None:
        self.calls.append(f"interim {head.status}")

    def answer(self, head: ResponseHead, data: bytes, done: bool) -> None:
        self.calls.append("answer")
        self.status = head.status
        self.more(data, done)

    def more(self, data: bytes, done: bool) -> None:
        assert not self.over, "nothing may come after the end"
        self.body += data
        if done:
            self.calls.append("done")
            self._end()

    def upgraded(self, head: ResponseHead, data: bytes) -> None:
        self.calls.append("upgraded")
        self.body += data

    def broken(self, detail: str, answered: bool) -> None:
        assert not self.over
        assert detail
        self.calls.append(f"broken, {'' if answered else 'nothing '}answered")
        self._end()

    def _end(self) -> None:
        self.over = True
        self._ended.set()

    async def ended(self) -> None:
        await self._ended.wait()

    def writable(self, ready: bool) -> None:
        self.calls.append(f"writable {ready}")


class Wire:
    """A transport that only remembers what was done to it: for cutting an answer in every way without waiting."""

    def __init__(self) -> None:
        self.closed = False
        self.sent = b""

    def write(self, data: bytes) -> None:
        self.sent += data

    def close(self) -> None:
        self.closed = True

    abort = close

    def is_closing(self) -> bool:
        return self.closed

    def resume_reading(self) -> None:
        pass

    pause_reading = resume_reading


def fed(pieces: list[bytes], *, method: bytes = b"GET", end: str = "") -> tuple[Listening, Upstream, Server]:
    """Give an upstream an answer in these pieces; `end` closes behind them: "eof", "reset" or "cut" (TLS without its alert)."""
    server = Server("http://10.0.0.1:80")
    upstream = Upstream(server)
    upstream.connection_made(Wire())  # type: ignore[arg-type]  # as much of a transport as is used
    receiver = Listening()
    upstream.send(receiver, method, REQUEST, whole=True)
    for piece in pieces:
        if piece and not upstream.transport.is_closing():
            upstream.data_received(piece)
    if end == "eof":  # as the loop does it: the protocol hears of the end, and then the transport closes itself
        upstream.eof_received()
    if end and not receiver.over:
        upstream.connection_lost(ConnectionResetError() if end == "reset" else None)
    return receiver, upstream, server


CASES = [
    (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", ["answer", "done"], b"hello", True),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", ["answer", "done"], b"", True),
    (b"HTTP/1.1 204 No\r\n\r\n", ["answer", "done"], b"", True),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello", ["answer", "done"], b"hello", False),
    (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nx: y\r\n\r\n",
        ["answer", "done"],
        b"5\r\nhello\r\n0\r\nx: y\r\n\r\n",
        True,
    ),
    (
        b"HTTP/1.1 103 H\r\n\r\nHTTP/1.1 102 P\r\nx: y\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na",
        ["interim 103", "interim 102", "answer", "done"],
        b"a",
        True,
    ),
    (b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\na", ["answer", "done"], b"a", False),
]


def cuts_of(raw: bytes) -> list[list[bytes]]:
    twos = [[raw[:i], raw[i:]] for i in range(len(raw) + 1)]
    return [*twos, [raw[i : i + 1] for i in range(len(raw))]]


@pytest.mark.parametrize(("raw", "calls", "body", "kept"), CASES)
def test_every_cut(raw: bytes, calls: list[str], body: bytes, kept: bool) -> None:
    for pieces in cuts_of(raw):
        receiver, upstream, server = fed(pieces)
        assert (receiver.calls, receiver.body) == (calls, body), pieces
        assert (server.idle == [upstream]) is kept
        assert upstream.transport.is_closing() is not kept
        assert upstream.reused


@pytest.mark.parametrize("raw", [case[0] for case in CASES if case[3]])
def test_bytes_after_the_answer_end_the_connection(raw: bytes) -> None:
    for pieces in cuts_of(raw + b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"):
        receiver, upstream, _ = fed(pieces)
        assert receiver.calls[-1] == "done"
        assert upstream.transport.is_closing(), pieces


@pytest.mark.parametrize(
    "raw",
    [
        *(b"garbage\r\n\r\n", b"HTTP/1.1 200 OK\n\n", b"HTTP/1.1 200 OK\r\nx : y\r\n\r\n", b"HTTP/2 200\r\n\r\n"),
        *(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9999999999999999999\r\n\r\n"),
        b"HTTP/1.1 100 C\r\n\r\n" * 17,
    ],
)
def test_bad_head_is_broken_at_every_cut(raw: bytes) -> None:
    for pieces in cuts_of(raw):
        receiver, upstream, server = fed(pieces)
        assert receiver.calls[-1] == "broken, answered", pieces
        assert upstream.transport.is_closing()
        assert not server.idle


@pytest.mark.parametrize("raw", [b"zz\r\n", b"5\r\nhelloX", b"ffffffffffffffff\r\n", b"0\r\nContent-Length: 1\r\n\r\n"])
def test_bad_chunk_is_broken_at_every_cut(raw: bytes) -> None:
    for pieces in cuts_of(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + raw):
        receiver, upstream, _ = fed(pieces)
        assert receiver.calls[-1] == "broken, answered", pieces
        assert upstream.transport.is_closing()


@pytest.mark.parametrize("end", ["eof", "reset", "cut"])
def test_every_end_in_the_middle_is_told(end: str) -> None:
    for raw, *_ in CASES:
        for stop in range(len(raw)):
            receiver, _, server = fed([raw[:stop]], end=end)
            final = raw.rindex(b"HTTP/1")
            began = stop > 0 if final == 0 else stop > final
            if final == 0 or stop <= len(b"HTTP/1.1 103 H\r\n\r\n") - 1:
                assert receiver.calls[-1] == ("broken, answered" if began or stop else "broken, nothing answered"), stop
            assert receiver.calls[-1].startswith("broken")
            assert not server.idle


def test_answer_that_lasts_until_the_close() -> None:
    raw = b"HTTP/1.1 200 OK\r\n\r\nhello"
    for pieces in cuts_of(raw):
        receiver, _, server = fed(pieces, end="eof")
        assert (receiver.calls, receiver.body) == (["answer", "done"], b"hello")
        assert not server.idle
    for cut_off in ("reset", "cut"):
        receiver, _, _ = fed([raw], end=cut_off)
        assert receiver.calls == ["answer", "broken, answered"]


def test_head_has_no_body_and_is_not_mixed_up_with_get() -> None:
    raw = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
    for _ in range(2):
        receiver, upstream, server = fed([raw], method=b"HEAD")
        assert (receiver.calls, receiver.body, server.idle) == (["answer", "done"], b"", [upstream])
        receiver, _, _ = fed([raw + b"hello"])
        assert (receiver.calls, receiver.body) == (["answer", "done"], b"hello")
        receiver, upstream, _ = fed([raw + b"hello"], method=b"HEAD")
        assert (receiver.calls, receiver.body, upstream.transport.is_closing()) == (["answer", "done"], b"", True)


def test_tunnel() -> None:
    raw = b"HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nHTTP/1.1 junk"
    for pieces in cuts_of(raw):
        receiver, upstream, server = fed(pieces)
        upstream.write(b"up", whole=True)
        upstream.data_received(b"down")
        upstream.connection_lost(None)
        assert receiver.calls == ["upgraded", "done"]
        assert receiver.body == b"HTTP/1.1 junkdown"
        assert upstream.transport.sent == REQUEST + b"up"  # type: ignore[attr-defined]  # the Wire's
        assert not server.idle


def test_answer_before_the_request_is_whole_ends_the_connection() -> None:
    server = Server("http://10.0.0.1:80")
    upstream = Upstream(server)
    upstream.connection_made(Wire())  # type: ignore[arg-type]
    receiver = Listening()
    upstream.send(receiver, b"POST", REQUEST, whole=False)
    upstream.data_received(b"HTTP/1.1 413 No\r\nContent-Length: 0\r\n\r\n")
    assert receiver.calls == ["answer", "done"]
    assert upstream.transport.is_closing()
    assert not server.idle


def test_unasked_bytes_and_dropped_exchanges() -> None:
    receiver, upstream, server = fed([CASES[0][0]])
    upstream.data_received(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
    assert receiver.calls == ["answer", "done"]
    assert upstream.transport.is_closing()
    assert not server.idle
    receiver, upstream, server = fed([b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe"])
    upstream.drop()
    upstream.connection_lost(None)
    assert receiver.calls == ["answer"]


scraps = st.lists(
    st.sampled_from(
        [
            b"HTTP/1.1 200 OK\r\n",
            b"HTTP/1.1 103 H\r\n",
            b"Content-Length: 3\r\n",
            b"Transfer-Encoding: chunked\r\n",
            b"\r\n",
            b"abc",
            b"3\r\nabc\r\n",
            b"0\r\n\r\n",
        ]
    )
    | st.binary(max_size=3),
    max_size=12,
).map(b"".join)


@given(scraps, st.lists(st.integers(0, 120), max_size=5), st.sampled_from(["eof", "reset", "cut"]))
@settings(max_examples=200)
def test_any_bytes_in_any_cut_tell_the_same_story(raw: bytes, cuts: list[int], end: str) -> None:
    stories = []
    bounds = [0, *sorted(cut for cut in cuts if cut <= len(raw)), len(raw)]
    for pieces in ([raw], [raw[a:b] for a, b in pairwise(bounds)]):
        receiver, _, server = fed(pieces, end=end)
        assert receiver.over
        ended_well = receiver.calls[-1] == "done"
        stories.append(
            (
                ended_well,
                receiver.body if ended_well else b"",
                bool(server.idle),
                [c for c in receiver.calls if c[0] == "i"],
            )
        )
    whole, cut = stories
    # Bytes behind the answer may come before or after it was handed back.
    assert whole[:2] == cut[:2]
    assert whole[3] == cut[3]


# --- over real sockets ---------------------------------------------------------------------------------------------------


def run(work: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.wait_for(work, 60))


async def serving(
    handler: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> tuple[asyncio.Server, Server]:
    listener = await asyncio.start_server(handler, "127.0.0.1", 0)
    return listener, Server(f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}")


def test_one_connection_carries_many_exchanges() -> None:
    async def work() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            for i in range(100):
                await reader.readuntil(b"\r\n\r\n")
                body = b"x" * (i * 997)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
            writer.close()

        listener, server = await serving(serve)
        async with listener:
            upstream = await server.connect(20.0, None, None)
            reused = [upstream.reused]
            for i in range(100):
                receiver = Listening()
                upstream.send(receiver, b"GET", REQUEST, whole=True)
                await receiver.ended()
                assert (receiver.status, len(receiver.body)) == (200, i * 997)
                reused.append(upstream.reused)
                if i < 99:
                    assert server.warm() is upstream
            assert reused == [False] + [True] * 100

    run(work())


def test_slow_server_is_told_and_caught_up() -> None:
    async def work() -> None:
        go = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            await go.wait()
            await reader.readexactly(20_000_000)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

        listener, server = await serving(serve)
        async with listener:
            upstream = await server.connect(20.0, None, None)
            receiver = Listening()
            upstream.send(receiver, b"POST", REQUEST, whole=False)
            upstream.write(bytes(20_000_000), whole=True)
            while "writable False" not in receiver.calls:
                await asyncio.sleep(0.002)
            go.set()
            await receiver.ended()
            assert receiver.calls == ["writable False", "writable True", "answer", "done"]

    run(work())
