"""How fast traffic and pairs come, over the last minute: what turns "about 400 more pairs" into "about 4 minutes"."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any, Final

WINDOW_SECONDS: Final = 60.0
_STEP_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class PerSecond:
    """Live requests, and exchanges handed to the shadow, per second; None while nothing is known."""

    requests: float | None = None
    pairs: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"requests": self.requests, "pairs": self.pairs}

    def of(self, what: str, *, share: float, noise: float) -> float | None:
        """How fast observations of a kind come, as gates name them. `share` is green's, `noise` that of noise pairs, 0 to 1."""
        if what == "pairs":
            return self.pairs
        if what == "noise pairs":
            return None if self.pairs is None else self.pairs * noise
        if what in ("requests", "requests of green"):
            return None if self.requests is None else self.requests * share
        return None


class Rates:
    """Running counts, sampled once a second. Written by one thread; `now` may be read by others."""

    __slots__ = ("_seen", "now")

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int, int]] = deque()
        self.now = PerSecond()

    def sample(self, requests: int, pairs: int, now: float) -> None:
        """The counts at `now` (seconds); at most one sample a second is kept."""
        seen = self._seen
        if seen and (requests < seen[-1][1] or pairs < seen[-1][2] or now < seen[-1][0]):
            seen.clear()
        if not seen or now - seen[-1][0] >= _STEP_SECONDS:
            seen.append((now, requests, pairs))
        while now - seen[0][0] > WINDOW_SECONDS and len(seen) > 2:
            seen.popleft()
        then, requests_then, pairs_then = seen[0]
        spent = now - then
        if spent >= _STEP_SECONDS:
            self.now = PerSecond((requests - requests_then) / spent, (pairs - pairs_then) / spent)
