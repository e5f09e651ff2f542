"""The gates on evidence that is made of real observations where a state is needed, and of counts where those are enough."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.rollout.gates import judge
from router.rollout.live_errors import StepErrors
from router.rollout.policy_settings import parse_policy
from router.rollout.verdict import FAIL, HOLD, PASS, PROMOTE, ROLLBACK, UNDECIDED, Live, Verdict
from shadow.evidence import Evidence, EvidenceOptions
from shadow.observation import Observation, Outcome
from shadow.packing import pack_histogram
from shadow.quantiles import Histogram
from shadow.sequential import Bernoulli

NOW = 1000.0
SHADOW = Live("shadow")


def counts(
    agreed: int = 0, differed: int = 0, *, green_only: int = 0, blue_only: int = 0, unread: int = 0, **more: Any
) -> dict[str, Any]:
    """Evidence of so many pairs, as a snapshot has them."""
    n = agreed + differed
    return {
        "alpha": 0.05,
        "as_of": NOW,
        "pairs": n,
        "agreement": {"n": n, "agreed": agreed},
        "errors": {"n": n + green_only + blue_only, "green_only": green_only, "blue_only": blue_only},
        "unreadable": {"n": n + unread, "green_only": unread, "blue_only": 0},
        **more,
    }


def gate(name: str, **settings: Any) -> Any:
    return parse_policy({"shadow": {"min_pairs": 1}, "gates": {name: settings}})


def state_of(verdict: Verdict, name: str) -> str:
    found = [one for one in verdict.gates if one.name == name]
    assert len(found) == 1, [one.name for one in verdict.gates]
    return found[0].state


@pytest.mark.parametrize(
    ("name", "settings", "evidence", "expected"),
    [
        ("agreement", {"min": 0.98}, counts(), UNDECIDED),
        ("agreement", {"min": 0.98}, counts(100), UNDECIDED),
        ("agreement", {"min": 0.98}, counts(400), PASS),
        ("agreement", {"min": 0.98}, counts(900, 100), FAIL),
        ("agreement", {"min": 0.98}, counts(40, 4), UNDECIDED),
        ("agreement", {"min": 0.98}, counts(400, unread=40), FAIL),
        ("errors", {"max_increase": 0.01}, counts(), UNDECIDED),
        ("errors", {"max_increase": 0.01}, counts(100), UNDECIDED),
        ("errors", {"max_increase": 0.01}, counts(600), PASS),
        ("errors", {"max_increase": 0.01}, counts(600, green_only=40), FAIL),
        ("errors", {"max_increase": 0.01}, counts(600, blue_only=40), PASS),
        ("errors", {"max_increase": 0.01}, counts(6000, green_only=40, blue_only=40), PASS),
        ("noise", {"not_worse_than_noise": True}, counts(900), UNDECIDED),
        ("noise", {"not_worse_than_noise": True}, counts(900, against_noise={"worse": 4, "better": 5, "same": 991}), PASS),
        ("noise", {"not_worse_than_noise": True}, counts(900, against_noise={"worse": 60, "better": 5, "same": 935}), FAIL),
        ("noise", {"not_worse_than_noise": True}, counts(900, against_noise={"worse": 2, "better": 1, "same": 30}), UNDECIDED),
        ("objective", {"latency_ms": 200, "min": 0.9}, counts(9), UNDECIDED),
        (
            "objective",
            {"latency_ms": 200, "min": 0.9},
            counts(9, latency={"objective": {"latency_ms": 200.0, "n": 300, "green": {"within": 297}}}),
            PASS,
        ),
        (
            "objective",
            {"latency_ms": 200, "min": 0.9},
            counts(9, latency={"objective": {"latency_ms": 200.0, "n": 300, "green": {"within": 200}}}),
            FAIL,
        ),
        (
            "objective",
            {"latency_ms": 100, "min": 0.9},
            counts(9, latency={"objective": {"latency_ms": 200.0, "n": 300, "green": {"within": 300}}}),
            UNDECIDED,
        ),
        ("accuracy", {}, counts(9), UNDECIDED),
        (
            "accuracy",
            {"min_difference": -0.01},
            counts(9, feedback={"accuracy": {"n": 2000, "green_only_right": 20, "blue_only_right": 18}}),
            PASS,
        ),
        (
            "accuracy",
            {"min_difference": -0.01},
            counts(9, feedback={"accuracy": {"n": 2000, "green_only_right": 10, "blue_only_right": 120}}),
            FAIL,
        ),
        ("reward", {}, counts(9), UNDECIDED),
        (
            "reward",
            {"min_difference": -0.01},
            counts(9, feedback={"reward": {
                "n": 500, "difference": {"estimate": 0.02}, "scores": {"weight": 1e3, "weighted": 20.0, "penalty": 5.0}
            }}),
            PASS,
        ),
        (
            "reward",
            {"min_difference": -0.01},
            counts(9, feedback={"reward": {
                "n": 500, "difference": {"estimate": -0.05}, "scores": {"weight": 1e3, "weighted": -50.0, "penalty": 5.0}
            }}),
            FAIL,
        ),
        ("slices", {"min": 0.9}, counts(9), UNDECIDED),
        (
            "slices",
            {"min": 0.9},
            counts(9, slices=[{"by": "h", "value": "a", "n": 200, "agreed": 199}, {"by": "h", "value": "b", "n": 90, "agreed": 90}]),
            PASS,
        ),
        (
            "slices",
            {"min": 0.9},
            counts(9, slices=[{"by": "h", "value": "a", "n": 200, "agreed": 199}, {"by": "h", "value": "b", "n": 9, "agreed": 9}]),
            UNDECIDED,
        ),
        (
            "slices",
            {"min": 0.9},
            counts(9, slices=[{"by": "h", "value": "a", "n": 2000, "agreed": 1999}, {"by": "h", "value": "b", "n": 2, "agreed": 2}]),
            PASS,
        ),
        (
            "slices",
            {"min": 0.9},
            counts(9, slices=[{"by": "h", "value": "a", "n": 200, "agreed": 199}, {"by": "h", "value": "b", "n": 90, "agreed": 50}]),
            FAIL,
        ),
        ("latency", {}, counts(9), UNDECIDED),
        ("drift", {}, counts(9), UNDECIDED),
    ],
)  # fmt: skip
def test_each_gate_passes_fails_or_waits(name: str, settings: dict[str, Any], evidence: dict[str, Any], expected: str) -> None:
    policy = gate("agreement" if name == "noise" else name, **settings)
    for detailed in (True, False):
        verdict = judge(evidence, SHADOW, policy, NOW, detailed=detailed)
        assert state_of(verdict, name) == expected
        if name != "noise":
            assert verdict.verdict == {PASS: PROMOTE, FAIL: ROLLBACK, UNDECIDED: HOLD}[expected], verdict.reasons
        json.dumps(verdict.to_dict(), allow_nan=False)


# --- nothing passes by silence ------------------------------------------------------------------------------------------------

EVERY_GATE = parse_policy(
    {
        "gates": {
            "agreement": {"min": 0.9, "not_worse_than_noise": True},
            "errors": {},
            "latency": {},
            "objective": {"latency_ms": 100},
            "drift": {},
            "accuracy": {},
            "reward": {},
            "slices": {},
            "python": "m:f",
        }
    }
)


@pytest.mark.parametrize("evidence", [{}, {"as_of": NOW}, counts(), {"as_of": NOW, "agreement": None, "latency": []}])
@pytest.mark.parametrize("live", [SHADOW, Live("split", StepErrors(0.1, 0, 0, 0, 0)), Live("full")])
def test_empty_evidence_never_passes(evidence: dict[str, Any], live: Live) -> None:
    verdict = judge(evidence, live, EVERY_GATE, NOW)
    assert verdict.verdict == HOLD
    assert {one.state for one in verdict.gates} == {UNDECIDED}
    assert len(verdict.reasons) >= len(EVERY_GATE.gates.__slots__)
    assert all(verdict.reasons)


def test_old_evidence_lets_nothing_pass_but_still_fails() -> None:
    policy = gate("errors", max_increase=0.01)
    good, bad = counts(1000), counts(1000, green_only=100)
    assert judge(good, SHADOW, policy, NOW + policy.stale).verdict == PROMOTE
    late = NOW + policy.stale + 1
    held = judge(good, SHADOW, policy, late)
    assert held.verdict == HOLD
    assert "the evidence is 31 s old" in held.reasons[0]
    assert state_of(held, "errors") == UNDECIDED
    assert judge(bad, SHADOW, policy, late).verdict == ROLLBACK


def test_without_its_shadow_process_nothing_passes() -> None:
    held = judge(counts(1000), Live("shadow", shadow_running=False), gate("errors", max_increase=0.01), NOW)
    assert held.verdict == HOLD
    assert "the shadow process does not run" in held.reasons[0]


def test_too_few_pairs_hold_whatever_they_say() -> None:
    policy = parse_policy({"shadow": {"min_pairs": 5000}, "gates": {"agreement": {"min": 0.9}}})
    held = judge(counts(1000), SHADOW, policy, NOW)
    assert held.verdict == HOLD
    assert held.reasons == ("1,000 pairs compared, 5,000 wanted: 4,000 more",)
    assert held.gates[0].more == 4000


# --- with users ---------------------------------------------------------------------------------------------------------------


def with_users(step: StepErrors, **live: Any) -> Verdict:
    policy = parse_policy({"shadow": {"min_pairs": 1}, "steps": [10, 50, 100], "gates": {"errors": {"max_increase": 0.01}}})
    return judge(counts(5000), Live("split", step, step.green_requests, **live), policy, NOW)


def test_a_step_must_show_for_itself_that_green_does_not_fail_its_users() -> None:
    assert with_users(StepErrors(0.1, 700, 0, 6300, 0)).verdict == PROMOTE
    waiting = with_users(StepErrors(0.1, 100, 0, 900, 0))
    assert waiting.verdict == HOLD
    assert state_of(waiting, "errors") == PASS
    assert state_of(waiting, "errors_live") == UNDECIDED
    assert with_users(StepErrors(0.1, 100, 30, 900, 0)).verdict == ROLLBACK


def test_a_step_without_traffic_is_no_step() -> None:
    empty = with_users(StepErrors(0.1, 0, 0, 0, 0))
    assert state_of(empty, "traffic") == UNDECIDED
    assert "green was asked 0 times in this step, 10 are wanted" in empty.reasons
    policy = gate("agreement", min=0.9)
    assert judge(counts(1000), Live("split", StepErrors(0.1, 9, 0, 81, 0), 9), policy, NOW).verdict == HOLD
    assert judge(counts(1000), Live("split", StepErrors(0.1, 10, 0, 90, 0), 10), policy, NOW).verdict == PROMOTE
    assert judge(counts(1000), Live("full", None, 9), policy, NOW).verdict == HOLD
    assert judge(counts(1000), Live("full", None, 10), policy, NOW).verdict == PROMOTE


def test_users_who_keep_their_arm_are_not_counted_by_request() -> None:
    bad = StepErrors(0.1, 100, 60, 900, 0)
    assert with_users(bad).verdict == ROLLBACK
    assert "errors_live" not in [one.name for one in with_users(bad, sticky=True).gates]


def test_users_who_keep_their_arm_can_take_green_back() -> None:
    policy = gate("errors", max_increase=0.01)

    def judged(*by_chance: list[float], live: Live | None = None) -> Verdict:
        live = live or Live("split", StepErrors(0.1, 100, 60, 900, 0), 100, sticky=True)
        return judge(counts(5000, experiment={"errors": {"events": {"by_chance": by_chance}}}), live, policy, NOW)

    bad = judged([0.1, 1000, 12, 3])
    assert bad.verdict == ROLLBACK
    assert bad.reasons == (
        "12 of green's users and 3 of blue's have met a failure, in 1,000 requests up to each one's first: 11.67 points more "
        "often at green; shown not to be at most 1 points more",
    )
    low = bad.gates[2].ci[0]
    assert low is not None
    assert 0.01 < low < 0.1167
    # The same, gathered at two chances; and the same while all have come to green.
    assert judged([0.1, 600, 8, 2], [0.2, 400, 6, 1]).verdict == ROLLBACK
    assert judged([0.1, 1000, 12, 3], live=Live("full", None, 500, sticky=True)).verdict == ROLLBACK
    # Worse, but as far as can be shown not by more than is put up with.
    for few in ([0.1, 1000, 1, 3], [0.1, 20_000, 30, 120], [0.5, 10, 0, 0]):
        verdict = judged(few)
        assert verdict.verdict == PROMOTE
        assert "which is all that users are asked for" in verdict.gates[2].detail


def test_a_split_that_is_not_the_plans_blocks_promotion_and_says_so() -> None:
    broken = counts(5000, experiment={"sample_ratio": {"n": 9000, "mismatch": True}})
    held = judge(broken, SHADOW, gate("errors", max_increase=0.01), NOW)
    assert held.verdict == HOLD
    assert "sample ratio mismatch" in held.reasons[0]


# --- levels -------------------------------------------------------------------------------------------------------------------


def test_each_further_attempt_needs_stronger_evidence() -> None:
    policy = gate("agreement", min=0.98)
    for agreed in (250, 300, 350, 400):
        verdicts = [judge(counts(agreed), SHADOW, policy, NOW, attempt=k).verdict for k in (1, 2, 3, 10)]
        assert verdicts == sorted(verdicts, key=[PROMOTE, HOLD].index)
    assert judge(counts(320), SHADOW, policy, NOW, attempt=1).verdict == PROMOTE
    assert judge(counts(320), SHADOW, policy, NOW, attempt=3).verdict == HOLD


def test_the_more_gates_may_fire_the_more_each_needs() -> None:
    evidence = counts(192, 15)  # ln E for "below 98 %" lies between the bars of one gate and of nine
    assert 3.5 < Bernoulli(192, 15).log_e_below(0.98) < 5.9
    alone = gate("agreement", min=0.98)
    many = replace(EVERY_GATE, shadow=alone.shadow, gates=replace(EVERY_GATE.gates, agreement=alone.gates.agreement))
    assert state_of(judge(evidence, SHADOW, alone, NOW), "agreement") == FAIL
    assert state_of(judge(evidence, SHADOW, many, NOW), "agreement") == UNDECIDED


@given(st.integers(0, 2000), st.integers(0, 60), st.integers(0, 500), st.sampled_from([1, 2, 5]))
@settings(deadline=None, max_examples=60)
def test_more_good_evidence_never_turns_a_pass_into_a_failure(agreed: int, differed: int, more: int, attempt: int) -> None:
    policy = parse_policy({"shadow": {"min_pairs": 1}, "gates": {"agreement": {"min": 0.97}, "errors": {}}})
    before = judge(counts(agreed, differed), SHADOW, policy, NOW, attempt=attempt, detailed=False)
    after = judge(counts(agreed + more, differed), SHADOW, policy, NOW, attempt=attempt, detailed=False)
    for name in ("pairs", "agreement", "errors"):
        order = [FAIL, UNDECIDED, PASS]
        assert order.index(state_of(after, name)) >= order.index(state_of(before, name))


@given(st.integers(0, 500), st.integers(0, 20), st.integers(0, 20), st.integers(1, 20))
@settings(deadline=None, max_examples=60)
def test_more_failures_of_green_never_make_a_gate_pass(well: int, green: int, blue: int, more: int) -> None:
    policy = gate("errors", max_increase=0.02)
    before = judge(counts(well, green_only=green, blue_only=blue), SHADOW, policy, NOW, detailed=False)
    after = judge(counts(well, green_only=green + more, blue_only=blue), SHADOW, policy, NOW, detailed=False)
    order = [FAIL, UNDECIDED, PASS]
    assert order.index(state_of(after, "errors")) <= order.index(state_of(before, "errors"))


# --- intervals and forecasts ----------------------------------------------------------------------------------------------------


def test_the_interval_and_the_decision_are_of_one_mind() -> None:
    policy = gate("agreement", min=0.98)
    for agreed, differed in ((100, 0), (300, 0), (400, 0), (1000, 5), (1000, 12), (1000, 40), (200, 10)):
        found = judge(counts(agreed, differed), SHADOW, policy, NOW).gates[1]
        low, high = found.ci
        assert low is not None
        assert high is not None
        assert low <= agreed / (agreed + differed) <= high
        assert (found.state == PASS) == (low >= 0.98)
        assert found.state != FAIL or high <= 0.98


def test_about_how_many_more_is_about_right() -> None:
    policy = gate("agreement", min=0.98)
    found = judge(counts(100), SHADOW, policy, NOW).gates[1]
    assert found.more is not None
    assert 150 <= found.more <= 350
    assert "about" in found.detail
    assert judge(counts(100 + found.more), SHADOW, policy, NOW).verdict == PROMOTE


# --- on a state of real observations ----------------------------------------------------------------------------------------------


def answer(label: int, ms: float) -> Outcome:
    body = b'{"outputs":[{"name":"predict","shape":[1],"datatype":"INT64","data":[%d]}]}' % label
    return Outcome(200, {"content-type": "application/json"}, body, first_ms=ms, total_ms=ms)


def observed(n: int, *, slower: float = 1.0, moved: float = 0.0, options: EvidenceOptions | None = None) -> Evidence:
    """Evidence of n noise pairs: green's times are `slower` times blue's, and a share `moved` of its labels becomes 0."""
    chance = random.Random(3)
    evidence = Evidence(1, options or EvidenceOptions(slices=("header:x-country",)))
    for number in range(n):
        label = chance.randrange(4)
        other = 0 if chance.random() < moved else label
        ms = [chance.lognormvariate(1, 0.3) for _ in range(3)]
        country = chance.choice(["de", "fr"])
        evidence.observe(
            Observation(
                release=1, revision=1, request_id=str(number), started=0.0, method="POST", path="/v2/models/m/infer",
                request_headers={"x-country": country}, request_body=b"{}", live="blue",
                blue=answer(label, ms[0]), green=answer(other, ms[1] * slower), again=answer(label, ms[2]),
            )
        )  # fmt: skip
    return evidence


def judged(evidence: Evidence, policy: Any, *, with_state: bool = True, attempt: int = 1) -> Verdict:
    state = evidence.state() if with_state else None
    return judge(evidence.snapshot(NOW), SHADOW, policy, NOW, state=json.loads(json.dumps(state)), attempt=attempt)


def test_latency_is_judged_at_the_level_of_the_attempt() -> None:
    policy = gate("latency", quantile=0.9, max_ratio=1.5)
    same, slow = observed(700), observed(700, slower=2.5)
    assert state_of(judged(same, policy), "latency") == PASS
    assert state_of(judged(slow, policy), "latency") == FAIL
    first, tenth = (judged(same, policy, attempt=k).gates[1] for k in (1, 10))
    assert first.ci[1] is not None
    assert tenth.ci[1] is None or tenth.ci[1] > first.ci[1]
    assert state_of(judged(observed(60), policy), "latency") == UNDECIDED


def test_a_quantile_that_has_no_upper_bound_yet_says_how_many_pairs_that_needs() -> None:
    policy = gate("latency", quantile=0.99, max_ratio=3)
    few = judged(observed(100), policy).gates[1]
    assert few.ci[1] is None
    assert few.more is not None
    assert 100 < few.more < 2000


def test_a_snapshot_alone_serves_where_its_own_level_is_strict_enough() -> None:
    policy = gate("latency", quantile=0.95, max_ratio=2.5)
    strict, loose = EvidenceOptions(alpha=0.001), EvidenceOptions(alpha=0.05)
    assert state_of(judged(observed(1500, options=strict), policy, with_state=False), "latency") == PASS
    assert state_of(judged(observed(1500, options=loose), policy, with_state=False), "latency") == UNDECIDED


def test_users_who_make_most_of_the_requests_take_back_no_green_by_latency() -> None:
    """Noise pairs ask both arms the same: what a user's requests have in common, both times have. Forty users, each with a
    latency of his own, a few of them with most of the requests; the margin is none at all.
    """
    chance = random.Random(5)
    policy = gate("latency", quantile=0.9, max_ratio=1.0)
    wrong = 0
    for _ in range(100):
        level = [chance.lognormvariate(1, 1) for _ in range(40)]
        users = chance.choices(range(40), weights=[chance.paretovariate(1.1) for _ in level], k=600)
        blue, green = Histogram(), Histogram()
        for number, user in enumerate(users, 1):
            for arm in (blue, green):
                arm.update(level[user] * chance.lognormvariate(0, 0.3))
            if number % 150 == 0:
                state = {"latency": {"total": {"blue": pack_histogram(blue), "green": pack_histogram(green)}}}
                evidence = counts(number, latency={"paired": {"n": number}})
                sticky = Live("split", StepErrors(0.2, 20, 0, 80, 0), 20, sticky=True)
                found = judge(evidence, sticky, policy, NOW, state=state, detailed=False)
                if state_of(found, "latency") == FAIL:
                    wrong += 1
                    break
    assert wrong <= 5


def test_drift_of_labels() -> None:
    policy = gate("drift", max_distance=0.1)
    assert state_of(judged(observed(400), policy), "drift") == PASS
    assert state_of(judged(observed(400, moved=0.5), policy), "drift") == FAIL
    assert state_of(judged(observed(30), policy), "drift") == UNDECIDED


def test_slices_of_the_state() -> None:
    policy = gate("slices", min=0.9)
    assert state_of(judged(observed(400), policy), "slices") == PASS
    bad = judged(observed(400, moved=0.6), policy)
    assert state_of(bad, "slices") == FAIL
    assert "header:x-country = " in bad.reasons[0]


def test_texts_are_held_against_blues_noise_by_similarity() -> None:
    policy = gate("agreement", not_worse_than_noise=True, margin=0.01)
    alike = {"n": 900, "lost": 0.001, "ci": [-0.004, 0.006], "margin": 0.01, "log_e_less": -3.0, "log_e_no_less": 9.0}
    noise = {"worse": 200, "better": 190, "same": 510, "similarity": alike}
    evidence = counts(900, against_noise=noise, kinds={"text": 900})
    assert state_of(judge(evidence, SHADOW, policy, NOW), "noise") == PASS
    lost = {**alike, "lost": 0.08, "ci": [0.05, 0.11], "log_e_less": 12.0, "log_e_no_less": -9.0}
    evidence = counts(900, against_noise={**noise, "similarity": lost}, kinds={"text": 900})
    assert state_of(judge(evidence, SHADOW, policy, NOW), "noise") == FAIL
    labels = counts(900, against_noise=noise, kinds={"labels": 900})
    assert state_of(judge(labels, SHADOW, policy, NOW), "noise") == UNDECIDED


# --- the operator's own -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answered", "state", "words"),
    [
        (True, PASS, "says so"),
        (False, FAIL, "says so"),
        ("pass", PASS, "says so"),
        ("undecided", UNDECIDED, "says so"),
        (None, UNDECIDED, "says so"),
        ({"state": "fail", "detail": "Tuesdays are bad"}, FAIL, "Tuesdays are bad"),
        ("perhaps", UNDECIDED, "returned 'perhaps': return pass, fail or undecided"),
        (17, UNDECIDED, "returned 17"),
    ],
)
def test_a_gate_of_ones_own(answered: object, state: str, words: str) -> None:
    verdict = judge(counts(9), SHADOW, parse_own(), NOW, own=lambda evidence: answered)
    assert state_of(verdict, "python") == state
    assert words in verdict.gates[-1].detail


def test_a_gate_of_ones_own_that_raises_or_is_missing_passes_nothing() -> None:
    def broken(evidence: Any) -> object:
        return evidence["nothing"]

    raised = judge(counts(9), SHADOW, parse_own(), NOW, own=broken)
    assert state_of(raised, "python") == UNDECIDED
    assert "raised KeyError" in raised.reasons[0]
    missing = judge(counts(9), SHADOW, parse_own(), NOW)
    assert state_of(missing, "python") == UNDECIDED


def parse_own() -> Any:
    return parse_policy({"shadow": {"min_pairs": 1}, "gates": {"python": "m:f"}})
