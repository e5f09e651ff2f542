"""One observation for each unit of randomisation: requests of sticky users, made ready for `shadow.live`.

When the split key is a user, his requests share an arm and resemble each other, so they are not independent draws: a
test that counts them one by one sees certainty where there are a few dozen users. Here each user becomes one number, the
mean of his first few outcomes, at the moment it is complete, and never changes afterwards. A running total for each user
would use more data but could not be looked at at all times: its past would change under the test.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class UnitOutcome:
    """What one unit of randomisation contributed: its arm, green's share when drawn, and the mean of its outcomes."""

    green: bool
    share: float
    mean: float


class UnitWindows:
    """Requests of sticky users into one observation each: the mean of a user's first `window` outcomes.

    A user is done after that and never counts again in this release. When the share changes (a new epoch), every window
    still open starts anew: which users change arms depends on the arm, so a window that spanned the change, or was closed
    early by it, would no longer be a fair draw at either share. Assumes that the arm does not change *whether* a user
    makes `window` requests; keep the window small (3 to 20). At most `limit` users are kept; later ones are counted in
    `refused` and left out, which is fair to both arms. Snapshots are as large as the number of users kept.
    """

    __slots__ = ("_done", "_open", "limit", "refused", "skipped", "window")

    def __init__(self, window: int, limit: int = 100_000) -> None:
        if window < 1 or limit < 1:
            raise ValueError(f"a window of {window} outcomes for {limit} users holds nothing: give at least 1 of each")
        self.window, self.limit = window, limit
        self.refused = 0
        self.skipped = 0  # outcomes of users who are done, of an older epoch, or of an arm that is not the user's
        self._open: dict[str, tuple[int, bool, float, int, float]] = {}  # unit -> epoch, green, share, n, total
        self._done: set[str] = set()

    def update(self, unit: str, outcome: float, green: bool, share: float, epoch: int) -> UnitOutcome | None:
        """Adds one outcome of a user; returns his observation when it completes his window, else None.

        `epoch` grows whenever the share changes, e.g. the plan revision that set it. O(1).
        """
        if unit in self._done:
            self.skipped += 1
            return None
        seen = self._open.get(unit)
        if seen is None and len(self._open) + len(self._done) >= self.limit:
            self.refused += 1
            return None
        if seen is None or epoch > seen[0]:
            seen = (epoch, green, share, 0, 0.0)
        elif epoch < seen[0] or green != seen[1]:
            self.skipped += 1
            return None
        n, total = seen[3] + 1, seen[4] + outcome
        if n < self.window:
            self._open[unit] = (epoch, seen[1], seen[2], n, total)
            return None
        self._open.pop(unit, None)
        self._done.add(unit)
        return UnitOutcome(seen[1], seen[2], total / n)

    @property
    def units(self) -> tuple[int, int]:
        """(users whose window is open, users done)."""
        return len(self._open), len(self._done)

    def to_dict(self) -> dict[str, Any]:
        """For a snapshot, as JSON values."""
        return {
            "window": self.window,
            "limit": self.limit,
            "refused": self.refused,
            "skipped": self.skipped,
            "open": {unit: list(row) for unit, row in self._open.items()},
            "done": sorted(self._done),
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> UnitWindows:
        """The inverse of `to_dict`."""
        made = cls(int(state["window"]), int(state["limit"]))
        made.refused, made.skipped = int(state["refused"]), int(state["skipped"])
        for unit, (epoch, green, share, n, total) in state["open"].items():
            made._open[unit] = (int(epoch), bool(green), float(share), int(n), float(total))
        made._done = set(state["done"])
        return made
