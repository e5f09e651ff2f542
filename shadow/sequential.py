"""Statistics that may be looked at after every observation: proportions and means.

Everything here is an e-process: a running number E that is at least 0 and whose expectation is at most 1 when the
hypothesis under test is true. By Ville's inequality P(E ever reaches 1/alpha) <= alpha, so a reader may look after every
observation, stop when it pleases him, and still be wrong with probability at most alpha. A confidence sequence is the
set of parameter values whose E has stayed below 1/alpha.

Two forms of each method, and they agree: pure functions of counts or sums, vectorised over numpy arrays, and small
state objects whose `update` is a few additions on plain Python numbers. Anything that costs (incomplete beta functions,
root finding) happens when an interval is asked for, not when an observation arrives. E-values are returned as natural
logarithms, since they pass 1e308 quickly. Inversions return the rejected end of the last bracket, so every interval
errs outwards. Left out on purpose: running intersections of intervals, which shrink a little more but may become empty
when an assumption breaks, which is exactly when somebody has to understand them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincc, betaln, log_ndtr, xlog1py, xlogy

Floats = NDArray[np.float64]

# Halvings of a bracket of length at most about 1: 2^-48 is far below what any count of observations can resolve.
HALVINGS = 48
# Below this, betaincc has lost digits or is 0, and the continued fraction takes over.
SMALLEST_TAIL = 1e-280


@dataclass(frozen=True, slots=True)
class Interval:
    """A closed interval of parameter values, in the parameter's own unit; an infinite end means "no bound yet"."""

    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high

    def to_json(self) -> list[float | None]:
        """As `[low, high]`, with null for an infinite end, which JSON cannot write."""
        return [end if math.isfinite(end) else None for end in (self.low, self.high)]


def log_threshold(alpha: float) -> float:
    """ln(1/alpha): the log e-value at which a level-alpha test rejects (Ville 1939). Raises ValueError outside (0, 1)."""
    if not 0.0 < alpha < 1.0:
        raise ValueError(f"alpha is {alpha!r}: give an error probability between 0 and 1, such as 0.05")
    return -math.log(alpha)


def rejection_boundary(rejects: Callable[[Floats], NDArray[np.bool_]], kept: ArrayLike, limit: ArrayLike) -> Floats:
    """Where a monotone test turns, between `kept` (not rejected) and `limit` (the last value the parameter can take).

    Vectorised bisection, about a millisecond for one number and hardly more for a hundred: ask for the intervals of many
    slices in one call. Returns the rejected end of the last bracket, so that an interval built from it is never too
    short; returns `limit` itself where even that is not rejected.
    """
    inside, outside = (np.array(end, dtype=np.float64) for end in np.broadcast_arrays(kept, limit))
    unbounded = ~rejects(outside)
    for _ in range(HALVINGS):
        middle = 0.5 * (inside + outside)
        rejected = rejects(middle)
        outside = np.where(rejected, middle, outside)
        inside = np.where(rejected, inside, middle)
    return np.where(unbounded, limit, outside)


# --- proportions: the exact Bernoulli e-process ----------------------------------------------------------------------


def bernoulli_log_e(successes: ArrayLike, failures: ArrayLike, p: ArrayLike, a: ArrayLike = 1.0, b: ArrayLike = 1.0) -> Floats:
    """Evidence ln E(p) = ln[ B(a+s, b+f) / (B(a, b) p^s (1-p)^f) ], the evidence against H0: the success rate is p.

    The beta-binomial mixture martingale (Robbins 1970; Howard, Ramdas, McAuliffe, Sekhon 2021, arXiv 1810.08240,
    section 3.4): the likelihood ratio of every rate against p, averaged over a Beta(a, b) prior.
    Assumes: given the past, each observation succeeds with probability p. Exact at every rate, also very rare ones.
    """
    s, f, p, a, b = (np.asarray(x, dtype=np.float64) for x in (successes, failures, p, a, b))
    return np.asarray(betaln(a + s, b + f) - betaln(a, b) - xlogy(s, p) - xlog1py(f, -p))


def bernoulli_log_e_above(successes: ArrayLike, failures: ArrayLike, p0: ArrayLike) -> Floats:
    """Evidence, as ln E, that the success rate lies above p0; rejects H0: p <= p0.

    The same mixture with its uniform prior cut off at p0 and renormalised: E(p0) * Ibar_p0(1+s, 1+f) / (1-p0), where
    Ibar is the upper tail of the Beta distribution. Every alternative q > p0 has likelihood ratio of expectation <= 1
    under any p <= p0, so the mixture is a supermartingale under the whole of H0 (Ville). Assumes: given the past, each
    observation succeeds with probability at most p0 under H0. Falls monotonically as p0 rises (substitute
    q = p0 + (1-p0)u: each factor falls), so inverting it gives one bound. Returns -inf at p0 = 1, which nothing refutes.
    """
    s, f, p0 = (np.asarray(x, dtype=np.float64) for x in (successes, failures, p0))
    below_one = np.where(p0 < 1.0, p0, 0.5)
    tail = _log_beta_upper_tail(below_one, 1.0 + s, 1.0 + f)
    log_e = bernoulli_log_e(s, f, below_one) + tail - np.log1p(-below_one)
    return np.where(p0 < 1.0, log_e, -np.inf)


def bernoulli_log_e_below(successes: ArrayLike, failures: ArrayLike, p0: ArrayLike) -> Floats:
    """Evidence, as ln E, that the success rate lies below p0; rejects H0: p >= p0. See `bernoulli_log_e_above`."""
    return bernoulli_log_e_above(failures, successes, 1.0 - np.asarray(p0, dtype=np.float64))


def bernoulli_interval(
    successes: ArrayLike, failures: ArrayLike, alpha: float, a: float = 1.0, b: float = 1.0
) -> tuple[Floats, Floats]:
    """Two-sided confidence sequence {p : E(p) < 1/alpha}; holds the true rate at all times with probability 1 - alpha.

    Returns (low, high), each of the broadcast shape of the counts. Source and assumptions: `bernoulli_log_e`. E(p) is
    log-convex in p with its least value at s/n, so each end is one root.
    """
    bar = log_threshold(alpha)
    s, f = np.broadcast_arrays(np.asarray(successes, dtype=np.float64), np.asarray(failures, dtype=np.float64))
    best = np.where(s + f > 0, s / np.maximum(s + f, 1.0), 0.5)
    without_p = betaln(a + s, b + f) - betaln(a, b)  # of `bernoulli_log_e`, and the greater part of its cost

    def rejects(p: Floats) -> NDArray[np.bool_]:
        return np.asarray(without_p - xlogy(s, p) - xlog1py(f, -p) >= bar)

    low, high = rejection_boundary(rejects, np.stack((best, best)), np.stack((np.zeros_like(best), np.ones_like(best))))
    return np.asarray(low), np.asarray(high)


def bernoulli_lower(successes: ArrayLike, failures: ArrayLike, alpha: float) -> Floats:
    """One-sided lower confidence bound: every p0 below it is rejected by `bernoulli_log_e_above` at level alpha."""
    bar = log_threshold(alpha)
    s, f = np.broadcast_arrays(np.asarray(successes, dtype=np.float64), np.asarray(failures, dtype=np.float64))
    limit = np.zeros(s.shape)
    # Monotone in p0 from +inf (once there is a success) to at most 1, so 1 is always kept and the root is unique. The
    # bound is the *rejected* end: the largest p0 known to be refuted.
    return rejection_boundary(lambda p0: bernoulli_log_e_above(s, f, p0) >= bar, np.ones(s.shape), limit)


def bernoulli_upper(successes: ArrayLike, failures: ArrayLike, alpha: float) -> Floats:
    """One-sided upper confidence bound: every p0 above it is rejected by `bernoulli_log_e_below` at level alpha."""
    return np.asarray(1.0 - bernoulli_lower(failures, successes, alpha))


def _log_beta_upper_tail(x: Floats, a: Floats, b: Floats) -> Floats:
    """Logarithm of P(Beta(a, b) > x), also where the probability underflows."""
    x, a, b = np.broadcast_arrays(x, a, b)
    tail = np.asarray(betaincc(a, b, x), dtype=np.float64)
    far = (tail < SMALLEST_TAIL) & (x < 1.0)
    log_tail = np.log(np.where(far | (tail == 0.0), 1.0, tail))
    log_tail = np.where((tail == 0.0) & ~far, -np.inf, log_tail)
    if far.any():
        log_tail[far] = _log_tail_fraction(b[far], a[far], 1.0 - x[far])
    return log_tail


def _log_tail_fraction(a: Floats, b: Floats, x: Floats) -> Floats:
    """Logarithm of I_x(a, b) by its continued fraction (DLMF 8.17.22, modified Lentz); x must lie far below the mean a/(a+b).

    That far out it needs fewer than ten terms; 200 is a bound, not a habit.
    """
    c = np.ones_like(x)
    d = 1.0 / (1.0 - (a + b) * x / (a + 1.0))
    value = d.copy()
    for m in range(1, 200):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1.0 / (1.0 + term * d)
            c = 1.0 + term / c
            value = value * (c * d)
        if np.all(np.abs(c * d - 1.0) < 1e-14):
            break
    return np.asarray(xlogy(a, x) + xlog1py(b, -x) - np.log(a) - betaln(a, b) + np.log(value))


@dataclass(slots=True)
class Bernoulli:
    """Counts of successes and failures, judged by the exact Bernoulli e-process with a uniform prior.

    The counts are all there is to remember: `update` adds one, `merge` adds two, and both commute.
    """

    successes: int = 0
    failures: int = 0

    def update(self, success: bool) -> None:
        """Counts one observation."""
        if success:
            self.successes += 1
        else:
            self.failures += 1

    def merge(self, other: Bernoulli) -> None:
        """Adds another stream's counts; the result is that of one stream with all the observations."""
        self.successes += other.successes
        self.failures += other.failures

    @property
    def n(self) -> int:
        """Observations so far."""
        return self.successes + self.failures

    @property
    def rate(self) -> float | None:
        """Share of successes, None before the first observation."""
        return self.successes / self.n if self.n else None

    def log_e_above(self, p0: float) -> float:
        """Evidence that the rate lies above p0; H0: p <= p0 is rejected once it reaches ln(1/alpha)."""
        return float(bernoulli_log_e_above(self.successes, self.failures, p0))

    def log_e_below(self, p0: float) -> float:
        """Evidence that the rate lies below p0; H0: p >= p0 is rejected once it reaches ln(1/alpha)."""
        return float(bernoulli_log_e_below(self.successes, self.failures, p0))

    def interval(self, alpha: float) -> Interval:
        """Two-sided confidence sequence at level alpha, now."""
        low, high = bernoulli_interval(self.successes, self.failures, alpha)
        return Interval(float(low), float(high))

    def lower(self, alpha: float) -> float:
        """One-sided lower bound; with `upper` at the same alpha it is *not* a 1 - alpha interval."""
        return float(bernoulli_lower(self.successes, self.failures, alpha))

    def upper(self, alpha: float) -> float:
        """One-sided upper bound."""
        return float(bernoulli_upper(self.successes, self.failures, alpha))

    def to_dict(self) -> dict[str, int]:
        """For a snapshot, as JSON values."""
        return {"successes": self.successes, "failures": self.failures}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Bernoulli:
        """The inverse of `to_dict`."""
        return cls(int(state["successes"]), int(state["failures"]))


# --- sums: the normal mixture ----------------------------------------------------------------------------------------


def normal_mixture_rho(v_opt: float, alpha: float) -> float:
    """The mixture precision that makes the two-sided bound tightest at intrinsic time v_opt.

    Howard et al. 2021 (arXiv 1810.08240), proposition 3, by its closed approximation
    rho = v / (2 ln(1/alpha) + ln(1 + 2 ln(1/alpha))). For a one-sided bound call it with 2 * alpha.
    """
    log_bar = 2.0 * log_threshold(alpha)
    return v_opt / (log_bar + math.log1p(log_bar))


def normal_mixture_log_e(s: ArrayLike, v: ArrayLike, rho: float) -> Floats:
    """Evidence, as ln E, by the two-sided normal mixture at sum s and intrinsic time v (the sum's variance), H0: mean 0.

    Robbins 1970; Howard et al. 2021 (arXiv 1810.08240), section 3.2; the same as mSPRT and GAVI. Assumes a sum of
    sub-Gaussian terms with known variance v in total, fixed by the past. With an estimated variance it holds only in
    the limit: see `AsymptoticMean`.
    """
    s, v = np.asarray(s, dtype=np.float64), np.asarray(v, dtype=np.float64)
    return np.asarray(0.5 * np.log(rho / (v + rho)) + s * s / (2.0 * (v + rho)))


def normal_mixture_bound(v: ArrayLike, alpha: float, rho: float) -> Floats:
    """|S| stays within this for all v with probability 1 - alpha: sqrt((v+rho)(ln(1+v/rho) + 2 ln(1/alpha)))."""
    v = np.asarray(v, dtype=np.float64)
    return np.asarray(np.sqrt((v + rho) * (np.log1p(v / rho) + 2.0 * log_threshold(alpha))))


def normal_mixture_log_e_above(s: ArrayLike, v: ArrayLike, rho: float) -> Floats:
    """Evidence, as ln E, by the one-sided normal mixture, H0: mean <= 0 (Howard et al. 2021, section 3.2)."""
    s, v = np.asarray(s, dtype=np.float64), np.asarray(v, dtype=np.float64)
    return np.asarray(math.log(2.0) + normal_mixture_log_e(s, v, rho) + log_ndtr(s / np.sqrt(v + rho)))


def normal_mixture_bound_above(v: ArrayLike, alpha: float, rho: float) -> Floats:
    """S stays below this for all v with probability 1 - alpha: the root of `normal_mixture_log_e_above` in s."""
    bar = log_threshold(alpha)
    v = np.asarray(v, dtype=np.float64)
    # For s >= 0 the factor 2 Phi(s / sqrt(v + rho)) is at least 1, so the two-sided bound is already rejected.
    limit = normal_mixture_bound(v, alpha, rho)
    return rejection_boundary(lambda s: normal_mixture_log_e_above(s, v, rho) >= bar, np.zeros_like(v), limit)


def msprt_log_e(n: ArrayLike, difference: ArrayLike, variance: float, tau2: float) -> Floats:
    """Logarithm of the mixture sequential probability ratio after n pairs whose mean difference is `difference`, H0: 0.

    Johari, Koomen, Pekelis, Walsh 2017 ("Peeking at A/B tests"): sqrt(V/(V + n tau2)) exp(n^2 tau2 d^2 /
    (2 V (V + n tau2))), V the known variance of one pair's difference, tau2 the mixing variance. Assumes independent
    normal differences of known variance. It is the normal mixture with v = nV and rho = V^2/tau2.
    """
    n = np.asarray(n, dtype=np.float64)
    return normal_mixture_log_e(n * np.asarray(difference), n * variance, variance * variance / tau2)


# --- means of unbounded values: only in the limit ---------------------------------------------------------------------


def asymptotic_interval(
    n: ArrayLike, mean: ArrayLike, sd: ArrayLike, alpha: float, optimal_at: float = 1000.0, burn_in: int = 200
) -> tuple[Floats, Floats]:
    """Asymptotic confidence sequence for a mean: mean +- sd sqrt(2(t r^2+1)/(t^2 r^2) ln(sqrt(t r^2+1)/alpha)).

    Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas (arXiv 2103.06476), theorem 2.2; r^2 = 1/rho, tightest at n =
    `optimal_at`. Assumes finite variance and that the central limit theorem has set in: before `burn_in` observations
    the answer is the whole line. Made for means of log latency ratios. Do NOT use it for rare events (measured error
    .89 at a rate of .01 with burn-in 10, .20 with 200) nor pooled over ramp steps (1.00). Returns (low, high).
    """
    n, mean, sd = (np.asarray(x, dtype=np.float64) for x in (n, mean, sd))
    t = np.maximum(n, 1.0)
    # S/sd has intrinsic time t, so this is the normal mixture's bound on the sum, divided by t.
    radius = sd * normal_mixture_bound(t, alpha, normal_mixture_rho(optimal_at, alpha)) / t
    radius = np.where(n < burn_in, np.inf, radius)
    return mean - radius, mean + radius


@dataclass(slots=True)
class AsymptoticMean:
    """Running mean and variance (Welford 1962), merged by Chan, Golub, LeVeque 1979; interval: `asymptotic_interval`."""

    n: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def update(self, value: float) -> None:
        """Adds one value; raises ValueError for one that is not finite, which would spoil every later mean."""
        if not math.isfinite(value):
            raise ValueError(f"the value {value!r} is not finite: leave it out and count it, it has no mean")
        self.n += 1
        step = value - self.mean
        self.mean += step / self.n
        self.squares += step * (value - self.mean)

    def merge(self, other: AsymptoticMean) -> None:
        """Adds another stream's values."""
        n = self.n + other.n
        if n:
            step = other.mean - self.mean
            self.squares += other.squares + step * step * self.n * other.n / n
            self.mean += step * other.n / n
            self.n = n

    @property
    def sd(self) -> float:
        """Standard deviation of the values, 0 before the second one."""
        return math.sqrt(self.squares / (self.n - 1)) if self.n > 1 else 0.0

    def interval(self, alpha: float, optimal_at: float = 1000.0, burn_in: int = 200) -> Interval:
        """Two-sided asymptotic confidence sequence; the whole line before `burn_in` values."""
        low, high = asymptotic_interval(self.n, self.mean, self.sd, alpha, optimal_at, burn_in)
        return Interval(float(low), float(high))

    def to_dict(self) -> dict[str, float]:
        """For a snapshot, as JSON values."""
        return {"n": self.n, "mean": self.mean, "squares": self.squares}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> AsymptoticMean:
        """The inverse of `to_dict`."""
        return cls(int(state["n"]), float(state["mean"]), float(state["squares"]))
