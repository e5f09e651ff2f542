import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shadow.bounded import (
    BATCH,
    Betting,
    EmpiricalBernstein,
    betting_log_capital,
    empirical_bernstein,
    empirical_bernstein_sums,
    mean_grid,
)
from shadow.sequential import Interval, log_threshold

values = st.lists(st.floats(0.0, 1.0), min_size=1, max_size=200)
levels = st.floats(1e-4, 0.4)


def fed(state, xs):
    for x in xs:
        state.update(x)
    return state


# --- empirical Bernstein ----------------------------------------------------------------------------------------------


def test_empirical_bernstein_is_the_published_formula():
    xs, alpha = [0.2, 0.9, 0.4, 0.4, 1.0, 0.0, 0.7], 0.05
    total, squares, weight, weighted, penalty = 0.0, 0.0, 0.0, 0.0, 0.0
    for t, x in enumerate(xs, start=1):
        mean, variance = (0.5 + total) / t, (0.25 + squares) / t
        stake = min(0.5, math.sqrt(2 * math.log(2 / alpha) / (variance * t * math.log(1 + t))))
        weight, weighted = weight + stake, weighted + stake * x
        penalty += (x - mean) ** 2 * (-math.log(1 - stake) - stake)
        total, squares = total + x, squares + (x - mean) ** 2
    radius = (math.log(2 / alpha) + penalty) / weight
    low, high = empirical_bernstein(np.array(xs), alpha)
    assert low[-1] == pytest.approx(weighted / weight - radius)
    assert high[-1] == pytest.approx(weighted / weight + radius)


@settings(deadline=None)
@given(values)
def test_one_at_a_time_is_the_same_as_all_at_once(xs):
    state = fed(EmpiricalBernstein(0.05), xs)
    weight, weighted, penalty = (part[-1] for part in empirical_bernstein_sums(np.array(xs), 0.05))
    assert state.weight == pytest.approx(weight)
    assert state.weighted == pytest.approx(weighted, abs=1e-12)
    assert state.penalty == pytest.approx(penalty, abs=1e-12)
    low, high = empirical_bernstein(np.array(xs), 0.05)
    assert state.interval(0.05) == Interval(pytest.approx(low[-1]), pytest.approx(high[-1]))


@settings(deadline=None)
@given(values, levels, levels)
def test_bernstein_intervals_are_nested_and_their_ends_are_where_the_evidence_is(xs, alpha, beta):
    state = fed(EmpiricalBernstein(), xs)
    outer, inner = state.interval(min(alpha, beta)), state.interval(max(alpha, beta))
    assert outer.low <= inner.low <= inner.high <= outer.high
    assert state.log_e_above(state.lower(alpha)) == pytest.approx(log_threshold(alpha))
    assert state.log_e_below(state.upper(alpha)) == pytest.approx(log_threshold(alpha))


@settings(deadline=None)
@given(values, values)
def test_merged_bernstein_multiplies_the_evidence(first, second):
    one, other = fed(EmpiricalBernstein(), first), fed(EmpiricalBernstein(), second)
    expected = one.log_e_above(0.4) + other.log_e_above(0.4)
    one.merge(other)
    assert one.n == len(first) + len(second)
    assert one.log_e_above(0.4) == pytest.approx(expected)


def test_each_value_may_have_its_own_range():
    rng = np.random.default_rng(4)
    scale = np.where(np.arange(4000) < 1000, 10.0, 1.0)
    x = 0.3 + rng.uniform(-1, 1, 4000) * scale * 0.5
    low, high = empirical_bernstein(x, 0.05, center=0.3, scale=scale, variance=scale**2 / 12)
    state = EmpiricalBernstein()
    for value, s in zip(x.tolist(), scale.tolist(), strict=True):
        state.update(value, 0.3, s, s * s / 12)
    assert state.interval(0.05) == Interval(pytest.approx(low[-1]), pytest.approx(high[-1]))
    assert 0.3 in state.interval(0.05)
    # the wide beginning does not spoil what comes after it
    assert high[-1] - low[-1] < 0.15 * (high[999] - low[999])


@settings(deadline=None)
@given(values)
def test_bernstein_survives_a_snapshot(xs):
    state = fed(EmpiricalBernstein(0.01), xs)
    again = EmpiricalBernstein.from_dict(json.loads(json.dumps(state.to_dict())))
    assert again.interval(0.05) == state.interval(0.05)
    fed(again, [0.5])
    fed(state, [0.5])
    assert again.to_dict() == state.to_dict()


def test_bernstein_without_values_knows_nothing():
    assert EmpiricalBernstein().interval(0.05) == Interval(-math.inf, math.inf)
    assert EmpiricalBernstein().mean is None


@pytest.mark.parametrize("value", [-0.01, 1.01, math.nan, math.inf])
def test_a_value_out_of_bounds_is_refused_and_not_counted(value):
    bernstein, betting = EmpiricalBernstein(), Betting()
    for state in (bernstein, betting):
        with pytest.raises(ValueError, match="outside"):
            state.update(value)
        assert state.n == 0
    with pytest.raises(ValueError, match="wider range"):
        bernstein.update(value, center=0.5, scale=0.4)
    with pytest.raises(ValueError, match="outside"):
        empirical_bernstein(np.array([0.5, value]), 0.05)
    with pytest.raises(ValueError, match="outside"):
        betting_log_capital(np.array([0.5, value]), 0.5, 0.05)


# --- betting ----------------------------------------------------------------------------------------------------------


def test_betting_is_the_published_formula():
    xs, alpha, m = [0.2, 0.9, 0.4, 0.4, 1.0, 0.0, 0.7], 0.05, 0.3
    up = down = 1.0
    total = squares = 0.0
    for t, x in enumerate(xs, start=1):
        variance = (0.25 + squares) / t
        stake = math.sqrt(2 * math.log(2 / alpha) / (variance * t * math.log(1 + t)))
        up *= 1 + min(stake, 0.5 / m) * (x - m)
        down *= 1 - min(stake, 0.5 / (1 - m)) * (x - m)
        squares += (x - (0.5 + total) / t) ** 2
        total += x
    log_up, log_down = betting_log_capital(np.array(xs), m, alpha)
    assert math.exp(log_up[-1]) == pytest.approx(up)
    assert math.exp(log_down[-1]) == pytest.approx(down)


@settings(deadline=None)
@given(values, st.floats(0.01, 0.99))
def test_the_grid_holds_the_capital_of_each_tested_mean(xs, m):
    state = fed(Betting(0.05, cells=20, at=(m,)), xs)
    log_up, log_down = betting_log_capital(np.array(xs), m, 0.05)
    assert state.log_e_above(m) == pytest.approx(log_up[-1], abs=1e-9)
    assert state.log_e_below(m) == pytest.approx(log_down[-1], abs=1e-9)


@settings(deadline=None)
@given(values, st.floats(0.0, 1.0))
def test_between_grid_points_the_evidence_is_understated(xs, m):
    state = fed(Betting(0.05, cells=20), xs)
    log_up, log_down = betting_log_capital(np.array(xs), m, 0.05)
    assert state.log_e_above(m) <= log_up[-1] + 1e-9
    assert state.log_e_below(m) <= log_down[-1] + 1e-9


@settings(deadline=None)
@given(values, levels, levels)
def test_betting_intervals_hold_the_bounds_and_are_nested(xs, alpha, beta):
    state = fed(Betting(), xs)
    outer, inner = state.interval(min(alpha, beta)), state.interval(max(alpha, beta))
    assert 0.0 <= outer.low <= inner.low < inner.high <= outer.high <= 1.0
    assert state.lower(min(alpha, beta)) <= state.lower(max(alpha, beta))
    assert state.log_e_above(state.lower(alpha)) >= log_threshold(alpha) or state.lower(alpha) == 0.0


@pytest.mark.parametrize("spacing", ["even", "ends", "middle"])
def test_interval_from_the_grid_is_the_exact_one_rounded_outwards(spacing):
    xs = np.random.default_rng(5).beta(9, 1, 3 * BATCH + 7)
    found = fed(Betting(0.05, cells=200, spacing=spacing), xs.tolist()).interval(0.05)
    fine = np.linspace(0.001, 0.999, 1999)
    capital = [np.logaddexp(*(log[-1] for log in betting_log_capital(xs, m, 0.05))) - math.log(2) for m in fine]
    kept = fine[np.array(capital) < log_threshold(0.05)]
    cell = np.max(np.diff(mean_grid(200, spacing)))
    assert found.low <= kept[0] < found.low + 2 * cell + 1e-3
    assert found.high >= kept[-1] > found.high - 2 * cell - 1e-3


@settings(deadline=None)
@given(values, values)
def test_merged_betting_multiplies_the_evidence(first, second):
    one, other = fed(Betting(cells=20), first), fed(Betting(cells=20), second)
    expected = one.log_e_above(0.5) + other.log_e_above(0.5)
    one.merge(other)
    assert one.log_e_above(0.5) == pytest.approx(expected, abs=1e-9)
    assert one.n == len(first) + len(second)


def test_sequences_over_different_grids_are_not_merged():
    with pytest.raises(ValueError, match="same grid"):
        Betting(cells=20).merge(Betting(cells=21))


@settings(deadline=None)
@given(values)
def test_betting_survives_a_snapshot_at_any_moment(xs):
    state = fed(Betting(0.05, cells=16, spacing="ends", at=(0.93,)), xs)
    again = Betting.from_dict(json.loads(json.dumps(state.to_dict())))
    assert again.interval(0.05) == state.interval(0.05)
    fed(again, [0.25] * 3)
    fed(state, [0.25] * 3)
    assert again.to_dict() == state.to_dict()


def test_a_snapshot_of_another_grid_is_refused():
    state = Betting(cells=16).to_dict()
    with pytest.raises(ValueError, match="discard"):
        Betting.from_dict({**state, "cells": 17})


@pytest.mark.parametrize("constant", [0.0, 0.5, 1.0])
def test_ten_thousand_equal_values_neither_overflow_nor_mislead(constant):
    state = fed(Betting(), [constant] * 10_000)
    assert constant in state.interval(0.05)
    assert state.interval(0.05).high - state.interval(0.05).low < 0.01
    assert math.isfinite(state.log_e_above(0.25))
    assert math.isfinite(state.log_e_below(0.25))
    assert constant in fed(EmpiricalBernstein(), [constant] * 10_000).interval(0.05)


def test_when_everything_is_refuted_the_interval_is_one_cell():
    # A mean that jumps breaks the assumption of a constant one: both sides grow rich.
    state = fed(Betting(cells=50), [0.0] * 3000 + [1.0] * 3000)
    found = state.interval(0.05)
    assert found.low < found.high


@pytest.mark.parametrize("spacing", ["even", "ends", "middle"])
def test_grids_rise_from_zero_to_one(spacing):
    grid = mean_grid(64, spacing)
    assert grid[0] == 0.0
    assert grid[-1] == 1.0
    assert np.all(np.diff(grid) > 0)


def test_impossible_grids_are_refused():
    with pytest.raises(ValueError, match="few hundred"):
        Betting(cells=1)
    with pytest.raises(ValueError, match="'even', 'ends', 'middle'"):
        Betting(spacing="log")
    with pytest.raises(ValueError, match=r"lie in \[0, 1\]"):
        Betting(at=(1.5,))


@given(st.lists(values, min_size=1, max_size=5))
def test_batches_give_the_sums_of_one_value_at_a_time(batches):
    in_batches, one_by_one = EmpiricalBernstein(), EmpiricalBernstein()
    for batch in batches:
        in_batches.extend(batch)
        fed(one_by_one, batch)
    found, expected = in_batches.to_dict(), one_by_one.to_dict()
    assert found["n"] == expected["n"]
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan])
def test_of_a_batch_none_is_added_when_one_is_out_of_bounds(value):
    state = fed(EmpiricalBernstein(), [0.5])
    before = state.to_dict()
    with pytest.raises(ValueError, match=r"outside \[0, 1\]"):
        state.extend([0.5, value])
    assert state.to_dict() == before
