"""A small language for tests of the data plane, spoken over real sockets.

Three actors. An `Upstream` is a model server that does what a test tells it (answers, refuses, hangs, resets, drips) and
remembers the bytes it got. A `Client` sends bytes and cuts what comes back into answers. A `Router` is a real worker process on
a state directory of its own: plans are changed as control changes them (the page, then a byte into the FIFO), and what happened
is read from its counter page. Nothing here uses the code under test to read messages: the parsers are this module's own.

Tests that need a worker with other settings start one of their own (about 0.3 s); everything ends by PID.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from router import counters as c
from router.counters import CounterPage
from router.page import PlanPage
from router.plan import parse_plan
from router.state import StateDir

OK = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s"
PATIENCE = 10.0  # seconds after which a test gives up waiting; nothing is ever asserted to be faster than this


class Ended(Exception):
    """The other side closed or reset where more was expected."""


def until(true: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
    """Wait for something to become true and return it."""
    deadline = time.monotonic() + seconds
    while True:
        value = true()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"did not happen: {what}")
        time.sleep(0.005)


def ok(body: bytes = b"ok", fields: bytes = b"") -> bytes:
    """A plain good answer."""
    return b"HTTP/1.1 200 OK\r\n%sContent-Length: %d\r\n\r\n%s" % (fields, len(body), body)


def chunked(*pieces: bytes, trailers: bytes = b"") -> bytes:
    """Pieces in chunk framing."""
    return b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in pieces if p) + b"0\r\n" + trailers + b"\r\n"


# --- messages ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Message:
    """A head as it came, with the body as it was framed and without its framing."""

    head: bytes
    wire: bytes
    payload: bytes
    trailers: bytes = b""

    @property
    def line(self) -> bytes:
        """The first line."""
        return self.head.split(b"\r\n", 1)[0]

    @property
    def fields(self) -> list[tuple[bytes, bytes]]:
        """All fields in order, names in lower case."""
        out = []
        for line in self.head.split(b"\r\n")[1:-2]:
            name, colon, value = line.partition(b":")
            assert colon, self.head
            out.append((name.lower(), value.strip(b" \t")))
        return out

    def values(self, name: bytes) -> list[bytes]:
        """The values of every field of this name."""
        return [value for key, value in self.fields if key == name.lower()]

    def header(self, name: bytes) -> bytes | None:
        """The value of the one field of this name; a repeated one fails the test."""
        values = self.values(name)
        assert len(values) <= 1, (name, self.head)
        return values[0] if values else None


@dataclass(frozen=True, slots=True)
class Answer(Message):
    """An answer as the client got it."""

    @property
    def status(self) -> int:
        """The status code."""
        return int(self.line.split(b" ")[1])

    @property
    def arm(self) -> str | None:
        """Who answered: blue, green, or None for the router itself."""
        value = self.header(b"x-bluegreen-arm")
        return value.decode() if value else None

    def problem(self) -> dict[str, Any]:
        """The RFC 9457 document of an answer that the router made; asserts that it is one."""
        assert self.header(b"content-type") == b"application/problem+json", self.head
        document: dict[str, Any] = json.loads(self.payload)
        assert document["status"] == self.status
        assert document["request_id"].encode() == self.header(b"x-request-id")
        assert document["title"]
        assert document["detail"]
        return document


@dataclass(frozen=True, slots=True)
class Seen(Message):
    """A request as a server got it. `connection` numbers that server's connections from 0."""

    connection: int = 0

    @property
    def method(self) -> bytes:
        """The method."""
        return self.line.split(b" ")[0]

    @property
    def target(self) -> bytes:
        """The request target."""
        return self.line.split(b" ")[1]


class Reader:
    """Bytes of a socket, cut as asked. `taken` is everything that was read off it so far by a message."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.buffer = b""

    def more(self) -> None:
        """At least one more byte. Raises Ended, or TimeoutError."""
        try:
            piece = self.sock.recv(262144)
        except ConnectionError as error:
            raise Ended(f"reset ({error}) after {self.buffer!r}") from None
        if not piece:
            raise Ended(f"closed after {self.buffer[:2000]!r}")
        self.buffer += piece

    def through(self, mark: bytes) -> bytes:
        """All bytes up to and with `mark`."""
        start = 0
        while (at := self.buffer.find(mark, start)) < 0:
            start = max(len(self.buffer) - len(mark), 0)
            self.more()
        return self.exactly(at + len(mark))

    def exactly(self, count: int) -> bytes:
        """So many bytes."""
        if len(self.buffer) < count:
            pieces, have = [self.buffer], len(self.buffer)
            while have < count:
                self.buffer = b""
                self.more()
                pieces.append(self.buffer)
                have += len(self.buffer)
            self.buffer = b"".join(pieces)
        out, self.buffer = self.buffer[:count], self.buffer[count:]
        return out

    def to_the_end(self) -> bytes:
        """Everything until the other side closes. Raises Ended when it resets instead."""
        out = self.buffer
        self.buffer = b""
        while True:
            try:
                piece = self.sock.recv(262144)
            except ConnectionError as error:
                raise Ended(f"reset ({error})") from None
            if not piece:
                return out
            out += piece

    def chunked(self) -> tuple[bytes, bytes, bytes]:
        """A chunked body: its bytes on the wire, its payload, its trailer lines."""
        wire, payload = [], []
        while True:
            line = self.through(b"\r\n")
            wire.append(line)
            size = int(line.split(b";")[0].strip(), 16)
            if size == 0:
                break
            data = self.exactly(size + 2)
            assert data.endswith(b"\r\n"), data
            wire.append(data)
            payload.append(data[:-2])
        trailers = b""
        while (line := self.through(b"\r\n")) != b"\r\n":
            trailers += line
        return b"".join(wire) + trailers + b"\r\n", b"".join(payload), trailers

    def body(self, head: bytes, *, until_close: bool) -> tuple[bytes, bytes, bytes]:
        """The body that a head announces: on the wire, its payload, its trailers."""
        for line in head.lower().split(b"\r\n"):
            name, _, value = line.partition(b":")
            if name == b"transfer-encoding":
                assert value.strip(b" \t") == b"chunked", head
                return self.chunked()
            if name == b"content-length":
                data = self.exactly(int(value))
                return data, data, b""
        if until_close:
            data = self.to_the_end()
            return data, data, b""
        return b"", b"", b""


# --- servers -------------------------------------------------------------------------------------------------------------


class Connection:
    """A server's side of one connection."""

    def __init__(self, sock: socket.socket, number: int) -> None:
        self.sock = sock
        self.number = number
        self.reader = Reader(sock)
        self.open = True
        self.busy = False
        with contextlib.suppress(OSError):  # a Unix socket knows nothing of it
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, data: bytes) -> None:
        """Send all of it."""
        self.sock.sendall(data)

    def close(self) -> None:
        """Close in good order."""
        if self.open:
            self.open = False
            with contextlib.suppress(OSError):
                self.sock.shutdown(socket.SHUT_RDWR)
            self.sock.close()

    def reset(self) -> None:
        """Close with RST."""
        if self.open:
            self.open = False
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.sock.close()

    def watch(self) -> None:
        """Read and throw away until the other side goes."""
        with contextlib.suppress(OSError):
            while self.sock.recv(262144):
                pass


Deed = Callable[[Connection, Seen], None]


@dataclass(slots=True)
class Behaviour:
    """What a server does with a request: `deed` runs when the head is there (`early`) or the whole request."""

    deed: Deed
    early: bool = False


@dataclass(slots=True)
class _Script:
    standing: Behaviour
    queued: deque[Behaviour] = field(default_factory=deque)
    accepting: Callable[[Connection], None] | None = None


class Upstream:
    """A model server made of a thread for each connection. Its methods say what it does from now on, or `once`."""

    def __init__(self, *, family: int = socket.AF_INET, path: str | None = None) -> None:
        self._family = socket.AF_UNIX if path else family
        self._listener = socket.socket(self._family, socket.SOCK_STREAM)
        if path:
            self._listener.bind(path)
            self.url = f"unix:{path}"
        else:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            host = "::1" if family == socket.AF_INET6 else "127.0.0.1"
            self._listener.bind((host, 0))
            self.port = self._listener.getsockname()[1]
            self.url = f"http://[{host}]:{self.port}" if family == socket.AF_INET6 else f"http://{host}:{self.port}"
        self._lock = threading.Lock()
        self._connections: list[Connection] = []
        self.seen: list[Seen] = []
        self.heads: list[bytes] = []
        self.accepted = 0  # connections, ever
        self.left = 0  # connections that the router closed while they were being worked on
        self._script = _Script(Behaviour(_answering(ok())))
        self._listening = False
        self._listen()

    # --- what a test tells it ---

    def answers(self, raw: bytes | Callable[[Seen], bytes] = b"", *, once: bool = False, close: bool = False) -> Upstream:
        """Answer each request with these bytes, then go on (or close)."""
        return self._do(Behaviour(_answering(raw or ok(), close=close)), once)

    def answers_early(self, raw: bytes, *, once: bool = False, close: bool = False) -> Upstream:
        """Answer as soon as the head is there; the body is never read."""
        return self._do(Behaviour(_answering(raw, close=close, stop=True), early=True), once)

    def does(self, deed: Deed, *, once: bool = False, early: bool = False) -> Upstream:
        """Anything else."""
        return self._do(Behaviour(deed, early), once)

    def hangs(self, *, once: bool = False) -> Upstream:
        """Take the request and never answer; a router that goes away is counted in `left`."""
        return self._do(Behaviour(self._hang), once)

    def never_reads(self, *, once: bool = False) -> Upstream:
        """Take the head and no byte more until the test ends."""

        def stall(connection: Connection, _seen: Seen) -> None:
            until(lambda: not connection.open, "the end of the test", 30)

        return self._do(Behaviour(stall, early=True), once)

    def sends_then_resets(self, raw: bytes, *, once: bool = False) -> Upstream:
        """Part of an answer, then RST."""

        def deed(connection: Connection, _seen: Seen) -> None:
            connection.send(raw)
            time.sleep(0.02)  # a reset may overtake bytes that were not read yet
            connection.reset()

        return self._do(Behaviour(deed), once)

    def sends_then_closes(self, raw: bytes, *, once: bool = False) -> Upstream:
        """Part of an answer (or an answer that lasts until the close), then FIN."""
        return self._do(Behaviour(_answering(raw, close=True)), once)

    def resets_mid_head(self, *, once: bool = False) -> Upstream:
        """RST in the status line."""
        return self.sends_then_resets(b"HTTP/1.1 200 O", once=once)

    def resets_mid_body(self, *, once: bool = False) -> Upstream:
        """RST after 7 of 100 bytes."""
        return self.sends_then_resets(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npartial", once=once)

    def garbage(self, raw: bytes = b"\x16\x03\x01\x02not http at all\r\n\r\n", *, once: bool = False) -> Upstream:
        """Bytes that are no HTTP."""
        return self._do(Behaviour(_answering(raw)), once)

    def drips(self, raw: bytes, *, pause: float = 0.001, once: bool = False) -> Upstream:
        """One byte after the other, each in a segment of its own."""

        def deed(connection: Connection, _seen: Seen) -> None:
            for i in range(len(raw)):
                connection.send(raw[i : i + 1])
                time.sleep(pause)

        return self._do(Behaviour(deed), once)

    def resets_at_accept(self) -> Upstream:
        """RST each connection as soon as it stands."""
        self._script.accepting = Connection.reset
        return self

    def refuses(self) -> Upstream:
        """Refuse connections (and drop the present ones); the port stays this server's."""
        self._stop_listening()
        self.drops_connections()
        self._listener = socket.socket(self._family, socket.SOCK_STREAM)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind(("127.0.0.1", self.port))  # bound and not listening: a connect is refused
        return self

    def accepts(self) -> Upstream:
        """Take connections again after `refuses`."""
        if not self._listening:
            self._listen()
        return self

    def drops_connections(self) -> Upstream:
        """Close every connection it has."""
        with self._lock:
            connections, self._connections = self._connections, []
        for connection in connections:
            connection.close()
        return self

    def anew(self) -> Upstream:
        """Good answers again, nothing seen: for the next test. Idle connections stay, so that none of them goes stale."""
        self._script = _Script(Behaviour(_answering(ok())))
        with self._lock:
            stuck = [one for one in self._connections if one.busy]
        for connection in stuck:
            connection.close()
        self.accepts()
        self.seen, self.heads = [], []
        self.left = 0
        return self

    # --- what a test asks it ---

    def request(self, index: int = 0) -> Seen:
        """The n-th request it got, as soon as it is there."""
        until(lambda: len(self.seen) > index, f"request {index} at {self.url}")
        return self.seen[index]

    @property
    def open_connections(self) -> int:
        """How many connections stand now."""
        with self._lock:
            self._connections = [one for one in self._connections if one.open]
            return len(self._connections)

    @property
    def working(self) -> int:
        """How many connections have a request on them now."""
        with self._lock:
            return sum(one.open and one.busy for one in self._connections)

    def close(self) -> None:
        """End it."""
        self._stop_listening()
        self.drops_connections()

    # --- inside ---

    def _do(self, behaviour: Behaviour, once: bool) -> Upstream:
        if once:
            self._script.queued.append(behaviour)
        else:
            self._script.standing = behaviour
        return self

    def _listen(self) -> None:
        self._listener.listen(1024)
        self._listening = True
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def _stop_listening(self) -> None:
        self._listening = False
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            connection = Connection(sock, self.accepted)
            self.accepted += 1
            if self._script.accepting is not None:
                self._script.accepting(connection)
                continue
            with self._lock:
                self._connections.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: Connection) -> None:
        reader = connection.reader
        try:
            while connection.open:
                head = reader.through(b"\r\n\r\n")
                connection.busy = True
                self.heads.append(head)
                script = self._script
                behaviour = script.queued.popleft() if script.queued else script.standing
                wire, payload, trailers = (b"", b"", b"") if behaviour.early else reader.body(head, until_close=False)
                seen = Seen(head, wire, payload, trailers, connection.number)
                self.seen.append(seen)
                behaviour.deed(connection, seen)
                connection.busy = False
        except (Ended, OSError, ValueError):
            pass  # the router went away, or cut a request off
        finally:
            connection.close()

    def _hang(self, connection: Connection, _seen: Seen) -> None:
        connection.watch()
        if connection.open:
            self.left += 1
        connection.close()


def _answering(raw: bytes | Callable[[Seen], bytes], *, close: bool = False, stop: bool = False) -> Deed:
    def deed(connection: Connection, seen: Seen) -> None:
        connection.send(raw(seen) if callable(raw) else raw)
        if close:
            connection.close()
        elif stop:
            connection.watch()

    return deed


# --- clients -------------------------------------------------------------------------------------------------------------


class Client:
    """A client's connection. `with` closes it."""

    def __init__(self, address: tuple[str, int], *, receive_buffer: int = 0) -> None:
        self.sock = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET, socket.SOCK_STREAM)
        if receive_buffer:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(address)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
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
    """A worker process of its own, with the plan that a test gives it."""

    def __init__(self, folder: Path, blue: Upstream | list[str], *, settings: dict[str, Any] | None = None) -> None:
        self.state = StateDir(folder)
        self.state.create()
        self.settings(settings or {})
        self._page = PlanPage(self.state.plan_page, writable=True)
        self._plan: dict[str, Any] = {"blue": _arm("one", blue), "green": None, "split": {"green_percent": 0}, "release": 1}
        self._write()
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", 0))
        listener.listen(4096)
        self.address: tuple[str, int] = listener.getsockname()[:2]
        self._forgiven: list[str] = []
        self._log = (folder / "worker.log").open("wb")
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-P", "-m", "router.run_worker", "--state", str(folder), "--slot", "0"),
                *("--fd", str(listener.fileno()), "--parent", str(os.getpid())),
            ],
            pass_fds=[listener.fileno()],
            stdin=subprocess.DEVNULL,
            stderr=self._log,
        )
        listener.close()
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

    def asks(self, data: bytes, method: str = "GET") -> Answer:
        """One request on a connection of its own."""
        with self.client() as client:
            return client.asks(data, method)

    def obeys(self, *, wait: bool = True, **changes: Any) -> int:
        """Write the next plan: `blue`, `green` (an Upstream, URLs, an arm's mapping or None), `percent`, `key`, `salt`.

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
        changes = {"blue": blue, "green": green, "percent": 0, "key": None, "salt": ""}
        if self._changed(changes) != self._plan:
            self.obeys(**changes)

    def settings(self, values: dict[str, Any]) -> None:
        """Write the settings document (SIGHUP or a start makes the worker read it)."""
        fresh = self.state.settings_json.with_name("settings.json.new")
        fresh.write_text(json.dumps(values))
        fresh.replace(self.state.settings_json)

    def rereads(self, values: dict[str, Any]) -> None:
        """New settings and SIGHUP; returns when they are in force."""
        already = self.log.count("settings")
        self.settings(values)
        self.process.send_signal(signal.SIGHUP)
        until(lambda: self.log.count("settings") > already, "rereading of the settings")

    def terminates(self) -> None:
        """SIGTERM: drain and end."""
        self.process.send_signal(signal.SIGTERM)

    # --- what a test asks it ---

    @property
    def counts(self) -> Counts:
        """All words, now."""
        return Counts(tuple(self._counters.words))

    @contextlib.contextmanager
    def counting(self) -> Iterator[Counting]:
        """Count what happens in the block; when it ends the router has become quiet, or the test fails."""
        before = self.counts
        counting = Counting()
        yield counting
        self.quiet()
        counting.counts = self.counts - before

    def sweeps(self) -> None:
        """Wait until a sweep has looked after this call: the gauges show what is."""
        beat = self.counts.word(c.BEAT)
        until(lambda: self.counts.word(c.BEAT) != beat, "a sweep")
        time.sleep(0.002)  # the beat is written before the gauges

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
            else:
                plan["split"][{"percent": "green_percent", "key": "key", "salt": "salt"}[name]] = value
        return plan

    def _write(self) -> int:
        revision = self._page.revision + 1
        self._page.write(revision, parse_plan({**self._plan, "revision": revision}).to_json())
        return revision


def _arm(name: str, servers: Upstream | list[Any]) -> dict[str, Any]:
    many = servers if isinstance(servers, list) else [servers]
    return {"name": name, "servers": [one.url if isinstance(one, Upstream) else one for one in many]}


def arm(*servers: Upstream, **rewriting: Any) -> dict[str, Any]:
    """An arm's mapping: servers, and `path`, `headers` or `model`."""
    return {**_arm("arm", list(servers)), **rewriting}
