"""The mirror against real servers: what it sends, what it observes, what it lets go, and that its accounts balance."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from models.arm import Arm
from shadow import frame
from shadow.mirror import Mirror, MirrorOptions
from shadow.observation import Observation

HEAD = b"POST /infer HTTP/1.1\r\nHost: models\r\nConnection: keep-alive\r\nContent-Length: %d\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n"


def framed(body: bytes = b"{}", *, colour: int = 0, release: int = 1, flags: int = 0, request_id: bytes = b"r1") -> frame.Frame:
    answer = b"live"
    return frame.decode(
        frame.encode(colour, flags, release, 7, 1.0, 2.0, 3.0, request_id, HEAD % len(body), body, ANSWER % 4, answer)
    )


class Server:
    """Answers each request with its name; `gate` holds answers back while it is not set."""

    def __init__(self, name: bytes) -> None:
        self.name = name
        self.seen: list[bytes] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                self.seen.append(head + await reader.readexactly(length))
                await self.gate.wait()
                writer.write(ANSWER % len(self.name) + self.name)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


def bounded(**options: object) -> MirrorOptions:
    """Bounds, with time to connect also on a busy machine."""
    return MirrorOptions(**{"connect_timeout": 20.0, **options})  # type: ignore[arg-type]


@asynccontextmanager
async def stage(**options: object) -> AsyncIterator[tuple[Mirror, Server, Server, list[Observation], Counter[str]]]:
    blue, green = Server(b"blue"), Server(b"green")
    listening = []
    for server in (blue, green):
        listening.append(await asyncio.start_server(server.serve, "127.0.0.1", 0))
        server.url = f"http://127.0.0.1:{listening[-1].sockets[0].getsockname()[1]}"
    observed: list[Observation] = []
    gone: Counter[str] = Counter()
    bounds = bounded(**options)
    mirror = Mirror(bounds, observed.append, lambda _release, reason: gone.update([reason]))
    mirror.configure(1, Arm("v1", (blue.url,)), Arm("v2", (green.url,)), bounds)
    try:
        yield mirror, blue, green, observed, gone
    finally:
        mirror.close()
        for server in listening:
            server.close()


async def until(true: object) -> None:
    async with asyncio.timeout(60):
        while not true():  # type: ignore[operator]
            await asyncio.sleep(0.005)


def test_the_other_arm_is_asked_and_both_answers_are_observed() -> None:
    async def play() -> None:
        async with stage() as (mirror, blue, green, observed, gone):
            mirror.take(framed(b'{"x": 1}'))
            mirror.take(framed(b'{"x": 2}', colour=1))
            await until(lambda: len(observed) == 2)
            by_live = {o.live: o for o in observed}
            assert (by_live["blue"].blue.body, by_live["blue"].green.body) == (b"live", b"green")
            assert (by_live["green"].green.body, by_live["green"].blue.body) == (b"live", b"blue")
            assert len(blue.seen) == len(green.seen) == 1
            assert b"x-bluegreen-shadow: 1\r\n" in green.seen[0]
            assert b"x-request-id: r1\r\n" in green.seen[0]
            assert b"keep-alive" not in green.seen[0]
            assert green.seen[0].endswith(b'{"x": 1}')
            assert not gone
            assert mirror.busy == mirror._bytes == 0

    asyncio.run(play())


def test_noise_pairs_ask_blue_again_in_either_order() -> None:
    async def play() -> None:
        async with stage(noise_percent=100.0, max_in_flight=1) as (mirror, blue, green, observed, _gone):
            order = []
            for server in (blue, green):
                server.seen = _Noting(order, server.name)
            for _ in range(40):
                mirror.take(framed())
                await until(lambda: mirror.busy == 0)
            assert len(observed) == 40
            assert all(o.again is not None and o.again.body == b"blue" for o in observed)
            firsts = Counter(order[::2])
            assert set(firsts) == {b"blue", b"green"}, "one of them always finds the caches warm"

    asyncio.run(play())


def test_noise_pairs_of_what_green_answered_ask_both_and_blue_twice() -> None:
    async def play() -> None:
        async with stage(noise_percent=100.0, max_in_flight=1) as (mirror, blue, green, observed, _gone):
            order: list[bytes] = []
            for server in (blue, green):
                server.seen = _Noting(order, server.name)
            for _ in range(40):
                mirror.take(framed(colour=1))
                await until(lambda: mirror.busy == 0)
            assert len(observed) == 40
            for one in observed:
                assert one.live == "green"
                assert one.green.body == b"live"
                assert (one.blue.body, one.again and one.again.body) == (b"blue", b"blue")
                assert one.mirrored_green is one.green_again
                assert one.green_again is not None
                assert one.green_again.body == b"green"
            assert {order[n : n + 3].index(b"green") for n in range(0, 120, 3)} == {0, 1, 2}

    asyncio.run(play())


class _Noting(list[bytes]):
    def __init__(self, order: list[bytes], name: bytes) -> None:
        super().__init__()
        self._order, self._name = order, name

    def append(self, request: bytes) -> None:
        self._order.append(self._name)
        super().append(request)


@pytest.mark.parametrize(
    ("options", "body", "reason", "kept"),
    [
        ({"max_in_flight": 2, "waiting": 3}, b"{}", "too many in flight", 5),
        ({"max_in_flight": 64, "waiting": 64, "queue_bytes": 3600}, b"x" * 996, "too many bytes in flight", 3),
    ],
)
def test_over_a_bound_exchanges_are_let_go_and_counted(options: dict[str, int], body: bytes, reason: str, kept: int) -> None:
    async def play() -> None:
        async with stage(**options) as (mirror, _blue, green, observed, gone):
            green.gate.clear()
            for _ in range(20):
                mirror.take(framed(body))
            assert gone == {reason: 20 - kept}
            assert mirror.busy == kept
            green.gate.set()
            await until(lambda: mirror.busy == 0)
            assert len(observed) == kept
            assert mirror._bytes == 0

    asyncio.run(play())


@pytest.mark.parametrize(
    ("sent", "reason"),
    [(framed(release=2), "release over"), (framed(flags=frame.REQUEST_CUT), "request too long")],
)
def test_what_cannot_be_mirrored_is_let_go(sent: frame.Frame, reason: str) -> None:
    async def play() -> None:
        async with stage() as (mirror, _blue, green, observed, gone):
            mirror.take(sent)
            assert gone == {reason: 1}
            assert not observed
            assert not green.seen
            assert mirror.busy == mirror._bytes == 0

    asyncio.run(play())


def test_a_green_that_hangs_is_given_up_and_observed_as_such() -> None:
    async def play() -> None:
        async with stage(answer_timeout=0.1) as (mirror, _blue, green, observed, _gone):
            green.gate.clear()
            mirror.take(framed())

            def swept() -> bool:
                mirror.sweep()
                return bool(observed)

            await until(swept)
            assert observed[0].green.failure == "timeout"
            assert observed[0].blue.body == b"live"
            green.gate.set()

    asyncio.run(play())


def test_a_green_that_refuses_is_observed_as_such() -> None:
    async def play() -> None:
        async with stage() as (mirror, blue, _green, observed, _gone):
            bounds = bounded()
            mirror.configure(1, Arm("v1", (blue.url,)), Arm("v2", ("http://127.0.0.1:1",)), bounds)
            mirror.take(framed())
            await until(lambda: observed)
            assert observed[0].green.failure == "connect"
            assert observed[0].green.status == 0

    asyncio.run(play())


def test_an_answer_over_the_bound_is_cut_and_marked() -> None:
    async def play() -> None:
        async with stage(answer_bytes=3) as (mirror, _blue, _green, observed, _gone):
            mirror.take(framed())
            await until(lambda: observed)
            assert observed[0].green.truncated
            assert observed[0].green.body == b"gre"

    asyncio.run(play())


def test_a_new_release_lets_go_of_what_waits() -> None:
    async def play() -> None:
        async with stage(max_in_flight=1, waiting=10) as (mirror, blue, green, _observed, gone):
            green.gate.clear()
            for _ in range(5):
                mirror.take(framed())
            bounds = bounded(max_in_flight=1, waiting=10)
            mirror.configure(2, Arm("v1", (blue.url,)), Arm("v2", (green.url,)), bounds)
            assert gone == {"release over": 4}
            green.gate.set()
            await until(lambda: mirror.busy == 0)
            assert mirror._bytes == 0

    asyncio.run(play())


@pytest.mark.parametrize(
    ("options", "body"),
    [
        ({"max_in_flight": 2, "waiting": 3}, b"{}"),
        ({"queue_bytes": 3600}, b"x" * 996),
        ({"max_in_flight": 1, "waiting": 0}, b"{}"),
    ],
)
@pytest.mark.parametrize(
    ("release", "flags", "green_is_there"), [(1, 0, True), (2, 0, True), (1, frame.REQUEST_CUT, True), (1, 0, False)]
)
def test_what_is_refused_unread_is_what_would_not_be_taken(
    options: dict[str, int], body: bytes, release: int, flags: int, green_is_there: bool
) -> None:
    """At every fill of the mirror: `refuses` says yes only where `take` lets go, for the same reason, and counts it."""

    async def play() -> None:
        async with stage(**options) as (mirror, blue, green, _observed, gone):
            green.gate.clear()
            bounds = bounded(**options)
            for _ in range(8):
                if not green_is_there:
                    mirror.configure(1, Arm("v1", (blue.url,)), None, bounds)
                sent = framed(body, release=release, flags=flags)
                busy, before = mirror.busy, Counter(gone)
                refused = mirror.refuses(release, flags, frame.size(sent))
                told = Counter(gone) - before
                assert mirror.busy == busy, "nothing is taken by asking"
                before = Counter(gone)
                mirror.take(sent)
                if refused:
                    assert told == Counter(gone) - before
                    assert mirror.busy == busy
                else:
                    assert not told, "what is not refused is not counted yet"
                if release == 1 and not flags and green_is_there:
                    assert refused == (mirror.busy == busy)
            green.gate.set()
            await until(lambda: mirror.busy == 0)
            assert mirror._bytes == 0

    asyncio.run(play())


def test_under_ten_times_what_it_can_take_every_frame_ends_as_exactly_one_thing() -> None:
    """Through bursts, full queues, a release that ends and an arm that goes away: compared or let go, once."""

    async def play() -> None:
        async with stage(max_in_flight=4, waiting=8, queue_bytes=60_000, max_per_second=2000.0) as (
            mirror,
            blue,
            green,
            observed,
            _gone,
        ):
            bounds = bounded(max_in_flight=4, waiting=8, queue_bytes=60_000, noise_percent=50.0)
            offered: Counter[int] = Counter()
            left: Counter[int] = Counter()
            mirror._let_go = lambda release, _reason: left.update([release])
            for release in (1, 2, 3):
                for burst in range(30):
                    arms = Arm("v1", (blue.url,)), (None if burst == 20 else Arm("v2", (green.url,)))
                    mirror.configure(release, *arms, bounds)
                    for number in range(120):
                        flags = frame.REQUEST_CUT if number % 50 == 7 else 0
                        body = b"x" * (20_000 if number % 40 == 3 else 2)
                        late = release - 1 if number % 60 == 9 and release > 1 else release
                        sent = framed(body, colour=number % 2, release=late, flags=flags)
                        offered[late] += 1
                        if not mirror.refuses(late, flags, frame.size(sent)):
                            mirror.take(sent)
                        assert mirror._bytes <= 60_000 + 21_000
                        assert len(mirror._pairs) <= 4
                        assert len(mirror._waiting) <= 8
                    await asyncio.sleep(0.002)
            await until(lambda: mirror.busy == 0)
            ended = left + Counter(observation.release for observation in observed)
            assert ended == offered
            assert 0 < len(observed) < sum(offered.values()) / 3
            assert mirror._bytes == 0

    asyncio.run(play())
