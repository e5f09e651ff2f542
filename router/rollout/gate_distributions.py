"""The gates that look at whole distributions: latency quantiles, drift of predictions, slices of the traffic.

Latency and drift have no e-value: they pass or fail when their interval at that level lies wholly on one side of the threshold.
What they need to be held at any level (histograms, the confusion of labels, all slices) is in the evidence's state, which the
controller reads beside the snapshot; without it the snapshot's own intervals serve where their level is strict enough.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from router.rollout.gate_case import NO_INTERVAL, Bounds, Case, in_words, number, snapshot_bounds, whole
from router.rollout.policy import DriftGate, LatencyGate
from router.rollout.verdict import FAIL, PASS, UNDECIDED, GateResult
from shadow.drift import Drift
from shadow.forecast import more_for_interval, more_for_rate
from shadow.latency import quantile_ranks
from shadow.packing import unpack_histogram
from shadow.quantiles import Histogram
from shadow.sequential import bernoulli_log_e_above, bernoulli_log_e_below, bernoulli_lower, bernoulli_upper, log_threshold
from shadow.words import count as counted
from shadow.words import percent

_SMALL_SLICE: Final = 0.01  # a slice with a smaller share of the pairs need not pass, only not fail


# --- latency ------------------------------------------------------------------------------------------------------------------


def latency(case: Case) -> list[GateResult]:
    """A quantile of green's times against blue's, on twins that the shadow sent alike."""
    gate = case.policy.gates.latency
    assert gate is not None
    name = f"p{100 * gate.quantile:g}"
    paired = case.section("latency", "paired")
    n = whole(paired, "n")
    if not n:
        text = "no noise pairs yet, and only those are timed alike (shadow.noise_percent)"
        return [GateResult("latency", UNDECIDED, None, NO_INTERVAL, 0, "noise pairs", gate.max_ratio, None, text)]
    total = _histograms(case.state)
    bounds = _ratio_bounds(case, gate, name, total)
    seen = _ratio(total, gate.quantile) if total else number(case.section("latency", "paired", "ratio", name), "estimate")
    high, low = bounds(case.alpha)[1], bounds(case.fail_alpha)[0]
    state = FAIL if low is not None and low > gate.max_ratio else UNDECIDED
    if state == UNDECIDED and high is not None and high < gate.max_ratio:
        state = PASS
    more = None
    if state == UNDECIDED and high is None and case.detailed:
        more = _until_bounded(n, gate.quantile, case.alpha)
    elif state == UNDECIDED and seen is not None and high is not None:
        more = more_for_interval(n, seen, high, gate.max_ratio)
    said = "?" if seen is None else f"{seen:.3f}"
    what = f"green's {name} is {said} times blue's ({counted(n, 'noise pair')})"
    detail = in_words(state, what, f"at most {gate.max_ratio:g} times", more, "noise pairs")
    return [GateResult("latency", state, seen, bounds(case.alpha), n, "noise pairs", gate.max_ratio, more, detail)]


def _until_bounded(n: int, p: float, alpha: float) -> int | None:
    """At least so many more noise pairs until a quantile has an upper bound at all."""
    needed = n
    while quantile_ranks(needed, p, alpha / 2.0)[1] > needed:
        needed += max(needed // 8, 8)
        if needed > 1 << 24:
            return None
    return needed - n or None


def _histograms(state: Mapping[str, Any] | None) -> tuple[Histogram, Histogram] | None:
    """(blue's, green's) times of the noise pairs, from the evidence's state; None where it has none."""
    try:
        total = (state or {})["latency"]["total"]
        return unpack_histogram(total["blue"]), unpack_histogram(total["green"])
    except (KeyError, TypeError, ValueError):
        return None


def _ratio(total: tuple[Histogram, Histogram], p: float) -> float | None:
    blue, green = total[0].quantile(p), total[1].quantile(p)
    return green / blue if green is not None and blue else None


def _ratio_bounds(
    case: Case, gate: LatencyGate, name: str, total: tuple[Histogram, Histogram] | None
) -> Callable[[float], Bounds]:
    """The interval of the ratio by its level. Without histograms only the snapshot's own level serves."""
    if total is None:
        return snapshot_bounds(case, case.section("latency", "paired", "ratio", name).get("ci"))

    def bounds(alpha: float) -> Bounds:
        # Both quantile sequences at alpha/2, divided: shadow.quantiles.quantile_ratio, by its faster ranks.
        (blue_low, blue_high), (green_low, green_high) = (_quantile(arm, gate.quantile, alpha / 2.0) for arm in total)
        low = green_low / blue_high if blue_high else 0.0
        return low, green_high / blue_low if green_high is not None and blue_low > 0.0 else None

    return bounds


def _quantile(histogram: Histogram, p: float, alpha: float) -> tuple[float, float | None]:
    low, high = quantile_ranks(histogram.n, p, alpha)
    return (
        histogram.order_statistic(low).low if low >= 1 else 0.0,
        histogram.order_statistic(high).high if high <= histogram.n else None,
    )


# --- predictions --------------------------------------------------------------------------------------------------------------


def drift(case: Case) -> list[GateResult]:
    """The distribution of green's predictions is near blue's."""
    gate = case.policy.gates.drift
    assert gate is not None
    section = case.section("drift")
    n, distance = whole(section, "n"), case.section("drift", "distance")
    if not n:
        text = "no predictions with a distribution yet"
        return [GateResult("drift", UNDECIDED, None, NO_INTERVAL, 0, "pairs", gate.max_distance, None, text)]
    bounds = _drift_bounds(case)
    low, high = bounds(case.fail_alpha)[0], bounds(case.alpha)[1]
    seen = number(distance, "estimate")
    return [_drift_result(case, gate, bounds(case.alpha), low, high, seen, n)]


def _drift_result(
    case: Case, gate: DriftGate, ci: Bounds, low: float | None, high: float | None, seen: float | None, n: int
) -> GateResult:
    state = FAIL if low is not None and low > gate.max_distance else UNDECIDED
    if state == UNDECIDED and high is not None and high < gate.max_distance:
        state = PASS
    more = None
    if state == UNDECIDED and seen is not None and high is not None:
        more = more_for_interval(n, seen, high, gate.max_distance)
    of = case.section("drift").get("of") or "predictions"
    what = f"green's {of} are {seen or 0:.4f} away from blue's distribution ({counted(n, 'pair')})"
    detail = in_words(state, what, f"at most {gate.max_distance:g}", more, "pairs")
    return GateResult("drift", state, seen, ci, n, "pairs", gate.max_distance, more, detail)


def _drift_bounds(case: Case) -> Callable[[float], Bounds]:
    try:
        found = Drift.from_dict((case.state or {})["drift"])
    except (KeyError, TypeError, ValueError):
        return snapshot_bounds(case, case.section("drift", "distance").get("ci"))
    known: dict[float, Bounds] = {}

    def bounds(alpha: float) -> Bounds:
        if alpha not in known:
            distance = found.snapshot(alpha).get("distance") or {}
            low, high = distance.get("ci") or NO_INTERVAL
            known[alpha] = (low, high)
        return known[alpha]

    return bounds


def slices(case: Case) -> list[GateResult]:
    """No slice is worse off than the floor; every slice that has a part of the traffic worth naming is shown to be above it."""
    gate = case.policy.gates.slices
    assert gate is not None
    rows = _slice_rows(case)
    n = sum(agreed + differed for _, agreed, differed in rows)
    if not n:
        return [GateResult("slices", UNDECIDED, None, NO_INTERVAL, 0, "pairs", gate.min, None, "no pairs in any slice yet")]
    agreed, differed = [row[1] for row in rows], [row[2] for row in rows]
    above = [float(e) for e in bernoulli_log_e_above(agreed, differed, gate.min)]
    below = [float(e) for e in bernoulli_log_e_below(agreed, differed, gate.min)]
    fail_at = log_threshold(case.fail_alpha) + math.log(len(rows))  # any of them may fire
    worst = max(range(len(rows)), key=lambda i: below[i])
    # A property's own values share its pairs among them.
    by_rule: dict[str, int] = {}
    for label, a, d in rows:
        rule = label.partition(" = ")[0]
        by_rule[rule] = by_rule.get(rule, 0) + a + d
    open_ones = [
        i
        for i, (label, a, d) in enumerate(rows)
        if a + d >= _SMALL_SLICE * by_rule[label.partition(" = ")[0]] and above[i] < log_threshold(case.alpha)
    ]
    state = FAIL if below[worst] >= fail_at else UNDECIDED if open_ones else PASS
    shown = worst if state == FAIL else min(open_ones or [worst], key=lambda i: above[i])
    label, a, d = rows[shown]
    more = more_for_rate(a, d, gate.min, case.alpha) if case.detailed and state == UNDECIDED else None
    ci = case.interval(lambda alpha: (float(bernoulli_lower(a, d, alpha)), float(bernoulli_upper(a, d, alpha))))
    rest = f", and {counted(len(open_ones) - 1, 'slice')} more" if len(open_ones) > 1 and state == UNDECIDED else ""
    what = f"where {label} green answers like blue on {percent(a / (a + d))} of {counted(a + d, 'pair')}{rest}"
    detail = (
        f"all {counted(len(rows), 'slice')} above {percent(gate.min)}"
        if state == PASS
        else in_words(state, what, f"at least {percent(gate.min)}", more, "pairs in it")
    )
    return [GateResult("slices", state, a / (a + d), ci, n, "pairs", gate.min, more, detail)]


def _slice_rows(case: Case) -> list[tuple[str, int, int]]:
    """(`property = value`, agreed, differed) of every slice with pairs: of all in the state, else of those in the snapshot."""
    kept = (case.state or {}).get("slices")
    if isinstance(kept, Mapping):
        named = [(f"{rule} = {value}", int(row[0]), int(row[1])) for rule, rows in kept.items() for value, row in rows.items()]
    else:
        shown: Sequence[Mapping[str, Any]] = case.evidence.get("slices") or ()
        named = [(f"{s['by']} = {s['value']}", int(s["agreed"]), int(s["n"]) - int(s["agreed"])) for s in shown]
    return [row for row in named if row[1] + row[2]]
