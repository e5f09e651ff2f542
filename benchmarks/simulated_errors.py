"""Streams in which nothing is wrong, and how often each decision method says that something is.

Every function draws `runs` experiments of `t` observations from `rng`, in which the hypothesis under test is true, lets
the method of `shadow` look after every observation, and returns one boolean for each experiment: was the hypothesis ever
rejected? The methods are the project's own vectorised functions; only the streams are made here. The negative controls at
the end are methods or uses that the project warns of: they must fail, or the simulation proves nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache, partial

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from shadow.bounded import betting_log_capital, empirical_bernstein
from shadow.live import (
    ErrorEvents,
    RewardDifference,
    error_events_log_e,
    propensity_scores,
    sample_ratio_log_e,
)
from shadow.multiplicity import any_fires, attempt_alpha, e_bh
from shadow.paired import mcnemar_log_e, paired_log_e_above, paired_log_e_below
from shadow.quantiles import lil_radius, order_statistic_ranks
from shadow.sequential import (
    Floats,
    asymptotic_interval,
    bernoulli_log_e,
    bernoulli_log_e_above,
    log_threshold,
    msprt_log_e,
    normal_mixture_bound,
    normal_mixture_log_e,
    normal_mixture_rho,
)
from shadow.units import UnitWindows

ALPHA = 0.05
SHARES = np.array([0.05, 0.2, 0.5])

Rng = np.random.Generator
Wrong = NDArray[np.bool_]
Experiment = Callable[[Rng, int, int], Wrong | Floats]


def _ever(log_e: Floats, alpha: float = ALPHA) -> Wrong:
    return np.asarray((log_e >= log_threshold(alpha)).any(axis=-1))


def _outside(low: Floats, high: Floats, truth: float | Floats) -> Wrong:
    return np.asarray(((low > truth) | (high < truth)).any(axis=-1))


def _counts(rng: Rng, runs: int, t: int, p: float | Floats) -> NDArray[np.int64]:
    return np.cumsum(rng.random((runs, t)) < p, axis=1)


def _n(t: int) -> NDArray[np.int64]:
    return np.arange(1, t + 1)


@lru_cache(maxsize=3)
def _by_count(log_e: Callable[..., Floats], p: float, t: int) -> Floats:
    """log_e(successes, failures, p) for every number of successes (column) among n observations (row)."""
    n, s = np.arange(t + 1)[:, None], np.arange(t + 1)[None, :]
    table = np.full((t + 1, t + 1), -np.inf)
    inside = s <= n
    table[inside] = log_e(*(x[inside] for x in np.broadcast_arrays(s, n - s)), p)
    return table


# --- proportions and pairs --------------------------------------------------------------------------------------------


def bernoulli(p: float, rng: Rng, runs: int, t: int) -> Wrong:
    """Two-sided exact Bernoulli sequence at the true rate."""
    return _ever(_by_count(bernoulli_log_e, p, t)[_n(t), _counts(rng, runs, t, p)])


def agreement_floor(rng: Rng, runs: int, t: int) -> Wrong:
    """Agreement of exactly .98 against a floor of .98: passed wrongly."""
    return _ever(_by_count(bernoulli_log_e_above, 0.98, t)[_n(t), _counts(rng, runs, t, 0.98)])


def mcnemar(rng: Rng, runs: int, t: int) -> Wrong:
    """5 % of pairs bad on green alone, 5 % on blue alone; two-sided."""
    u = rng.random((runs, t))
    worse, better = np.cumsum(u < 0.05, axis=1), np.cumsum((u >= 0.05) & (u < 0.10), axis=1)
    return _ever(mcnemar_log_e(worse, better))


def mcnemar_margin(rng: Rng, runs: int, t: int) -> Wrong:
    """Green worse by exactly the margin of .02, which either side of the test may call more or less."""
    u = rng.random((runs, t))
    worse, better = np.cumsum(u < 0.04, axis=1), np.cumsum((u >= 0.04) & (u < 0.06), axis=1)
    same = _n(t) - worse - better
    half = ALPHA / 2
    return _ever(paired_log_e_above(worse, better, same, 0.02), half) | _ever(
        paired_log_e_below(worse, better, same, 0.02), half
    )


def differing_answers(rng: Rng, runs: int, t: int, blue_noise: float, green_noise: float) -> tuple[Wrong, Wrong]:
    """([P != C], [P != S]) of servers that answer one of two labels, each wrong with its own probability.

    `blue_noise` is how often blue differs from itself, `green_noise` how often green differs from blue.
    """
    blue_wrong = (1.0 - math.sqrt(1.0 - 2.0 * blue_noise)) / 2.0
    green_wrong = (green_noise - blue_wrong) / (1.0 - 2.0 * blue_wrong)
    first, second = (rng.random((runs, t)) < blue_wrong for _ in range(2))
    green = rng.random((runs, t)) < green_wrong
    return first ^ green, first ^ second


def noise(rng: Rng, runs: int, t: int) -> Wrong:
    """Blue noise 5 %, green as good as a second blue: called worse."""
    green, blue = differing_answers(rng, runs, t, 0.05, 0.05)
    worse, discordant = np.cumsum(green & ~blue, axis=1), np.cumsum(blue != green, axis=1)
    return _ever(_by_count(bernoulli_log_e_above, 0.5, t)[discordant, worse])


def noise_similarity(rng: Rng, runs: int, t: int) -> Wrong:
    """Similarities to P of two equally noisy answers, both drawn by how hard the request is; called less similar."""
    hardness = rng.gamma(1.0, 1.0, (runs, t))
    x = 0.5 + 0.5 * (rng.beta(2.0, hardness) - rng.beta(2.0, hardness))
    return _ever(betting_log_capital(np.clip(x, 0.0, 1.0), 0.5, ALPHA)[0])


# --- means ------------------------------------------------------------------------------------------------------------


def normal_mixture(rng: Rng, runs: int, t: int) -> Wrong:
    """Standard normal values of known variance."""
    return _ever(
        normal_mixture_log_e(np.cumsum(rng.standard_normal((runs, t)), axis=1), _n(t), normal_mixture_rho(t / 2, ALPHA))
    )


def msprt(rng: Rng, runs: int, t: int) -> Wrong:
    """Differences of two standard normal arms, so V = 2."""
    difference = np.cumsum(rng.standard_normal((runs, t)) * math.sqrt(2.0), axis=1) / _n(t)
    return _ever(msprt_log_e(_n(t), difference, 2.0, 0.01))


def _bounded(kind: str, rng: Rng, runs: int, t: int) -> tuple[Floats, float]:
    """Values in [0, 1] and their mean."""
    if kind == "uniform":
        return rng.random((runs, t)), 0.5
    if kind == "beta":
        return rng.beta(9.0, 1.0, (runs, t)), 0.9
    return (rng.random((runs, t)) < 0.05).astype(np.float64), 0.05


def bernstein(kind: str, rng: Rng, runs: int, t: int) -> Wrong:
    """Empirical Bernstein at the true mean."""
    x, mean = _bounded(kind, rng, runs, t)
    return _outside(*empirical_bernstein(x, ALPHA), mean)


def betting(kind: str, rng: Rng, runs: int, t: int) -> Wrong:
    """Hedged betting at the true mean, two-sided."""
    x, mean = _bounded(kind, rng, runs, t)
    up, down = betting_log_capital(x, mean, ALPHA)
    return _ever(np.logaddexp(up, down) - math.log(2.0))


def _running(x: Floats) -> tuple[Floats, Floats]:
    """Running mean and standard deviation along the last axis."""
    n = _n(x.shape[-1])
    mean = np.cumsum(x, axis=-1) / n
    square = np.cumsum(x * x, axis=-1) / n - mean * mean
    return mean, np.sqrt(np.maximum(square, 0.0))


def asymptotic(rng: Rng, runs: int, t: int) -> Wrong:
    """Log ratio of two latencies with heavy tails (difference of two exponentials), from the 200th pair on."""
    mean, sd = _running(rng.laplace(size=(runs, t)))
    return _outside(*asymptotic_interval(_n(t), mean, sd, ALPHA), 0.0)


# --- quantiles and distributions --------------------------------------------------------------------------------------


def quantile(p: float, rng: Rng, runs: int, t: int) -> Wrong:
    """The true p-quantile beside the two order statistics; only the count below it matters."""
    below = _counts(rng, runs, t, p)
    low, high = order_statistic_ranks(_n(t), p, ALPHA)
    return np.asarray(((below < low) | (below >= high)).any(axis=1))


def sign_test(rng: Rng, runs: int, t: int) -> Wrong:
    """Median of the paired difference exactly at the margin: called above."""
    return _ever(_by_count(bernoulli_log_e_above, 0.5, t)[_n(t), _counts(rng, runs, t, 0.5)])


def two_arms(what: str, rng: Rng, runs: int, t: int) -> Wrong:
    """Two arms with the same latency in 48 steps: is a p95 difference, or a distance of distributions, ever claimed?"""
    levels = 48
    arms = np.zeros((2, runs, levels), dtype=np.int32)
    low, high = order_statistic_ranks(_n(t), 0.95, ALPHA / 2)
    radius = 2.0 * lil_radius(_n(t), ALPHA / 2)
    wrong = np.zeros(runs, dtype=np.bool_)
    for i in range(t):
        for arm in arms:
            # a value at level v adds one to every cumulative count from v on
            arm += rng.integers(levels, size=runs)[:, None] <= np.arange(levels)
        if what == "distance":
            wrong |= np.abs(arms[0] - arms[1]).max(axis=1) / (i + 1) > radius[i]
        elif low[i] >= 1 and high[i] <= i + 1:
            least, most = ((arms < rank).sum(axis=2) for rank in (low[i], high[i]))
            wrong |= (least[0] > most[1]) | (least[1] > most[0])
    return wrong


# --- live split -------------------------------------------------------------------------------------------------------


def ramp(t: int) -> Floats:
    """Green's share at each observation: 5 %, then 20 %, then 50 %."""
    return SHARES[np.minimum(np.arange(t) * 3 // t, 2)]


def drift(t: int, start: float, end: float) -> Floats:
    """A base rate that moves evenly from start to end."""
    return start + (end - start) * np.arange(t) / t


def split_errors(rng: Rng, runs: int, t: int, theta: float = 1.0) -> tuple[Wrong, Wrong]:
    """(green, failed) under the ramp while the base error rate drifts from 2 % to 15 %; green's is theta times it."""
    green = rng.random((runs, t)) < ramp(t)
    failed = rng.random((runs, t)) < drift(t, 0.02, 0.15) * np.where(green, theta, 1.0)
    return green, failed


def by_share(events: Wrong, t: int) -> Floats:
    """Running counts of events at each of the three shares, shape (runs, t, 3)."""
    at = ramp(t)[:, None] == SHARES
    return np.cumsum(events[..., None] & at, axis=1).astype(np.float64)


def error_events(rng: Rng, runs: int, t: int) -> Wrong:
    """Equal arms: green called to fail more often, or less often, each at alpha / 2."""
    green, failed = split_errors(rng, runs, t)
    g, b = by_share(failed & green, t)[failed], by_share(failed & ~green, t)[failed]
    both = np.maximum(error_events_log_e(g, b, SHARES), error_events_log_e(b, g, 1.0 - SHARES))
    # The evidence only moves when a request fails: rows of g and b are the failures, run after run.
    wrong = np.zeros(runs, dtype=np.bool_)
    wrong[np.nonzero(failed)[0][both >= log_threshold(ALPHA / 2)]] = True
    return wrong


def reward(rng: Rng, runs: int, t: int) -> Wrong:
    """Equal arms, a reward of 0 or 1 whose mean drifts from .3 to .8: the interval of the difference leaves 0."""
    green = rng.random((runs, t)) < ramp(t)
    y = (rng.random((runs, t)) < drift(t, 0.3, 0.8)).astype(np.float64)
    z, scale, variance = propensity_scores(y, green, ramp(t))
    return _outside(*empirical_bernstein(z, ALPHA, 0.0, scale, variance), 0.0)


def sample_ratio(rng: Rng, runs: int, t: int) -> Wrong:
    """A fair split in three revisions, each judged by itself at its own level."""
    wrong = np.zeros(runs, dtype=np.bool_)
    for k, share in enumerate(SHARES, start=1):
        green = _counts(rng, runs, t // 3, share)
        wrong |= _ever(sample_ratio_log_e(green, _n(t // 3) - green, share), attempt_alpha(ALPHA, k))
    return wrong


def _sticky(rng: Rng, t: int, users: int) -> tuple[NDArray[np.int64], Wrong, Wrong]:
    """(user, green, failed) of t requests by sticky users who differ in how often their requests fail (0 to 60 %)."""
    who = rng.integers(users, size=t)
    prone = rng.beta(0.5, 4.5, users)
    arm = rng.random(users) < 0.5
    return who, arm[who], rng.random(t) < prone[who]


def sticky_per_unit(what: str, rng: Rng, runs: int, t: int) -> Wrong:
    """40 sticky users, one observation each: the mean of their first ten outcomes, or their first error."""
    wrong = np.zeros(runs, dtype=np.bool_)
    for i in range(runs):
        who, green, failed = _sticky(rng, t, 40)
        units = UnitWindows(window=10 if what == "reward" else 1)
        rewards, errors = RewardDifference(), ErrorEvents()
        for user, arm, bad in zip(who.tolist(), green.tolist(), failed.tolist(), strict=True):
            if what == "reward":
                done = units.update(str(user), 1.0 - bad, arm, 0.5, epoch=1)
                if done is not None:
                    rewards.update(done.mean, done.green, done.share)
                    wrong[i] |= 0.0 not in rewards.interval(ALPHA)
            elif bad and units.update(str(user), 1.0, arm, 0.5, epoch=1) is not None:
                errors.update(arm, 0.5)
                wrong[i] |= max(errors.log_e_above(), errors.log_e_below()) >= log_threshold(ALPHA / 2)
    return wrong


# --- several at once --------------------------------------------------------------------------------------------------


def five_gates(rng: Rng, runs: int, t: int) -> Wrong:
    """Five gates on a good green (a rollback when any reaches 5/alpha)."""
    table = _by_count(bernoulli_log_e_above, 0.02, t)
    best = np.stack([table[_n(t), _counts(rng, runs, t, 0.02)].max(axis=1) for _ in range(5)])
    return np.asarray(np.stack([any_fires(run, ALPHA) for run in best.T]).any(axis=1))


def five_attempts(rng: Rng, runs: int, t: int) -> Wrong:
    """A green at the floor of .98, tried five times with new evidence, each attempt at its own level."""
    table = _by_count(bernoulli_log_e_above, 0.98, t)
    return np.asarray(
        np.stack([_ever(table[_n(t), _counts(rng, runs, t, 0.98)], attempt_alpha(ALPHA, k)) for k in range(1, 6)]).any(axis=0)
    )


def slices(rng: Rng, runs: int, t: int) -> Floats:
    """Share of false finds (not yes or no) by e-BH among 50 slices, ten of them truly below the floor of .95."""
    rates = np.where(np.arange(50) < 10, 0.80, 0.95)
    n = t // 10
    agreeing = rng.binomial(n, rates, (runs, 50))
    found = np.stack([e_bh(row, ALPHA) for row in bernoulli_log_e_above(n - agreeing, agreeing, 0.05)])
    return np.asarray(found[:, 10:].sum(axis=1) / np.maximum(found.sum(axis=1), 1))


# --- negative controls ------------------------------------------------------------------------------------------------


def naive_z(rng: Rng, runs: int, t: int) -> Wrong:
    """The textbook test of a rate of .5 at 1.96 standard errors, repeated after every observation from the tenth on."""
    s, n = _counts(rng, runs, t, 0.5), _n(t)
    z = np.abs(s - n / 2) / np.sqrt(n / 4)
    return np.asarray((z[:, 9:] >= -ndtri(ALPHA / 2)).any(axis=1))


def asymptotic_rare(burn_in: int, rng: Rng, runs: int, t: int) -> Wrong:
    """The asymptotic sequence on errors at a rate of 1 %."""
    mean, sd = _running((rng.random((runs, t)) < 0.01).astype(np.float64))
    return _outside(*asymptotic_interval(_n(t), mean, sd, ALPHA, burn_in=burn_in), 0.01)


def asymptotic_pooled(rng: Rng, runs: int, t: int) -> Wrong:
    """Green's pooled error rate less blue's, under the ramp and a rate that drifts from 2 % to 50 %."""
    green = rng.random((runs, t)) < ramp(t)
    failed = rng.random((runs, t)) < drift(t, 0.02, 0.50)
    rates, variance = [], np.zeros((runs, t))
    for arm in (green, ~green):
        n = np.maximum(np.cumsum(arm, axis=1), 1)
        rate = np.cumsum(arm & failed, axis=1) / n
        rates.append(rate)
        variance += np.maximum(rate * (1.0 - rate), 1.0 / n) / n
    v = 1.0 / variance
    radius = normal_mixture_bound(v, ALPHA, normal_mixture_rho(float(np.median(v[:, -1])), ALPHA)) / v
    return np.asarray((np.abs(rates[0] - rates[1]) > radius)[:, 200:].any(axis=1))


def sticky_per_request(rng: Rng, runs: int, t: int) -> Wrong:
    """The same 40 sticky users, but every request counted as if it had been assigned by itself."""
    wrong = np.zeros(runs, dtype=np.bool_)
    half = np.array([0.5])
    for i in range(runs):
        _, green, failed = _sticky(rng, t, 40)
        g, b = (np.cumsum(arm[failed])[:, None] for arm in (green, ~green))
        both = np.maximum(error_events_log_e(g, b, half), error_events_log_e(b, g, half))
        wrong[i] = _ever(both, ALPHA / 2)
    return wrong


def threshold_rule(rng: Rng, runs: int, t: int) -> Wrong:
    """No statistics: raw > noise, by more than 20 % of their sum and .03 % of all; looked at once, after 100."""
    t = min(t, 100)
    green, blue = (np.cumsum(rng.random((runs, t)) < 0.05, axis=1) for _ in range(2))
    raw, noise = green[:, -1], blue[:, -1]
    apart = np.abs(raw - noise)
    return np.asarray((raw > noise) & (apart > 0.2 * (raw + noise)) & (apart > 0.0003 * t))


METHODS: list[tuple[str, str, Experiment]] = [
    ("exact Bernoulli, two-sided", "rate .5", partial(bernoulli, 0.5)),
    ("exact Bernoulli, two-sided", "rate .01", partial(bernoulli, 0.01)),
    ("exact Bernoulli, two-sided", "rate .99", partial(bernoulli, 0.99)),
    ("exact Bernoulli, one-sided", "agreement .98, floor .98", agreement_floor),
    ("McNemar", "5 % of pairs bad on each side alone", mcnemar),
    ("McNemar with a margin", "green worse by exactly the margin of 2 points", mcnemar_margin),
    ("noise McNemar", "blue noise 5 %, green the same", noise),
    ("noise betting", "similarities of two equally noisy answers", noise_similarity),
    ("normal mixture", "normal values, known variance", normal_mixture),
    ("mSPRT", "normal differences, known variance", msprt),
    ("empirical Bernstein", "uniform", partial(bernstein, "uniform")),
    ("empirical Bernstein", "Beta(9, 1)", partial(bernstein, "beta")),
    ("empirical Bernstein", "0 or 1, mean .05", partial(bernstein, "rare")),
    ("betting", "uniform", partial(betting, "uniform")),
    ("betting", "Beta(9, 1)", partial(betting, "beta")),
    ("betting", "0 or 1, mean .05", partial(betting, "rare")),
    ("asymptotic mean", "log latency ratio, from the 200th pair on", asymptotic),
    ("quantile sequence", "p50", partial(quantile, 0.5)),
    ("quantile sequence", "p95", partial(quantile, 0.95)),
    ("quantile sequence", "p99", partial(quantile, 0.99)),
    ("quantile difference", "p95 of two equal arms", partial(two_arms, "quantile")),
    ("sign test", "median at the margin", sign_test),
    ("DKW / LIL distance", "two equal arms", partial(two_arms, "distance")),
    ("error events", "ramp .05 -> .2 -> .5, base rate drifts 2 % -> 15 %", error_events),
    ("inverse propensity reward", "same ramp, mean reward drifts .3 -> .8", reward),
    ("sample ratio", "fair split, three revisions", sample_ratio),
    ("per unit: reward", "40 sticky users, first ten outcomes of each", partial(sticky_per_unit, "reward")),
    ("per unit: error events", "40 sticky users, first error of each", partial(sticky_per_unit, "errors")),
    ("any of five gates at E >= 5/alpha", "five good gates", five_gates),
    ("five attempts, alpha 6/(pi^2 k^2)", "agreement .98, floor .98", five_attempts),
    ("e-BH, share of false finds", "50 slices of 200 pairs, 10 truly bad", slices),
]

CONTROLS: list[tuple[str, str, Experiment, float]] = [
    ("naive z-test", "rate .5, looked at every time", naive_z, 0.3),
    ("asymptotic mean on rare errors", "rate .01, from the 10th on", partial(asymptotic_rare, 10), 0.3),
    ("asymptotic mean on rare errors", "rate .01, from the 200th on", partial(asymptotic_rare, 200), 0.1),
    ("asymptotic, pooled over the ramp", "same ramp, base rate drifts 2 % -> 50 %", asymptotic_pooled, 0.9),
    ("error events per request", "40 sticky users", sticky_per_request, 0.3),
    ("threshold on raw less noise", "noise 5 % on both sides, 100 requests", threshold_rule, 0.2),
]
