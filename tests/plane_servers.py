"""Model servers that do what a test tells them, over real sockets, and remember the bytes they got."""

from __future__ import annotations

import contextlib
import ctypes
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from plane_wire import PATIENCE, Ended, Reader, Seen, ok, until

_libc = ctypes.CDLL(None, use_errno=True)
_DISCONNECT = bytes(16)  # an address of the family AF_UNSPEC: connect(2) then dissolves the connection


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
        """End with RST, at once, even while another thread reads from it (a close would wait for that read)."""
        if self.open:
            self.open = False
            _libc.connect(self.sock.fileno(), _DISCONNECT, len(_DISCONNECT))
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
    """A model server made of a thread for each connection. Its methods say what it does from now on, or `once`.

    With `tls` it speaks that (and its URL is https); `host` and `port` place it on an address of its own.
    """

    def __init__(
        self,
        *,
        family: int = socket.AF_INET,
        path: str | None = None,
        tls: ssl.SSLContext | None = None,
        host: str | None = None,
        port: int = 0,
    ) -> None:
        self._family = socket.AF_UNIX if path else family
        self._tls = tls
        self._listener = socket.socket(self._family, socket.SOCK_STREAM)
        if path:
            self._listener.bind(path)
            self.url = f"unix:{path}"
        else:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            host = host or ("::1" if family == socket.AF_INET6 else "127.0.0.1")
            self._listener.bind((host, port))
            self.port = self._listener.getsockname()[1]
            scheme = "https" if tls else "http"
            self.url = f"{scheme}://[{host}]:{self.port}" if family == socket.AF_INET6 else f"{scheme}://{host}:{self.port}"
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

    def answers_after(self, go: threading.Event, raw: bytes = b"", *, once: bool = False) -> Upstream:
        """Answer when the event is set."""

        def deed(connection: Connection, _seen: Seen) -> None:
            go.wait(PATIENCE)
            connection.send(raw or ok())

        return self._do(Behaviour(deed), once)

    def does(self, deed: Deed, *, once: bool = False, early: bool = False) -> Upstream:
        """Anything else."""
        return self._do(Behaviour(deed, early), once)

    def hangs(self, *, once: bool = False) -> Upstream:
        """Take the request and never answer; a router that goes away is counted in `left`."""
        return self._do(Behaviour(self._hang), once)

    def never_reads(self, *, once: bool = False) -> Upstream:
        """Take the head and no byte more until the test ends."""

        def stall(connection: Connection, _seen: Seen) -> None:
            while connection.open:
                time.sleep(0.01)

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

    def ends_idle(self, how: Callable[[Connection], None] = Connection.close) -> Upstream:
        """End the connections that have no request on them."""
        with self._lock:
            idle = [one for one in self._connections if one.open and not one.busy]
        for connection in idle:
            how(connection)
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
        try:
            if self._tls is not None:
                connection.sock = self._tls.wrap_socket(connection.sock, server_side=True)
                connection.reader = Reader(connection.sock)
            reader = connection.reader
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


@contextlib.contextmanager
def deaf() -> Iterator[str]:
    """The URL of a server to which a connect neither succeeds nor fails: its queue of connections is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        time.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
