"""Paired yes-or-no outcomes: the same request judged bad or not on blue and on green (McNemar).

Only the pairs on which the two differ speak. Given that a pair is discordant, "green alone was bad" is a coin toss of
1/2 if green is exactly as good as blue, so the exact Bernoulli e-process decides, and no model of the traffic is needed:
the requests may be as different from each other as they like. One margin is added to that: a gate usually asks whether
green is worse *by more than some rate*, and then the concordant pairs count too. For it the e-process is a bet on the
difference D in {-1, 0, +1}, averaged over a fixed set of stakes; it is a function of the three counts alone, so it is
incremental, mergeable and independent of the order of arrival, and without a margin its average over uniform stakes is
the same number as the Bernoulli mixture with its uniform prior on (1/2, 1).

Used for: errors, accuracy against late labels, going over a latency objective, disagreement against blue's own noise,
and the shares of labels (one against the rest).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from shadow.sequential import (
    Floats,
    Interval,
    bernoulli_log_e,
    bernoulli_log_e_above,
    log_threshold,
    rejection_boundary,
)

# Stakes as fractions of the largest that cannot go bankrupt: close together near it, where one-sided counts live, then down
# by factors of sqrt(2), which costs at most 4 % of the growth rate of the best stake between two of them. The last, 1/4000,
# serves differences down to that part of the discordant rate; finer ones need more pairs than a release sees. Their weights
# imitate a uniform prior on (0, 1).
_STAKES: Floats = np.concatenate(([0.999, 0.97, 0.92, 0.82], 0.7 * np.exp2(-0.5 * np.arange(24.0))))
_CUTS: Floats = np.concatenate(([1.0], 0.5 * (_STAKES[:-1] + _STAKES[1:]), [0.0]))
_WEIGHTS: Floats = _CUTS[:-1] - _CUTS[1:]
_LOG_LOSSES: Floats = np.log1p(-_STAKES)


def mcnemar_log_e(worse: ArrayLike, better: ArrayLike) -> Floats:
    """Evidence, as ln E, against H0: among discordant pairs, `worse` and `better` are equally likely; two-sided.

    McNemar's test (1947) as the Bernoulli mixture martingale at 1/2 (Howard et al. 2021, arXiv 1810.08240, section 3.4).
    Assumes: given the past and that the pair is discordant, each direction has probability 1/2 under H0.
    """
    return bernoulli_log_e(worse, better, 0.5)


def paired_log_e_above(worse: ArrayLike, better: ArrayLike, same: ArrayLike, margin: ArrayLike = 0.0) -> Floats:
    """Evidence, as ln E, that P(worse) - P(better) lies above `margin`; rejects H0: P(worse) - P(better) <= margin.

    Test martingale by betting on a bounded mean (Waudby-Smith & Ramdas, arXiv 2010.09686, section 4) with constant
    stakes l, averaged: sum_j w_j prod_i (1 + l_j (D_i - margin)), D = 1, 0, -1 for worse, same, better, and
    0 <= l < 1/(1 + margin), so that no factor is negative. Each factor has expectation at most 1 under H0, given the
    past; nothing else is assumed. Every factor falls as the margin rises, so inverting gives one bound.
    `margin` lies strictly between -1 and 1.
    """
    w, b, z, d = (np.asarray(x, dtype=np.float64)[..., np.newaxis] for x in (worse, better, same, margin))
    return _log_mixture(w, z, b * _LOG_LOSSES, d)


def _log_mixture(w: Floats, z: Floats, lost: Floats, d: Floats) -> Floats:
    """`paired_log_e_above` of counts and margin with a last axis for the stakes, `lost` being better times `_LOG_LOSSES`."""
    # 1 + l (1 - d), 1 - l d and 1 - l (1 + d) with l = stake / (1 + d); the last does not depend on d.
    stake = _STAKES / (1.0 + d)
    growth = w * np.log1p(stake * (1.0 - d)) + z * np.log1p(-stake * d) + lost
    most = growth.max(axis=-1, keepdims=True)
    return np.asarray(most[..., 0] + np.log(np.exp(growth - most) @ _WEIGHTS))


def paired_log_e_below(worse: ArrayLike, better: ArrayLike, same: ArrayLike, margin: ArrayLike = 0.0) -> Floats:
    """Evidence, as ln E, that P(worse) - P(better) lies below `margin`; rejects H0: difference >= margin."""
    return paired_log_e_above(better, worse, same, -np.asarray(margin, dtype=np.float64))


def paired_lower(worse: ArrayLike, better: ArrayLike, same: ArrayLike, alpha: float) -> Floats:
    """One-sided lower confidence bound on P(worse) - P(better), by inverting `paired_log_e_above`."""
    bar = log_threshold(alpha)
    w, b, z = np.broadcast_arrays(*(np.asarray(x, dtype=np.float64) for x in (worse, better, same)))
    # -1 itself would need an infinite stake; the nearest double above it serves.
    limit = np.full(w.shape, np.nextafter(-1.0, 0.0))
    per_stake, same_per_stake, lost = w[..., np.newaxis], z[..., np.newaxis], b[..., np.newaxis] * _LOG_LOSSES

    def rejects(d: Floats) -> NDArray[np.bool_]:
        return np.asarray(_log_mixture(per_stake, same_per_stake, lost, d[..., np.newaxis]) >= bar)

    bound = rejection_boundary(rejects, np.full(w.shape, 1.0 - 1e-12), limit)
    return np.where(bound <= limit, -1.0, bound)


def paired_upper(worse: ArrayLike, better: ArrayLike, same: ArrayLike, alpha: float) -> Floats:
    """One-sided upper confidence bound on P(worse) - P(better)."""
    return np.asarray(-paired_lower(better, worse, same, alpha))


@dataclass(slots=True)
class McNemar:
    """Pairs counted as worse (green alone bad), better (blue alone bad) and same (both or neither)."""

    worse: int = 0
    better: int = 0
    same: int = 0

    def update(self, green_bad: bool, blue_bad: bool) -> None:
        """Counts one pair."""
        if green_bad == blue_bad:
            self.same += 1
        elif green_bad:
            self.worse += 1
        else:
            self.better += 1

    def merge(self, other: McNemar) -> None:
        """Adds another stream's counts; the result is that of one stream with all the pairs."""
        self.worse += other.worse
        self.better += other.better
        self.same += other.same

    @property
    def n(self) -> int:
        """Pairs so far, concordant ones too."""
        return self.worse + self.better + self.same

    @property
    def difference(self) -> float | None:
        """Share of pairs on which green alone was bad, less the share on which blue alone was; None before any pair."""
        return (self.worse - self.better) / self.n if self.n else None

    def log_e_above(self, margin: float = 0.0) -> float:
        """Evidence that green is bad more often than blue by more than `margin`; H0: the difference is <= margin.

        Without a margin this is McNemar's test on the discordant pairs, by the exact Bernoulli e-process at 1/2.
        """
        _check_margin(margin)
        if margin == 0.0:
            return float(bernoulli_log_e_above(self.worse, self.better, 0.5))
        return float(paired_log_e_above(self.worse, self.better, self.same, margin))

    def log_e_below(self, margin: float = 0.0) -> float:
        """Evidence that green is *not* bad more often than blue by `margin` or more; H0: the difference is >= margin."""
        _check_margin(margin)
        if margin == 0.0:
            return float(bernoulli_log_e_above(self.better, self.worse, 0.5))
        return float(paired_log_e_below(self.worse, self.better, self.same, margin))

    def lower(self, alpha: float) -> float:
        """One-sided lower bound on the difference of rates, green less blue."""
        return float(paired_lower(self.worse, self.better, self.same, alpha))

    def upper(self, alpha: float) -> float:
        """One-sided upper bound on the difference of rates, green less blue."""
        return float(paired_upper(self.worse, self.better, self.same, alpha))

    def interval(self, alpha: float) -> Interval:
        """Two-sided confidence sequence of the difference of rates: both one-sided bounds at alpha / 2."""
        return Interval(self.lower(alpha / 2.0), self.upper(alpha / 2.0))

    def to_dict(self) -> dict[str, int]:
        """For a snapshot, as JSON values."""
        return {"worse": self.worse, "better": self.better, "same": self.same}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> McNemar:
        """The inverse of `to_dict`."""
        return cls(int(state["worse"]), int(state["better"]), int(state["same"]))


def label_shift(confusion: ArrayLike, alpha: float) -> tuple[Floats, Interval]:
    """Whether green gives some label a different share than blue does, from pairs counted by (blue's, green's) label.

    `confusion` has shape (k, k): rows blue's label, columns green's. Returns (log_e, distance): log_e of shape (k,), the
    two-sided McNemar evidence for each label against the rest (their mean is an e-value for "no label shifts", whatever
    their dependence: Vovk & Wang 2021), and an interval for the largest absolute difference of a label's share, which
    holds for all labels at once since each gets alpha / k (union bound). Assumptions: `paired_log_e_above`.
    """
    counts = np.asarray(confusion, dtype=np.float64)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or counts.shape[0] == 0:
        raise ValueError(f"the confusion counts have shape {counts.shape}: give one row and one column for each label")
    agreeing = np.diagonal(counts)
    more, fewer = counts.sum(axis=0) - agreeing, counts.sum(axis=1) - agreeing
    same = counts.sum() - more - fewer
    each = alpha / (2.0 * len(counts))
    # Both bounds in one search; the upper one is the lower one of the other direction with its sign turned.
    low, high = paired_lower(np.stack((more, fewer)), np.stack((fewer, more)), same, each)
    high = -high
    least = np.maximum(0.0, np.maximum(low, -high))
    most = np.maximum(np.abs(low), np.abs(high))
    return mcnemar_log_e(more, fewer), Interval(float(least.max()), float(most.max()))


def _check_margin(margin: float) -> None:
    if not (-1.0 < margin < 1.0 and math.isfinite(margin)):
        raise ValueError(f"the margin is {margin!r}: give a difference of two rates, between -1 and 1, such as 0.01")
