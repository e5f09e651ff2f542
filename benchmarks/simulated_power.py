"""Streams in which something is wrong (or well), and how many observations the methods of `shadow` need to say so.

Each function returns, for every run, the number of observations after which the right decision was reached, infinity
where it was not within the stream. As in `simulated_errors`, the methods are the project's own functions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from benchmarks.simulated_errors import ALPHA, Rng, differing_answers
from shadow.bounded import empirical_bernstein
from shadow.live import error_events_log_e, propensity_scores, sample_ratio_log_e
from shadow.paired import paired_log_e_below
from shadow.sequential import Floats, bernoulli_log_e_above, log_threshold

BUCKETS = 10_000
USERS = 50_000


@dataclass(frozen=True, slots=True)
class Power:
    """One row: what is asked, of what stream, how; with the most its median may be (None: no demand) and the runs drawn."""

    question: str
    stream: str
    unit: str
    draw: Callable[[Rng, int], Floats]
    most: float | None = None
    runs: int = 1000


def first(log_e: Floats, bar: float | None = None) -> Floats:
    """1-based position, along the last axis, at which log_e first reaches the bar (ln 1/alpha); inf for never."""
    reached = log_e >= (log_threshold(ALPHA) if bar is None else bar)
    return np.where(reached.any(axis=-1), reached.argmax(axis=-1) + 1.0, np.inf)


def _split(u: Floats, worse: float, better: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return np.cumsum(u < worse, axis=1), np.cumsum((u >= worse) & (u < worse + better), axis=1)


def agreement(rate: float, floor: float, t: int, rng: Rng, runs: int) -> Floats:
    """Pairs until agreement is shown to lie above the floor."""
    s = np.cumsum(rng.random((runs, t)) < rate, axis=1)
    return first(bernoulli_log_e_above(s, np.arange(1, t + 1) - s, floor))


def noisier(green_noise: float, t: int, rng: Rng, runs: int) -> Floats:
    """Noise pairs until green is called worse than blue, which differs from itself on 5 %: servers of two labels."""
    green, blue = differing_answers(rng, runs, t, 0.05, green_noise)
    worse, better = np.cumsum(green & ~blue, axis=1), np.cumsum(blue & ~green, axis=1)
    return first(bernoulli_log_e_above(worse, better, 0.5))


def noisier_apart(t: int, rng: Rng, runs: int) -> Floats:
    """The same where green's 10 % and blue's 5 % fall independently, which is the harder case."""
    green, blue = rng.random((runs, t)) < 0.10, rng.random((runs, t)) < 0.05
    worse, better = np.cumsum(green & ~blue, axis=1), np.cumsum(blue & ~green, axis=1)
    return first(bernoulli_log_e_above(worse, better, 0.5))


def not_noisier(margin: float, t: int, rng: Rng, runs: int) -> Floats:
    """Noise pairs until a green as good as a second blue (noise 5 %) is shown to be worse by less than the margin."""
    green, blue = differing_answers(rng, runs, t, 0.05, 0.05)
    worse, better = np.cumsum(green & ~blue, axis=1), np.cumsum(blue & ~green, axis=1)
    return first(paired_log_e_below(worse, better, np.arange(1, t + 1) - worse - better, margin))


def accuracy(worse: float, better: float, margin: float, t: int, rng: Rng, runs: int) -> Floats:
    """Labelled pairs until green is shown to be less accurate by less than the margin."""
    w, b = _split(rng.random((runs, t)), worse, better)
    return first(paired_log_e_below(w, b, np.arange(1, t + 1) - w - b, margin))


def errors(share: float, t: int, rng: Rng, runs: int) -> Floats:
    """Requests until an error rate of .5 % is called higher than blue's .1 %."""
    found = np.full(runs, np.inf)
    for i in range(runs):
        green = rng.random(t) < share
        at = np.flatnonzero(rng.random(t) < np.where(green, 0.005, 0.001))
        g, b = np.cumsum(green[at])[:, None], np.cumsum(~green[at])[:, None]
        reached = np.flatnonzero(error_events_log_e(g, b, np.array([share])) >= log_threshold(ALPHA))
        if len(reached):
            found[i] = at[reached[0]] + 1.0
    return found


def users(t: int, rng: Rng, runs: int) -> Floats:
    """Users, at half the traffic, until a mean outcome of .6 is told from .5 (users differ with a deviation of .2)."""
    green = rng.random((runs, t)) < 0.5
    mean = np.where(green, 0.6, 0.5)
    y = rng.beta(5.25 * mean, 5.25 * (1.0 - mean))
    z, scale, variance = propensity_scores(y, green, 0.5)
    low, _ = empirical_bernstein(z, ALPHA, 0.0, scale, variance)
    return first(low, np.nextafter(0.0, 1.0))


def lost_buckets(share: float, lost: int, rng: Rng, runs: int) -> Floats:
    """Requests, of 50,000 sticky users, until the loss of green's first `lost` buckets shows in the users counted."""
    found = np.full(runs, np.inf)
    for i in range(runs):
        bucket = rng.integers(BUCKETS, size=USERS)
        who = rng.integers(USERS, size=20_000)
        arrived = np.sort(np.unique(who, return_index=True)[1])  # each user's first request
        arrived = arrived[bucket[who[arrived]] >= lost]
        green = bucket[who[arrived]] < share * BUCKETS
        g = np.cumsum(green)
        at = first(sample_ratio_log_e(g, np.arange(1, len(g) + 1) - g, share))
        if np.isfinite(at):
            found[i] = arrived[int(at) - 1] + 1.0
    return found


QUESTIONS: list[Power] = [
    Power("agreement above the floor?", ".995 against .98", "pairs", partial(agreement, 0.995, 0.98, 3000), 400),
    Power("agreement above the floor?", ".9995 against .999", "pairs", partial(agreement, 0.9995, 0.999, 60_000), runs=200),
    Power("green noisier than blue?", "10 % against 5 %, same requests hard", "noise pairs", partial(noisier, 0.10, 3000), 600),
    Power("green noisier than blue?", "10 % against 5 %, independent", "noise pairs", partial(noisier_apart, 3000), 600),
    Power("green not noisier by 2 points?", "5 % against 5 %", "noise pairs", partial(not_noisier, 0.02, 8000)),
    Power(
        "green less accurate by < 1 point?",
        "2 % of pairs right on either side alone",
        "labelled pairs",
        partial(accuracy, 0.02, 0.02, 0.01, 12_000),
        runs=500,
    ),
    Power("green fails more often?", ".5 % against .1 %, green 10 %", "requests", partial(errors, 0.1, 60_000)),
    Power("green fails more often?", ".5 % against .1 %, green 50 %", "requests", partial(errors, 0.5, 30_000)),
    Power("users better off on green?", "mean .6 against .5, green 50 %", "users", partial(users, 6000)),
    Power("sample ratio mismatch?", "green 50 %, 5 % of its buckets lost", "requests", partial(lost_buckets, 0.5, 250), 20_000),
    Power(
        "sample ratio mismatch?", "green 50 %, 10 % of its buckets lost", "requests", partial(lost_buckets, 0.5, 500), 20_000
    ),
    Power(
        "sample ratio mismatch?", "green 10 %, 20 % of its buckets lost", "requests", partial(lost_buckets, 0.1, 200), 20_000
    ),
]
