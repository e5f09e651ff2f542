"""Writes changes of the plan into the history, in their order, from a thread of its own.

Nobody who changes the plan has to wait for a disk: what waits here is in the plan page already, which holds for everybody. A
store that does not answer is asked again and again. Should the process be killed, the next start completes the history from the
page, which holds the last two plans; so that is what may be lost of it while the store does not answer: all but two.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from typing import Final

from router.errors import Unavailable
from router.plan import Plan
from router.store.store import Store

_RETRY_SECONDS: Final = 1.0
_LINGER_SECONDS: Final = 0.01  # after a change, while workers and control are busy with it, unless somebody waits for its entry
_HELD_BY_PAGE: Final = 2  # plans

log = logging.getLogger("control")


class HistoryWriter:
    """A line of plans and the thread that empties it, started with the first one. Safe to use from several threads."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._line: deque[tuple[Plan, Plan | None]] = deque()
        self._changed = threading.Condition()
        self._hurrying = 0  # how many wait for it
        self._thread: threading.Thread | None = None
        self._ended = False

    def put(self, plan: Plan, previous: Plan | None) -> None:
        """Have it written that `plan` followed `previous`. Returns at once; to be called in the order of the revisions."""
        with self._changed:
            self._line.append((plan, previous))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="history", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def waiting(self) -> list[Plan]:
        """The plans that the history does not hold yet, oldest first."""
        with self._changed:
            return [plan for plan, _ in self._line]

    def settle(self, seconds: float) -> bool:
        """Wait until nothing waits to be written any more; False when after `seconds` something still does."""
        with self._changed:
            self._hurrying += 1
            self._changed.notify_all()
            try:
                return self._changed.wait_for(lambda: not self._line, seconds)
            finally:
                self._hurrying -= 1

    def close(self, seconds: float) -> None:
        """Write what waits, for at most so long, and end."""
        self.settle(seconds)
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _is_urgent(self) -> bool:
        return self._hurrying > 0 or len(self._line) > _HELD_BY_PAGE or self._ended

    def _run(self) -> None:
        failing = False
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._line or self._ended)
                self._changed.wait_for(self._is_urgent, _LINGER_SECONDS)
                if self._ended:
                    return
                plan, previous = self._line[0]
            try:
                self._store.add_history(plan, previous)
            except Exception as error:  # the entry must not be lost, whatever it is
                if not failing:
                    log.error(
                        "changes of the plan are not in the history yet and will be tried again: %s",
                        error,
                        exc_info=None if isinstance(error, Unavailable) else error,
                    )
                failing = True
                with self._changed:
                    self._changed.wait(_RETRY_SECONDS)  # or until the next change
                continue
            with self._changed:
                self._line.popleft()
                self._changed.notify_all()
            if failing:
                log.info("the history is written again")
            failing = False
