import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad

from shadow.sequential import (
    AsymptoticMean,
    Bernoulli,
    Interval,
    asymptotic_interval,
    bernoulli_interval,
    bernoulli_log_e,
    bernoulli_log_e_above,
    bernoulli_log_e_below,
    bernoulli_lower,
    bernoulli_upper,
    log_threshold,
    msprt_log_e,
    normal_mixture_bound,
    normal_mixture_bound_above,
    normal_mixture_log_e,
    normal_mixture_log_e_above,
    normal_mixture_rho,
    rejection_boundary,
)

counts = st.integers(0, 10**7)
rates = st.floats(0.001, 0.999)
levels = st.floats(1e-6, 0.5)


# --- published constants ----------------------------------------------------------------------------------------------


def test_ten_of_ten_against_one_half():
    assert math.exp(bernoulli_log_e(10, 0, 0.5)) == pytest.approx(1024 / 11)


@pytest.mark.parametrize(("floor", "pairs"), [(0.95, 88), (0.99, 449), (0.999, 4512)])
def test_number_of_agreeing_pairs_that_refute_a_floor(floor, pairs):
    assert bernoulli_log_e_above(pairs, 0, floor) >= log_threshold(0.05)
    assert bernoulli_log_e_above(pairs - 1, 0, floor) < log_threshold(0.05)


def test_two_sided_normal_mixture():
    rho = normal_mixture_rho(100, 0.05)
    assert rho == pytest.approx(12.60056, abs=5e-6)
    assert normal_mixture_log_e(10, 100, rho) == pytest.approx(-0.6510052, abs=5e-8)
    assert normal_mixture_bound(100, 0.05, rho) == pytest.approx(30.35209, abs=5e-6)


def test_one_sided_normal_mixture():
    rho = normal_mixture_rho(100, 2 * 0.05)
    assert normal_mixture_log_e_above(10, 100, rho) == pytest.approx(-0.06502391, abs=5e-9)
    assert normal_mixture_bound_above(100, 0.05, rho) == pytest.approx(27.66071, abs=5e-6)


def test_mixture_sequential_probability_ratio():
    assert math.exp(msprt_log_e(100, 0.5, 2.0, 1.0)) == pytest.approx(64.17015, abs=5e-6)


# --- exact Bernoulli --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("s", "f", "p0"), [(7, 3, 0.5), (0, 12, 0.3), (40, 0, 0.9), (3, 30, 0.2), (25, 25, 0.7)])
def test_one_sided_evidence_is_the_mean_likelihood_ratio_over_rates_above(s, f, p0):
    mean, _ = quad(lambda q: (q / p0) ** s * ((1 - q) / (1 - p0)) ** f / (1 - p0), p0, 1)
    assert math.exp(bernoulli_log_e_above(s, f, p0)) == pytest.approx(mean, rel=1e-9)


@pytest.mark.parametrize("p", [0.5, 0.98, 0.02])
def test_evidence_has_expectation_one_at_the_tested_rate(p):
    n = 40
    s = np.arange(n + 1)
    weight = np.array([math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in s])
    assert weight @ np.exp(bernoulli_log_e(s, n - s, p)) == pytest.approx(1.0)
    assert weight @ np.exp(bernoulli_log_e_above(s, n - s, p)) == pytest.approx(1.0)
    assert weight @ np.exp(bernoulli_log_e_below(s, n - s, p)) == pytest.approx(1.0)
    # and below 1 inside the composite hypothesis
    assert weight @ np.exp(bernoulli_log_e_above(s, n - s, p + 0.01)) < 1.0


@settings(deadline=None)
@given(counts, counts, rates)
def test_one_sided_evidence_is_finite_for_any_counts(s, f, p0):
    assert math.isfinite(bernoulli_log_e(s, f, p0))
    assert math.isfinite(bernoulli_log_e_above(s, f, p0))
    assert math.isfinite(bernoulli_log_e_below(s, f, p0))


def test_far_tail_joins_the_near_tail_smoothly():
    # betaincc underflows between these counts, where the continued fraction takes over
    failures = np.arange(100, 400)
    log_e = bernoulli_log_e_above(0, failures, 0.98)
    assert np.all(np.isfinite(log_e))
    assert np.max(np.abs(np.diff(log_e, 2))) < 1e-3
    mean, _ = quad(lambda q: ((1 - q) / 0.02) ** 399 / 0.02, 0.98, 1)
    assert log_e[-1] == pytest.approx(math.log(mean), rel=1e-9)


@settings(deadline=None)
@given(counts, counts, levels)
def test_interval_holds_the_rate_seen_and_stays_in_the_unit_interval(s, f, alpha):
    low, high = bernoulli_interval(s, f, alpha)
    assert 0.0 <= low <= high <= 1.0
    if s + f:
        assert low <= s / (s + f) <= high


@settings(deadline=None)
@given(counts, counts, levels, levels)
def test_intervals_are_nested_by_alpha(s, f, alpha, beta):
    strict, loose = sorted((alpha, beta))
    outer, inner = bernoulli_interval(s, f, strict), bernoulli_interval(s, f, loose)
    assert outer[0] <= inner[0] + 1e-12
    assert inner[1] <= outer[1] + 1e-12
    assert bernoulli_lower(s, f, strict) <= bernoulli_lower(s, f, loose) + 1e-12


@settings(deadline=None)
@given(st.integers(0, 1000), st.integers(0, 1000), levels, rates)
def test_interval_is_the_set_of_rates_not_refuted(s, f, alpha, p):
    low, high = bernoulli_interval(s, f, alpha)
    if not low - 1e-9 <= p <= high + 1e-9:
        assert bernoulli_log_e(s, f, p) >= log_threshold(alpha)
    if low + 1e-9 < p < high - 1e-9:
        assert bernoulli_log_e(s, f, p) < log_threshold(alpha)


@settings(deadline=None)
@given(st.integers(0, 10**5), st.integers(0, 10**5), levels, rates)
def test_one_sided_bound_agrees_with_the_one_sided_test(s, f, alpha, p0):
    bound = float(bernoulli_lower(s, f, alpha))
    refuted = bernoulli_log_e_above(s, f, p0) >= log_threshold(alpha)
    if abs(bound - p0) > 1e-9:
        assert refuted == (p0 < bound)
    assert bernoulli_upper(f, s, alpha) == 1.0 - bound


@settings(deadline=None)
@given(st.integers(1, 1000), st.integers(1, 50))
def test_the_same_rate_from_more_observations_is_known_better(s, times):
    low, high = bernoulli_interval([s, s * (times + 1)], [s, s * (times + 1)], 0.05)
    assert low[0] < low[1]
    assert high[1] < high[0]


def test_without_observations_nothing_is_known():
    empty = Bernoulli()
    assert empty.interval(0.05) == Interval(0.0, 1.0)
    assert (empty.lower(0.05), empty.upper(0.05)) == (0.0, 1.0)
    assert empty.rate is None
    assert empty.log_e_above(0.98) == pytest.approx(0.0)


@pytest.mark.parametrize("n", [1, 100, 10**7])
def test_all_or_none(n):
    assert Bernoulli(0, n).lower(0.05) == 0.0
    assert Bernoulli(n, 0).upper(0.05) == 1.0
    assert Bernoulli(n, 0).interval(0.05).high == 1.0
    assert Bernoulli(0, n).interval(0.05).low == 0.0


def test_certainty_is_never_refuted_but_a_counterexample_refutes_impossibility():
    assert Bernoulli(5, 5).log_e_above(1.0) == -math.inf
    assert Bernoulli(1, 10**6).log_e_above(0.0) == math.inf


@settings(deadline=None)
@given(st.lists(st.booleans(), max_size=60), st.lists(st.booleans(), max_size=60))
def test_merging_is_the_same_as_one_stream(first, second):
    one, other, whole = Bernoulli(), Bernoulli(), Bernoulli()
    for x in first:
        one.update(x)
        whole.update(x)
    for x in second:
        other.update(x)
        whole.update(x)
    one.merge(other)
    assert one == whole
    assert one.n == len(first) + len(second)
    assert Bernoulli.from_dict(json.loads(json.dumps(one.to_dict()))) == one


def test_states_agree_with_the_functions():
    state = Bernoulli(990, 10)
    low, high = bernoulli_interval(np.array([990, 3]), np.array([10, 4]), 0.05)
    assert state.interval(0.05) == Interval(low[0], high[0])
    assert state.log_e_above(0.98) == bernoulli_log_e_above(990, 10, 0.98)
    assert state.log_e_below(0.98) == bernoulli_log_e_below(990, 10, 0.98)


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1, 5, math.nan])
def test_an_impossible_level_is_refused(alpha):
    with pytest.raises(ValueError, match="between 0 and 1"):
        Bernoulli(1, 1).interval(alpha)


# --- sums and means ---------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.floats(0.1, 1e6), levels)
def test_normal_mixture_bound_is_where_the_evidence_reaches_the_threshold(v, alpha):
    rho = normal_mixture_rho(v, alpha)
    assert normal_mixture_log_e(normal_mixture_bound(v, alpha, rho), v, rho) == pytest.approx(log_threshold(alpha))
    above = normal_mixture_bound_above(v, alpha, rho)
    assert normal_mixture_log_e_above(above, v, rho) == pytest.approx(log_threshold(alpha), rel=1e-6)
    assert above <= normal_mixture_bound(v, alpha, rho)


def test_normal_mixture_has_expectation_one():
    v, rho = 4.0, 2.0

    def density(s):
        return math.exp(-s * s / (2 * v)) / math.sqrt(2 * math.pi * v)

    for log_e in (normal_mixture_log_e, normal_mixture_log_e_above):
        mean, _ = quad(lambda s, log_e=log_e: density(s) * math.exp(log_e(s, v, rho)), -60, 60)
        assert mean == pytest.approx(1.0, rel=1e-6)


def test_asymptotic_interval_is_the_published_formula():
    n, mean, sd, alpha = 1500, 0.3, 2.0, 0.05
    r2 = 1.0 / normal_mixture_rho(1000, alpha)
    radius = sd * math.sqrt(2 * (n * r2 + 1) / (n * n * r2) * math.log(math.sqrt(n * r2 + 1) / alpha))
    low, high = asymptotic_interval(n, mean, sd, alpha)
    assert (low, high) == (pytest.approx(mean - radius), pytest.approx(mean + radius))


def test_asymptotic_interval_is_silent_before_the_burn_in():
    state = AsymptoticMean()
    for i in range(199):
        state.update(float(i % 3))
    assert state.interval(0.05) == Interval(-math.inf, math.inf)
    assert state.interval(0.05).to_json() == [None, None]
    state.update(1.0)
    assert math.isfinite(state.interval(0.05).low)


@settings(deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), max_size=40), st.lists(st.floats(-1e6, 1e6), max_size=40))
def test_running_moments_are_those_of_all_values(first, second):
    one, other = AsymptoticMean(), AsymptoticMean()
    for x in first:
        one.update(x)
    for x in second:
        other.update(x)
    one.merge(other)
    values = first + second
    assert one.n == len(values)
    if len(values) > 1:
        assert one.mean == pytest.approx(np.mean(values), rel=1e-9, abs=1e-6)
        assert one.sd == pytest.approx(np.std(values, ddof=1), rel=1e-6, abs=1e-3)
    assert AsymptoticMean.from_dict(json.loads(json.dumps(one.to_dict()))) == one


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_value_without_a_mean_is_refused_and_not_counted(value):
    state = AsymptoticMean()
    with pytest.raises(ValueError, match="not finite"):
        state.update(value)
    assert state == AsymptoticMean()


def test_boundary_is_the_rejected_end_and_the_limit_where_nothing_is_rejected():
    found = rejection_boundary(lambda p: p <= np.array([1 / 3, -1.0]), np.ones(2), np.zeros(2))
    assert found[0] == pytest.approx(1 / 3)
    assert found[0] <= 1 / 3
    assert found[1] == 0.0


def test_interval_contains_its_ends():
    assert 0.2 in Interval(0.2, 0.4)
    assert 0.4 in Interval(0.2, 0.4)
    assert 0.41 not in Interval(0.2, 0.4)
    assert Interval(-math.inf, 0.4).to_json() == [None, 0.4]
