import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shadow.paired import (
    McNemar,
    label_shift,
    mcnemar_log_e,
    paired_log_e_above,
    paired_log_e_below,
    paired_lower,
    paired_upper,
)
from shadow.sequential import Interval, bernoulli_log_e, bernoulli_log_e_above, log_threshold

counts = st.integers(0, 10**7)
small = st.integers(0, 2000)
margins = st.floats(-0.9, 0.9)
levels = st.floats(1e-6, 0.5)


def expectation(log_e, worse, better, n):
    """Mean of exp(log_e(w, b, z)) over n pairs with these probabilities, summed exactly."""
    total = 0.0
    for w in range(n + 1):
        for b in range(n + 1 - w):
            z = n - w - b
            ways = math.comb(n, w) * math.comb(n - w, b)
            total += ways * worse**w * better**b * (1 - worse - better) ** z * math.exp(log_e(w, b, z))
    return total


def test_mcnemar_is_the_bernoulli_process_at_one_half():
    assert mcnemar_log_e(12, 4) == bernoulli_log_e(12, 4, 0.5)
    assert McNemar(12, 4, 900).log_e_above() == bernoulli_log_e_above(12, 4, 0.5)


@pytest.mark.parametrize(
    ("worse", "better", "margin"), [(0.1, 0.1, 0.0), (0.12, 0.02, 0.1), (0.0, 0.05, -0.05), (0.3, 0.1, 0.2)]
)
def test_evidence_with_a_margin_has_expectation_one_at_the_margin(worse, better, margin):
    above = expectation(lambda w, b, z: paired_log_e_above(w, b, z, margin), worse, better, 12)
    below = expectation(lambda w, b, z: paired_log_e_below(w, b, z, margin), worse, better, 12)
    assert above == pytest.approx(1.0)
    assert below == pytest.approx(1.0)
    assert expectation(lambda w, b, z: paired_log_e_above(w, b, z, margin + 0.05), worse, better, 12) < 1.0


@settings(deadline=None)
@given(st.integers(0, 300), st.integers(0, 300), st.integers(0, 5000))
def test_without_a_margin_betting_is_near_the_uniform_bernoulli_mixture(worse, better, same):
    # The stakes imitate a uniform prior; concordant pairs do not count.
    betting = paired_log_e_above(worse, better, same, 0.0)
    assert betting == pytest.approx(float(paired_log_e_above(worse, better, 0, 0.0)))
    exact = bernoulli_log_e_above(worse, better, 0.5)
    if exact > 0:
        assert betting == pytest.approx(exact, rel=0.05, abs=0.5)


@settings(deadline=None)
@given(small, small, small, margins, margins)
def test_evidence_falls_as_the_margin_rises(worse, better, same, first, second):
    low, high = sorted((first, second))
    assert paired_log_e_above(worse, better, same, low) >= paired_log_e_above(worse, better, same, high) - 1e-9


@settings(deadline=None)
@given(small, small, small, levels, margins)
def test_bound_agrees_with_the_test(worse, better, same, alpha, margin):
    bound = float(paired_lower(worse, better, same, alpha))
    if abs(bound - margin) > 1e-9:
        assert (paired_log_e_above(worse, better, same, margin) >= log_threshold(alpha)) == (margin < bound)
    assert paired_upper(better, worse, same, alpha) == -bound


@settings(deadline=None)
@given(counts, counts, counts, levels, levels)
def test_intervals_hold_the_difference_seen_and_are_nested(worse, better, same, alpha, beta):
    state = McNemar(worse, better, same)
    outer, inner = state.interval(min(alpha, beta)), state.interval(max(alpha, beta))
    assert -1.0 <= outer.low <= inner.low + 1e-12
    assert inner.high - 1e-12 <= outer.high <= 1.0
    if state.difference is not None:
        assert state.difference in inner
    for margin in (0.0, 0.01, -0.01):
        assert math.isfinite(state.log_e_above(margin))
        assert math.isfinite(state.log_e_below(margin))


def test_without_pairs_nothing_is_known():
    assert McNemar().interval(0.05) == Interval(-1.0, 1.0)
    assert McNemar().difference is None
    assert McNemar().log_e_above() == pytest.approx(0.0)


def test_agreement_on_everything_shows_green_is_not_worse_by_the_margin():
    state = McNemar(0, 0, 1000)
    assert state.log_e_below(0.01) > log_threshold(0.05)
    assert state.log_e_above() == pytest.approx(0.0)
    assert state.upper(0.05) < 0.01


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=60), st.integers(0, 60))
def test_merging_is_the_same_as_one_stream(pairs, cut):
    one, other, whole = McNemar(), McNemar(), McNemar()
    for i, (green, blue) in enumerate(pairs):
        (one if i < cut else other).update(green, blue)
        whole.update(green, blue)
    one.merge(other)
    assert one == whole
    assert one.worse == sum(g and not b for g, b in pairs)
    assert one.better == sum(b and not g for g, b in pairs)
    assert one.n == len(pairs)
    assert McNemar.from_dict(json.loads(json.dumps(one.to_dict()))) == one


@pytest.mark.parametrize("margin", [1.0, -1.0, math.nan])
def test_an_impossible_margin_is_refused(margin):
    with pytest.raises(ValueError, match="difference of two rates"):
        McNemar(1, 1, 1).log_e_above(margin)
    with pytest.raises(ValueError, match="difference of two rates"):
        McNemar(1, 1, 1).log_e_below(margin)


def test_label_shift_finds_the_labels_that_moved():
    confusion = np.array([[400, 60, 0], [4, 300, 0], [0, 1, 235]])  # blue's label 0 often becomes green's 1
    log_e, distance = label_shift(confusion, 0.05)
    assert np.all(log_e[:2] > log_threshold(0.05))
    assert log_e[2] < log_threshold(0.05)
    assert distance.low > 0.0
    assert (60 - 4) / 1000 in distance


def test_label_shift_of_arms_that_swap_evenly_is_nothing():
    log_e, distance = label_shift([[480, 20], [20, 480]], 0.05)
    assert np.all(log_e < 0)
    assert distance.low == 0.0
    assert distance.high < 0.05


@pytest.mark.parametrize("confusion", [[1, 2], [[1, 2]], np.zeros((0, 0))])
def test_label_shift_wants_a_square_table(confusion):
    with pytest.raises(ValueError, match="one row and one column for each label"):
        label_shift(confusion, 0.05)
