"""What every gate has before it, and the two kinds of test that most gates are.

A `Case` holds the evidence, the levels and the time. `rate_gate` holds a share against a floor (exact Bernoulli), and
`difference_gate` two paired rates against a margin. Decisions are made from counts and their e-values; the intervals beside
them are for readers and cost most of the time, so they are there only when asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from router.rollout.policy import Policy
from router.rollout.verdict import FAIL, PASS, UNDECIDED, GateResult, Live, OwnGate
from shadow.forecast import more_for_mcnemar, more_for_rate
from shadow.paired import paired_log_e_above, paired_log_e_below, paired_lower, paired_upper
from shadow.sequential import bernoulli_log_e_above, bernoulli_log_e_below, bernoulli_lower, bernoulli_upper, log_threshold
from shadow.words import percent

NO_INTERVAL: Final = (None, None)

Bounds: TypeAlias = tuple[float | None, float | None]


@dataclass(frozen=True, slots=True)
class Case:
    """Everything a gate may look at. `alpha` is the level to pass at, `fail_alpha` the one to fail at."""

    evidence: Mapping[str, Any]
    live: Live
    policy: Policy
    alpha: float
    fail_alpha: float
    now: float
    state: Mapping[str, Any] | None
    own: OwnGate | None
    detailed: bool

    def section(self, *names: str) -> Mapping[str, Any]:
        """A part of the evidence by its path; empty where there is none."""
        found: Any = self.evidence
        for name in names:
            found = found.get(name) if isinstance(found, Mapping) else None
        return found if isinstance(found, Mapping) else {}

    def decision(self, log_e_pass: float, log_e_fail: float) -> str:
        """By evidence for "good enough" and for "not good enough"."""
        if log_e_fail >= log_threshold(self.fail_alpha):
            return FAIL
        return PASS if log_e_pass >= log_threshold(self.alpha) else UNDECIDED

    def interval(self, bounds: Callable[[float], Bounds]) -> Bounds:
        """The interval for a reader, if one is asked for."""
        return bounds(self.alpha) if self.detailed else NO_INTERVAL


# --- the two kinds of test that most gates are --------------------------------------------------------------------------------


def rate_gate(case: Case, name: str, good: int, bad: int, floor: float, of: str, what: str) -> GateResult:
    """A share of good ones held against a floor, by the exact Bernoulli e-process: one-sided.

    To pass, H0 "the rate is at most the floor" is rejected; to fail, H0 "it is at least the floor".
    """
    n = good + bad
    above, below = float(bernoulli_log_e_above(good, bad, floor)), float(bernoulli_log_e_below(good, bad, floor))
    state = case.decision(above, below) if n else UNDECIDED
    seen = good / n if n else None
    ci = case.interval(lambda alpha: (float(bernoulli_lower(good, bad, alpha)), float(bernoulli_upper(good, bad, alpha))))
    more = more_for_rate(good, bad, floor, case.alpha) if case.detailed and state == UNDECIDED else None
    said = f"{what} on {percent(good / n)} of {n:,} {of}" if n else f"{what}: no {of} yet"
    return GateResult(name, state, seen, ci, n, of, floor, more, in_words(state, said, f"at least {percent(floor)}", more, of))


def difference_gate(case: Case, name: str, counts: Sequence[int], margin: float, of: str, what: str) -> GateResult:
    """Paired outcomes, `counts` = (worse, better, same), held against a margin (shadow.paired).

    To pass, H0 "green is worse by the margin or more" is rejected; to fail, H0 "it is worse by the margin or less".
    """
    worse, better, same = counts
    n = worse + better + same
    not_worse = float(paired_log_e_below(worse, better, same, margin))
    state = case.decision(not_worse, float(paired_log_e_above(worse, better, same, margin))) if n else UNDECIDED
    seen = (worse - better) / n if n else None
    ci = case.interval(
        lambda alpha: (float(paired_lower(worse, better, same, alpha)), float(paired_upper(worse, better, same, alpha)))
    )
    more = more_for_mcnemar(better, worse, same, case.alpha, -margin) if case.detailed and state == UNDECIDED else None
    said = f"{what}: by {points(seen)} ({n:,} {of})" if seen is not None else f"{what}: no {of} yet"
    return GateResult(name, state, seen, ci, n, of, margin, more, in_words(state, said, f"at most {points(margin)}", more, of))


def snapshot_bounds(case: Case, ci: object) -> Callable[[float], Bounds]:
    """A snapshot's interval, which serves where its own level is at least as strict as the one that is asked for."""
    level = case.evidence.get("alpha")
    ends = tuple(ci) if isinstance(ci, list | tuple) and len(ci) == 2 else NO_INTERVAL

    def bounds(alpha: float) -> Bounds:
        strict = isinstance(level, int | float) and level <= alpha * (1 + 1e-9)
        return (ends[0], ends[1]) if strict else NO_INTERVAL

    return bounds


# --- words and numbers --------------------------------------------------------------------------------------------------------


def in_words(state: str, seen: str, asked: str, more: int | None, of: str) -> str:
    """What was seen, what is asked for, and where it stands."""
    if state == PASS:
        return f"{seen}; shown to be {asked}"
    if state == FAIL:
        return f"{seen}; shown not to be {asked}"
    about = f"about {more:,} more {of} would tell" if more else "that cannot be said yet"
    return f"{seen}; asked for is {asked}: {about}"


def points(difference: float | None) -> str:
    """A difference of two rates in percentage points."""
    return f"{100 * (difference or 0.0):.4g} points"


def whole(section: Mapping[str, Any], key: str) -> int:
    """A count; 0 for one that is not there or none."""
    value = section.get(key)
    return int(value) if isinstance(value, int | float) and math.isfinite(value) and value > 0 else 0


def number(section: Mapping[str, Any], key: str) -> float | None:
    """A finite number; None for one that is not there or none."""
    value = section.get(key)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def evidence_of(section: Mapping[str, Any], key: str) -> float:
    """A log e-value; minus infinity for one that is not there."""
    found = number(section, key)
    return -math.inf if found is None else found
