"""One function for each gate: which hypothesis it tests, on which counts, and how it says so in words.

All take a `Case` and give one result or more: agreement against blue's own noise, and errors, are two tests each. The gates on
whole distributions are in `gate_distributions`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

from router.rollout import live_errors
from router.rollout.gate_case import (
    NO_INTERVAL,
    Bounds,
    Case,
    difference_gate,
    evidence_of,
    in_words,
    number,
    points,
    rate_gate,
    whole,
)
from router.rollout.gate_distributions import drift, latency, slices
from router.rollout.live_errors import StepErrors, UnitErrors
from router.rollout.policy import AgreementGate, DifferenceGate, Policy
from router.rollout.verdict import FAIL, PASS, UNDECIDED, GateResult
from shadow.forecast import more_for_interval
from shadow.sequential import log_threshold
from shadow.words import count as counted

MIN_LIVE: Final = 10  # requests of green without which a step has not been tried at all
_BY_SIMILARITY: Final = ("numbers", "vectors", "text", "ranked")


# --- without which nothing passes ---------------------------------------------------------------------------------------------


def pairs(case: Case) -> GateResult:
    """So many pairs at least, whatever they say."""
    n, wanted = whole(case.evidence, "pairs"), case.policy.shadow.min_pairs
    more = max(wanted - n, 0)
    detail = f"{counted(n, 'pair')} compared, {wanted:,} wanted" + (f": {more:,} more" if more else "")
    return GateResult("pairs", UNDECIDED if more else PASS, float(n), NO_INTERVAL, n, "pairs", float(wanted), more, detail)


def of_the_split(case: Case) -> list[GateResult]:
    """What holds while users see green: that it has traffic, that it does not fail them, and that it gets its share."""
    live, found = case.live, []
    if live.stage != "shadow":
        n = live.green_requests
        detail = f"green was asked {counted(n, 'time')} in this step" + (f", {MIN_LIVE} are wanted" if n < MIN_LIVE else "")
        state, more = (PASS, 0) if n >= MIN_LIVE else (UNDECIDED, MIN_LIVE - n)
        found.append(GateResult("traffic", state, float(n), NO_INTERVAL, n, "requests", float(MIN_LIVE), more, detail))
    ratio = case.section("experiment", "sample_ratio")
    if ratio.get("mismatch"):
        detail = "green does not get the share of traffic that the plan says (sample ratio mismatch)"
        found.append(GateResult("sample_ratio", UNDECIDED, None, NO_INTERVAL, whole(ratio, "n"), "units", None, None, detail))
    return found


# --- agreement ----------------------------------------------------------------------------------------------------------------


def agreement(case: Case) -> list[GateResult]:
    """Green answers like blue: against a floor, against blue's own noise, or both."""
    gate = case.policy.gates.agreement
    assert gate is not None
    found = [] if gate.min is None else [_agreement_floor(case, gate.min)]
    if gate.not_worse_than_noise:
        found += [_against_noise(case, gate), _readable(case, gate)]
    return found


def _agreement_floor(case: Case, floor: float) -> GateResult:
    section = case.section("agreement")
    n, rate = whole(section, "n"), number(section, "rate")
    agreed = whole(section, "agreed") if "agreed" in section else round((rate or 0.0) * n)
    # An answer that cannot be read where blue's can is no agreement: a body must never count as equal by being broken.
    unread = whole(case.section("unreadable"), "green_only")
    what = "green answers like blue" + (f" ({counted(unread, 'unreadable answer')} among the rest)" if unread else "")
    return rate_gate(case, "agreement", agreed, n - agreed + unread, floor, "pairs", what)


def _against_noise(case: Case, gate: AgreementGate) -> GateResult:
    section = case.section("against_noise")
    alike = case.section("against_noise", "similarity")
    kinds = case.section("kinds")
    most = max(kinds, key=lambda kind: float(kinds[kind]), default="")
    name, of = "noise", "noise pairs"
    if most in _BY_SIMILARITY and alike.get("margin") == gate.margin:
        n, lost = whole(alike, "n"), number(alike, "lost")
        state = case.decision(evidence_of(alike, "log_e_no_less"), evidence_of(alike, "log_e_less")) if n else UNDECIDED
        ci = alike.get("ci") or NO_INTERVAL
        more = more_for_interval(n, lost, ci[1], gate.margin) if state == UNDECIDED and lost is not None and ci[1] else None
        what = f"green's answers are less like blue's than blue's own second ones by {lost or 0:.4f} on average"
        detail = in_words(state, f"{what} ({counted(n, 'noise pair')})", f"at most {gate.margin:g}", more, of)
        return GateResult(name, state, lost, (ci[0], ci[1]), n, of, gate.margin, more, detail)
    counts = tuple(whole(section, key) for key in ("worse", "better", "same"))
    itself = "green differs from blue more often than blue from itself"
    return difference_gate(case, name, counts, gate.margin, of, itself)


def _readable(case: Case, gate: AgreementGate) -> GateResult:
    section = case.section("unreadable")
    worse, better = whole(section, "green_only"), whole(section, "blue_only")
    counts = (worse, better, max(whole(section, "n") - worse - better, 0))
    return difference_gate(
        case, "readable", counts, gate.margin, "pairs", "green's answers cannot be read more often than blue's"
    )


# --- errors -------------------------------------------------------------------------------------------------------------------


def errors(case: Case) -> list[GateResult]:
    """Green fails hardly more often than blue: on mirrored pairs, and with users in this very step."""
    gate = case.policy.gates.errors
    assert gate is not None
    section = case.section("errors")
    worse, better = whole(section, "green_only"), whole(section, "blue_only")
    counts = (worse, better, max(whole(section, "n") - worse - better, 0))
    found = [difference_gate(case, "errors", counts, gate.max_increase, "pairs", "green fails more often than blue")]
    live = case.live
    if live.stage == "split" and live.step is not None and not live.sticky:
        found.append(_live_errors(case, live.step, gate.max_increase))
    elif live.stage != "shadow" and live.sticky:
        found += _unit_errors(case, gate.max_increase)
    return found


def _unit_errors(case: Case, margin: float) -> list[GateResult]:
    """Users who keep their arm are compared as users (shadow.experiment), over all steps of the release: each is drawn once. Of
    users a step may have few, whatever its traffic; so they need not show anything, but they can take green back. What has to
    be shown before green goes on is shown by the mirrored pairs.
    """
    units = _units_of(case.section("experiment", "errors", "events"))
    seen = live_errors.units_difference(units)
    if seen is None:
        return []
    state = FAIL if live_errors.log_e_units_worse(units, margin) >= log_threshold(case.fail_alpha) else PASS
    green, blue, n = (sum(getattr(one, name) for one in units) for name in ("green_errors", "blue_errors", "requests"))
    ci = case.interval(lambda alpha: (live_errors.units_lower(units, alpha), None))
    what = (
        f"{green:,} of green's users and {blue:,} of blue's have met a failure, in {counted(n, 'request')} up to each one's "
        f"first: {points(seen)} more often at green"
    )
    asked = f"at most {points(margin)} more"
    rest = (
        f"shown not to be {asked}" if state == FAIL else f"not shown to be above {asked}, which is all that users are asked for"
    )
    return [GateResult("errors_live", state, seen, ci, n, "requests of users", margin, None, f"{what}; {rest}")]


def _units_of(events: Mapping[str, Any]) -> list[UnitErrors]:
    """The counts of users' first failures in the evidence; those that cannot be are left out."""
    found = []
    for row in events.get("by_chance") or ():
        chance, *numbers = row
        if 0.0 < chance < 1.0:
            found.append(UnitErrors(float(chance), *(int(one) for one in numbers)))
    return found


def _live_errors(case: Case, step: StepErrors, margin: float) -> GateResult:
    n, seen = step.green_requests, step.difference
    state = more = None
    if seen is not None:
        # Each step is a test of its own, so as many as there are steps may fire.
        fail_at = log_threshold(case.fail_alpha) + math.log(max(case.policy.live_steps, 1))
        if live_errors.log_e_worse(step, margin) >= fail_at:
            state = FAIL
        elif live_errors.log_e_not_worse(step, margin) >= log_threshold(case.alpha):
            state = PASS
        elif case.detailed:
            more = live_errors.more_requests(step, margin, case.alpha)
    state = state or UNDECIDED
    ci = case.interval(lambda alpha: (live_errors.lower(step, alpha), live_errors.upper(step, alpha)))
    what = (
        "green has had no users in this step yet"
        if seen is None
        else f"with users green fails {points(seen)} more often than blue ({step.green_errors:,} of {n:,} in this step)"
    )
    detail = in_words(state, what, f"at most {points(margin)} more", more, "requests of green")
    return GateResult("errors_live", state, seen, ci, n, "requests of green", margin, more, detail)


# --- latency objective ---


def objective(case: Case) -> list[GateResult]:
    """Green keeps a latency objective."""
    gate = case.policy.gates.objective
    assert gate is not None
    section = case.section("latency", "objective")
    if section.get("latency_ms") != gate.latency_ms:
        text = f"the shadow does not measure the objective of {gate.latency_ms:g} ms (rollout.gates.objective in its settings)"
        return [GateResult("objective", UNDECIDED, None, NO_INTERVAL, 0, "noise pairs", gate.min, None, text)]
    n, within = whole(section, "n"), whole(case.section("latency", "objective", "green"), "within")
    what = f"green answers within {gate.latency_ms:g} ms"
    return [rate_gate(case, "objective", within, n - within, gate.min, "noise pairs", what)]


# --- feedback -----------------------------------------------------------------------------------------------------------------


def accuracy(case: Case) -> list[GateResult]:
    """Green is right about as often as blue, by late labels (McNemar on the pairs on which only one is right)."""
    gate = case.policy.gates.accuracy
    assert gate is not None
    section = case.section("feedback", "accuracy")
    wrong, right = whole(section, "blue_only_right"), whole(section, "green_only_right")
    counts = (wrong, right, max(whole(section, "n") - wrong - right, 0))
    what = "green is wrong more often than blue"
    return [difference_gate(case, "accuracy", counts, -gate.min_difference, "labels", what)]


def reward(case: Case) -> list[GateResult]:
    """Green earns about as much as blue, by inverse propensity scores on the split traffic."""
    gate = case.policy.gates.reward
    assert gate is not None
    return [_reward_result(case, gate, case.section("feedback", "reward"))]


def _reward_result(case: Case, gate: DifferenceGate, section: Mapping[str, Any]) -> GateResult:
    n, floor = whole(section, "n"), gate.min_difference
    if not n:
        text = "no rewards yet (POST /v1/feedback)"
        return GateResult("reward", UNDECIDED, None, NO_INTERVAL, 0, "rewards", floor, None, text)
    # The evidence that the difference lies above d is weighted - d weight - penalty; below, the same with the sign turned.
    scores = case.section("feedback", "reward", "scores")
    weight, total, penalty = (number(scores, key) or 0.0 for key in ("weight", "weighted", "penalty"))
    seen, known = number(case.section("feedback", "reward", "difference"), "estimate"), weight > 0.0
    state = case.decision(total - floor * weight - penalty, floor * weight - total - penalty) if known else UNDECIDED

    def bounds(alpha: float) -> Bounds:
        reach = penalty + log_threshold(alpha)
        return (total - reach) / weight, (total + reach) / weight

    ci = bounds(case.alpha) if known else NO_INTERVAL
    more = None
    if state == UNDECIDED and seen is not None and ci[0] is not None:
        more = more_for_interval(n, seen, ci[0], floor)
    what = f"green earns {seen or 0:+.4f} beside blue ({counted(n, 'reward')})"
    return GateResult(
        "reward", state, seen, ci, n, "rewards", floor, more, in_words(state, what, f"at least {floor:+g}", more, "rewards")
    )


def python(case: Case) -> list[GateResult]:
    """The operator's own gate: gets the evidence, gives `pass`, `fail` or `undecided`, alone or with a `detail`."""
    name = case.policy.gates.python
    answer: object = None
    if case.own is None:
        detail = f"{name} could not be loaded; the log of the control process says why"
    else:
        try:
            answer = case.own(case.evidence)
            detail = f"{name} says so"
        except Exception as error:  # code that is not ours may raise anything, and must not pass by it
            detail = f"{name} raised {type(error).__name__}: {str(error)[:200]}"
    if isinstance(answer, Mapping):
        detail = str(answer.get("detail") or detail)[:500]
        answer = answer.get("state")
    words = {True: PASS, False: FAIL, PASS: PASS, FAIL: FAIL}
    state = words.get(answer, UNDECIDED) if isinstance(answer, bool | str) else UNDECIDED
    if answer not in (None, UNDECIDED, *words):
        detail = f"{name} returned {answer!r:.80}: return pass, fail or undecided, or a dict with `state` and `detail`"
    n = whole(case.evidence, "pairs")
    return [GateResult("python", state, None, NO_INTERVAL, n, "pairs", None, None, f"{name}: {detail}")]


TESTS: Final[Mapping[str, Callable[[Case], list[GateResult]]]] = {
    "agreement": agreement,
    "errors": errors,
    "latency": latency,
    "objective": objective,
    "drift": drift,
    "accuracy": accuracy,
    "reward": reward,
    "slices": slices,
    "python": python,
}


def count(policy: Policy) -> int:
    """K: how many hypotheses may take green back. The policy alone says so: it must not change while evidence comes in."""
    gates = policy.gates
    found = sum(getattr(gates, name) is not None for name in TESTS if name != "agreement")
    if gates.errors is not None:
        found += 1  # with users, beside the mirrored pairs
    if gates.agreement is not None:
        found += (gates.agreement.min is not None) + 2 * gates.agreement.not_worse_than_noise
    return found
