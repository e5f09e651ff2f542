import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shadow.forecast import more_for_interval, more_for_mcnemar, more_for_rate
from shadow.sequential import bernoulli_log_e_above, log_threshold

counts = st.integers(0, 10**6)


@settings(max_examples=60, deadline=None)
@given(counts, counts, st.floats(0.01, 0.99), st.sampled_from([0.05, 0.001]))
def test_rate_forecast_is_the_first_crossing_at_the_present_rate(s, f, p0, alpha):
    more = more_for_rate(s, f, p0, alpha)
    rate = (s + p0) / (s + f + 1)
    if s + f == 0 or rate <= p0:
        assert more is None
    elif more is not None:

        def after(m):
            return float(bernoulli_log_e_above(s + m * rate, f + m * (1 - rate), p0))

        assert after(more) >= log_threshold(alpha)
        assert more == 0 or after(more - 1) < log_threshold(alpha)


def test_nothing_is_promised_without_observations_or_on_the_wrong_side():
    assert more_for_rate(0, 0, 0.98, 0.05) is None
    assert more_for_rate(97, 3, 0.98, 0.05) is None
    assert more_for_rate(500, 0, 0.98, 0.05) == 0
    assert more_for_mcnemar(0, 0, 0, 0.05) is None
    assert more_for_mcnemar(3, 9, 100, 0.05) is None
    assert more_for_mcnemar(60, 10, 100, 0.05) == 0


def test_thinner_margins_take_longer():
    assert more_for_rate(100, 0, 0.95, 0.05) < more_for_rate(100, 0, 0.98, 0.05) < more_for_rate(100, 0, 0.99, 0.05)
    assert more_for_rate(100, 0, 0.98, 0.05) < more_for_rate(100, 0, 0.98, 0.001)
    not_worse = [more_for_mcnemar(1, 1, 38, 0.05, -margin) for margin in (0.1, 0.05, 0.02)]
    assert not_worse == sorted(not_worse)
    assert all(more > 0 for more in not_worse)


def test_forecast_is_of_the_right_size():
    # Agreement .995 against .98 is decided at a median of 340 pairs, the 90th percentile 780.
    rng = np.random.default_rng(12)
    agreeing = rng.random((300, 4000)) < 0.995
    s, n = np.cumsum(agreeing, axis=1), np.arange(1, 4001)
    crossed = np.argmax(bernoulli_log_e_above(s, n - s, 0.98) >= log_threshold(0.05), axis=1) + 1
    start = more_for_rate(199, 1, 0.98, 0.05)
    assert np.quantile(crossed, 0.25) < 200 + start < np.quantile(crossed, 0.95)


def test_mcnemar_forecast_counts_concordant_pairs_too():
    dense, sparse = more_for_mcnemar(20, 10, 70, 0.05), more_for_mcnemar(20, 10, 2970, 0.05)
    assert sparse == pytest.approx(30 * dense, rel=0.1)


@pytest.mark.parametrize(
    ("estimate", "bound", "threshold", "expected"),
    [
        (0.995, 0.975, 0.985, 300),  # half the reach: four times the observations
        (0.995, 0.990, 0.985, 0),
        (1.05, 1.25, 1.15, 300),  # an upper bound on its way down
        (0.98, 0.96, 0.985, None),
        (0.98, -math.inf, 0.97, None),
        (0.98, 0.98, 0.97, None),
        (0.98, 0.96, 0.98 - 1e-9, None),
    ],
)
def test_interval_forecast(estimate, bound, threshold, expected):
    found = more_for_interval(100, estimate, bound, threshold)
    assert found == (expected if expected is None else pytest.approx(expected, abs=1))
    assert more_for_interval(0, estimate, bound, threshold) is None
