"""When a failing green is left alone: a breaker with a budget (pure; the caller passes `now`).

closed: green gets its share. open: it failed `open_after` times in a row, or the fallbacks of the last seconds took more than
`budget_percent` of all requests; its share goes to blue at once, so that a dead green costs blue no waiting and no second
attempts. half-open: after `open_for` seconds one request tries green; it decides.

A request that is skipped this way is answered by blue in the first place; nothing is refused.
"""

from __future__ import annotations

from typing import Final

from router.proxy.options import Fallback

CLOSED: Final = 0
OPEN: Final = 1
HALF_OPEN: Final = 2

_WINDOW: Final = 1.0  # seconds over which the budget is reckoned
_MIN_FALLBACKS: Final = 10  # below this many in a window a share says nothing


class Breaker:
    """The state for one arm in one worker."""

    __slots__ = ("_fallbacks", "_opened", "_row", "_since", "_total", "_trial", "fallback", "state", "troubled")

    def __init__(self, fallback: Fallback) -> None:
        self.fallback = fallback
        self._row = 0
        self._opened = 0.0
        self._trial = 0.0  # when the half-open trial was sent; 0.0 for none
        self._since = 0.0
        self._fallbacks = 0
        self._total = 0  # the worker's requests when the present window began
        self.state = CLOSED
        self.troubled = False  # something failed since the last success: `succeeded` has something to do

    def allows(self, now: float) -> bool:
        """Whether green may be asked. In the half-open state one request at a time may."""
        if self.state == CLOSED:
            return True
        if self.state == OPEN:
            if now - self._opened < self.fallback.open_for:
                return False
            self.state = HALF_OPEN
            self._trial = now
            return True
        # A trial that never came back (its client left) must not keep green out for ever.
        if self._trial and now - self._trial < max(self.fallback.open_for, 1.0):
            return False
        self._trial = now
        return True

    def succeeded(self) -> None:
        """Green answered well. While the breaker is open that is an answer to an older request, which tells nothing new."""
        if self.state == OPEN:
            return
        self._row = 0
        self.troubled = False
        if self.state == HALF_OPEN:
            self.state = CLOSED
            self._trial = 0.0
            self._fallbacks = 0

    def failed(self, now: float) -> None:
        """Green failed (refused, timed out, broke off or answered 5xx)."""
        self._row += 1
        self.troubled = True
        if self.state == HALF_OPEN or self._row >= self.fallback.open_after:
            self._open(now)

    def fell_back(self, now: float, total: int) -> None:
        """Blue took over a request that green had been given; `total` counts all requests of the worker so far."""
        if now - self._since > _WINDOW:
            self._since, self._fallbacks, self._total = now, 0, total
        self._fallbacks += 1
        share = 100.0 * self._fallbacks / max(total - self._total, self._fallbacks)
        if self._fallbacks >= _MIN_FALLBACKS and share > self.fallback.budget_percent:
            self._open(now)

    def _open(self, now: float) -> None:
        self.state = OPEN
        self.troubled = True
        self._opened = now
        self._row = 0
        self._trial = 0.0
