"""Which server gets the next request, which rests, and what becomes of connections."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from models.pool import Health, Pool, Server, Tls, probe
from models.tasks import spawn
from models.upstream import Upstream


def run(work: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.wait_for(work, 60))


def servers(count: int) -> list[Server]:
    return [Server(f"http://10.0.0.{i + 1}:80") for i in range(count)]


def pool(count: int, draws: list[float] | None = None, **health: Any) -> Pool:
    if draws is None:
        return Pool(servers(count), Health(**health))
    source = iter(draws)
    return Pool(servers(count), Health(**health), lambda: next(source))


def test_less_loaded_of_two_at_random() -> None:
    some = pool(3, [0.0, 0.99, 0.0, 0.99, 0.4, 0.4])
    first, second, third = some.servers
    first.in_flight, second.in_flight, third.in_flight = 5, 9, 2
    assert some.choose(0.0) is third
    third.in_flight = 5
    assert some.choose(0.0) is first
    assert some.choose(0.0) is second  # drawn twice: no other to compare with


def test_one_server_is_always_the_one() -> None:
    one = pool(1)
    one.servers[0].down = True
    one.servers[0].ejected_until = 99.0
    assert one.choose(0.0, frozenset(one.servers)) is one.servers[0]


def test_sick_servers_are_left_out_while_others_remain() -> None:
    some = pool(3)
    first, second, third = some.servers
    first.down = True
    second.ejected_until = 10.0
    assert {some.choose(5.0) for _ in range(20)} == {third}
    assert {some.choose(10.0) for _ in range(100)} == {second, third}  # its rest is over
    third.down = second.down = True
    assert {some.choose(5.0) for _ in range(100)} == set(some.servers)  # doubtful servers rather than none
    assert some.down_bits(5.0) == 0b111


def test_tried_servers_are_left_out_while_others_remain() -> None:
    some = pool(3)
    first, second, third = some.servers
    assert {some.choose(0.0, frozenset([first, second])) for _ in range(20)} == {third}
    third.down = True
    assert some.choose(0.0, frozenset([first, second])) is third  # rather a doubtful one than one that has just failed
    assert {some.choose(0.0, frozenset(some.servers)) for _ in range(100)} >= {first, second}


@given(
    st.lists(st.tuples(st.booleans(), st.floats(0, 20), st.integers(0, 5), st.booleans()), min_size=1, max_size=6),
    st.floats(0, 20),
    st.lists(st.floats(0, 1, exclude_max=True), min_size=2, max_size=2),
)
def test_choice_is_the_best_there_is(states: list[tuple[bool, float, int, bool]], now: float, draws: list[float]) -> None:
    some = pool(len(states), draws)
    tried = set()
    for server, (down, until, load, was_tried) in zip(some.servers, states, strict=True):
        server.down, server.ejected_until, server.in_flight = down, until, load
        if was_tried:
            tried.add(server)
    chosen = some.choose(now, frozenset(tried) or None)
    able = [s for s in some.servers if not s.down and s.ejected_until <= now]
    untried = [s for s in some.servers if s not in tried]
    if len(states) > 1:
        if set(able) & set(untried):
            assert chosen in able
            assert chosen in untried
        elif able and not tried:
            assert chosen in able
        elif able and untried:
            assert chosen in untried
    assert chosen in some.servers


def test_ejection_after_failures_in_a_row() -> None:
    some = pool(2, eject_after=3, eject_for=5.0, eject_most=60.0)
    first, second = some.servers
    some.failed(first, 1.0)
    some.failed(first, 1.0)
    first.succeeded(1.0)
    some.failed(first, 1.0)
    some.failed(first, 1.0)
    assert some.down_bits(1.0) == 0
    some.failed(first, 1.0)
    assert some.down_bits(1.0) == 0b01
    assert some.down_bits(5.9) == 0b01
    assert some.down_bits(6.0) == 0
    for _ in range(10):
        some.failed(second, 2.0)
    assert some.down_bits(2.0) == 0b01  # never more than half
    some.failed(second, 7.0)
    assert some.down_bits(7.0) == 0b10  # as soon as there is room


def test_ejection_grows_and_good_checks_do_not_shorten_it() -> None:
    health = Health(eject_after=1, eject_for=5.0, eject_most=30.0)
    some = Pool(servers(2), health)
    server = some.servers[0]
    now, rests = 0.0, []
    for _ in range(6):
        some.failed(server, now)
        rests.append(server.ejected_until - now)
        now = server.ejected_until
        server.checked(True, health)  # it takes connections, which is all that a check without a path can see
        now += 0.125
    assert rests == [5.0, 10.0, 20.0, 30.0, 30.0, 30.0]
    server.succeeded(now + 1)  # holding for a moment is not enough
    some.failed(server, now + 2)
    assert server.ejected_until - (now + 2) == 30.0
    server.succeeded(server.ejected_until + 31)  # but as long again is
    some.failed(server, 1000.0)
    assert server.ejected_until == 1005.0


@given(st.integers(1, 9), st.lists(st.tuples(st.integers(0, 8), st.floats(0, 3)), max_size=60))
def test_never_more_than_half_are_ejected(count: int, failures: list[tuple[int, float]]) -> None:
    some = pool(count, eject_after=1, eject_for=5.0)
    now = 0.0
    for which, step in failures:
        now += step
        some.failed(some.servers[which % count], now)
        assert 2 * sum(s.ejected_until > now for s in some.servers) <= count


def test_health_checks_need_several_results_in_a_row() -> None:
    health = Health(unhealthy_after=2, healthy_after=3)
    server = servers(1)[0]
    states = []
    for good in (False, True, False, False, True, True, False, True, True, True):
        server.checked(good, health)
        states.append(server.down)
    assert states == [False, False, False, True, True, True, True, True, True, False]


# --- connections, over real sockets --------------------------------------------------------------------------------------


async def becomes(true: Callable[[], object]) -> None:
    while not true():
        await asyncio.sleep(0.002)


class Accepting:
    """A server that remembers its connections."""

    def __init__(self) -> None:
        self.writers: list[asyncio.StreamWriter] = []
        self.ended = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        await reader.read()
        self.ended += 1
        writer.close()

    async def ends(self, count: int) -> None:
        await becomes(lambda: self.ended >= count)


async def listening(handler: Any) -> tuple[asyncio.Server, str]:
    server = await asyncio.start_server(handler, "127.0.0.1", 0)
    return server, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def connected(server: Server) -> Upstream:
    return await server.connect(20.0, None, None)


def test_warm_connections_come_back_last_first_and_never_dead() -> None:
    async def work() -> None:
        accepting = Accepting()
        listener, url = await listening(accepting)
        async with listener:
            server = Server(url)
            one, two, three = [await connected(server) for _ in range(3)]
            for connection in (one, two, three):
                server.keep(connection)
            assert server.warm() is three
            two.transport.close()
            assert server.warm() is one
            assert server.warm() is None
            one.transport.close()
            three.transport.close()
            await accepting.ends(3)

    run(work())


def test_connection_that_the_server_closes_is_forgotten() -> None:
    async def work() -> None:
        accepting = Accepting()
        listener, url = await listening(accepting)
        async with listener:
            server = Server(url)
            server.keep(await connected(server))
            await becomes(lambda: accepting.writers)
            accepting.writers[0].close()
            await becomes(lambda: not server.idle)
            assert server.warm() is None

    run(work())


def test_idle_connections_are_reaped_and_retired() -> None:
    async def work() -> None:
        accepting = Accepting()
        listener, url = await listening(accepting)
        async with listener:
            server = Server(url)
            for _ in range(2):
                server.keep(await connected(server))
            server.reap(100.0, 5.0)  # stamps them
            server.reap(105.0, 5.0)
            assert len(server.idle) == 2
            again = server.warm()
            assert again is not None
            server.keep(again)  # used in between: stamped anew
            server.reap(105.1, 5.0)
            assert server.idle == [again]
            await accepting.ends(1)
            busy = await connected(server)
            server.retire()
            assert not server.idle
            server.keep(busy)  # its exchange ends only now
            assert not server.idle
            await accepting.ends(3)

    run(work())


def test_refused_and_timed_out_connects_are_os_errors() -> None:
    async def work() -> None:
        listener, url = await listening(Accepting())
        listener.close()
        await listener.wait_closed()
        for bad in (url, "http://" + "a" * 64 + ".example", "unix:/nowhere/at.all"):
            with pytest.raises(OSError):  # noqa: PT011  which one depends on the address
                await Server(bad).connect(2.0, None, None)
        listener, url = await listening(Accepting())
        async with listener:
            with pytest.raises(TimeoutError):
                await Server(url).connect(0.0, None, None)

    run(work())


@pytest.mark.parametrize(
    ("answer", "path", "expected"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "/ready", True),
        (b"HTTP/1.1 204 No\r\n\r\n", "/ready", True),
        (b"HTTP/1.1 301 Moved\r\nContent-Length: 0\r\n\r\n", "/ready", True),
        (b"HTTP/1.1 103 Hints\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", "/ready", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\nlong", "/ready", True),
        (b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n", "/ready", False),
        (b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n", "/ready", False),
        (b"garbage\r\n\r\n", "/ready", False),
        (b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", "/ready", False),
        (b"", "/ready", False),
        (b"", None, True),
    ],
)
def test_probe(answer: bytes, path: str | None, expected: bool) -> None:
    async def work() -> None:
        heads: list[bytes] = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if path is not None:
                heads.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(answer)
            if not answer:
                writer.close()
            await reader.read()
            writer.close()

        listener, url = await listening(serve)
        async with listener:
            server = Server(url)
            assert await probe(server, Health(path=path, timeout=20.0), None, None) is expected
            assert server.warm() is None
            if path is not None:
                assert heads[0].startswith(b"GET /ready HTTP/1.1\r\nHost: 127.0.0.1:")

    run(work())


def test_connection_of_a_probe_is_never_offered_to_a_request() -> None:
    """Not even between the answer of a server that ignores `Connection: close` and the end of the check."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async def work() -> None:
        listener, url = await listening(serve)
        async with listener:
            server = Server(url)
            for _ in range(20):
                probing = spawn(probe(server, Health(path="/ready", timeout=20.0), None, None), "probe")
                while not probing.done():
                    assert not server.idle
                    await asyncio.sleep(0)  # one turn of the loop: each of them is looked at
                assert probing.result()

    run(work())


def test_probe_of_a_silent_or_absent_server_fails() -> None:
    async def work() -> None:
        listener, url = await listening(Accepting())
        async with listener:
            assert await probe(Server(url), Health(path="/x", timeout=0.05), None, None) is False
        assert await probe(Server(url), Health(path="/x", timeout=0.5), None, None) is False
        assert await probe(Server("http://" + "a" * 64 + ".x"), Health(), None, None) is False

    run(work())


def test_tls_contexts(tmp_path: Path) -> None:
    verifying = Tls().context()
    assert verifying.verify_mode is ssl.CERT_REQUIRED
    assert verifying.check_hostname
    assert verifying.minimum_version is ssl.TLSVersion.TLSv1_2
    trusting = Tls(verify=False).context()
    assert trusting.verify_mode is ssl.CERT_NONE
    with pytest.raises(OSError, match="No such file"):
        Tls(ca=str(tmp_path / "none.pem")).context()
    (tmp_path / "bad.pem").write_text("nonsense")
    with pytest.raises(ssl.SSLError):
        Tls(certificate=str(tmp_path / "bad.pem"), key=str(tmp_path / "bad.pem")).context()
