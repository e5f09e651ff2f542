"""The workers as the other processes see them: their counter pages, who lives, and whether all obey a revision yet.

Nothing is asked of a worker and none answers: what it says of itself stands in its counter page. A worker counts as living
while the process of its PID word runs and its BEAT is fresh; the PID alone is not proof, since a page outlives its worker and
the number may belong to anyone by now. A worker that does not beat is not waited for, and need not be: it looks at the plan
page again before it serves the next request, so the new plan holds for it as well.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from pathlib import Path

from router import counters
from router.counters import CounterPage
from router.errors import StartError
from router.state import StateDir

FRESH_SECONDS = 5.0  # how old a beat may be
_BUSY_SECONDS = 50e-6
_NAP_SECONDS = 200e-6
_SETTLED_NS = 3_000_000_000  # a folder that changed longer ago shows each further change by another time, however coarse


class Workers:
    """All workers' counter pages of one state directory. Safe to use from several threads."""

    def __init__(self, state: StateDir) -> None:
        """Nothing is opened yet: pages are mapped as they appear."""
        self._state = state
        self._pages: dict[int, tuple[int, CounterPage]] = {}  # slot -> (inode, page)
        self._folder_time = -1  # of the folder when it was last read, in nanoseconds; -1: read it again
        self._guard = threading.Lock()

    def pages(self) -> dict[int, CounterPage]:
        """Every page there is, by slot, those of ended workers too (their counts still count).

        A page that was replaced by another is mapped anew; one of a layout that this version does not know is left out until
        its worker has replaced it. An old mapping is left to the garbage collector: another thread may be reading it.
        """
        with self._guard:
            changed = _folder_time(self._state.counters_dir)
            if changed != self._folder_time or changed < 0:
                self._read_folder(changed)
            return {slot: page for slot, (_, page) in self._pages.items()}

    def _read_folder(self, changed: int) -> None:
        found: dict[int, tuple[int, CounterPage]] = {}
        settled = time.time_ns() - changed > _SETTLED_NS
        for slot, inode, path in _page_files(self._state.counters_dir):
            held = self._pages.get(slot)
            if held is None or held[0] != inode:
                try:
                    page = CounterPage(path)
                except StartError:
                    page = None
                if page is None or page.words[0] != counters.MAGIC:
                    settled = False  # it may yet become one without the folder's knowing
                    continue
                held = (inode, page)
            found[slot] = held
        self._pages = found
        self._folder_time = changed if settled else -1

    def alive(self) -> list[int]:
        """The slots of the workers that run now and beat."""
        return [slot for slot, page in self.pages().items() if is_alive(page)]

    def living_pages(self) -> dict[int, CounterPage]:
        """The pages of the workers that run now: what gauges are read from."""
        return {slot: page for slot, page in self.pages().items() if is_alive(page)}

    def nudge(self) -> None:
        """Have every worker look at the plan page now, not at its next request: one byte into each one's FIFO.

        Nobody at the other end (ENXIO) or a full pipe (EAGAIN) is as good as done: the page is what tells, this only hurries.
        """
        for slot in self.pages():
            with contextlib.suppress(OSError):
                handle = os.open(self._state.nudge(slot), os.O_WRONLY | os.O_NONBLOCK)
                try:
                    os.write(handle, b"\x01")
                finally:
                    os.close(handle)

    def wait(self, revision: int, seconds: float = 2.0) -> bool:
        """Wait until every living worker obeys `revision` (or a later one) and has finished its recall; False after `seconds`.

        Polls: busily for the first 50 µs, which is about how long a nudged worker takes, then with naps of 0.2 ms. A worker
        that dies meanwhile is not waited for any longer.
        """
        begin = time.perf_counter()
        waiting = [page for page in self.pages().values() if _beats(page)]
        looks = 0
        while True:
            waiting = [page for page in waiting if not _obeys(page, revision)]
            if not waiting:
                return True
            spent = time.perf_counter() - begin
            if spent > seconds:
                return False
            if spent > _BUSY_SECONDS:
                time.sleep(_NAP_SECONDS)
                looks += 1
                if looks % 16 == 1:
                    waiting = [page for page in waiting if is_alive(page)]

    def recalled(self) -> int:
        """How many requests all workers together have taken back from green, ever."""
        return sum(page.words[counters.RECALLED] for page in self.pages().values())


def is_alive(page: CounterPage) -> bool:
    """Whether the worker of a page runs and has beaten within the last 5 s of the monotonic clock."""
    return _beats(page) and _runs(page.words[counters.PID])


def _beats(page: CounterPage) -> bool:
    age = time.monotonic() * 1000 - page.words[counters.BEAT]
    # A beat from the future is one of another boot: the monotonic clock began anew.
    return page.words[counters.PID] > 0 and -1000 <= age <= FRESH_SECONDS * 1000


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    try:
        handle = os.open(f"/proc/{pid}/stat", os.O_RDONLY)
        try:
            stat = os.read(handle, 4096)
        finally:
            os.close(handle)
    except OSError:
        return True  # no /proc here, or it ended just now: the beat will tell
    return stat.rpartition(b")")[2].split()[0] not in (b"Z", b"X")  # a killed worker that nobody has waited for yet


def _obeys(page: CounterPage, revision: int) -> bool:
    words = page.words
    return words[counters.REVISION] >= revision and words[counters.RECALLED_REVISION] >= revision


def _page_files(folder: Path) -> list[tuple[int, int, Path]]:
    """The slot, inode and path of every counter page, by slot."""
    try:
        with os.scandir(folder) as entries:
            return sorted(
                (int(entry.name[:-5]), entry.inode(), Path(entry.path))
                for entry in entries
                if entry.name.endswith(".page") and entry.name[:-5].isdecimal()
            )
    except FileNotFoundError:
        return []


def _folder_time(folder: Path) -> int:
    """When a folder last changed, in nanoseconds; -1 while there is none."""
    try:
        return os.stat(folder).st_mtime_ns
    except FileNotFoundError:
        return -1
