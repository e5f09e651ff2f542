"""A real control process on a state directory of its own, and the workers' side of the pages beside it.

Control and workers meet in files alone: the plan page and the counter pages. `Follower` plays a worker there with the real
pages, and serves no traffic; so a test can say exactly what was counted, how long a worker takes to obey, and that it died.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx

from router import counters as c
from router.counters import CounterPage
from router.page import PlanPage
from router.plan import Plan, read_plan
from router.seed import seed
from router.settings import Settings, load_settings
from router.state import StateDir

CONFIG = """
blue: {name: iris-v1, servers: [http://127.0.0.1:9001]}
green: {name: iris-v2, servers: [http://127.0.0.1:9002, http://127.0.0.1:9003]}
split: {key: header:x-user-id, salt: iris}
shadow: {percent: 50, noise_percent: 10}
"""


def new_state(folder: Path, config: str = CONFIG) -> tuple[StateDir, Settings]:
    """A state directory as the supervisor leaves it before any process starts."""
    file = folder / "bluegreen.yaml"
    file.write_text(config)
    settings = load_settings(file)
    state = StateDir(settings.state)
    state.create()
    state.settings_json.write_text(json.dumps(settings.to_json()))
    page = PlanPage(state.plan_page, writable=True)
    seed(page, settings.first_plan(), reseed=False, now=1000.0)
    page.close()
    return state, settings


class ControlProcess:
    """`python -P -m router.run_control` on an inherited socket of an ephemeral loopback port."""

    def __init__(self, state: StateDir, *, environment: Mapping[str, str] | None = None, host: str = "127.0.0.1") -> None:
        self.state = state
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.listener = socket.socket(family)
        self.listener.bind((host, 0))
        self.listener.listen(64)
        self.port = self.listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._environment = {**{k: v for k, v in os.environ.items() if not k.startswith("BLUEGREEN_")}, **(environment or {})}
        self.log_file = state.path / "control.log"
        try:
            self.start()
        except BaseException:
            self.listener.close()
            raise

    def start(self) -> None:
        """Start it (again), and wait until it answers."""
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-P", "-m", "router.run_control", "--state", str(self.state.path)),
                    *("--fd", str(self.listener.fileno()), "--parent", str(os.getpid())),
                ],
                pass_fds=[self.listener.fileno()],
                env=self._environment,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        until(lambda: self._answers() or self.process.poll() is not None, 60)
        assert self.process.poll() is None, self.log

    def _answers(self) -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"{self.url}/healthz", trust_env=False, timeout=0.4).status_code == 200
        return False

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    @contextlib.contextmanager
    def client(self, **headers: str) -> Iterator[httpx.Client]:
        with httpx.Client(base_url=self.url, headers=headers, trust_env=False, timeout=30) as client:
            yield client

    def plan(self) -> Plan:
        """The plan in the page, as a worker would read it."""
        page = PlanPage(self.state.plan_page)
        try:
            return read_plan(page.read()[1])
        finally:
            page.close()

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(30)

    def end(self) -> int:
        """SIGTERM; the exit status."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(30)
        finally:
            self.listener.close()


class Follower:
    """The worker's side of the pages: obeys the plan page after `delay` seconds, beats, and counts what a test says."""

    def __init__(self, state: StateDir, slot: int, *, delay: float = 0.0, recalls: int = 0) -> None:
        self.slot = slot
        self.delay = delay
        self.recalls = recalls
        self.nudges = 0
        self.words = CounterPage(state.counters(slot), writable=True).words
        self._page = PlanPage(state.plan_page)
        self._ended = threading.Event()
        if not state.nudge(slot).exists():
            os.mkfifo(state.nudge(slot), 0o600)
        self._fifo = os.open(state.nudge(slot), os.O_RDWR | os.O_NONBLOCK)
        self.words[c.PID] = os.getpid()
        self._obey()
        self._beat()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def die(self) -> None:
        """As after kill -9: the page stays as it is, the pipe has no reader; only a PID of nobody makes it differ."""
        self.stop()
        self.words[c.PID] = unused_pid()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join(30)
        if self._fifo >= 0:
            os.close(self._fifo)
        self._fifo = -1

    def _run(self) -> None:
        while not self._ended.is_set():
            if select.select([self._fifo], [], [], 0.02)[0]:
                self.nudges += len(os.read(self._fifo, 4096))
            if self._page.revision != self.words[c.REVISION]:
                if self._ended.wait(self.delay):
                    return
                self._obey()
            self._beat()

    def _obey(self) -> None:
        self.words[c.REVISION] = self._page.revision
        self.words[c.RECALLED] += self.recalls
        self.words[c.RECALLED_REVISION] = self.words[c.REVISION]

    def _beat(self) -> None:
        self.words[c.BEAT] = int(time.monotonic() * 1000)


def unused_pid() -> int:
    """The PID of a process that has ended."""
    process = subprocess.Popen(["/bin/true"])
    process.wait()
    return process.pid


def until(true: Callable[[], Any], seconds: float = 30.0) -> None:
    """Wait until something is so; fail when it does not come."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.01)
