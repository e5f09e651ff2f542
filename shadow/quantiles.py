"""Quantiles and whole distributions, at every look: latency p50, p95, p99 of two arms, sign tests, DKW bands.

A quantile's confidence sequence is the Bernoulli one turned round: the number of values at or below the true p-quantile
is a count of successes at rate p, so the counts that the Bernoulli e-process does not refute name two order statistics
between which the quantile lies. Order statistics of unlimited traffic come from a log-linear histogram: 128 buckets to
each power of two, so a bucket is at most 1/128 = 0.78 % wide. Intervals are rounded outwards to bucket edges, hence
never too short. Two histograms add up to the histogram of both streams.

What it leaves out: the two arms of a pair are not matched up here (that is `SignTest` and a signed histogram of the
paired differences), so differences of quantiles are wider than they might be, but need no model of how the arms depend
on each other. Latencies that drift with the load break the assumption of a constant quantile; the arms are then still
comparable, because both twins of a pair are sent together, but each one's own interval is about an average.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq, minimize_scalar

from shadow.sequential import (
    Bernoulli,
    Floats,
    Interval,
    bernoulli_log_e,
    log_threshold,
    rejection_boundary,
)

BUCKETS_PER_OCTAVE = 128
# The weight, in observations, of the prior around p in `order_statistic_ranks`: tightest for a few hundred to a few
# thousand values, where latency gates are decided; 10 and 100 are within 2 % of it there.
PRIOR_WEIGHT = 30.0
LIL_SCALE = 0.85  # A in arXiv 1906.09712, theorem 2; the paper's own choice


def order_statistic_ranks(n: ArrayLike, p: float, alpha: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ranks (low, high), 1-based, with x_(low) <= p-quantile <= x_(high) for all n at once with probability 1 - alpha.

    Howard & Ramdas (arXiv 1906.09712), theorem 1, with the beta-binomial mixture of `bernoulli_log_e` as the
    Bernoulli sequence. Assumes: given the past, a value lies at or below the p-quantile with probability p; ties and
    atoms are allowed (break them at random: the count then lies between #{x < q} and #{x <= q}).
    low is 0 and high is n + 1 while there is no bound on that side. Shapes follow n.
    """
    if not 0.0 < p < 1.0:
        raise ValueError(f"the quantile's level is {p!r}: give a share between 0 and 1, such as 0.95")
    bar = log_threshold(alpha)
    n = np.asarray(n, dtype=np.float64)

    def rejects(k: Floats) -> NDArray[np.bool_]:
        return bernoulli_log_e(k, n - k, p, PRIOR_WEIGHT * p, PRIOR_WEIGHT * (1.0 - p)) >= bar

    # ln E is convex in the count k, taken as a real number, with its least value near np: one boundary on each side.
    zero = np.zeros_like(n)
    below = np.floor(rejection_boundary(rejects, n * p, zero)) + 1.0
    above = np.ceil(rejection_boundary(rejects, n * p, n))
    low = np.where(rejects(zero), below, 0.0)
    high = np.where(rejects(n), above, n + 1.0)
    return low.astype(np.int64), high.astype(np.int64)


@lru_cache(maxsize=8)
def _edges(low_exponent: int, high_exponent: int, signed: bool) -> tuple[Floats, Floats]:
    """(lower, upper) edge of every bucket; exact in binary, so that a value never falls beside its bucket."""
    octaves = np.repeat(np.arange(low_exponent, high_exponent), BUCKETS_PER_OCTAVE)
    steps = np.tile(np.arange(BUCKETS_PER_OCTAVE) / BUCKETS_PER_OCTAVE, high_exponent - low_exponent)
    edges = np.append(np.ldexp(1.0 + steps, octaves), 2.0**high_exponent)
    lower, upper = np.append(0.0, edges), np.append(edges, np.inf)
    if signed:
        lower, upper = np.concatenate((-upper[:0:-1], lower)), np.concatenate((-lower[:0:-1], upper))
        middle = len(lower) // 2
        lower[middle] = -upper[middle]
    return lower, upper


class Histogram:
    """Log-linear counts of values: order statistics within 1 % in about 40 kB (80 kB signed), whatever the traffic.

    Buckets cover 2^low_exponent to 2^high_exponent; what is nearer to 0 shares one bucket around it, what is larger
    shares the last. The defaults span a microsecond to twelve days in seconds, or a nanosecond to a quarter of an hour in
    milliseconds. `signed` is for differences.
    """

    __slots__ = ("_buckets", "_scale", "_zero", "counts", "high_exponent", "least", "low_exponent", "most", "n", "signed")

    def __init__(self, signed: bool = False, low_exponent: int = -20, high_exponent: int = 20) -> None:
        if not low_exponent < high_exponent:
            raise ValueError(f"exponents {low_exponent} to {high_exponent} leave no bucket: give low < high")
        self.signed, self.low_exponent, self.high_exponent = signed, low_exponent, high_exponent
        self._buckets = (high_exponent - low_exponent) * BUCKETS_PER_OCTAVE
        self._zero = self._buckets + 1 if signed else 0
        self._scale = 2.0**-low_exponent
        self.counts = array("q", bytes(8 * (self._zero + self._buckets + 2)))
        self.n = 0
        self.least, self.most = math.inf, -math.inf

    def update(self, value: float) -> None:
        """Counts one value; ValueError for NaN, infinity, or a negative value in an unsigned histogram."""
        if not -math.inf < value < math.inf or (value < 0.0 and not self.signed):
            raise ValueError(f"the value {value!r} cannot be counted: differences need Histogram(signed=True)")
        part, exponent = math.frexp(abs(value) * self._scale)
        if exponent < 1:  # below the lowest edge
            bucket = 0
        else:
            # part is in [1/2, 1): twice it, less 1, is how far into the octave the value lies.
            bucket = exponent * BUCKETS_PER_OCTAVE + int(part * (2 * BUCKETS_PER_OCTAVE)) - (2 * BUCKETS_PER_OCTAVE - 1)
            if bucket > self._buckets:
                bucket = self._buckets + 1
        self.counts[self._zero + bucket if value >= 0.0 else self._zero - bucket] += 1
        self.n += 1
        if value < self.least:  # noqa: PLR1730  min() is a call, and several values are counted for every pair
            self.least = value
        if value > self.most:  # noqa: PLR1730
            self.most = value

    def extend(self, values: Sequence[float]) -> None:
        """Counts many values, as `update` would one by one, in a tenth of the time. ValueError, with none counted, for a value
        that `update` refuses.
        """
        if not len(values):
            return
        numbers = np.array(values, dtype=np.float64)
        least, most = float(numbers.min()), float(numbers.max())  # NaN when there is one
        if not -math.inf < least <= most < math.inf or (least < 0.0 and not self.signed):
            raise ValueError("a value is not finite, or negative: differences need Histogram(signed=True)")
        parts, exponents = np.frexp(np.abs(numbers) * self._scale)
        buckets = exponents * BUCKETS_PER_OCTAVE + (parts * (2 * BUCKETS_PER_OCTAVE)).astype(np.int64)
        buckets = np.minimum(buckets - (2 * BUCKETS_PER_OCTAVE - 1), self._buckets + 1)
        buckets[exponents < 1] = 0
        places, counts = np.unique(np.where(numbers >= 0.0, self._zero + buckets, self._zero - buckets), return_counts=True)
        np.frombuffer(self.counts, dtype=np.int64)[places] += counts
        self.n += len(numbers)
        self.least, self.most = min(self.least, least), max(self.most, most)

    def merge(self, other: Histogram) -> None:
        """Adds another stream's counts; ValueError when the buckets differ."""
        if self._layout() != other._layout():
            raise ValueError("only histograms with the same buckets add up: give both the same settings")
        mine = np.frombuffer(self.counts, dtype=np.int64)
        mine += np.frombuffer(other.counts, dtype=np.int64)
        self.n += other.n
        self.least, self.most = min(self.least, other.least), max(self.most, other.most)

    def _layout(self) -> tuple[int, int, bool]:
        return self.low_exponent, self.high_exponent, self.signed

    def cumulative(self) -> NDArray[np.int64]:
        """Number of values in each bucket and all lower ones."""
        return np.cumsum(np.frombuffer(self.counts, dtype=np.int64))

    def edges(self) -> tuple[Floats, Floats]:
        """(lower, upper) edge of every bucket, in the values' unit."""
        return _edges(*self._layout())

    def order_statistic(self, rank: int) -> Interval:
        """The bucket that holds the rank-th smallest value (1-based), cut to the extremes seen. ValueError outside 1..n."""
        if not 1 <= rank <= self.n:
            raise ValueError(f"there is no value of rank {rank} among {self.n}")
        bucket = int(np.searchsorted(self.cumulative(), rank))
        lower, upper = self.edges()
        return Interval(max(float(lower[bucket]), self.least), min(float(upper[bucket]), self.most))

    def quantile(self, p: float) -> float | None:
        """The sample quantile, within 0.4 %; None before the first value."""
        if not self.n:
            return None
        around = self.order_statistic(max(1, math.ceil(p * self.n)))
        return 0.5 * (around.low + around.high)

    def quantile_interval(self, p: float, alpha: float) -> Interval:
        """Confidence sequence for the p-quantile, rounded outwards; see `order_statistic_ranks`.

        Without a bound an end is infinite (0 below, when values cannot be negative): p99 has no upper end at n = 200.
        """
        low, high = (int(rank) for rank in order_statistic_ranks(self.n, p, alpha))
        none_below = -math.inf if self.signed else 0.0
        return Interval(
            self.order_statistic(low).low if low >= 1 else none_below,
            self.order_statistic(high).high if high <= self.n else math.inf,
        )

    def to_dict(self) -> dict[str, Any]:
        """For a snapshot, as JSON values; only buckets that hold something."""
        filled = np.flatnonzero(np.frombuffer(self.counts, dtype=np.int64))
        return {
            "low_exponent": self.low_exponent,
            "high_exponent": self.high_exponent,
            "signed": self.signed,
            "least": self.least if self.n else None,
            "most": self.most if self.n else None,
            "counts": [[int(bucket), self.counts[int(bucket)]] for bucket in filled],
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Histogram:
        """The inverse of `to_dict`."""
        made = cls(bool(state["signed"]), int(state["low_exponent"]), int(state["high_exponent"]))
        for bucket, count in state["counts"]:
            made.counts[bucket] = count
            made.n += count
        if made.n:
            made.least, made.most = float(state["least"]), float(state["most"])
        return made


def quantile_difference(green: Histogram, blue: Histogram, p: float, alpha: float) -> Interval:
    """Confidence sequence for green's p-quantile less blue's: both sequences at alpha / 2, subtracted (union bound).

    Holds whatever the dependence between the arms. Source and assumptions: `order_statistic_ranks`.
    """
    g, b = green.quantile_interval(p, alpha / 2.0), blue.quantile_interval(p, alpha / 2.0)
    return Interval(g.low - b.high, g.high - b.low)


def quantile_ratio(green: Histogram, blue: Histogram, p: float, alpha: float) -> Interval:
    """Confidence sequence for green's p-quantile over blue's, of values >= 0: both at alpha / 2, divided."""
    g, b = green.quantile_interval(p, alpha / 2.0), blue.quantile_interval(p, alpha / 2.0)
    if g.low < 0.0 or b.low < 0.0:
        raise ValueError("a ratio of quantiles needs values that cannot be negative: use quantile_difference")
    return Interval(
        g.low / b.high if b.high > 0.0 else 0.0,
        g.high / b.low if b.low > 0.0 else math.inf,
    )


@dataclass(slots=True)
class SignTest:
    """Whether the median of a paired difference lies above or below `margin` (Arbuthnot 1710; Bernoulli at 1/2).

    Given the past, H0 "median <= margin" says that a difference exceeds the margin with probability at most 1/2, so the
    exact Bernoulli e-process applies to all pairs, whatever the differences' distribution. Ties speak for neither side.
    """

    margin: float = 0.0
    above: Bernoulli = field(default_factory=Bernoulli)
    below: Bernoulli = field(default_factory=Bernoulli)

    def update(self, difference: float) -> None:
        """Counts one paired difference, green less blue, in the unit of the margin."""
        if math.isnan(difference):
            raise ValueError("a difference that is not a number has no sign: leave it out and count it")
        self.above.update(difference > self.margin)
        self.below.update(difference < self.margin)

    def merge(self, other: SignTest) -> None:
        """Adds another stream's signs; ValueError when the margins differ."""
        if self.margin != other.margin:
            raise ValueError(f"signs about {self.margin} and about {other.margin} do not add up")
        self.above.merge(other.above)
        self.below.merge(other.below)

    @property
    def n(self) -> int:
        """Pairs so far."""
        return self.above.n

    def log_e_above(self) -> float:
        """Evidence that the median difference lies above the margin; H0: median <= margin."""
        return self.above.log_e_above(0.5)

    def log_e_below(self) -> float:
        """Evidence that the median difference lies below the margin; H0: median >= margin."""
        return self.below.log_e_above(0.5)

    def to_dict(self) -> dict[str, Any]:
        """For a snapshot, as JSON values."""
        return {"margin": self.margin, "above": self.above.to_dict(), "below": self.below.to_dict()}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> SignTest:
        """The inverse of `to_dict`."""
        return cls(float(state["margin"]), Bernoulli.from_dict(state["above"]), Bernoulli.from_dict(state["below"]))


# --- whole distributions ----------------------------------------------------------------------------------------------


@lru_cache(maxsize=256)
def lil_constant(alpha: float) -> float:
    """C in `lil_radius`: 8.1227 at alpha = .05. Howard & Ramdas (arXiv 1906.09712), theorem 2, with A = 0.85.

    The chance that the band is ever left is at most 4 exp(-g C)(1 + 1/((g - 1) ln eta)), g = (2/eta)(A - sqrt(2(eta -
    1)/C))^2, for every eta > 1 that leaves g > 1; C is where the best eta makes it alpha.
    """
    log_threshold(alpha)

    def log_error(c: float) -> float:
        def at(eta: float) -> float:
            g = 2.0 / eta * max(0.0, LIL_SCALE - math.sqrt(2.0 * (eta - 1.0) / c)) ** 2
            if g <= 1.0:
                return 1e3 * (2.0 - g)  # no bound; sloped, so that the search leaves this region
            return math.log(4.0) - g * c + math.log1p(1.0 / ((g - 1.0) * math.log(eta)))

        best = minimize_scalar(at, bounds=(1.0 + 1e-9, 1.2), method="bounded", options={"xatol": 1e-10})
        return float(best.fun)

    return float(brentq(lambda c: log_error(c) - math.log(alpha), 2.0, 1e4, xtol=1e-10))


def lil_radius(t: ArrayLike, alpha: float, t_min: float = 100.0) -> Floats:
    """Half width of a band around the empirical distribution: 0.85 sqrt((ln(1 + ln(t/t_min)) + C)/t), t >= t_min.

    With probability 1 - alpha the true distribution function stays within it at every value and every t >= t_min
    (Howard & Ramdas, arXiv 1906.09712, theorem 2: DKW at all times by the law of the iterated logarithm). Before t_min
    it is 1, which says nothing. Assumes independent values of one distribution.
    """
    t = np.asarray(t, dtype=np.float64)
    enough = np.maximum(t, t_min)
    radius = LIL_SCALE * np.sqrt((np.log1p(np.log(enough / t_min)) + lil_constant(alpha)) / enough)
    return np.where(t < t_min, 1.0, np.minimum(radius, 1.0))


def distribution_distance(green: Histogram, blue: Histogram, alpha: float, t_min: float = 100.0) -> Interval:
    """Confidence sequence for the Kolmogorov distance sup |F_green - F_blue|: both bands at alpha / 2, added.

    The distance seen at bucket edges is at most the sample's, and crossing a bucket adds at most what it holds, so both
    ends err outwards. Drift of predictions or scores: gate on the interval, not on PSI or Jensen-Shannon, which are for
    looking. Assumptions: `lil_radius` for each arm, in any dependence on the other.
    """
    if green._layout() != blue._layout():
        raise ValueError("only histograms with the same buckets can be compared: give both the same settings")
    if not green.n or not blue.n:
        return Interval(0.0, 1.0)
    g, b = green.cumulative() / green.n, blue.cumulative() / blue.n
    seen = float(np.max(np.abs(g - b)))
    g_before, b_before = np.append(0.0, g[:-1]), np.append(0.0, b[:-1])
    most = float(max(np.max(g - b_before), np.max(b - g_before)))
    radius = float(lil_radius(green.n, alpha / 2.0, t_min) + lil_radius(blue.n, alpha / 2.0, t_min))
    return Interval(max(0.0, seen - radius), min(1.0, most + radius))
