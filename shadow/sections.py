"""Sections of a snapshot that are put together from several counts, their intervals computed in one go.

Gates read these numbers. For each question there are the counts, so that any threshold can be tested later, and the evidence
(`log_e`, natural logarithm; it decides at ln(1/alpha)) for the thresholds that are known now.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from shadow.forecast import more_for_mcnemar
from shadow.intervals import difference_intervals, rate_intervals
from shadow.noise import NoiseComparison
from shadow.sequential import log_threshold

if TYPE_CHECKING:
    from shadow.evidence import Evidence

Document = dict[str, Any]


def pair_sections(evidence: Evidence) -> Document:
    """`agreement`, `noise`, `errors`, `unreadable` and `against_noise`."""
    alpha = evidence.options.alpha
    pairs, green = evidence.noise.pairs, evidence.noise.green
    agreement, itself, errors, unread = evidence.agreement, evidence.noise.blue, evidence.errors, evidence.unread
    rates = rate_intervals(
        [
            (agreement.successes, agreement.failures),
            (itself.successes, itself.failures),
            (errors.worse, errors.n - errors.worse),
            (green.successes, green.failures),
        ],
        alpha,
    )
    differences = difference_intervals([(tests.worse, tests.better, tests.same) for tests in (errors, unread, pairs)], alpha)
    bar = log_threshold(alpha)
    agreed: Document = {"n": agreement.n, "agreed": agreement.successes, "rate": agreement.rate, "ci": rates[0]}
    floor = evidence.options.floor
    if floor is not None:
        agreed["floor"] = floor
        agreed["log_e_above_floor"] = agreement.log_e_above(floor)
        agreed["log_e_below_floor"] = agreement.log_e_below(floor)
    log_e_errors, log_e_unread = errors.log_e_above(), unread.log_e_above()
    return {
        "agreement": agreed,
        "noise": {
            "n": itself.n,
            "agreed": itself.successes,
            "rate": itself.rate,
            "ci": rates[1],
            "unusable": evidence.noise_lost,
        },
        "errors": {
            "n": errors.n,
            "both_well": errors.same - evidence.errors_both,
            "green_only": errors.worse,
            "blue_only": errors.better,
            "both": evidence.errors_both,
            "refused_by_both": evidence.refused,
            "fell_back": evidence.fell_back,
            "rate": errors.worse / errors.n if errors.n else None,
            "ci": rates[2],
            "difference": {"estimate": errors.difference, "ci": differences[0]},
            "log_e": log_e_errors,
            "e_value": _e_value(log_e_errors),
            "worse": log_e_errors >= bar,
            "troubles": dict(evidence.troubles),
        },
        "unreadable": {
            "blue": dict(evidence.unreadable["blue"]),
            "green": dict(evidence.unreadable["green"]),
            "n": unread.n,
            "green_only": unread.worse,
            "blue_only": unread.better,
            "difference": {"estimate": unread.difference, "ci": differences[1]},
            "log_e": log_e_unread,
            "worse": log_e_unread >= bar,
        },
        "against_noise": against_noise(evidence.noise, alpha, rates[3], differences[2]),
    }


def against_noise(noise: NoiseComparison, alpha: float, green_ci: list[float], difference_ci: list[float]) -> Document:
    """Green judged against blue's own noise: `noise.snapshot` without the rate of noise itself. The two intervals are of
    `noise.green` and of the difference of `noise.pairs`, computed with those of other sections.
    """
    pairs, margin = noise.pairs, noise.margin
    green = noise.green
    log_e, log_e_not_worse = pairs.log_e_above(0.0), pairs.log_e_below(margin)
    bar = log_threshold(alpha)
    worse, no_worse = log_e >= bar, log_e_not_worse >= bar
    more = None
    if pairs.n and not worse and not no_worse:
        to_worse = more_for_mcnemar(pairs.worse, pairs.better, pairs.same, alpha)
        to_no_worse = more_for_mcnemar(pairs.better, pairs.worse, pairs.same, alpha, -margin)
        more = min((n for n in (to_worse, to_no_worse) if n is not None), default=None)
    return {
        "n": pairs.n,
        "worse": pairs.worse,
        "better": pairs.better,
        "same": pairs.same,
        "green_rate": green.rate,
        "green_ci": green_ci,
        "difference": {"estimate": pairs.difference, "ci": difference_ci},
        "margin": margin,
        "log_e": log_e,
        "e_value": _e_value(log_e),
        "log_e_no_worse": log_e_not_worse,
        "worse_than_noise": worse,
        "no_worse_than_noise": no_worse,
        "more": more,
        "similarity": _similarity(noise, alpha),
    }


def _similarity(noise: NoiseComparison, alpha: float) -> Document | None:
    """How much less similar green's answers are to blue's than blue's own second ones, for kinds that are alike by degrees."""
    bets, bar = noise.similarity, log_threshold(alpha)
    if bets.mean is None:
        return None
    at = 0.5 + 0.5 * noise.similarity_margin  # betting lives on [0, 1]
    around = bets.interval(alpha)
    less, no_less = bets.log_e_above(at), bets.log_e_below(at)
    return {
        "n": bets.n,
        "lost": 2.0 * bets.mean - 1.0,
        "ci": [2.0 * around.low - 1.0, 2.0 * around.high - 1.0],
        "margin": noise.similarity_margin,
        "log_e_less": less,
        "log_e_no_less": no_less,
        "less": less >= bar,
        "no_less": no_less >= bar,
    }


def _e_value(log_e: float) -> float:
    """E itself, for a reader; what is beyond 1e12 is shown as that."""
    return math.exp(min(log_e, math.log(1e12)))
