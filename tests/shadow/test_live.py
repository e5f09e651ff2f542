import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shadow.bounded import empirical_bernstein
from shadow.live import (
    ErrorEvents,
    RewardDifference,
    SampleRatio,
    error_events_log_e,
    propensity_scores,
    sample_ratio_log_e,
)
from shadow.multiplicity import attempt_alpha
from shadow.sequential import Interval, bernoulli_log_e, log_threshold

shares = st.sampled_from([0.01, 0.05, 0.2, 0.5, 0.9])
events = st.lists(st.tuples(st.booleans(), shares), max_size=80)
levels = st.floats(1e-4, 0.4)


def heard(stream):
    state = ErrorEvents()
    for green, share in stream:
        state.update(green, share)
    return state


# --- error events -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("theta", [0.5, 1.0, 3.0])
def test_evidence_has_expectation_one_at_the_tested_ratio_whatever_the_shares(theta):
    at = np.array([0.05, 0.5])
    n = (4, 5)
    above = below = 0.0
    for first in range(n[0] + 1):
        for second in range(n[1] + 1):
            green = np.array([first, second])
            blue = np.array(n) - green
            p = at * theta / (at * theta + 1 - at)
            weight = np.prod([math.comb(*pair) for pair in zip(n, green.tolist(), strict=True)]) * np.prod(
                p**green * (1 - p) ** blue
            )
            above += weight * math.exp(error_events_log_e(green, blue, at, theta))
            below += weight * math.exp(error_events_log_e(blue, green, 1 - at, 1 / theta))
    assert above == pytest.approx(1.0)
    assert below == pytest.approx(1.0)


@settings(deadline=None)
@given(events, st.floats(0.1, 10.0), st.floats(0.1, 10.0))
def test_evidence_falls_as_the_tested_ratio_rises(stream, first, second):
    state = heard(stream)
    low, high = sorted((first, second))
    assert state.log_e_above(low) >= state.log_e_above(high) - 1e-9
    assert state.log_e_below(low) <= state.log_e_below(high) + 1e-9


@settings(max_examples=40, deadline=None)
@given(events, levels, levels)
def test_interval_agrees_with_the_tests_and_is_nested(stream, alpha, beta):
    state = heard(stream)
    outer, inner = state.interval(min(alpha, beta)), state.interval(max(alpha, beta))
    assert outer.low <= inner.low * (1 + 1e-9)
    assert inner.high <= outer.high * (1 + 1e-9)
    if inner.low > 0.0:
        assert state.log_e_above(inner.low * 0.999) >= log_threshold(max(alpha, beta) / 2)
        assert state.log_e_above(inner.low * 1.001) < log_threshold(max(alpha, beta) / 2)
    if math.isfinite(inner.high):
        assert state.log_e_below(inner.high * 1.001) >= log_threshold(max(alpha, beta) / 2)
    if state.ratio is not None:
        assert state.ratio in outer


@settings(deadline=None)
@given(events, st.integers(0, 80))
def test_order_does_not_matter_and_streams_merge(stream, cut):
    one, other = heard(stream[cut:]), heard(stream[:cut])
    one.merge(other)
    whole = heard(stream)
    assert one.n == len(stream)
    assert one.log_e_above() == pytest.approx(whole.log_e_above())
    again = ErrorEvents.from_dict(json.loads(json.dumps(one.to_dict())))
    assert again == one


def test_errors_while_nothing_is_split_compare_nothing():
    state = heard([(True, 1.0), (False, 0.0)])
    assert (state.n, state.unsplit) == (0, 2)
    assert state.log_e_above() == pytest.approx(0.0)
    assert state.ratio is None
    assert state.interval(0.05) == Interval(0.0, math.inf)


def test_a_ratio_is_estimated_through_a_ramp_and_a_drifting_base_rate():
    rng = np.random.default_rng(8)
    state, t = ErrorEvents(), 60_000
    for i in range(t):
        share = (0.05, 0.2, 0.5)[i * 3 // t]
        green = rng.random() < share
        if rng.random() < (0.01 + 0.05 * i / t) * (3.0 if green else 1.0):
            state.update(green, share)
    assert state.ratio == pytest.approx(3.0, rel=0.15)
    assert 3.0 in state.interval(0.05)
    assert state.interval(0.05).low > 2.0
    assert state.log_e_above(2.0) > log_threshold(0.05)


def test_millions_of_events_do_not_overflow():
    state = ErrorEvents({0.5: [10, 10**7], 0.01: [10**7, 3]})
    assert math.isfinite(state.log_e_above())
    assert math.isfinite(state.log_e_below())
    assert state.ratio in state.interval(0.05)


# --- rewards ----------------------------------------------------------------------------------------------------------


def test_scores_have_the_difference_as_their_mean_at_any_share():
    # All the randomness of one draw written out: both arms, all outcomes, after a fixed past.
    past, share, rates = [1.0, 0.0, 1.0, 1.0], 0.05, (0.7, 0.4)  # green, blue
    mean = 0.0
    for green, rate in ((True, rates[0]), (False, rates[1])):
        for y, p in ((1.0, rate), (0.0, 1 - rate)):
            z, scale, _ = propensity_scores([*past, y], [0, 1, 0, 0, green], [0.2, 0.2, 0.2, 0.2, share])
            mean += (share if green else 1 - share) * p * z[-1]
            assert abs(z[-1]) <= scale[-1] * (1 + 1e-12)
    assert mean == pytest.approx(rates[0] - rates[1])


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0.0, 1.0), st.booleans(), shares), min_size=1, max_size=60))
def test_one_reward_at_a_time_is_the_same_as_all_at_once(stream):
    state = RewardDifference()
    for y, green, share in stream:
        state.update(y, green, share)
    y, green, share = (np.array(column, dtype=float) for column in zip(*stream, strict=True))
    z, scale, variance = propensity_scores(y, green, share)
    low, high = empirical_bernstein(z, 0.05, 0.0, scale, variance)
    assert state.scores.interval(0.05) == Interval(pytest.approx(low[-1]), pytest.approx(high[-1]))
    assert state.scores.n == len(stream)
    again = RewardDifference.from_dict(json.loads(json.dumps(state.to_dict())))
    assert again.to_dict() == state.to_dict()
    assert again.interval(0.05) == state.interval(0.05)


def test_a_difference_in_reward_is_found_under_a_ramp_and_drift():
    rng = np.random.default_rng(9)
    state, t = RewardDifference(low=0.0, high=10.0), 12_000
    for i in range(t):
        share = (0.05, 0.2, 0.5)[i * 3 // t]
        green = rng.random() < share
        state.update(10.0 * (rng.random() < 0.3 + 0.4 * i / t + 0.1 * green), green, share)
    assert 1.0 in state.interval(0.05)
    assert state.estimate == pytest.approx(1.0, abs=0.4)
    assert state.log_e_above(0.0) > log_threshold(0.05)
    assert state.log_e_below(2.0) > log_threshold(0.05)
    assert state.interval(0.01).low < state.interval(0.05).low


def test_rewards_beyond_the_declared_bounds_are_cut_and_counted():
    state = RewardDifference(low=-1.0, high=1.0)
    state.update(7.0, True, 0.5)
    state.update(0.5, False, 0.5)
    state.update(0.5, False, 0.0)
    assert (state.n, state.clipped, state.unsplit) == (2, 1, 1)
    with pytest.raises(ValueError, match="not finite"):
        state.update(math.nan, True, 0.5)
    with pytest.raises(ValueError, match="low < high"):
        RewardDifference(low=1.0, high=1.0)


def test_rewards_merge_when_their_bounds_are_the_same():
    one, other = RewardDifference(), RewardDifference()
    one.update(1.0, True, 0.5)
    other.update(0.0, False, 0.5)
    expected = one.log_e_above() + other.log_e_above()
    one.merge(other)
    assert one.n == 2
    assert one.log_e_above() == pytest.approx(expected)
    with pytest.raises(ValueError, match="same declared bounds"):
        one.merge(RewardDifference(high=2.0))


def test_without_rewards_nothing_is_known():
    assert RewardDifference(0.0, 5.0).interval(0.05) == Interval(-5.0, 5.0)
    assert RewardDifference().estimate is None


# --- sample ratio -----------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.integers(0, 10**7), st.integers(0, 10**7), st.floats(0.0001, 0.9999))
def test_sample_ratio_is_a_bernoulli_test_of_the_share(green, blue, share):
    log_e = sample_ratio_log_e(green, blue, share)
    assert log_e == bernoulli_log_e(green, blue, share, 100 * share, 100 * (1 - share))
    assert math.isfinite(log_e)


def test_a_lost_range_of_buckets_is_reported_and_a_fair_split_is_not():
    rng = np.random.default_rng(10)
    fair, lossy = SampleRatio(), SampleRatio()
    buckets = rng.integers(10_000, size=20_000)
    for bucket in buckets.tolist():
        fair.update(bucket < 5000, 0.5, revision=7)
        if bucket >= 500:
            lossy.update(bucket < 5000, 0.5, revision=7)
    assert fair.log_e() < log_threshold(0.05)
    assert lossy.log_e() > log_threshold(0.05)
    revision, planned, seen = lossy.worst()
    assert (revision, planned) == (7, 0.5)
    assert seen == pytest.approx(4500 / 9500, abs=0.01)


def test_later_revisions_are_judged_at_the_level_of_later_attempts():
    state = SampleRatio()
    for revision, wins in ((3, 10), (4, 300)):
        for i in range(400):
            state.update(i < wins, 0.5 if revision == 4 else 0.025, revision)
    alone = float(sample_ratio_log_e(300, 100, 0.5))
    assert state.log_e() == pytest.approx(alone - math.log(0.05 / attempt_alpha(0.05, 2)))
    assert state.worst()[0] == 4


def test_old_revisions_are_folded_and_their_evidence_kept():
    state = SampleRatio()
    for i in range(400):
        state.update(i < 390, 0.5, 0)
    guilty = state.log_e()
    assert guilty > 100
    for revision in range(1, 400):
        state.update(True, 0.5, revision)
    assert len(state.revisions) <= 256
    assert state.log_e() == guilty
    n = state.n
    state.update(True, 0.5, 0)  # a straggler of a folded revision
    assert state.n == n
    again = SampleRatio.from_dict(json.loads(json.dumps(state.to_dict())))
    assert again == state


def test_sample_ratio_without_units_and_with_an_impossible_plan():
    state = SampleRatio()
    assert state.log_e() == -math.inf
    assert state.worst() is None
    assert SampleRatio.from_dict(json.loads(json.dumps(state.to_dict()))) == state
    state.update(True, 1.0, 1)
    assert state.n == 0
    state.update(True, 0.5, 2)
    with pytest.raises(ValueError, match="does not change its share"):
        state.update(True, 0.6, 2)
