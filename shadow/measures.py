"""What a comparison measures beyond yes or no, over all pairs: differences of numbers, similarities of texts and vectors.

Each pair counts once, with the mean over its items, since items of one request are not independent. A measure that lies in
[0, 1] by definition gets an exact interval (empirical Bernstein); one without bounds only the asymptotic one, and none before
200 pairs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from shadow.bounded import EmpiricalBernstein
from shadow.packing import pack_histogram, unpack_histogram
from shadow.quantiles import Histogram
from shadow.sequential import AsymptoticMean, Interval

MAX_MEASURES: Final = 32
GATHERED: Final = 512
BINS: Final = 41
# In [0, 1] by definition. A comparison of the operator's own may name its measures as it likes: those are never here.
BOUNDED: Final = frozenset(
    "arg_max_flip total_variation max_probability_difference exact edit_similarity token_f1 overlap same_first".split()
)
TEXT: Final = ("exact", "edit_similarity", "token_f1", "length_difference")
# Means that say nothing: counts of fields, and a maximum that the histogram of differences shows better.
_LEFT_OUT: Final = frozenset({"fields", "fields_differing", "max_difference"})

Document = dict[str, Any]


class Numbers:
    """Differences green - blue of all numbers that were compared; its memory is a histogram."""

    __slots__ = ("histogram", "mean", "not_finite")

    def __init__(self) -> None:
        self.histogram: Histogram | None = None  # 130 kB that most releases do not need
        self.mean = AsymptoticMean()
        self.not_finite = 0

    def update(self, differences: Sequence[float]) -> None:
        """Adds one pair's differences; its mean counts once."""
        if self.histogram is None:
            self.histogram = Histogram(True, -24, 40)
        total, n = 0.0, 0
        for difference in differences:
            if math.isfinite(difference):
                self.histogram.update(difference)
                total += difference
                n += 1
            else:
                self.not_finite += 1
        if n and math.isfinite(total) and abs(total) < 1e100:
            self.mean.update(total / n)

    def snapshot(self, alpha: float) -> Document:
        """The section `numbers`: the mean difference, its interval, quantiles and a histogram of the differences."""
        histogram = self.histogram
        if histogram is None or not histogram.n:
            return {"n": 0, "mean": None, "ci": [None, None], "not_finite": self.not_finite, "histogram": None}
        return {
            "n": self.mean.n,
            "mean": self.mean.mean if self.mean.n else None,
            "ci": self.mean.interval(alpha).to_json(),
            "sd": self.mean.sd,
            "differences": histogram.n,
            "not_finite": self.not_finite,
            "least": histogram.least,
            "most": histogram.most,
            "quantiles": {f"p{round(100 * p)}": histogram.quantile(p) for p in (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)},
            "histogram": _in_even_bins(histogram),
        }

    def to_dict(self) -> Document:
        """For the state, as JSON values."""
        packed = None if self.histogram is None else pack_histogram(self.histogram)
        return {"histogram": packed, "mean": self.mean.to_dict(), "not_finite": self.not_finite}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Numbers:
        """The inverse of `to_dict`."""
        made = cls()
        made.histogram = None if state["histogram"] is None else unpack_histogram(state["histogram"])
        made.mean, made.not_finite = AsymptoticMean.from_dict(state["mean"]), int(state["not_finite"])
        return made


class Measures:
    """Means of the named measures of pairs, at most `MAX_MEASURES` names. What is bounded is gathered, `GATHERED` values at a
    time, and added in one go: `add_gathered` before `bounded` is read from outside.
    """

    __slots__ = ("_new", "bounded", "refused", "unbounded")

    def __init__(self) -> None:
        self._new: dict[str, list[float]] = {}
        self.bounded: dict[str, EmpiricalBernstein] = {}
        self.unbounded: dict[str, AsymptoticMean] = {}
        self.refused = 0  # values that are no number of the measure's range, or of a name too many

    def update(self, measures: Mapping[str, float], *, own: bool = False) -> None:
        """Adds one pair's measures; `own`: they come from the operator's comparison, whose names promise nothing."""
        for name, value in measures.items():
            if name in _LEFT_OUT:
                continue
            if own or name not in BOUNDED:
                mean = self.unbounded.get(name)
                if mean is None:
                    if len(self.unbounded) >= MAX_MEASURES:
                        self.refused += 1
                        continue
                    mean = self.unbounded[name] = AsymptoticMean()
                if abs(value) < 1e100:
                    mean.update(value)
                else:
                    self.refused += 1
            elif 0.0 <= value <= 1.0:
                new = self._new.get(name)
                if new is None:
                    new = self._new[name] = []
                new.append(value)
                if len(new) >= GATHERED:
                    self.add_gathered()
            else:
                self.refused += 1

    def add_gathered(self) -> None:
        """Add what was gathered."""
        for name, new in self._new.items():
            if name not in self.bounded:
                self.bounded[name] = EmpiricalBernstein()
            self.bounded[name].extend(new)
        self._new.clear()

    def snapshot(self, alpha: float) -> Document:
        """Every measure by name: `{n, mean, ci}`."""
        self.add_gathered()
        found: Document = {}
        for name, exact in self.bounded.items():
            around = exact.interval(alpha)
            clipped = Interval(max(around.low, 0.0), min(around.high, 1.0))
            found[name] = {"n": exact.n, "mean": exact.mean, "ci": clipped.to_json()}
        for name, mean in self.unbounded.items():
            found[name] = {"n": mean.n, "mean": mean.mean, "ci": mean.interval(alpha).to_json()}
        return found

    def to_dict(self) -> Document:
        """For the state, as JSON values."""
        self.add_gathered()
        return {
            "bounded": {name: mean.to_dict() for name, mean in self.bounded.items()},
            "unbounded": {name: mean.to_dict() for name, mean in self.unbounded.items()},
            "refused": self.refused,
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Measures:
        """The inverse of `to_dict`."""
        made = cls()
        made.bounded = {name: EmpiricalBernstein.from_dict(mean) for name, mean in state["bounded"].items()}
        made.unbounded = {name: AsymptoticMean.from_dict(mean) for name, mean in state["unbounded"].items()}
        made.refused = int(state["refused"])
        return made


def _in_even_bins(histogram: Histogram) -> Document:
    """`{edges [k+1], counts [k], below, above}`: even bins, symmetric about 0, that hold all but the outermost per cent.

    A bucket of the log-linear histogram is spread over the bins by its middle: right to within 1 % of the value.
    """
    low, high = histogram.quantile(0.005), histogram.quantile(0.995)
    assert low is not None
    assert high is not None
    reach = max(abs(low), abs(high)) or max(abs(histogram.least), abs(histogram.most)) or 1.0
    edges = np.linspace(-reach, reach, BINS + 1)
    lower, upper = histogram.edges()
    counts = np.frombuffer(histogram.counts, dtype=np.int64)
    filled = np.flatnonzero(counts)
    middles = 0.5 * (np.maximum(lower[filled], histogram.least) + np.minimum(upper[filled], histogram.most))
    places = np.searchsorted(edges, middles, side="right") - 1
    places[(middles == reach)] = BINS - 1
    inside = (places >= 0) & (places < BINS)
    bins = np.bincount(places[inside], weights=counts[filled][inside], minlength=BINS).astype(np.int64)
    return {
        "edges": edges.tolist(),
        "counts": bins.tolist(),
        "below": int(counts[filled][places < 0].sum()),
        "above": int(counts[filled][places >= BINS].sum()),
    }
