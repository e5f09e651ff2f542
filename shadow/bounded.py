"""Means of bounded values that hold at every look: similarities, rewards, propensity-weighted outcomes.

Two methods. The *empirical Bernstein* sequence has a closed form: six running numbers give an interval and an e-value
for any mean whatever, and each observation may have its own range, which propensity weighting under a ramp needs. The
*betting* sequence is tighter, most of all for values that crowd near 0 or 1, but has a capital for every candidate mean;
so it keeps two arrays of log capital over a fixed grid, fed in small batches. Its capital for a gain falls as the
candidate mean rises, and its capital for a loss rises (every factor is monotone), so a cell between two grid points
is refuted as soon as the bound at its ends says so: the interval is never too short, only up to one cell too long.

Both are exact for any distribution within the bounds, and for any dependence in which each value has, given the past,
the mean under test. What they do not forgive is a value outside its bounds: that raises.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from shadow.sequential import Floats, Interval, log_threshold

Spacing = Literal["even", "ends", "middle"]

# Values kept back before the grid is moved: one numpy pass over 64 rows costs little more than one over a single row.
BATCH = 64


def _stake(log_two_over_alpha: float, variance: float, t: int) -> float:
    """The predictable stake sqrt(2 ln(2/alpha) / (variance t ln(1+t))) of arXiv 2010.09686, eq. (15), before its cap."""
    return math.sqrt(2.0 * log_two_over_alpha / (max(variance, 1e-12) * t * math.log1p(t)))


# --- empirical Bernstein ----------------------------------------------------------------------------------------------


def empirical_bernstein_sums(
    x: ArrayLike,
    alpha: float,
    center: ArrayLike | None = None,
    scale: ArrayLike = 1.0,
    variance: ArrayLike | None = None,
) -> tuple[Floats, Floats, Floats]:
    """The running sums behind `empirical_bernstein`, along the last axis of x: (weight, weighted x, penalty).

    ln E for "the mean lies above m" is weighted - m * weight - penalty, for "below m" it is m * weight - weighted -
    penalty (Howard et al. 2021, arXiv 1810.08240, theorem 4, by Fan's inequality exp(l y - psi(l) y^2) <= 1 + l y for
    y >= -1). `center`, `scale` and `variance` broadcast against x and must be fixed by the past: |x - center| <= scale.
    Without a centre x lies in [0, 1] and the running mean (1/2 + sum)/(t) is taken.
    """
    x = np.asarray(x, dtype=np.float64)
    t = np.arange(1, x.shape[-1] + 1, dtype=np.float64)
    if center is None:
        _check_unit(x)
        y = x - (0.5 + _before(x)) / t
    else:
        y = x - np.asarray(center, dtype=np.float64)
    spread = (0.25 + _before(y * y)) / t if variance is None else np.asarray(variance, dtype=np.float64)
    scale = np.asarray(scale, dtype=np.float64)
    scaled = np.maximum(spread / np.square(scale), 1e-12)
    stake = np.minimum(0.5, np.sqrt(2.0 * (log_threshold(alpha) + math.log(2.0)) / (scaled * t * np.log1p(t))))
    penalty = np.square(y / scale) * (-np.log1p(-stake) - stake)
    weight = np.broadcast_to(stake / scale, x.shape)
    return np.cumsum(weight, axis=-1), np.cumsum(weight * x, axis=-1), np.cumsum(penalty, axis=-1)


def empirical_bernstein(
    x: ArrayLike,
    alpha: float,
    center: ArrayLike | None = None,
    scale: ArrayLike = 1.0,
    variance: ArrayLike | None = None,
) -> tuple[Floats, Floats]:
    """Predictable plug-in empirical Bernstein confidence sequence, (low, high) after each value along the last axis.

    Waudby-Smith & Ramdas (arXiv 2010.09686), theorem 2: sum(l x)/sum(l) +- (ln(2/alpha) + sum((x - mean_{t-1})^2
    psi(l)))/sum(l), psi(l) = -ln(1-l) - l, l_t = min(1/2, sqrt(2 ln(2/alpha)/(var_{t-1} t ln(1+t)))). Assumes values in
    [0, 1] (or within `scale` of `center`, see `empirical_bernstein_sums`) whose mean given the past is constant; when
    it moves, the interval is for the average of the means with weights l.
    """
    weight, weighted, penalty = empirical_bernstein_sums(x, alpha, center, scale, variance)
    middle = weighted / weight
    radius = (log_threshold(alpha) + math.log(2.0) + penalty) / weight
    return middle - radius, middle + radius


def _before(x: Floats) -> Floats:
    """Running sum along the last axis of everything before each element."""
    return np.asarray(np.cumsum(x, axis=-1) - x)


def _check_unit(x: Floats) -> None:
    if x.size and not (np.min(x) >= 0.0 and np.max(x) <= 1.0):
        raise ValueError("a value lies outside [0, 1]: rescale by bounds that were declared beforehand")


class EmpiricalBernstein:
    """`empirical_bernstein` one value at a time: six numbers, a square root and a logarithm per update.

    `alpha` tunes the stakes; intervals may be asked for at any level, and are nested. `merge` multiplies the e-values of
    two streams, which is valid since every factor has expectation at most 1 given both pasts, but is not the number that
    one stream of all values would have given: the stakes were chosen apart.
    """

    __slots__ = ("_log_two_over_alpha", "alpha", "n", "penalty", "squares", "total", "weight", "weighted")

    def __init__(self, alpha: float = 0.05) -> None:
        self._log_two_over_alpha = log_threshold(alpha) + math.log(2.0)
        self.alpha = alpha
        self.n = 0
        self.total = 0.0
        self.squares = 0.0
        self.weight = 0.0
        self.weighted = 0.0
        self.penalty = 0.0

    def update(self, x: float, center: float | None = None, scale: float = 1.0, variance: float | None = None) -> None:
        """Adds one value. `center`, `scale`, `variance` as in `empirical_bernstein_sums`; ValueError out of bounds."""
        t = self.n + 1
        if center is None:
            if not 0.0 <= x <= 1.0:
                raise ValueError(f"the value {x!r} lies outside [0, 1]: rescale by bounds declared beforehand")
            if scale == 1.0 and variance is None:  # the same without what is 1: every measure of every pair comes this way
                y = x - (0.5 + self.total) / t
                # `_stake` without its least variance, which (1/4 + squares)/t stays above for 10^11 values.
                stake = min(0.5, math.sqrt(2.0 * self._log_two_over_alpha / ((0.25 + self.squares) * math.log1p(t))))
                self.penalty += y * y * (-math.log1p(-stake) - stake)
                self.weight += stake
                self.weighted += stake * x
                self.total += x
                self.squares += y * y
                self.n = t
                return
            center = (0.5 + self.total) / t
        y = x - center
        if not abs(y) <= scale * (1.0 + 1e-9):
            raise ValueError(f"the value {x!r} lies further than {scale!r} from {center!r}: declare a wider range")
        spread = (0.25 + self.squares) / t if variance is None else variance
        stake = min(0.5, _stake(self._log_two_over_alpha, spread / (scale * scale), t))
        self.penalty += (y / scale) ** 2 * (-math.log1p(-stake) - stake)
        self.weight += stake / scale
        self.weighted += stake / scale * x
        self.total += x
        self.squares += y * y
        self.n = t

    def extend(self, values: Sequence[float]) -> None:
        """Adds many values in their order, as `update` would one by one but for rounding, in a tenth of the time; ValueError,
        with none added, for one out of bounds.
        """
        x = np.array(values, dtype=np.float64)
        _check_unit(x)
        t = self.n + np.arange(1, len(x) + 1, dtype=np.float64)
        y = x - (0.5 + self.total + _before(x)) / t
        squares = np.square(y)
        stake = np.sqrt(2.0 * self._log_two_over_alpha / ((0.25 + self.squares + _before(squares)) * np.log1p(t)))
        stake = np.minimum(0.5, stake)
        self.penalty += float((squares * (-np.log1p(-stake) - stake)).sum())
        self.weight += float(stake.sum())
        self.weighted += float((stake * x).sum())
        self.total += float(x.sum())
        self.squares += float(squares.sum())
        self.n += len(x)

    def merge(self, other: EmpiricalBernstein) -> None:
        """Joins another stream's evidence (see the class)."""
        for name in ("n", "total", "squares", "weight", "weighted", "penalty"):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    @property
    def mean(self) -> float | None:
        """Plain mean of the values; None before the first."""
        return self.total / self.n if self.n else None

    def log_e_above(self, m: float) -> float:
        """Evidence that the mean lies above m; H0: mean <= m."""
        return self.weighted - m * self.weight - self.penalty

    def log_e_below(self, m: float) -> float:
        """Evidence that the mean lies below m; H0: mean >= m."""
        return m * self.weight - self.weighted - self.penalty

    def lower(self, alpha: float) -> float:
        """One-sided lower bound: the m at which `log_e_above` is ln(1/alpha); -inf before the first value."""
        return (self.weighted - self.penalty - log_threshold(alpha)) / self.weight if self.n else -math.inf

    def upper(self, alpha: float) -> float:
        """One-sided upper bound; +inf before the first value."""
        return (self.weighted + self.penalty + log_threshold(alpha)) / self.weight if self.n else math.inf

    def interval(self, alpha: float) -> Interval:
        """Two-sided confidence sequence, not clipped to the values' range."""
        return Interval(self.lower(alpha / 2.0), self.upper(alpha / 2.0))

    def to_dict(self) -> dict[str, float]:
        """For a snapshot, as JSON values."""
        return {name: getattr(self, name) for name in self.__slots__ if not name.startswith("_")}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> EmpiricalBernstein:
        """The inverse of `to_dict`."""
        made = cls(float(state["alpha"]))
        made.n = int(state["n"])
        for name in ("total", "squares", "weight", "weighted", "penalty"):
            setattr(made, name, float(state[name]))
        return made


# --- betting ----------------------------------------------------------------------------------------------------------


def betting_log_capital(x: ArrayLike, m: float, alpha: float) -> tuple[Floats, Floats]:
    """Log capital ln K+(m) and ln K-(m) after each value along the last axis of x: the evidence for a mean above, below m.

    Hedged capital (Waudby-Smith & Ramdas, arXiv 2010.09686, section 4.2): K+-(m) = prod(1 +- l_t (x_t - m)), with l_t =
    sqrt(2 ln(2/alpha)/(var_{t-1} t ln(1+t))) capped at (1/2)/m for the first and (1/2)/(1-m) for the second. Each is a
    test supermartingale for H0: mean <= m (mean >= m); two-sided, reject m when (K+ + K-)/2 >= 1/alpha. Assumes values
    in [0, 1] whose mean given the past is the one under test.
    """
    x = np.asarray(x, dtype=np.float64)
    _check_unit(x)
    t = np.arange(1, x.shape[-1] + 1, dtype=np.float64)
    y = x - (0.5 + _before(x)) / t
    variance = np.maximum((0.25 + _before(y * y)) / t, 1e-12)
    stake = np.sqrt(2.0 * (log_threshold(alpha) + math.log(2.0)) / (variance * t * np.log1p(t)))
    up_cap, down_cap = _caps(np.asarray(m, dtype=np.float64))
    gain = np.log1p(np.minimum(stake, up_cap) * (x - m))
    loss = np.log1p(-np.minimum(stake, down_cap) * (x - m))
    return np.cumsum(gain, axis=-1), np.cumsum(loss, axis=-1)


def _caps(m: Floats) -> tuple[Floats, Floats]:
    """(1/2)/m and (1/2)/(1-m), infinite at the ends, where no stake can lose."""
    with np.errstate(divide="ignore", over="ignore"):
        return 0.5 / m, 0.5 / (1.0 - m)


def mean_grid(cells: int, spacing: Spacing) -> Floats:
    """Candidate means from 0 to 1, one more than cells: even; dense at the ends (sin^2); or dense in the middle (cubic)."""
    if cells < 2:
        raise ValueError(f"a grid of {cells} cells bounds nothing: use a few hundred")
    u = np.arange(cells + 1) / cells
    if spacing == "even":
        return u
    if spacing == "ends":
        return np.asarray(np.sin(0.5 * np.pi * u) ** 2)
    if spacing == "middle":
        return np.asarray(0.5 + 0.5 * (2.0 * u - 1.0) ** 3)
    raise ValueError(f"spacing is {spacing!r}: one of 'even', 'ends', 'middle'")


class Betting:
    """`betting_log_capital` for every mean of a fixed grid, one value at a time, in memory that does not grow.

    `cells` and `spacing` lay the grid ("ends" for similarities near 1, "middle" for differences mapped to 1/2); the
    means in `at` are added to it, so that e-values at a gate's threshold are exact. `update` appends to a batch; every
    64th moves the grid, a few microseconds per value. `merge` as in `EmpiricalBernstein`.
    """

    __slots__ = ("_down_cap", "_grid", "_log_down", "_log_two_over_alpha", "_log_up", "_stakes", "_up_cap", "_values",
                 "alpha", "at", "cells", "n", "spacing", "squares", "total")  # fmt: skip

    def __init__(self, alpha: float = 0.05, cells: int = 400, spacing: Spacing = "even", at: Sequence[float] = ()) -> None:
        if any(not 0.0 <= m <= 1.0 for m in at):
            raise ValueError(f"the means {list(at)} to be tested must lie in [0, 1], as the values do")
        self._log_two_over_alpha = log_threshold(alpha) + math.log(2.0)
        self.alpha, self.cells, self.spacing, self.at = alpha, cells, spacing, tuple(float(m) for m in at)
        self._grid = np.unique(np.concatenate((mean_grid(cells, spacing), np.asarray(self.at, dtype=np.float64))))
        self._up_cap, self._down_cap = _caps(self._grid)
        self._log_up, self._log_down = np.zeros_like(self._grid), np.zeros_like(self._grid)
        self._values: list[float] = []
        self._stakes: list[float] = []
        self.n, self.total, self.squares = 0, 0.0, 0.0

    def update(self, x: float) -> None:
        """Adds one value; ValueError outside [0, 1]."""
        if not 0.0 <= x <= 1.0:
            raise ValueError(f"the value {x!r} lies outside [0, 1]: rescale by bounds declared beforehand")
        t = self.n + 1
        self._stakes.append(_stake(self._log_two_over_alpha, (0.25 + self.squares) / t, t))
        self._values.append(x)
        self.squares += (x - (0.5 + self.total) / t) ** 2
        self.total += x
        self.n = t
        if len(self._values) >= BATCH:
            self._move()

    def _move(self) -> None:
        """Brings the grid up to date with the values kept back."""
        if not self._values:
            return
        stake = np.array(self._stakes)[:, np.newaxis]
        y = np.array(self._values)[:, np.newaxis] - self._grid
        # Multiplied before the logarithm, which costs ten times a product. No factor is below 1/2, by the caps, nor above
        # 1 + sqrt(8 ln(2/alpha)/ln 2), by the prior variance, so 64 of them stay within the range of doubles.
        self._log_up += np.log(np.prod(1.0 + np.minimum(stake, self._up_cap) * y, axis=0))
        self._log_down += np.log(np.prod(1.0 - np.minimum(stake, self._down_cap) * y, axis=0))
        self._values.clear()
        self._stakes.clear()

    def merge(self, other: Betting) -> None:
        """Joins another stream's evidence; ValueError when the grids differ."""
        self._move()
        other._move()
        if not np.array_equal(self._grid, other._grid):
            raise ValueError("only sequences over the same grid of means can be joined: give both the same settings")
        self._log_up += other._log_up
        self._log_down += other._log_down
        self.n, self.total, self.squares = self.n + other.n, self.total + other.total, self.squares + other.squares

    @property
    def mean(self) -> float | None:
        """Plain mean of the values; None before the first."""
        return self.total / self.n if self.n else None

    def log_e_above(self, m: float) -> float:
        """Evidence that the mean lies above m; H0: mean <= m. At the next grid point above m, which errs downwards."""
        self._move()
        return float(self._log_up[min(int(np.searchsorted(self._grid, m)), len(self._grid) - 1)])

    def log_e_below(self, m: float) -> float:
        """Evidence that the mean lies below m; H0: mean >= m. At the next grid point below m."""
        self._move()
        return float(self._log_down[max(int(np.searchsorted(self._grid, m, side="right")) - 1, 0)])

    def lower(self, alpha: float) -> float:
        """One-sided lower bound: the largest grid mean refuted from above, else 0."""
        self._move()
        refuted = np.flatnonzero(self._log_up >= log_threshold(alpha))
        return float(self._grid[refuted[-1]]) if len(refuted) else 0.0

    def upper(self, alpha: float) -> float:
        """One-sided upper bound: the smallest grid mean refuted from below, else 1."""
        self._move()
        refuted = np.flatnonzero(self._log_down >= log_threshold(alpha))
        return float(self._grid[refuted[0]]) if len(refuted) else 1.0

    def interval(self, alpha: float) -> Interval:
        """Two-sided confidence sequence: the hull of the cells in which (K+ + K-)/2 may still be below 1/alpha."""
        self._move()
        # Least capital inside a cell: K+ falls and K- rises with m.
        least = np.logaddexp(self._log_up[1:], self._log_down[:-1]) - math.log(2.0)
        kept = np.flatnonzero(least < log_threshold(alpha))
        if not len(kept):  # every mean is refuted: the values' mean has moved, or the bounds were wrong
            kept = np.array([int(least.argmin())])
        return Interval(float(self._grid[kept[0]]), float(self._grid[kept[-1] + 1]))

    def to_dict(self) -> dict[str, Any]:
        """For a snapshot, as JSON values: about 20 bytes for each grid point and side."""
        self._move()
        return {
            **{name: getattr(self, name) for name in ("alpha", "cells", "spacing", "n", "total", "squares")},
            "at": list(self.at),
            "log_up": self._log_up.tolist(),
            "log_down": self._log_down.tolist(),
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Betting:
        """The inverse of `to_dict`."""
        made = cls(float(state["alpha"]), int(state["cells"]), state["spacing"], state["at"])
        made.n, made.total, made.squares = int(state["n"]), float(state["total"]), float(state["squares"])
        up, down = (np.array(state[name], dtype=np.float64) for name in ("log_up", "log_down"))
        if up.shape != made._grid.shape or down.shape != made._grid.shape:
            raise ValueError(f"the snapshot has {up.shape} capitals for a grid of {made._grid.shape}: discard it")
        made._log_up, made._log_down = up, down
        return made
