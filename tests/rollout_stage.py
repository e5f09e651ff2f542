"""What a rollout lives on, played on the real files: a shadow that saves evidence, users that are counted, a tap that listens.

Control and the rest of the router meet in files alone. So a test (and the benchmark of kills) can have a real control process
walk through rollouts as fast as the rules allow, with evidence of its own choosing, and kill it whenever it likes.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import Any

from router import counters as c
from router.counters import CounterPage
from router.page import PlanPage
from router.plan import read_plan
from router.proxy.tap import short_path
from router.state import StateDir
from router.store.store import Store

BEAT_SECONDS = 0.05
REQUESTS = 4000  # per beat


class Stage:
    """Plays shadow and users from its beginning to `stop`. `good` may be set to False: then green differs half of the time.
    `users` too: then nobody asks, and a rollout stays in the step where it is.
    """

    def __init__(self, state: StateDir) -> None:
        self.good = self.users = True
        self._state = state
        self._page = PlanPage(state.plan_page)
        self._store = Store(state.store)
        self._words = CounterPage(state.counters(0), writable=True).words
        self._ended = threading.Event()
        # What an earlier stage has said of this release must not be what the next rollout is judged by.
        nothing = {"alpha": 0.05, "pairs": 0, "agreement": {"n": 0, "agreed": 0}, "errors": {"n": 0}}
        self._store.save_evidence(self.plan().release, nothing, time.time())
        self._tap = socket.socket(socket.AF_UNIX)
        state.tap.unlink(missing_ok=True)
        with short_path(state.tap) as name:
            self._tap.bind(name)
        self._tap.listen(16)
        self._tap.settimeout(0.1)
        self._threads = [threading.Thread(target=run, daemon=True) for run in (self._beat, self._listen)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(30)
        self._tap.close()
        self._store.close()
        self._page.close()

    def plan(self) -> Any:
        """The plan that holds."""
        return read_plan(self._page.read()[1])

    def _beat(self) -> None:
        pairs = 0
        while not self._ended.wait(BEAT_SECONDS):
            pairs += 200
            agreed = pairs if self.good else pairs // 2
            snapshot = {"alpha": 0.05, "pairs": pairs, "agreement": {"n": pairs, "agreed": agreed}}
            plan = self.plan()
            self._store.save_evidence(plan.release, {**snapshot, "errors": {"n": pairs}}, time.time())
            if not self.users:
                continue
            green = round(REQUESTS * plan.split.green_percent / 100)
            self._words[c.COLOUR_BASE[1] + c.STATUS + 1] += green
            self._words[c.COLOUR_BASE[0] + c.STATUS + 1] += REQUESTS - green

    def _listen(self) -> None:
        while not self._ended.is_set():
            with contextlib.suppress(TimeoutError):
                self._tap.accept()[0].close()
