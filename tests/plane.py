"""A small language for tests of the data plane, spoken over real sockets.

Three actors. An `Upstream` is a model server that does what a test tells it (answers, refuses, hangs, resets, drips) and
remembers the bytes it got. A `Client` sends bytes and cuts what comes back into answers. A `Router` is a real worker process on
a state directory of its own: plans are changed as control changes them (the page, then a byte into the FIFO), and what happened
is read from its counter page. Messages are in plane_wire.py, servers in plane_servers.py; a test imports all of it from here.

Tests that need a worker with other settings start one of their own (about 0.3 s); everything ends by PID.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import ssl
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plane_servers import Connection, Upstream, deaf
from plane_wire import PATIENCE, Answer, Ended, Message, Reader, Seen, chunked, ok, until

from router import counters as c
from router.counters import CounterPage
from router.page import PlanPage
from router.plan import parse_plan
from router.state import StateDir

__all__ = [
    "PATIENCE",
    "PATIENT",
    "Answer",
    "Client",
    "Connection",
    "Counting",
    "Counts",
    "Ended",
    "Message",
    "Reader",
    "Router",
    "Seen",
    "Upstream",
    "arm",
    "chunked",
    "deaf",
    "ok",
    "until",
]

# --- times ---------------------------------------------------------------------------------------------------------------

# Seconds that no busy machine comes near. `continue` alone is short, for it makes the worker sweep every 50 ms; it matters to
# requests with `Expect` only.
PATIENT: dict[str, float] = {
    **{"connect": 10, "first_byte": 30, "idle": 30, "head": 30, "body": 60, "keep_alive": 75},
    **{"upstream_keep_alive": 30, "continue": 0.25, "drain": 30},
}

# --- clients -------------------------------------------------------------------------------------------------------------


class Client:
    """A client's connection. `with` closes it. With `tls` it shakes hands first, asking for `name`."""

    def __init__(
        self,
        address: tuple[str, int],
        *,
        receive_buffer: int = 0,
        segment: int = 0,
        tls: ssl.SSLContext | None = None,
        name: str | None = "models.example",
    ) -> None:
        self.sock = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET, socket.SOCK_STREAM)
        if receive_buffer:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        if segment:
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, segment)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(address)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is not None:
            # An end without the closing alert is an error here, as RFC 9112, 9.8 has it.
            self.sock = tls.wrap_socket(self.sock, server_hostname=name, suppress_ragged_eofs=False)
        self.reader = Reader(self.sock)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def sends(self, *pieces: bytes, pause: float = 0.01) -> Client:
        """Send bytes; several pieces go in segments of their own."""
        for index, piece in enumerate(pieces):
            if index:
                time.sleep(pause)
            self.sock.sendall(piece)
        return self

    def receives(self, method: str = "GET") -> Answer:
        """The next answer, an interim one too. Raises Ended when the connection ends before it is whole."""
        head = self.reader.through(b"\r\n\r\n")
        status = int(head[9:12])
        if status < 200 or status in (204, 304) or method == "HEAD":
            return Answer(head, b"", b"")
        return Answer(head, *self.reader.body(head, until_close=True))

    def asks(self, data: bytes, method: str = "GET") -> Answer:
        """Send, and receive the answer."""
        return self.sends(data).receives(method)

    def hears_nothing(self, seconds: float = 0.15) -> bool:
        """Whether nothing comes (nor is waiting) within this time."""
        return not self.reader.buffer and not select.select([self.sock], [], [], seconds)[0]

    def rest(self) -> bytes:
        """Everything until the router closes. Raises Ended when it resets."""
        return self.reader.to_the_end()

    def closed(self) -> bool:
        """Whether the router closes now, in good order and without another byte."""
        return self.rest() == b""

    def is_cut_off(self) -> bool:
        """Whether the connection ends, however."""
        with contextlib.suppress(Ended):
            self.reader.to_the_end()
        return True

    def resets(self) -> None:
        """Vanish with RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def closes(self) -> None:
        """Leave with FIN."""
        self.sock.close()


# --- the router ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Counts:
    """The words of the counter page at one moment, or the difference of two."""

    words: tuple[int, ...]

    def blue(self, word: int) -> int:
        """A word of blue's."""
        return self.words[c.COLOUR_BASE[0] + word]

    def green(self, word: int) -> int:
        """A word of green's."""
        return self.words[c.COLOUR_BASE[1] + word]

    def word(self, position: int) -> int:
        """A word of the worker's."""
        return self.words[position]

    def own(self, status: int) -> int:
        """Answers of this status that the router made itself."""
        return self.words[c.OWN_BASE + c.OWN_STATUSES.index(status)]

    def __sub__(self, other: Counts) -> Counts:
        return Counts(tuple(a - b for a, b in zip(self.words, other.words, strict=True)))


class Counting:
    """What was counted while a `with` block ran; to be asked after it."""

    def __init__(self) -> None:
        self.counts = Counts((0,) * c.PAGE_WORDS)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.counts, name)


class Router:
    """A worker process of its own, with the plan that a test gives it.

    It listens for TLS as well when the settings have `listen_tls`; `under` is a command that runs the worker.
    """

    def __init__(
        self,
        folder: Path,
        blue: Upstream | list[str],
        *,
        settings: dict[str, Any] | None = None,
        host: str = "127.0.0.1",
        under: Sequence[str] = (),
    ) -> None:
        self.state = StateDir(folder)
        self.state.create()
        self._settings = self._in_force = settings or {}
        self.settings(self._settings)
        self._page = PlanPage(self.state.plan_page, writable=True)
        self._plan: dict[str, Any] = {"blue": _arm("one", blue), "green": None, "split": {"green_percent": 0}, "release": 1}
        self._write()
        listeners = [_listening(host) for _ in range(2 if settings and "listen_tls" in settings else 1)]
        self.address: tuple[str, int] = listeners[0].getsockname()[:2]
        self.tls_address: tuple[str, int] = listeners[-1].getsockname()[:2]
        self._forgiven: list[str] = []
        self._log = (folder / "worker.log").open("wb")
        self.process = subprocess.Popen(
            [
                *under,
                *(sys.executable, "-P", "-m", "router.run_worker", "--state", str(folder), "--slot", "0"),
                *("--fd", str(listeners[0].fileno()), "--parent", str(os.getpid())),
                *(["--tls-fd", str(listeners[1].fileno())] if len(listeners) > 1 else []),
            ],
            pass_fds=[one.fileno() for one in listeners],
            stdin=subprocess.DEVNULL,
            stderr=self._log,
        )
        for one in listeners:
            one.close()
        until(self._serves, f"start of the worker: {self.log}")
        self._counters = CounterPage(self.state.counters(0))

    def __enter__(self) -> Router:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- what a test tells it ---

    def client(self, *, receive_buffer: int = 0) -> Client:
        """A new connection to it."""
        return Client(self.address, receive_buffer=receive_buffer)

    def tls_client(self, tls: ssl.SSLContext, **options: Any) -> Client:
        """A new connection to its TLS port."""
        return Client(self.tls_address, tls=tls, **options)

    def asks(self, data: bytes, method: str = "GET") -> Answer:
        """One request on a connection of its own."""
        with self.client() as client:
            return client.asks(data, method)

    def obeys(self, *, wait: bool = True, **changes: Any) -> int:
        """Write the next plan: `blue`, `green` (an Upstream, URLs, an arm's mapping or None), `percent`, `key`, `salt`, `shadow`.

        Returns its revision, by default as soon as the worker obeys it and is done with recalling.
        """
        self._plan = self._changed(changes)
        revision = self._write()
        handle = os.open(self.state.nudge(0), os.O_WRONLY | os.O_NONBLOCK)
        os.write(handle, b"x")
        os.close(handle)
        if wait:
            until(lambda: self._counters.words[c.RECALLED_REVISION] == revision, f"plan {revision} in force")
        return revision

    def begins(self, blue: Upstream, green: Upstream) -> None:
        """Everything at blue; green is there, but gets nothing. Writes a plan only when this is not the plan already."""
        self.catches_up()  # with the ends of connections that the test before has left
        changes: dict[str, Any] = {"blue": blue, "green": green, "percent": 0, "key": None, "salt": ""}
        if self._changed(changes) != self._plan:
            self.obeys(**changes)

    def catches_up(self) -> None:
        """Wait until the worker has seen what happened before this call, such as the end of a server's connection."""
        with contextlib.suppress(Ended, OSError):  # it may say that it has connections enough, and that is as good
            self.asks(b"GET /-/healthz HTTP/1.1\r\nHost: a\r\n\r\n")

    def drops_idle(self) -> None:
        """Have it close its idle connections to servers: the next request goes on a fresh one."""
        blue, green = self._plan["blue"], self._plan["green"]
        self.obeys(blue=["http://127.0.0.1:9"], green=None)  # nobody is asked there
        self.obeys(blue=blue, green=green)

    def settings(self, values: dict[str, Any]) -> None:
        """Write the settings document (SIGHUP or a start makes the worker read it)."""
        fresh = self.state.settings_json.with_name("settings.json.new")
        fresh.write_text(json.dumps(values))
        fresh.replace(self.state.settings_json)

    def rereads(self, values: dict[str, Any]) -> None:
        """New settings and SIGHUP; returns when they are in force."""
        already = self.log.count("settings")
        self.settings(values)
        self._in_force = values
        self.process.send_signal(signal.SIGHUP)
        until(lambda: self.log.count("settings") > already, "rereading of the settings")

    @contextlib.contextmanager
    def reset_to(self, values: dict[str, Any]) -> Iterator[None]:
        """Other settings while the block runs, by SIGHUP; faster than a worker of their own."""
        self.empty()
        self.rereads(values)
        try:
            yield
        finally:
            self.rereads(self._settings)

    @contextlib.contextmanager
    def timing(self, **timeouts: float) -> Iterator[None]:
        """Other timeouts while the block runs, also for the connections and requests that are there already."""
        values = self._in_force
        self.rereads({**values, "timeouts": {**values.get("timeouts", {}), **timeouts}})
        try:
            yield
        finally:
            self.rereads(values)

    def terminates(self) -> None:
        """SIGTERM: drain and end."""
        self.process.send_signal(signal.SIGTERM)

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """The worker does nothing while the block runs, and then sees all that happened in one turn of its loop."""
        self.process.send_signal(signal.SIGSTOP)
        until(lambda: _state(self.process.pid) == "T", "the worker has stopped")
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    # --- what a test asks it ---

    @property
    def counts(self) -> Counts:
        """All words, now."""
        return Counts(tuple(self._counters.words))

    @contextlib.contextmanager
    def counting(self) -> Iterator[Counting]:
        """Count what happens in the block; when it ends the router has become quiet, or the test fails."""
        self.catches_up()  # an answer leaves before it is counted
        before = self.counts
        counting = Counting()
        yield counting
        self.quiet()
        counting.counts = self.counts - before

    def sweeps(self) -> None:
        """Wait until a sweep has looked after this call: the gauges show what is."""
        for _ in range(2):  # a sweep's beat comes before its gauges; the next one's after them
            beat = self.counts.word(c.BEAT)
            until(lambda beat=beat: self.counts.word(c.BEAT) != beat, "a sweep")  # type: ignore[misc]

    def empty(self) -> None:
        """Wait until every client's connection has ended."""
        self.sweeps()
        until(lambda: self.counts.word(c.CONNECTIONS) == 0, "every client's connection has ended")

    def quiet(self) -> None:
        """Wait until no request is at any arm: each place that was taken has been given back."""
        self.sweeps()
        until(
            lambda: not any(self.counts.words[base + word] for base in c.COLOUR_BASE for word in (c.IN_FLIGHT, c.QUEUED)),
            "no request in flight or queued",
        )

    @property
    def log(self) -> str:
        """What it said on stderr."""
        return (self.state.path / "worker.log").read_text(errors="replace")

    def complaints(self) -> list[str]:
        """Lines of its log that tell of a defect: errors and tracebacks."""
        marks = (" ERROR ", "Traceback", "Exception")
        return [
            line
            for line in self.log.splitlines()
            if any(mark in line for mark in marks) and not any(text in line for text in self._forgiven)
        ]

    def forgives(self, text: str) -> None:
        """A complaint that a test has caused on purpose."""
        self._forgiven.append(text)

    @property
    def resident(self) -> int:
        """Its resident memory in bytes."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    @property
    def descriptors(self) -> int:
        """How many files it has open."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def close(self) -> None:
        """End it, whatever it does."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._log.close()

    # --- inside ---

    def _serves(self) -> bool:
        assert self.process.poll() is None, self.log
        try:
            page = CounterPage(self.state.counters(0))
        except Exception:
            return False
        serving = page.words[c.PID] == self.process.pid
        page.close()
        return serving

    def _changed(self, changes: dict[str, Any]) -> dict[str, Any]:
        plan: dict[str, Any] = json.loads(json.dumps(self._plan))
        for name, value in changes.items():
            if name in ("blue", "green"):
                plan[name] = value if value is None or isinstance(value, dict) else _arm(name, value)
            elif name == "shadow":
                plan["shadow"] = {"percent": value}
            else:
                plan["split"][{"percent": "green_percent", "key": "key", "salt": "salt"}[name]] = value
        return plan

    def _write(self) -> int:
        revision = self._page.revision + 1
        self._page.write(revision, parse_plan({**self._plan, "revision": revision}).to_json())
        return revision


def _listening(host: str) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, 0))
    listener.listen(4096)
    return listener


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def _arm(name: str, servers: Upstream | list[Any]) -> dict[str, Any]:
    many = servers if isinstance(servers, list) else [servers]
    return {"name": name, "servers": [one.url if isinstance(one, Upstream) else one for one in many]}


def arm(*servers: Upstream, **rewriting: Any) -> dict[str, Any]:
    """An arm's mapping: servers, and `path`, `headers` or `model`."""
    return {**_arm("arm", list(servers)), **rewriting}
