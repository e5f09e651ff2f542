"""A worker that is told to end, or to read its settings again, loses nobody."""

from __future__ import annotations

import contextlib
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from busy import in_time
from plane import PATIENT, Connection, Ended, Router, Seen, Upstream, chunked, ok, until

from router import counters as c

SETTINGS: dict[str, Any] = {
    "timeouts": PATIENT,
    "health": {"interval": 60, "timeout": 10},
}

GET = b"GET /v1/models HTTP/1.1\r\nHost: models.example\r\n\r\n"


@pytest.fixture
def own(tmp_path: Path, blue: Upstream) -> Any:
    with Router(tmp_path, blue, settings=SETTINGS) as router:
        yield router
        assert router.complaints() == []


def ended(router: Router) -> int:
    return router.process.wait(20)  # less than the drain's deadline


def in_the_grace(folder: Path, blue: Upstream, attempt: Callable[[Router], None]) -> None:
    """Send a worker of its own SIGTERM and what is to reach it within the second that idle connections have then.

    A busy machine may let that pass: what goes wrong later than that is tried again.
    """
    with contextlib.ExitStack() as stack:

        def attempted() -> Router:
            router = stack.enter_context(Router(Path(tempfile.mkdtemp(dir=folder)), blue, settings=SETTINGS))
            attempt(router)
            return router

        router = in_time(0.8, attempted)
        assert ended(router) == 0
        assert router.complaints() == []


def test_running_request_finishes_and_the_process_ends(own: Router, blue: Upstream) -> None:
    go = threading.Event()
    blue.answers_after(go, ok(b"late"))
    with own.client().sends(GET) as client:
        blue.request()
        own.terminates()
        until(lambda: own.counts.word(c.DRAINING) == 1, "the drain begins")
        assert own.process.poll() is None
        go.set()
        answer = client.receives()
        assert (answer.status, answer.payload, answer.header(b"connection")) == (200, b"late", b"close")
        assert client.closed()
    assert ended(own) == 0


def test_stream_and_tunnel_finish(own: Router, blue: Upstream) -> None:
    go = threading.Event()

    def deed(connection: Connection, seen: Seen) -> None:
        if seen.header(b"upgrade"):
            connection.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n")
            with contextlib.suppress(Ended, OSError):
                while True:
                    connection.send(connection.reader.exactly(1))
            return
        connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
        go.wait(30)
        connection.send(b"5\r\n last\r\n0\r\n\r\n")

    blue.does(deed)
    with own.client().sends(GET) as stream, own.client() as tunnel:
        stream.reader.through(b"first\r\n")
        upgrade = b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n"
        assert tunnel.asks(upgrade).status == 101
        own.terminates()
        until(lambda: own.counts.word(c.DRAINING) == 1, "the drain begins")
        tunnel.sends(b"x")
        assert tunnel.reader.exactly(1) == b"x"
        time.sleep(1.2)  # longer than an idle connection is given
        go.set()
        assert stream.reader.through(b"0\r\n\r\n").startswith(b"5\r\n last")
        assert stream.closed()
        tunnel.closes()
        assert ended(own) == 0


def test_idle_connections_are_closed_cleanly_and_no_more_are_taken(own: Router) -> None:
    clients = [own.client() for _ in range(5)]
    assert all(client.asks(GET).status == 200 for client in clients)
    own.terminates()
    assert all(client.closed() for client in clients)  # FIN, not RST
    assert ended(own) == 0
    with pytest.raises(OSError), own.client() as client:  # noqa: PT011  refused, or reset
        client.asks(GET)


def test_request_on_its_way_while_the_drain_begins_is_answered(tmp_path: Path, blue: Upstream) -> None:
    def attempt(own: Router) -> None:
        with own.client() as client:
            assert client.asks(GET).status == 200
            own.terminates()
            until(lambda: own.counts.word(c.DRAINING) == 1, "the drain begins")
            time.sleep(0.2)  # for some sweeps, which leave alone what may still send a request
            answer = client.asks(GET)
            assert (answer.status, answer.header(b"connection")) == (200, b"close")
            assert client.closed()

    in_the_grace(tmp_path, blue, attempt)


def test_connection_in_the_queue_of_the_socket_is_served(tmp_path: Path, blue: Upstream) -> None:
    """A client that connected before the signal, even if the worker had not yet accepted it, gets its answer."""

    def attempt(own: Router) -> None:
        clients = [own.client().sends(GET) for _ in range(20)]
        own.terminates()
        assert [client.receives().status for client in clients] == [200] * 20

    in_the_grace(tmp_path, blue, attempt)


def test_readyz_tells_that_it_drains(tmp_path: Path, blue: Upstream) -> None:
    def attempt(own: Router) -> None:
        with own.client() as client:
            assert client.asks(b"GET /-/readyz HTTP/1.1\r\nHost: a\r\n\r\n").status == 200
            own.terminates()
            until(lambda: own.counts.word(c.DRAINING) == 1, "the drain begins")
            answer = client.asks(b"GET /-/readyz HTTP/1.1\r\nHost: a\r\n\r\n")
            assert (answer.status, answer.header(b"retry-after")) == (503, b"1")

    in_the_grace(tmp_path, blue, attempt)


def test_drain_has_a_deadline(tmp_path: Path, blue: Upstream) -> None:
    blue.hangs()
    settings = {**SETTINGS, "timeouts": {**PATIENT, "drain": 0.3}}
    with Router(tmp_path, blue, settings=settings) as router, router.client().sends(GET):
        blue.request()
        router.terminates()
        assert ended(router) == 0
    until(lambda: blue.left == 1, "the server is let go")


def test_drain_after_the_whole_fleet_of_faults(own: Router, blue: Upstream) -> None:
    """Half-sent heads, half-sent bodies and unread answers do not keep it longer than their own deadlines."""
    blue.answers(ok(bytes(100_000)))
    own.rereads({**SETTINGS, "timeouts": {**PATIENT, "head": 0.5, "body": 1.0, "idle": 2.0}})
    clients = [own.client() for _ in range(3)]
    clients[0].sends(b"GET / HT")
    clients[1].sends(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab")
    clients[2].sends(GET)
    until(lambda: blue.heads, "they are at work")
    own.terminates()
    assert clients[1].receives().status == 408
    clients[1].closes()
    assert ended(own) == 0
    clients[0].closes()
    clients[2].closes()


# --- SIGHUP --------------------------------------------------------------------------------------------------------------


def test_limits_and_timeouts_are_reread_without_losing_a_connection(own: Router, blue: Upstream) -> None:
    post = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2000\r\n\r\n" + bytes(2000)
    go = threading.Event()
    with own.client() as client, own.client() as running:
        assert client.asks(post).status == 200
        blue.answers_after(go, ok(b"late"), once=True)
        running.sends(post)
        blue.request(1)
        own.rereads({**SETTINGS, "limits": {"body": 1000}, "timeouts": {**SETTINGS["timeouts"], "head": 0.25}})
        go.set()
        assert running.receives().payload == b"late"
        assert client.asks(GET).status == 200
        assert client.asks(post).status == 413
        with own.client().sends(b"GET / HT") as slow:
            assert slow.receives().status == 408


def test_fallback_and_breaker_settings_are_reread(own: Router, blue: Upstream, green: Upstream) -> None:
    green.resets_mid_head()
    own.obeys(green=green, percent=100)
    assert own.asks(GET).status == 200
    own.rereads({**SETTINGS, "fallback": {"on": []}})
    assert own.asks(GET).status == 502
    own.rereads({**SETTINGS, "fallback": {"on": ["connect"], "open_after": 1, "open_for": 60}})
    before = len(green.seen)
    assert [own.asks(GET).status for _ in range(5)] == [200] * 5
    assert len(green.seen) == before + 1  # one failure opens it now


def test_settings_that_cannot_be_used_change_nothing(tmp_path: Path, blue: Upstream) -> None:
    with Router(tmp_path, blue, settings=SETTINGS) as router, router.client() as client:
        for text in ("{", "", "[]", '{"upstream_tls": {"ca": "/nowhere.pem"}}'):
            said = router.log.count("not reread")
            router.state.settings_json.write_text(text)
            router.process.send_signal(signal.SIGHUP)
            until(lambda: router.log.count("not reread") > said, f"a refusal of {text!r}")  # noqa: B023  called at once
            assert client.asks(GET).status == 200
            assert client.asks(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab").status == 200


def test_interrupt_is_left_to_the_supervisor(own: Router) -> None:
    own.process.send_signal(signal.SIGINT)
    time.sleep(0.05)
    assert own.asks(GET).status == 200


def test_counts_survive_a_killed_worker(tmp_path: Path, blue: Upstream) -> None:
    with Router(tmp_path, blue, settings=SETTINGS) as first:
        for _ in range(7):
            assert first.asks(GET).status == 200
        assert first.asks(b"GET / HTTP/1.1\r\n\r\n").status == 400
        first.process.kill()
        first.process.wait()
    with Router(tmp_path, blue, settings=SETTINGS) as second:
        assert second.asks(GET).status == 200
        second.quiet()
        assert second.counts.blue(c.STATUS + 1) == 8
        assert second.counts.own(400) == 1


def test_worker_without_a_plan_says_so(tmp_path: Path) -> None:
    import subprocess
    import sys

    from router.state import StateDir

    state = StateDir(tmp_path / "state")
    state.create()
    state.settings_json.write_text("{}")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        done = subprocess.run(
            [
                sys.executable,
                "-P",
                "-m",
                "router.run_worker",
                "--state",
                str(state.path),
                "--slot",
                "0",
                "--fd",
                str(listener.fileno()),
            ],
            pass_fds=[listener.fileno()],
            capture_output=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 1
    assert b"plan page" in done.stderr
    assert b"Traceback" not in done.stderr


# --- the access log ------------------------------------------------------------------------------------------------------


def test_access_log(tmp_path: Path, blue: Upstream) -> None:
    import json

    path = tmp_path / "access.log"
    settings = {**SETTINGS, "access_log": {"path": str(path), "sample": 1.0}}
    (tmp_path / "state").mkdir()
    with Router(tmp_path / "state", blue, settings=settings) as router:
        with router.client() as client:
            client.asks(b"GET /a?secret=1 HTTP/1.1\r\nHost: a\r\nx-request-id: mine\r\n\r\n")
            blue.refuses()
            client.asks(b"POST /b HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
        until(lambda: path.exists() and path.read_text().count("\n") == 2, "two lines")
        first, second = (json.loads(line) for line in path.read_text().splitlines())
        assert (first["request_id"], first["path"], first["status"], first["arm"]) == ("mine", "/a", 200, "blue")
        assert (second["method"], second["path"], second["status"]) == ("POST", "/b", 502)
        assert "secret" not in path.read_text()


def test_access_log_that_cannot_be_written_stops_nothing(tmp_path: Path, blue: Upstream) -> None:
    settings = {**SETTINGS, "access_log": {"path": str(tmp_path / "no" / "folder")}}
    (tmp_path / "state").mkdir()
    with Router(tmp_path / "state", blue, settings=settings) as router:
        for _ in range(3):
            assert router.asks(GET).status == 200
            router.sweeps()
        with router.timing(head=0.5), router.client().sends(b"GET / HT") as slow:
            assert slow.receives().status == 408


def test_chunked_request_and_answer_while_draining(own: Router, blue: Upstream) -> None:
    blue.answers(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(b"abc", trailers=b"x-t: 1\r\n"))
    with own.client() as client:
        client.sends(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        until(lambda: blue.heads, "it is at work")
        own.terminates()
        until(lambda: own.counts.word(c.DRAINING) == 1, "the drain begins")
        answer = client.sends(b"0\r\n\r\n").receives()
        assert (answer.payload, answer.trailers, answer.header(b"connection")) == (b"abc", b"x-t: 1\r\n", b"close")
    assert ended(own) == 0


def test_parent_that_is_gone_is_not_outlived(tmp_path: Path, blue: Upstream) -> None:
    """The worker ends when its starter is no longer there, rather than serving an old plan for ever."""
    import subprocess
    import sys

    from router.page import PlanPage
    from router.plan import parse_plan
    from router.state import StateDir

    state = StateDir(tmp_path / "state")
    state.create()
    state.settings_json.write_text("{}")
    plan = {"blue": {"name": "one", "servers": [blue.url]}, "revision": 1}
    PlanPage(state.plan_page, writable=True).write(1, parse_plan(plan).to_json())
    starter = (
        "import os, socket, subprocess, sys\n"
        "s = socket.create_server(('127.0.0.1', 0))\n"
        "p = subprocess.Popen([sys.executable, '-P', '-m', 'router.run_worker', '--state', sys.argv[1], '--slot', '0', '--fd',"
        " str(s.fileno()), '--parent', str(os.getpid())], pass_fds=[s.fileno()])\n"
        "print(p.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", starter, str(state.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert process.stdout is not None
        worker = int(process.stdout.readline())
        until(lambda: state.counters(0).exists(), "the worker serves")
        time.sleep(0.3)
        process.kill()
    until(lambda: not _alive(worker), "the worker has ended")


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
