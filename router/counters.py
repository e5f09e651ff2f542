"""Counter pages: what each worker counts, in one memory-mapped array of 64-bit words per worker.

The worker adds; control maps the same file and sums. No locks and no messages, and nothing is lost when a worker is restarted,
since the next one maps the page again and goes on adding. Each word has one writer; a reader may see a word one event old,
never a torn one.

Latencies go into a log-linear histogram of microseconds: 16 steps to each power of two, so a quantile read from it is right
to within 1/16. What an observer needs per release (how many exchanges were sampled for the shadow, and how many of those
never reached it) sits in cells that are chosen by `release % 4` and carry the release's number.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from router.errors import StartError

MAGIC = int.from_bytes(b"BGCNT003", "little")

# The words of a page, by position.
PID = 1
REVISION = 2  # the plan revision this worker obeys
RECALLED = 3  # requests taken back from green by a switch, ever
CONNECTIONS = 4  # client connections, TLS handshakes included, now
BEAT = 5  # monotonic milliseconds of the worker's last sweep
DRAINING = 6  # 1 from the signal to stop on
REFUSED = 7  # connections refused over a limit, ever
CLIENTS_LEFT = 8  # clients that went away before their answer was whole, ever
RECALLED_REVISION = 9  # the revision whose recall the worker has finished
TUNNELS = 10  # upgraded connections, ever
UNLOGGED = 11  # exchanges that were lost on the way to the prediction log, ever

# Per colour, at COLOUR[colour] + offset.
COLOUR_BASE = (16, 48)  # blue, green
STATUS = 0  # five words: answers with 1xx to 5xx, given to clients by this arm
ERRORS = 5  # failures of this arm: refused, timed out, broken off, 5xx
FALLBACKS = 6  # requests of this arm that the other one answered in its place
RETRIES = 7  # requests sent again on a fresh connection because a kept-alive one had gone stale
IN_FLIGHT = 8  # requests now at this arm
DOWN = 9  # bit i is set while server i of the arm's list is out of use
CONNECT_FAILURES = 10
TIMEOUTS = 11
BROKEN = 12  # broken off or not HTTP
SERVER_ERRORS = 13  # 5xx
SKIPPED = 14  # requests not sent to this arm because its breaker was open
BREAKER = 15  # 0 closed, 1 open, 2 half-open
QUEUED = 16  # requests now waiting for a place at this arm
OPENED = 17  # connections opened to this arm's servers, ever

# Answers that the router made itself, by status.
OWN_BASE = 80
OWN_STATUSES = (400, 408, 413, 414, 417, 431, 501, 502, 503, 504, 505)

# Four cells of (release, sampled, lost before the shadow).
RELEASE_BASE = 96
RELEASE_CELLS = 4

HISTOGRAM_BASE = (128, 128 + 640)
HISTOGRAM_WORDS: Final = 640
PAGE_WORDS = 128 + 2 * 640
PAGE_BYTES = PAGE_WORDS * 8


class CounterPage:
    """One worker's page. `words` is the array itself; the worker's hot path adds to it directly."""

    __slots__ = ("_map", "words")

    def __init__(self, path: Path, *, writable: bool = False) -> None:
        """Map the page at `path`; the worker creates it when it is not there or is of another layout. Raises StartError."""
        try:
            if writable and not _is_page(path):
                fresh = path.with_name(path.name + ".new")
                fresh.write_bytes(MAGIC.to_bytes(8, "little").ljust(PAGE_BYTES, b"\0"))
                fresh.replace(path)
            handle = os.open(path, os.O_RDWR if writable else os.O_RDONLY)
        except OSError as error:
            raise StartError(f"cannot open the counter page {path}: {error.strerror}") from None
        try:
            access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
            self._map = mmap.mmap(handle, PAGE_BYTES, access=access)
        except ValueError:
            raise StartError(f"{path} is not a counter page of this version") from None
        finally:
            os.close(handle)
        self.words = memoryview(self._map).cast("Q")

    def release_cell(self, release: int) -> int:
        """The position of a release's cell, emptied first when it still belongs to an older release. For the worker."""
        cell = RELEASE_BASE + 3 * (release % RELEASE_CELLS)
        if self.words[cell] != release:
            self.words[cell + 1] = self.words[cell + 2] = 0
            self.words[cell] = release
        return cell

    def close(self) -> None:
        """Unmap the page."""
        self.words.release()
        self._map.close()


def bin_of(microseconds: int) -> int:
    """The histogram position of a latency: exact below 16 µs, then 16 steps to each power of two."""
    if microseconds < 16:
        return microseconds if microseconds > 0 else 0
    exponent = microseconds.bit_length() - 5
    position = (exponent << 4) + (microseconds >> exponent)
    return position if position < HISTOGRAM_WORDS else HISTOGRAM_WORDS - 1


def bin_bounds(position: int) -> tuple[int, int]:
    """The half-open range of microseconds that `bin_of` maps to a position."""
    if position < 32:
        return position, position + 1
    exponent = (position >> 4) - 1
    low = (16 + (position & 15)) << exponent
    return low, low + (1 << exponent)


@dataclass(frozen=True, slots=True)
class ArmCounts:
    """One arm's counts, summed over workers. `statuses` are answers 1xx to 5xx; `histogram` counts latencies by bin."""

    statuses: tuple[int, ...]
    errors: int
    fallbacks: int
    retries: int
    in_flight: int
    connect_failures: int
    timeouts: int
    broken: int
    server_errors: int
    skipped: int
    queued: int
    opened: int
    histogram: tuple[int, ...]

    @property
    def requests(self) -> int:
        """How many clients' requests this arm answered."""
        return sum(self.statuses[1:])

    def quantile(self, level: float) -> float | None:
        """A latency quantile in milliseconds, to within 1/16; None while nothing was counted."""
        total = sum(self.histogram)
        if not total:
            return None
        rank, seen = level * total, 0
        for position, count in enumerate(self.histogram):
            seen += count
            if count and seen >= rank:
                low, high = bin_bounds(position)
                return (low + high - 1) / 2000
        raise AssertionError("a rank below the total is always reached")


def sum_arm(pages: Iterable[CounterPage], colour: int) -> ArmCounts:
    """One arm's counts over all workers' pages (`colour` 0 for blue, 1 for green)."""
    base, histogram = COLOUR_BASE[colour], HISTOGRAM_BASE[colour]
    words = [0] * 18
    bins = [0] * HISTOGRAM_WORDS
    for page in pages:
        words = [a + b for a, b in zip(words, page.words[base : base + 18], strict=True)]
        bins = [a + b for a, b in zip(bins, page.words[histogram : histogram + HISTOGRAM_WORDS], strict=True)]
    return ArmCounts(
        statuses=tuple(words[STATUS : STATUS + 5]),
        errors=words[ERRORS],
        fallbacks=words[FALLBACKS],
        retries=words[RETRIES],
        in_flight=words[IN_FLIGHT],
        connect_failures=words[CONNECT_FAILURES],
        timeouts=words[TIMEOUTS],
        broken=words[BROKEN],
        server_errors=words[SERVER_ERRORS],
        skipped=words[SKIPPED],
        queued=words[QUEUED],
        opened=words[OPENED],
        histogram=tuple(bins),
    )


def release_counts(pages: Iterable[CounterPage], release: int) -> tuple[int, int]:
    """How many exchanges of a release were sampled, and how many of those were lost before they reached the shadow."""
    cell = RELEASE_BASE + 3 * (release % RELEASE_CELLS)
    sampled = lost = 0
    for page in pages:
        if page.words[cell] == release:
            sampled += page.words[cell + 1]
            lost += page.words[cell + 2]
    return sampled, lost


def _is_page(path: Path) -> bool:
    try:
        return path.stat().st_size == PAGE_BYTES and path.read_bytes()[:8] == MAGIC.to_bytes(8, "little")
    except FileNotFoundError:
        return False
