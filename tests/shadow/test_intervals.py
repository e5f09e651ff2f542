import pytest
from hypothesis import given
from hypothesis import strategies as st

from shadow.intervals import difference_intervals, rate_intervals
from shadow.paired import McNemar
from shadow.sequential import Bernoulli

counts = st.integers(0, 10_000)


@given(st.lists(st.tuples(counts, counts), max_size=4))
def test_rates_together_are_the_rates_one_by_one(rows):
    found = rate_intervals(rows, 0.05)
    assert len(found) == len(rows)
    for (successes, failures), (low, high) in zip(rows, found, strict=True):
        alone = Bernoulli(successes, failures).interval(0.05)
        assert (low, high) == (pytest.approx(alone.low, abs=1e-9), pytest.approx(alone.high, abs=1e-9))


@given(st.lists(st.tuples(counts, counts, counts), min_size=1, max_size=3))
def test_differences_together_are_the_differences_one_by_one(rows):
    for row, (low, high) in zip(rows, difference_intervals(rows, 0.05), strict=True):
        alone = McNemar(*row).interval(0.05)
        assert (low, high) == (pytest.approx(alone.low, abs=1e-9), pytest.approx(alone.high, abs=1e-9))


def test_nothing_asked_is_nothing_answered():
    assert rate_intervals([], 0.05) == []
    assert difference_intervals([], 0.05) == []
    assert rate_intervals([(0, 0)], 0.05) == [[0.0, 1.0]]
    assert difference_intervals([(0, 0, 0)], 0.05) == [[-1.0, 1.0]]
