"""The supervisor: opens the ports, starts the processes, starts again what dies, and ends everything in order.

It holds almost no code on purpose: what cannot fail need not be watched. Listening sockets are opened here and inherited, so
that a taken port is told before anything runs, and a connection that arrives while its worker is being replaced waits in the
socket's queue instead of being refused. Each worker has a socket of its own on the same port (SO_REUSEPORT): the kernel spreads
connections over them.

Order at the start: lock, plan page, sockets, shadow, control, workers. Order at the end: workers drain, then the shadow
(which still takes their last exchanges), then control.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import select
import signal
import socket
import ssl
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from models.pool import Tls
from router.counters import PID as PID_WORD
from router.counters import CounterPage
from router.errors import SettingsError, StartError
from router.page import PlanPage
from router.plan import Plan
from router.seed import seed
from router.settings import Settings, load_settings, require_token
from router.state import StateDir

_log = logging.getLogger("supervisor")

BACKLOG = 4096
STEADY_SECONDS = 5.0  # a process that lived this long is restarted at once
# How glibc shall keep freed memory (mallopt(3)); what the operator has set holds. A worker's bodies come and go in pieces, and
# without this the top of its heap is given back to the kernel, and had again with each page zeroed, hundreds of times a second.
# The shadow holds whole bodies for very different times: each large one in a mapping of its own leaves no hole when it goes.
_MEMORY: Final = {
    "router.run_worker": {"MALLOC_TRIM_THRESHOLD_": str(16 << 20), "MALLOC_MMAP_THRESHOLD_": str(4 << 20)},
    "router.run_shadow": {"MALLOC_MMAP_THRESHOLD_": str(64 << 10), "MALLOC_ARENA_MAX": "2"},
}
MAX_BACK_OFF_SECONDS = 5.0
END_SECONDS = 5.0  # for the shadow and control, after the workers have drained


@dataclass(slots=True)
class Child:
    """One process that should run, and what is needed to start it again."""

    name: str
    module: str
    arguments: list[str]
    sockets: list[socket.socket] = field(default_factory=list)
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    back_off: float = 0.0
    start_at: float = 0.0  # when to start it again, while `process` is None


def serve(
    settings: Settings,
    *,
    config: Path | None = None,
    workers: int | None = None,
    reseed: bool = False,
    token: str | None = None,
) -> int:
    """Run the router until SIGTERM or SIGINT; the exit status. Raises StartError and SettingsError before anything runs."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s supervisor %(message)s", stream=sys.stderr)
    require_token(settings, token)
    state = StateDir(Path(settings.state))
    state.create()
    with _Lock(state.lock):
        supervisor = Supervisor(settings, state, workers or settings.workers, config)
        supervisor.prepare(reseed=reseed)
        return supervisor.run()


class Supervisor:
    """The processes of one router and their sockets."""

    def __init__(self, settings: Settings, state: StateDir, workers: int, config: Path | None) -> None:
        self._settings = settings
        self._state = state
        self._config = config
        self._workers = workers
        self._children: list[Child] = []
        self._plan: Plan | None = None
        self._address: tuple[str, int] = ("", 0)
        self._tls_address: tuple[str, int] | None = None
        self._control_address: tuple[str, int] = ("", 0)
        self._ending = False

    def prepare(self, *, reseed: bool) -> None:
        """Everything that can fail for the user's reasons, before any process runs. Raises StartError."""
        settings, state = self._settings, self._state
        check_tls_files(settings)
        sockets = open_ports(settings.listen, self._workers)
        self._address = sockets[0].getsockname()[:2]
        tls = settings.listen_tls
        tls_sockets = open_ports(tls.listen, self._workers) if tls is not None else []
        self._tls_address = tls_sockets[0].getsockname()[:2] if tls_sockets else None
        control = open_port(settings.control)
        self._control_address = control.getsockname()[:2]
        state.settings_json.write_text(self._document(settings))
        state.settings_json.chmod(0o600)
        self._seed(reseed)
        parent = ["--state", str(state.path), "--parent", str(os.getpid())]
        self._children = [
            Child("shadow", "router.run_shadow", parent),
            Child("control", "router.run_control", [*parent, "--fd", str(control.fileno())], [control]),
        ]
        for slot in range(self._workers):
            page = CounterPage(state.counters(slot), writable=True)
            page.words[PID_WORD] = 0
            page.close()
            mine = [sockets[slot], *tls_sockets[slot : slot + 1]]
            self._children.append(Child(f"worker-{slot}", "router.run_worker", [*parent, "--slot", str(slot)], mine))

    def run(self) -> int:
        """Start all, watch, and end all on a signal."""
        wake, ring = os.pipe()
        os.set_blocking(ring, False)
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(ring, warn_on_full_buffer=False)
        signals: list[int] = []
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda n, _frame: signals.append(n))
        signal.signal(signal.SIGCHLD, lambda _n, _frame: None)
        try:
            for child in self._children:
                self._start(child)
            told = False
            while not self._ending:
                ready, _, _ = select.select([wake], [], [], self._next_wait(told))
                if ready:
                    os.read(wake, 4096)
                while signals:
                    self._signalled(signals.pop(0))
                self._restart_dead()
                if not told and self._all_serve():
                    told = True
                    self._tell()
            return 0
        finally:
            self._end()
            signal.set_wakeup_fd(-1)
            os.close(wake)
            os.close(ring)

    def _document(self, settings: Settings) -> str:
        """The settings for the children; `directory` is where the configuration's own Python modules are looked for."""
        directory = str((self._config or Path("bluegreen.yaml")).absolute().parent)
        return json.dumps({**settings.to_json(), "directory": directory})

    # --- the first plan ---

    def _seed(self, reseed: bool) -> None:
        """Write the file's plan unless one is stored; after that the stored one wins."""
        page = PlanPage(self._state.plan_page, writable=True)
        try:
            self._plan, line = seed(page, self._settings.first_plan(), reseed=reseed, now=time.time())
            page.flush()
            _log.info("%s", line)
        finally:
            page.close()

    # --- children ---

    def _start(self, child: Child) -> None:
        arguments = list(child.arguments)
        if child.module == "router.run_worker":
            arguments += ["--fd", str(child.sockets[0].fileno())]
            if len(child.sockets) > 1:
                arguments += ["--tls-fd", str(child.sockets[1].fileno())]
        child.process = subprocess.Popen(
            # -P: a package called `models` in the user's working directory must not stand in for ours.
            [sys.executable, "-P", "-m", child.module, *arguments],
            pass_fds=[s.fileno() for s in child.sockets],
            stdin=subprocess.DEVNULL,
            env={**_MEMORY.get(child.module, {}), **os.environ},
        )
        child.started = time.monotonic()

    def _restart_dead(self) -> None:
        now = time.monotonic()
        for child in self._children:
            process = child.process
            if process is not None and process.poll() is not None:
                child.process = None
                steady = now - child.started >= STEADY_SECONDS
                child.back_off = 0.0 if steady else min(max(child.back_off * 2, 0.1), MAX_BACK_OFF_SECONDS)
                child.start_at = now + child.back_off
                _log.warning(
                    "%s (pid %d) %s; starting it again%s",
                    child.name,
                    process.pid,
                    _how_it_ended(process.returncode),
                    f" in {child.back_off:g} s" if child.back_off else "",
                )
                if child.back_off > 0.5 and child.module == "router.run_worker":
                    # It keeps dying: its share of the connections must go to the workers that live.
                    for sock in child.sockets:
                        sock.close()
            if child.process is None and child.start_at <= now:
                try:
                    self._reopen(child)
                except StartError as error:
                    _log.error("%s cannot be started: %s", child.name, error)
                    child.start_at = now + MAX_BACK_OFF_SECONDS
                else:
                    self._start(child)

    def _reopen(self, child: Child) -> None:
        if child.module == "router.run_worker" and child.sockets[0].fileno() < 0:
            # Where it listened before, also when the settings leave the port to the kernel.
            addresses = [self._address, *([self._tls_address] if self._tls_address is not None else [])]
            child.sockets = [_listening(_join(address), shared=True) for address in addresses]

    def _next_wait(self, told: bool) -> float | None:
        if not told:
            return 0.02
        waits = [c.start_at for c in self._children if c.process is None]
        return max(min(waits) - time.monotonic(), 0.0) if waits else None

    def _all_serve(self) -> bool:
        for child in self._children:
            if child.module == "router.run_worker":
                page = CounterPage(self._state.counters(int(child.name.split("-")[1])))
                serving = page.words[PID_WORD] != 0
                page.close()
                if not serving:
                    return False
        return True

    def _tell(self) -> None:
        assert self._plan is not None
        _log.info(
            "serving http://%s%s with %d worker%s; control http://%s; state %s",
            _join(self._address),
            f" and https://{_join(self._tls_address)}" if self._tls_address is not None else "",
            self._workers,
            "" if self._workers == 1 else "s",
            _join(self._control_address),
            self._state.path,
        )

    # --- signals and the end ---

    def _signalled(self, number: int) -> None:
        if number == signal.SIGHUP:
            self._reread()
        else:
            self._ending = True

    def _reread(self) -> None:
        """SIGHUP: limits and timeouts of the file, for the workers; what shapes processes or plans needs a restart."""
        if self._config is None:
            return
        try:
            settings = load_settings(self._config)
        except SettingsError as error:
            _log.error("the configuration was not reread: %s", error)
            return
        fresh = self._state.settings_json.with_name("settings.json.new")
        fresh.write_text(self._document(settings))
        fresh.chmod(0o600)
        fresh.replace(self._state.settings_json)
        for child in self._children:
            if child.process is not None and child.module == "router.run_worker":
                child.process.send_signal(signal.SIGHUP)
        _log.info("configuration reread: limits, timeouts and TLS files are in force")

    def _end(self) -> None:
        workers = [c for c in self._children if c.module == "router.run_worker"]
        rest = [c for c in self._children if c.module != "router.run_worker"]
        _log.info("draining")
        # The workers have copies of their own, on which they accept what waits; with ours gone, later clients are refused at
        # once and can go elsewhere, instead of waiting for an answer that never comes.
        for child in workers:
            for sock in child.sockets:
                sock.close()
        _stop(workers, self._settings.timeouts.drain + END_SECONDS)
        _stop(rest, END_SECONDS)
        _log.info("ended")


def _stop(children: list[Child], seconds: float) -> None:
    """SIGTERM, and after `seconds` SIGKILL."""
    running = [c.process for c in children if c.process is not None]
    for process in running:
        process.terminate()
    deadline = time.monotonic() + seconds
    for process in running:
        try:
            process.wait(max(deadline - time.monotonic(), 0.01))
        except subprocess.TimeoutExpired:
            _log.warning("pid %d did not end in time and is killed", process.pid)
            process.kill()
            process.wait()


class _Lock:
    """One router per state directory: an flock, which the kernel takes back however the process ends."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handle = -1

    def __enter__(self) -> None:
        self._handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.read(self._handle, 20).decode("ascii", "replace").strip() or "unknown"
            os.close(self._handle)
            raise StartError(
                f"another router (pid {holder}) runs on the state directory {self._path.parent}; "
                "stop it, or set `state` to another directory"
            ) from None
        os.ftruncate(self._handle, 0)
        os.pwrite(self._handle, f"{os.getpid()}\n".encode(), 0)

    def __exit__(self, *_: object) -> None:
        os.close(self._handle)


# --- what a start depends on ---


def check_tls_files(settings: Settings) -> None:
    """Load every certificate once, as the workers will: one that cannot be used would end each of them. Raises StartError."""
    upstream, listen = settings.upstream_tls, settings.listen_tls
    ca, certificate, key = (str(path) if path else None for path in (upstream.ca, upstream.certificate, upstream.key))
    try:
        Tls(ca, certificate, key).context()
    except OSError as error:
        raise StartError(f"upstream_tls: a file cannot be used ({_reason(error)}): {_PEM}") from None
    if listen is None:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(listen.certificate, listen.key, password="")
    except OSError as error:
        raise StartError(
            f"listen_tls: {listen.certificate} and {listen.key} cannot be used ({_reason(error)}): {_PEM}"
        ) from None


_PEM = "give a certificate (chain) in PEM and the key that belongs to it, without passphrase"


def _reason(error: OSError) -> str:
    """The words of OpenSSL or of the system, without the place in the source."""
    return str(getattr(error, "reason", None) or error.strerror or error).lower().replace("_", " ")


# --- ports ---


def open_ports(address: str, count: int) -> list[socket.socket]:
    """`count` listening sockets on one address, between which the kernel spreads connections. Raises StartError."""
    # Without SO_REUSEPORT first: with it, a second router of the same user would silently share the port.
    probe = _listening(address, shared=False, listen=False)
    host, port = probe.getsockname()[:2]
    probe.close()
    return [_listening(_join((host, port)), shared=True) for _ in range(count)]


def open_port(address: str) -> socket.socket:
    """One listening socket. Raises StartError."""
    return _listening(address, shared=False)


def _listening(address: str, *, shared: bool, listen: bool = True) -> socket.socket:
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((host, int(port)))
        if listen:
            sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        hint = "another program listens there; stop it or choose another port" if error.errno == 98 else "check the address"
        raise StartError(f"cannot listen on {address}: {os.strerror(error.errno or 0)}; {hint}") from None
    return sock


def _join(address: tuple[str, int]) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _how_it_ended(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"was ended by signal {-status}"
