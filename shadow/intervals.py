"""Many intervals in one go. Each costs a search by halving that takes milliseconds, and hardly more for a hundred at once; a
snapshot is made several times a second and needs dozens.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from shadow.paired import paired_lower
from shadow.sequential import bernoulli_interval


def rate_intervals(counts: Sequence[tuple[int, int]], alpha: float) -> list[list[float]]:
    """`bernoulli_interval` of each (successes, failures), as [low, high]; [0, 1] where there is nothing yet."""
    if not counts:
        return []
    table = np.array(counts, dtype=np.float64)
    low, high = bernoulli_interval(table[:, 0], table[:, 1], alpha)
    return [[float(a), float(b)] for a, b in zip(low, high, strict=True)]


def difference_intervals(counts: Sequence[tuple[int, int, int]], alpha: float) -> list[list[float]]:
    """`McNemar.interval` of each (worse, better, same), as [low, high]; [-1, 1] where there is nothing yet."""
    if not counts:
        return []
    table = np.array(counts, dtype=np.float64)
    worse, better, same = (np.concatenate((table[:, i], table[:, j])) for i, j in ((0, 1), (1, 0), (2, 2)))
    bounds = paired_lower(worse, better, same, alpha / 2.0)
    return [[float(low), float(-high)] for low, high in zip(bounds[: len(table)], bounds[len(table) :], strict=True)]
