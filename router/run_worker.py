"""A worker process: the data plane, composed. Started by the supervisor with the listening sockets it inherited.

    python -P -m router.run_worker --state DIR --slot N --fd FD [--tls-fd FD] --parent PID

Signals: SIGTERM drains and ends; SIGHUP reads the settings again (limits, timeouts, TLS files).
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import logging
import os
import resource
import signal
import socket
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

import uvloop

from models.tasks import spawn
from router import counters as c
from router.counters import CounterPage
from router.errors import StartError
from router.page import PlanPage
from router.process import ask_for_short_turns, die_with_parent, give_back_memory
from router.proxy.downstream import Downstream
from router.proxy.gateway import Gateway
from router.proxy.options import ProxyOptions, read_options
from router.proxy.tap import Tap
from router.proxy.tls_port import Certificate, TlsPort
from router.state import StateDir

_log = logging.getLogger("worker")
_CERTIFICATE_CHECK_SECONDS = 1.0
_TRIM_SECONDS = 10.0


def main(argv: list[str] | None = None) -> int:
    """Run one worker until it is told to end; 0 when it drained."""
    parser = argparse.ArgumentParser(prog="router.run_worker")
    parser.add_argument("--state", required=True)
    parser.add_argument("--slot", type=int, required=True)
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--tls-fd", type=int, default=-1)
    parser.add_argument("--parent", type=int, default=None)
    arguments = parser.parse_args(argv)
    die_with_parent(arguments.parent)
    logging.basicConfig(
        level=logging.INFO,
        format=f"%(asctime)s %(levelname)s worker-{arguments.slot} %(message)s",
        stream=sys.stderr,
    )
    _raise_file_limit()
    ask_for_short_turns()
    worker = Worker(StateDir(Path(arguments.state)), arguments.slot, arguments.fd, arguments.tls_fd)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(worker.run())
    except (StartError, OSError) as error:
        _log.error("%s", error)
        return 1
    return 0


class Worker:
    """The composition: page, counters, tap, gateway, sockets, signals."""

    def __init__(self, state: StateDir, slot: int, fd: int, tls_fd: int) -> None:
        self._state = state
        self._slot = slot
        self._fd = fd
        self._tls_fd = tls_fd
        self._stop = asyncio.Event()
        self._certificate: Certificate | None = None

    async def run(self) -> None:
        """Serve until SIGTERM, then drain."""
        loop = asyncio.get_running_loop()
        options = self._options()
        counters = CounterPage(self._state.counters(self._slot), writable=True)
        tap = Tap(self._state.tap, options.mirroring.queue, loop)
        gateway = Gateway(PlanPage(self._state.plan_page), counters, options, tap, loop)
        gateway.obey_plan()
        self._watch_nudges(loop, gateway)
        loop.add_signal_handler(signal.SIGTERM, self._stop.set)
        loop.add_signal_handler(signal.SIGINT, lambda: None)  # Ctrl-C reaches the whole group; the supervisor decides
        loop.add_signal_handler(signal.SIGHUP, self._reread, gateway)
        tap.keep_connected(perf_counter())

        def accept() -> Any:  # a protocol by its methods: see models.upstream.Upstream
            return Downstream(gateway, b"http")

        servers: list[asyncio.Server | TlsPort]
        servers = [await loop.create_server(accept, sock=_inherited(self._fd), backlog=4096)]
        if self._tls_fd >= 0 and options.listen_tls is not None:
            self._certificate = Certificate(options.listen_tls)
            servers.append(TlsPort(_inherited(self._tls_fd), self._certificate, gateway))
        # What exists now lives as long as the process; the collector need not look at it again.
        gc.collect()
        gc.freeze()
        counters.words[c.PID] = os.getpid()
        sweeper = spawn(self._sweep(gateway), "sweep")
        _log.info("serving plan revision %d", counters.words[c.REVISION])

        await self._stop.wait()
        gateway.drain()
        # What already waits to be accepted is accepted in the next turns of the loop; then no more.
        await asyncio.sleep(0.02)
        for server in servers:
            server.close()
        while not gateway.drained:  # noqa: ASYNC110  times pass, which no event announces
            await asyncio.sleep(0.01)
        sweeper.cancel()
        gateway.finish()
        _log.info("drained")

    def _options(self) -> ProxyOptions:
        return read_options(json.loads(self._state.settings_json.read_bytes()))

    def _reread(self, gateway: Gateway) -> None:
        """SIGHUP: limits and timeouts as the settings file says them now; a file that cannot be used changes nothing."""
        try:
            options = self._options()
            gateway.take_options(options)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            _log.error("the settings were not reread: %s", error)
            return
        if self._certificate is not None and options.listen_tls is not None:
            self._certificate.reload(options.listen_tls)
        _log.info("settings reread")

    def _watch_nudges(self, loop: asyncio.AbstractEventLoop, gateway: Gateway) -> None:
        """Look at the plan page as soon as control writes a byte, so that a recall need not wait for the next request."""
        path = self._state.nudge(self._slot)
        if not path.is_fifo():
            path.unlink(missing_ok=True)
            os.mkfifo(path, 0o600)
        # Opened for writing too, or the end of control would be an end of file that is reported for ever.
        handle = os.open(path, os.O_RDWR | os.O_NONBLOCK)

        def nudged() -> None:
            os.read(handle, 4096)
            gateway.obey_plan()

        loop.add_reader(handle, nudged)

    async def _sweep(self, gateway: Gateway) -> None:
        checked = trimmed = perf_counter()
        while True:
            try:
                gateway.sweep()
                if perf_counter() - trimmed > _TRIM_SECONDS:
                    trimmed = perf_counter()
                    give_back_memory()
                if self._certificate is not None and perf_counter() - checked > _CERTIFICATE_CHECK_SECONDS:
                    checked = perf_counter()
                    self._certificate.reload_if_changed()
            except Exception:
                # The sweep is what keeps every bound; one bad turn must not end it.
                _log.exception("the sweep failed")
            await asyncio.sleep(gateway.sweep_seconds)


def _raise_file_limit() -> None:
    """Each connection takes a descriptor, and each request may take one more; the usual soft limit of 1,024 is for shells."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _inherited(fd: int) -> socket.socket:
    sock = socket.socket(fileno=fd)
    sock.setblocking(False)
    return sock


if __name__ == "__main__":
    sys.exit(main())
