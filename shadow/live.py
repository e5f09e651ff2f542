"""Inference on split live traffic, where the share of green changes as it ramps and the world changes under it.

Nothing here compares green's rate so far with blue's rate so far: with a ramp and a drifting base rate, that calls two
equal arms different with certainty. Instead each observation is judged by what was random about it, the arm it was sent
to, at the share that held at that moment. Errors: given that a request failed, it was green's with a probability that
depends only on the share and on the ratio of the error rates. Rewards: divided by the probability of the arm taken.
Traffic itself: green's count against the plan's share (sample ratio mismatch).

The unit of analysis must be the unit of randomisation. When the split key is a user, feed users, not requests:
`UnitWindows` turns requests into one observation for each user. Analysed per request, 40 sticky users give a false alarm
in about half of all A/A tests, whatever the method.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq

from shadow.bounded import EmpiricalBernstein
from shadow.multiplicity import attempt_alpha
from shadow.sequential import Floats, Interval, bernoulli_log_e, log_threshold, rejection_boundary

# Alternatives to a ratio of error rates, as distances of its logarithm: 3 % to 17-fold, by factors of sqrt(2). Small ones
# get less weight: they are decided late, when the price of a small weight no longer counts.
_LOG_RATIOS: Floats = 0.03125 * np.exp2(0.5 * np.arange(14.0))
_RATIO_WEIGHTS: Floats = np.sqrt(_LOG_RATIOS) / np.sqrt(_LOG_RATIOS).sum()
# |ln theta| beyond which a bound on the ratio of error rates is no bound.
_WIDEST = 20.0
# Weight, in units, of the prior around the plan's share: tightest against relative deviations of a few to thirty percent.
_SHARE_WEIGHT = 100.0
# Plan revisions kept apart; the oldest beyond that leaves only its evidence.
_REVISIONS = 256


# --- error events -----------------------------------------------------------------------------------------------------


def error_events_log_e(green: ArrayLike, blue: ArrayLike, shares: ArrayLike, theta0: ArrayLike = 1.0) -> Floats:
    """Evidence, as ln E, that green's error rate is more than theta0 times blue's; rejects H0: ratio <= theta0.

    `green` and `blue` count error events by the share of green that held at the time, shape (..., k) for k `shares`;
    theta0 has the leading shape. Given an error at share pi, P(it was green's) = pi theta/(pi theta + 1 - pi), theta the
    ratio of the error rates at that moment; the likelihood ratio of theta against theta0 is averaged over a fixed grid
    of theta > theta0 (mixture martingale, Ville). Larger ratios have likelihood ratios of expectation <= 1 under any
    theta <= theta0. Assumes: each request goes to green with probability pi whatever it is, and theta <= theta0 at all
    times under H0. The base rate may drift and the share may change in any way. Falls as theta0 rises.
    """
    g, b = np.asarray(green, dtype=np.float64), np.asarray(blue, dtype=np.float64)
    pi = np.asarray(shares, dtype=np.float64)[:, np.newaxis]
    theta = np.asarray(theta0, dtype=np.float64)[..., np.newaxis, np.newaxis]
    # ln of (pi theta e^x + 1 - pi)/(pi theta + 1 - pi), for every share and every grid point x.
    odds = pi * theta / (pi * theta + 1.0 - pi)
    normaliser = np.log1p(odds * np.expm1(_LOG_RATIOS))
    growth = g.sum(axis=-1)[..., np.newaxis] * _LOG_RATIOS - ((g + b)[..., np.newaxis] * normaliser).sum(axis=-2)
    most = growth.max(axis=-1)
    return np.asarray(most + np.log(np.exp(growth - most[..., np.newaxis]) @ _RATIO_WEIGHTS))


@dataclass(slots=True)
class ErrorEvents:
    """Error events of the live split, counted by the share of green at the time: `error_events_log_e`.

    The share is a plan's, in steps of 0.01 %, so the counts stay few. Under a sticky split feed each user's *first* error
    only (`shadow.draws`): his later errors are not independent of it. `at_risk` counts, by the same shares, the requests of
    those who had met no error before, the failed ones among them: over these a difference of rates can be told, too.
    """

    counts: dict[float, list[int]] = field(default_factory=dict)  # share -> [blue's, green's]
    unsplit: int = 0  # errors while all traffic went one way, which compare nothing
    at_risk: dict[float, int] = field(default_factory=dict)  # share -> requests

    def risk(self, share: float) -> None:
        """Counts one request that was not certain to be well, whatever came of it."""
        if 0.0 < share < 1.0:
            self.at_risk[share] = self.at_risk.get(share, 0) + 1

    def update(self, green: bool, share: float) -> None:
        """Counts one error event: whose it was, and the probability of green at the time."""
        if not 0.0 < share < 1.0:
            self.unsplit += 1
            return
        self.counts.setdefault(share, [0, 0])[green] += 1

    def merge(self, other: ErrorEvents) -> None:
        """Adds another stream's events."""
        self.unsplit += other.unsplit
        for share, (blue, green) in other.counts.items():
            mine = self.counts.setdefault(share, [0, 0])
            mine[0] += blue
            mine[1] += green
        for share, requests in other.at_risk.items():
            self.at_risk[share] = self.at_risk.get(share, 0) + requests

    @property
    def n(self) -> int:
        """Error events that compare, of both arms."""
        return sum(blue + green for blue, green in self.counts.values())

    def _arrays(self) -> tuple[Floats, Floats, Floats]:
        table = np.array([[share, *counts] for share, counts in self.counts.items()]).reshape(-1, 3)
        return table[:, 2], table[:, 1], table[:, 0]

    def log_e_above(self, theta0: float = 1.0) -> float:
        """Evidence that green fails more than theta0 times as often as blue; H0: ratio <= theta0."""
        green, blue, shares = self._arrays()
        return float(error_events_log_e(green, blue, shares, theta0))

    def log_e_below(self, theta0: float = 1.0) -> float:
        """Evidence that green fails less than theta0 times as often as blue; H0: ratio >= theta0."""
        green, blue, shares = self._arrays()
        return float(error_events_log_e(blue, green, 1.0 - shares, 1.0 / theta0))

    @property
    def ratio(self) -> float | None:
        """Maximum likelihood estimate of the ratio of error rates, green over blue; None before any event."""
        green, blue, shares = self._arrays()
        total = green.sum() + blue.sum()
        if not total:
            return None
        if not green.sum() or not blue.sum():
            return 0.0 if not green.sum() else math.inf

        def excess(log_theta: float) -> float:
            expected = shares * math.exp(log_theta) / (shares * math.exp(log_theta) + 1.0 - shares)
            return float(((green + blue) * expected).sum() - green.sum())

        return math.exp(brentq(excess, -60.0, 60.0))

    def interval(self, alpha: float) -> Interval:
        """Two-sided confidence sequence of the ratio (the average that the likelihood weighs, if it moves)."""
        green, blue, shares = self._arrays()
        low = _ratio_bound(green, blue, shares, alpha / 2.0)
        high = _ratio_bound(blue, green, 1.0 - shares, alpha / 2.0)
        return Interval(low, 1.0 / high if high > 0.0 else math.inf)

    def to_dict(self) -> dict[str, Any]:
        """For a snapshot, as JSON values."""
        counts = [[share, *counts] for share, counts in self.counts.items()]
        return {"counts": counts, "unsplit": self.unsplit, "at_risk": [list(item) for item in self.at_risk.items()]}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> ErrorEvents:
        """The inverse of `to_dict`."""
        counts = {float(share): [int(blue), int(green)] for share, blue, green in state["counts"]}
        at_risk = {float(share): int(requests) for share, requests in state["at_risk"]}
        return cls(counts, int(state["unsplit"]), at_risk)


def _ratio_bound(green: Floats, blue: Floats, shares: Floats, alpha: float) -> float:
    """Lower confidence bound on the ratio of green's error rate to blue's; 0 while there is none."""
    bar = log_threshold(alpha)
    log_theta = rejection_boundary(
        lambda x: error_events_log_e(green, blue, shares, np.exp(x)) >= bar, np.array(_WIDEST), np.array(-_WIDEST)
    )
    return math.exp(float(log_theta)) if log_theta > -_WIDEST else 0.0


# --- rewards ----------------------------------------------------------------------------------------------------------


def propensity_scores(reward: ArrayLike, green: ArrayLike, share: ArrayLike) -> tuple[Floats, Floats, Floats]:
    """(z, scale, variance) along the last axis, for `empirical_bernstein(z, alpha, 0, scale, variance)`.

    Inverse propensity scores (Horvitz & Thompson 1952), z = A (Y - m)/pi - (1 - A)(Y - m)/(1 - pi): given the past, z has
    the mean E[Y of green] - E[Y of blue], whatever the predictable centre m; the running mean of Y makes z vary least.
    Used in a sequential experiment by Howard et al. 2021 (arXiv 1810.08240), section 4.2. `reward` in [0, 1], `green` 0
    or 1, `share` strictly between 0 and 1, broadcast. |z| <= scale; variance is what z would have without a difference.
    """
    y, a, pi = np.broadcast_arrays(*(np.asarray(x, dtype=np.float64) for x in (reward, green, share)))
    t = np.arange(1, y.shape[-1] + 1, dtype=np.float64)
    m = (0.5 + np.cumsum(y, axis=-1) - y) / t
    squares = np.square(y - m)
    spread = (0.25 + np.cumsum(squares, axis=-1) - squares) / t
    z = (a / pi - (1.0 - a) / (1.0 - pi)) * (y - m)
    return z, np.maximum(m, 1.0 - m) / np.minimum(pi, 1.0 - pi), spread / (pi * (1.0 - pi))


class RewardDifference:
    """Mean reward of green less blue's on split traffic, exact under ramping and drift: `propensity_scores`.

    Rewards lie between `low` and `high`, declared before the first one; a reward beyond is cut to the bound and counted.
    The interval is for the average difference over the traffic, steps weighed by their precision. One observation for
    each unit of randomisation: see `UnitWindows`.
    """

    __slots__ = ("clipped", "high", "low", "scores", "squares", "total", "unsplit")

    def __init__(self, low: float = 0.0, high: float = 1.0, alpha: float = 0.05) -> None:
        if not low < high:
            raise ValueError(f"rewards from {low} to {high} cannot differ: declare low < high")
        self.low, self.high = low, high
        self.scores = EmpiricalBernstein(alpha)
        self.total, self.squares = 0.0, 0.0
        self.clipped, self.unsplit = 0, 0

    def update(self, reward: float, green: bool, share: float) -> None:
        """Adds one reward, the arm that earned it and the probability of green when the arm was drawn."""
        if not math.isfinite(reward):
            raise ValueError(f"the reward {reward!r} is not finite: leave it out and count it")
        if not 0.0 < share < 1.0:
            self.unsplit += 1
            return
        if not self.low <= reward <= self.high:
            self.clipped += 1
        y = (min(max(reward, self.low), self.high) - self.low) / (self.high - self.low)
        t = self.scores.n + 1
        m = (0.5 + self.total) / t
        spread = (0.25 + self.squares) / t
        z = (y - m) / share if green else -(y - m) / (1.0 - share)
        self.scores.update(z, 0.0, max(m, 1.0 - m) / min(share, 1.0 - share), spread / (share * (1.0 - share)))
        self.total += y
        self.squares += (y - m) ** 2

    def merge(self, other: RewardDifference) -> None:
        """Joins another stream's evidence, as `EmpiricalBernstein.merge` does; ValueError when the bounds differ."""
        if (self.low, self.high) != (other.low, other.high):
            raise ValueError("only rewards with the same declared bounds can be joined")
        self.scores.merge(other.scores)
        self.total, self.squares = self.total + other.total, self.squares + other.squares
        self.clipped, self.unsplit = self.clipped + other.clipped, self.unsplit + other.unsplit

    @property
    def n(self) -> int:
        """Rewards that compare."""
        return self.scores.n

    @property
    def estimate(self) -> float | None:
        """Difference of mean rewards, weighed as the interval is; None before the first."""
        return (self.high - self.low) * self.scores.weighted / self.scores.weight if self.n else None

    def log_e_above(self, difference: float = 0.0) -> float:
        """Evidence that green earns more than blue plus `difference`; H0: the difference is <= it."""
        return self.scores.log_e_above(difference / (self.high - self.low))

    def log_e_below(self, difference: float = 0.0) -> float:
        """Evidence that green earns less than blue plus `difference`; H0: the difference is >= it."""
        return self.scores.log_e_below(difference / (self.high - self.low))

    def interval(self, alpha: float) -> Interval:
        """Two-sided confidence sequence of the difference, in the reward's unit."""
        found, unit = self.scores.interval(alpha), self.high - self.low
        return Interval(max(-1.0, found.low) * unit, min(1.0, found.high) * unit)

    def to_dict(self) -> dict[str, Any]:
        """For a snapshot, as JSON values."""
        kept = {name: getattr(self, name) for name in self.__slots__ if name != "scores"}
        return {**kept, "scores": self.scores.to_dict()}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> RewardDifference:
        """The inverse of `to_dict`."""
        made = cls(float(state["low"]), float(state["high"]))
        made.scores = EmpiricalBernstein.from_dict(state["scores"])
        made.total, made.squares = float(state["total"]), float(state["squares"])
        made.clipped, made.unsplit = int(state["clipped"]), int(state["unsplit"])
        return made


# --- sample ratio mismatch --------------------------------------------------------------------------------------------


def sample_ratio_log_e(green: ArrayLike, blue: ArrayLike, share: ArrayLike) -> Floats:
    """Evidence, as ln E, against H0: units go to green with the plan's share; two-sided.

    Sample ratio mismatch as an anytime-valid test (Lindon & Malek, arXiv 2011.03567), here the exact Bernoulli e-process
    with a Beta prior around the share. Assumes units drawn independently at that share under H0. Shapes broadcast.
    """
    pi = np.asarray(share, dtype=np.float64)
    return bernoulli_log_e(green, blue, pi, _SHARE_WEIGHT * pi, _SHARE_WEIGHT * (1.0 - pi))


@dataclass(slots=True)
class SampleRatio:
    """Whether green gets the share the plan says, revision by revision.

    Count each unit once per revision: requests under a random split, users under a sticky one. Each revision is tested by
    itself, since under a sticky split its users are those of the one before; the i-th has the level of a i-th attempt, so
    that all of them together are wrong with probability at most alpha (union bound), however the plan was changed.
    """

    revisions: dict[int, list[float]] = field(default_factory=dict)  # revision -> [share, green, blue, ordinal]
    begun: int = 0
    folded: float = -math.inf  # the largest adjusted evidence among revisions no longer kept
    largest_folded: int = -1

    def update(self, green: bool, share: float, revision: int) -> None:
        """Counts one unit, where it went, and the plan (share and revision) that sent it there."""
        if not 0.0 < share < 1.0 or revision <= self.largest_folded:
            return
        row = self.revisions.get(revision)
        if row is None:
            self.begun += 1
            row = self.revisions[revision] = [share, 0, 0, self.begun]
            if len(self.revisions) > _REVISIONS:
                self._fold()
        elif row[0] != share:
            raise ValueError(f"revision {revision} has share {row[0]}, not {share}: a plan does not change its share")
        row[1 if green else 2] += 1

    def _fold(self) -> None:
        oldest = min(self.revisions)
        row = self.revisions.pop(oldest)
        self.folded = max(self.folded, _adjusted(row))
        self.largest_folded = oldest

    @property
    def n(self) -> int:
        """Units counted in the revisions kept."""
        return sum(int(green + blue) for _, green, blue, _ in self.revisions.values())

    def log_e(self) -> float:
        """Adjusted evidence of a mismatch in any revision: report one once it reaches ln(1/alpha)."""
        return max([self.folded, *map(_adjusted, self.revisions.values())], default=-math.inf)

    def worst(self) -> tuple[int, float, float] | None:
        """(revision, planned share, observed share) of the strongest evidence; None before any unit."""
        if not self.revisions:
            return None
        revision, (share, green, blue, _) = max(self.revisions.items(), key=lambda item: _adjusted(item[1]))
        return revision, share, green / (green + blue)

    def to_dict(self) -> dict[str, Any]:
        """For a snapshot, as JSON values."""
        return {
            "revisions": [[revision, *row] for revision, row in self.revisions.items()],
            "begun": self.begun,
            "folded": self.folded if math.isfinite(self.folded) else None,
            "largest_folded": self.largest_folded,
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> SampleRatio:
        """The inverse of `to_dict`."""
        rows = {int(row[0]): [float(row[1]), int(row[2]), int(row[3]), int(row[4])] for row in state["revisions"]}
        folded = -math.inf if state["folded"] is None else float(state["folded"])
        return cls(rows, int(state["begun"]), folded, int(state["largest_folded"]))


def _adjusted(row: list[float]) -> float:
    """Evidence of one revision less the price of its place: E >= 1/attempt_alpha if and only if this >= ln(1/alpha)."""
    share, green, blue, ordinal = row
    return float(sample_ratio_log_e(green, blue, share)) + math.log(attempt_alpha(0.5, int(ordinal)) / 0.5)
