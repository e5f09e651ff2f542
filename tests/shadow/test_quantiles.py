import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shadow.quantiles import (
    Histogram,
    SignTest,
    distribution_distance,
    lil_constant,
    lil_radius,
    order_statistic_ranks,
    quantile_difference,
    quantile_ratio,
)
from shadow.sequential import Interval, bernoulli_log_e_above, log_threshold

latencies = st.lists(st.floats(0.0, 1e5), min_size=1, max_size=80)
differences = st.lists(st.floats(-1e5, 1e5), min_size=1, max_size=80)
levels = st.floats(1e-4, 0.4)


def filled(values, signed=False):
    histogram = Histogram(signed=signed)
    for value in values:
        histogram.update(float(value))
    return histogram


# --- published constants ----------------------------------------------------------------------------------------------


def test_band_by_the_law_of_the_iterated_logarithm():
    assert lil_constant(0.05) == pytest.approx(8.1227, abs=5e-5)
    assert lil_radius(1000, 0.05, 100) == pytest.approx(0.0820477, abs=2e-7)


def test_p99_has_no_upper_bound_at_200_values():
    low, high = order_statistic_ranks(np.array([200, 1000]), 0.99, 0.05)
    assert high[0] == 201
    assert high[1] <= 1000
    assert low[0] >= 1


def test_p99_of_1000_latencies_is_known_to_about_fifteen_percent():
    values = np.exp(np.random.default_rng(2).normal(-3.0, 0.3, 1000))
    found = filled(values).quantile_interval(0.99, 0.05)
    truth = math.exp(-3.0 + 0.3 * 2.3263)
    assert truth in found
    assert 0.8 * truth < found.low
    assert found.high < 1.35 * truth


# --- ranks ------------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.integers(0, 10**7), st.floats(0.01, 0.99), levels, levels)
def test_ranks_enclose_the_sample_quantile_and_are_nested(n, p, alpha, beta):
    outer = order_statistic_ranks(n, p, min(alpha, beta))
    inner = order_statistic_ranks(n, p, max(alpha, beta))
    assert 0 <= outer[0] <= inner[0] <= n * p + 1
    assert n * p <= inner[1] <= outer[1] <= n + 1


def test_ranks_widen_with_n_but_narrow_as_a_share():
    n = np.array([100, 1000, 10_000, 10**6])
    low, high = order_statistic_ranks(n, 0.5, 0.05)
    assert np.all(np.diff(high - low) > 0)
    assert np.all(np.diff((high - low) / n) < 0)


@pytest.mark.parametrize("p", [0.0, 1.0, -1.0, math.nan])
def test_an_impossible_quantile_is_refused(p):
    with pytest.raises(ValueError, match="between 0 and 1"):
        order_statistic_ranks(10, p, 0.05)


# --- histogram --------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(latencies)
def test_every_order_statistic_lies_in_a_bucket_at_most_one_percent_wide(values):
    histogram = filled(values)
    for rank, value in enumerate(sorted(values), start=1):
        found = histogram.order_statistic(rank)
        assert found.low <= value <= found.high
        assert found.high - found.low <= 0.01 * value + 2.0**-20


@settings(deadline=None)
@given(differences)
def test_signed_order_statistics_too(values):
    histogram = filled(values, signed=True)
    for rank, value in enumerate(sorted(values), start=1):
        found = histogram.order_statistic(rank)
        assert found.low <= value <= found.high
        assert found.high - found.low <= 0.01 * abs(value) + 2.0**-19


@settings(deadline=None)
@given(differences, differences)
def test_merged_histograms_are_the_histogram_of_all_values(first, second):
    one, other = filled(first, signed=True), filled(second, signed=True)
    one.merge(other)
    whole = filled(first + second, signed=True)
    assert one.to_dict() == whole.to_dict()
    assert one.quantile_interval(0.5, 0.2) == whole.quantile_interval(0.5, 0.2)


@settings(deadline=None)
@given(differences)
def test_histogram_survives_a_snapshot(values):
    histogram = filled(values, signed=True)
    again = Histogram.from_dict(json.loads(json.dumps(histogram.to_dict())))
    assert again.to_dict() == histogram.to_dict()
    assert again.n == histogram.n
    assert again.order_statistic(1) == histogram.order_statistic(1)


@pytest.mark.parametrize("signed", [False, True])
def test_buckets_join_without_gaps(signed):
    lower, upper = Histogram(signed=signed).edges()
    assert np.array_equal(lower[1:], upper[:-1])
    assert np.all(upper > lower)


def test_values_beyond_the_buckets_are_kept_with_their_extremes():
    histogram = filled([0.0, 1e-9, 3e6, 5e8])
    assert histogram.order_statistic(4) == Interval(2.0**20, 5e8)
    assert histogram.order_statistic(1) == Interval(0.0, 2.0**-20)


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
def test_a_value_that_cannot_be_counted_is_refused(value):
    histogram = Histogram()
    with pytest.raises(ValueError, match="cannot be counted"):
        histogram.update(value)
    assert histogram.n == 0


def test_memory_does_not_grow():
    histogram = Histogram()
    before = len(histogram.counts)
    for value in np.random.default_rng(0).exponential(0.05, 20_000).tolist():
        histogram.update(value)
    assert len(histogram.counts) == before
    assert histogram.n == 20_000


def test_mismatched_histograms_are_refused():
    with pytest.raises(ValueError, match="same buckets"):
        Histogram().merge(Histogram(signed=True))
    with pytest.raises(ValueError, match="same buckets"):
        distribution_distance(Histogram(), Histogram(signed=True), 0.05)
    with pytest.raises(ValueError, match="low < high"):
        Histogram(low_exponent=3, high_exponent=3)
    with pytest.raises(ValueError, match="no value of rank"):
        filled([1.0]).order_statistic(2)


# --- quantiles --------------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0.001, 10.0), min_size=1, max_size=300), st.sampled_from([0.5, 0.9, 0.95]), levels)
def test_interval_is_the_order_statistics_rounded_outwards(values, p, alpha):
    found = filled(values).quantile_interval(p, alpha)
    low, high = (int(rank) for rank in order_statistic_ranks(len(values), p, alpha))
    ordered = sorted(values)
    if low >= 1:
        assert 0.99 * ordered[low - 1] <= found.low <= ordered[low - 1]
    else:
        assert found.low == 0.0
    if high <= len(values):
        assert ordered[high - 1] <= found.high <= 1.01 * ordered[high - 1]
    else:
        assert found.high == math.inf


def test_a_constant_slowdown_is_found_at_every_quantile():
    rng = np.random.default_rng(3)
    blue = filled(rng.gamma(4.0, 0.010, 4000))
    green = filled(rng.gamma(4.0, 0.010, 4000) + 0.020)
    for p in (0.5, 0.95, 0.99):
        assert 0.020 in quantile_difference(green, blue, p, 0.05)
    assert quantile_difference(green, blue, 0.5, 0.05).low > 0.0
    assert quantile_ratio(green, blue, 0.5, 0.05).low > 1.2


def test_equal_arms_differ_by_nothing():
    rng = np.random.default_rng(4)
    blue, green = (filled(rng.gamma(4.0, 0.010, 4000)) for _ in range(2))
    for p in (0.5, 0.95, 0.99):
        assert 0.0 in quantile_difference(green, blue, p, 0.05)
        assert 1.0 in quantile_ratio(green, blue, p, 0.05)


def test_quantiles_without_values():
    assert Histogram().quantile(0.5) is None
    assert Histogram().quantile_interval(0.5, 0.05) == Interval(0.0, math.inf)
    assert Histogram(signed=True).quantile_interval(0.5, 0.05) == Interval(-math.inf, math.inf)
    assert quantile_ratio(Histogram(), Histogram(), 0.5, 0.05) == Interval(0.0, math.inf)
    assert quantile_difference(Histogram(), Histogram(), 0.5, 0.05) == Interval(-math.inf, math.inf)


def test_a_ratio_of_differences_is_refused():
    signed = filled([-1.0, 1.0], signed=True)
    with pytest.raises(ValueError, match="quantile_difference"):
        quantile_ratio(signed, signed, 0.5, 0.05)


def test_sample_quantiles_are_close():
    values = np.random.default_rng(5).exponential(0.05, 5000)
    histogram = filled(values)
    for p in (0.01, 0.5, 0.95, 0.999):
        assert histogram.quantile(p) == pytest.approx(np.quantile(values, p, method="inverted_cdf"), rel=0.005)


# --- signs ------------------------------------------------------------------------------------------------------------


def test_sign_test_counts_ties_for_neither_side():
    test = SignTest(margin=1.0)
    for difference in [2.0] * 20 + [1.0] * 5 + [0.0] * 3:
        test.update(difference)
    assert test.n == 28
    assert test.log_e_above() == bernoulli_log_e_above(20, 8, 0.5)
    assert test.log_e_below() == bernoulli_log_e_above(3, 25, 0.5)


def test_sign_test_finds_a_shift_and_survives_merge_and_snapshot():
    rng = np.random.default_rng(6)
    one, other = SignTest(), SignTest()
    for test in (one, other):
        for difference in rng.normal(0.5, 1.0, 200).tolist():
            test.update(difference)
    one.merge(other)
    assert one.n == 400
    assert one.log_e_above() > log_threshold(0.05) > one.log_e_below()
    assert SignTest.from_dict(json.loads(json.dumps(one.to_dict()))) == one
    with pytest.raises(ValueError, match="do not add up"):
        one.merge(SignTest(margin=2.0))
    with pytest.raises(ValueError, match="no sign"):
        one.update(math.nan)
    assert one.n == 400


# --- distributions ----------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(levels, levels)
def test_bands_are_nested_and_shrink(alpha, beta):
    assert lil_radius(5000, min(alpha, beta)) >= lil_radius(5000, max(alpha, beta))
    assert lil_radius(10**6, alpha) < lil_radius(10**4, alpha)
    assert lil_radius(99, alpha, 100) == 1.0


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0.0, 3.0), min_size=1, max_size=60), st.lists(st.floats(0.0, 3.0), min_size=1, max_size=60))
def test_distance_interval_holds_the_distance_of_the_samples(first, second):
    at = np.array(sorted(first + second))
    seen = np.max(
        np.abs(
            np.searchsorted(np.sort(first), at, "right") / len(first)
            - np.searchsorted(np.sort(second), at, "right") / len(second)
        )
    )
    found = distribution_distance(filled(first), filled(second), 0.05)
    assert found.low - 1e-12 <= seen <= found.high + 1e-12


def test_a_shifted_distribution_is_told_from_an_equal_one():
    rng = np.random.default_rng(7)
    blue, same, moved = (filled(rng.exponential(scale, 6000)) for scale in (1.0, 1.0, 1.6))
    assert distribution_distance(same, blue, 0.05).low == 0.0
    assert distribution_distance(same, blue, 0.05).high < 0.1
    assert distribution_distance(moved, blue, 0.05).low > 0.05
    assert distribution_distance(Histogram(), blue, 0.05) == Interval(0.0, 1.0)


@given(
    st.lists(st.one_of(st.floats(-1e9, 1e9), st.sampled_from([0.0, -0.0, 1.0, 2.0**-20, 2.0**20, 5e-324, 1e300])), max_size=60)
)
def test_many_values_at_once_are_counted_as_one_by_one(values):
    for signed in (True, False):
        values = values if signed else [abs(value) for value in values]
        at_once, one_by_one = Histogram(signed=signed), filled(values, signed=signed)
        at_once.extend(values[:7])
        at_once.extend(values[7:])
        assert at_once.to_dict() == one_by_one.to_dict()
        assert (at_once.n, at_once.least, at_once.most) == (one_by_one.n, one_by_one.least, one_by_one.most)
        assert at_once.counts == one_by_one.counts


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1.0])
def test_of_many_values_none_is_counted_when_one_cannot_be(value):
    histogram = filled([1.0])
    with pytest.raises(ValueError, match="not finite, or negative"):
        histogram.extend([2.0, value, 3.0])
    assert histogram.to_dict() == filled([1.0]).to_dict()
