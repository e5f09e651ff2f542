"""Several tests at once: what to ask of K gates, of many slices, and of the k-th attempt at the same release.

Promotion and rollback are not mirror images. Green is promoted only when *every* gate passes; if it is bad in any
respect, some gate's true hypothesis would have to be refuted, so each gate may use the whole alpha (an intersection-union
test, Berger 1982). Green is rolled back when *any* of K gates fires; a good green has K chances to be wronged, so each
must reach E >= K/alpha. Slices are looked at to find the worst ones: e-BH keeps the expected share of false finds at
alpha under any dependence between slices, which share their traffic and are looked at all the time.
All e-values come and go as natural logarithms.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from shadow.sequential import Floats, log_threshold


def any_fires(log_e: ArrayLike, alpha: float, gates: int | None = None) -> NDArray[np.bool_]:
    """Which of K hypotheses are rejected when one rejection suffices: E >= K/alpha (union bound on Ville's inequality).

    P(any true hypothesis is ever rejected) <= alpha whatever their dependence. `gates` is K where it is more than the
    e-values given, as when some gates have no evidence yet: they were declared, so they count.
    """
    log_e = np.atleast_1d(np.asarray(log_e, dtype=np.float64))
    count = len(log_e) if gates is None else gates
    if count < len(log_e):
        raise ValueError(f"{len(log_e)} e-values were given for {gates} gates: count every gate that can fire")
    return np.asarray(log_e >= log_threshold(alpha) + math.log(max(count, 1)))


def all_pass(log_e: ArrayLike, alpha: float) -> bool:
    """Whether every one of the hypotheses is rejected, each at the whole alpha (intersection-union test, Berger 1982).

    P(all pass although one hypothesis is true) <= alpha. False for none: nothing passes by silence.
    """
    log_e = np.atleast_1d(np.asarray(log_e, dtype=np.float64))
    return bool(len(log_e) and np.all(log_e >= log_threshold(alpha)))


def attempt_alpha(alpha: float, attempt: int) -> float:
    """The error probability of attempt k = 1, 2, ... at the same release: alpha * 6/(pi^2 k^2).

    They sum to alpha over all attempts for ever, so trying again until it passes does not defeat the test (union bound).
    """
    log_threshold(alpha)
    if attempt < 1:
        raise ValueError(f"attempt {attempt} does not exist: the first is 1")
    return alpha * 6.0 / (math.pi * attempt) ** 2


def e_bh(log_e: ArrayLike, alpha: float) -> NDArray[np.bool_]:
    """Which hypotheses e-BH rejects: the k with the largest e-values, k the largest with k e_(k) / K >= 1/alpha.

    Wang & Ramdas (arXiv 2009.02824), theorem 1: the false discovery rate is at most alpha under any dependence. Assumes
    each is an e-value (a running e-process at a stopping time is one). Returns a mask of the shape of `log_e`.
    """
    log_e = np.atleast_1d(np.asarray(log_e, dtype=np.float64))
    bar = log_threshold(alpha)
    rejected = np.zeros(len(log_e), dtype=np.bool_)
    if not len(log_e):
        return rejected
    order = np.argsort(-log_e, kind="stable")
    enough = np.flatnonzero(log_e[order] + np.log(np.arange(1, len(log_e) + 1)) - math.log(len(log_e)) >= bar)
    if len(enough):
        rejected[order[: enough[-1] + 1]] = True
    return rejected


def log_mean_e(log_e: ArrayLike) -> float:
    """Logarithm of the mean of e-values: one for "all hypotheses are true", in any dependence (Vovk & Wang 2021)."""
    values: Floats = np.atleast_1d(np.asarray(log_e, dtype=np.float64))
    if not len(values):
        return 0.0
    most = float(values.max())
    if math.isinf(most):
        return most
    return most + math.log(float(np.mean(np.exp(values - most))))


def log_product_e(log_e: ArrayLike) -> float:
    """Logarithm of the product of e-values; an e-value only if each has expectation <= 1 given the others (other streams)."""
    return float(np.sum(np.asarray(log_e, dtype=np.float64)))
