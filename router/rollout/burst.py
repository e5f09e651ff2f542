"""The fast breaker's eye: whether green's failures are a burst that needs no statistics. Pure; the caller passes the time.

A rule says how many failures within how long are a burst, and what share of green's requests they must be. Looked at is every
stretch of time up to that length that ends now: a burst after an hour of good answers is seen when it is old enough to hold
the failures, not when the good answers of the last second have been outweighed. Requests that the data plane kept from green
because its own breaker was open count as failed, or a dead green would fall silent after a few failures.
"""

from __future__ import annotations

from collections import deque

from router.rollout.live_counts import Counts
from router.rollout.policy import BreakerRule


class BurstWatch:
    """The counts of the last moments. Not safe for several threads."""

    __slots__ = ("_seen",)

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int, int]] = deque()

    def clear(self) -> None:
        """Begin anew: what was before does not count."""
        self._seen.clear()

    def look(self, counts: Counts, rule: BreakerRule, now: float) -> str | None:
        """What burst there is at `now` (seconds, of any clock that only grows), in words; None when there is none."""
        failures, tries = counts.green_failures + counts.skipped, counts.green_tries + counts.skipped
        seen = self._seen
        if seen and (failures < seen[-1][1] or tries < seen[-1][2] or now < seen[-1][0]):
            seen.clear()  # the counts began anew
        while seen and now - seen[0][0] > rule.seconds:
            seen.popleft()
        found = None
        if rule.errors:
            for then, failures_then, tries_then in reversed(seen):
                failed, tried = failures - failures_then, tries - tries_then
                if failed >= rule.errors and failed >= rule.share * tried:
                    found = f"{failed} of green's {max(tried, failed)} requests failed within {now - then:.2g} s"
                    break
        seen.append((now, failures, tries))
        return found
