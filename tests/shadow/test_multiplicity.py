import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shadow.multiplicity import all_pass, any_fires, attempt_alpha, e_bh, log_mean_e, log_product_e

logs = st.lists(st.floats(-50.0, 50.0), min_size=1, max_size=30)


def test_attempts_share_one_alpha():
    assert attempt_alpha(0.05, 1) == pytest.approx(0.05 * 6 / math.pi**2)
    assert attempt_alpha(0.05, 3) == pytest.approx(0.05 * 6 / (math.pi**2 * 9))
    assert sum(attempt_alpha(0.05, k) for k in range(1, 200_000)) == pytest.approx(0.05, rel=1e-4)
    with pytest.raises(ValueError, match="the first is 1"):
        attempt_alpha(0.05, 0)


def test_rolling_back_asks_for_k_times_the_evidence():
    log_e = np.log([99.0, 101.0, 1.0])
    assert any_fires(log_e, 0.05, gates=5).tolist() == [False, True, False]
    assert any_fires(log_e, 0.05).tolist() == [True, True, False]  # three gates: 60
    with pytest.raises(ValueError, match="count every gate"):
        any_fires(log_e, 0.05, gates=2)


def test_promoting_asks_every_gate_for_the_plain_evidence():
    assert all_pass(np.log([21.0, 20.1]), 0.05)
    assert not all_pass(np.log([1e9, 19.9]), 0.05)
    assert not all_pass([], 0.05)


@settings(deadline=None)
@given(logs, st.floats(0.001, 0.5))
def test_e_bh_is_its_definition(log_e, alpha):
    e = np.exp(log_e)
    ordered = np.sort(e)[::-1]
    best = max((k for k in range(1, len(e) + 1) if k * ordered[k - 1] / len(e) >= (1 / alpha) * (1 - 1e-12)), default=0)
    rejected = e_bh(log_e, alpha)
    assert rejected.sum() == best
    if best:
        assert e[rejected].min() >= ordered[best - 1]


@settings(deadline=None)
@given(logs, st.floats(0.001, 0.5), st.floats(0.001, 0.5))
def test_more_is_rejected_at_a_larger_alpha_and_e_bh_beats_the_union_bound(log_e, alpha, beta):
    strict, loose = e_bh(log_e, min(alpha, beta)), e_bh(log_e, max(alpha, beta))
    assert np.all(loose | ~strict)
    assert np.all(e_bh(log_e, alpha) | ~any_fires(log_e, alpha))


def test_e_bh_of_nothing():
    assert e_bh([], 0.05).tolist() == []


@settings(deadline=None)
@given(logs)
def test_mean_and_product(log_e):
    assert log_mean_e(log_e) == pytest.approx(math.log(np.mean(np.exp(log_e))), abs=1e-9)
    assert log_product_e(log_e) == pytest.approx(sum(log_e))


def test_mean_of_overwhelming_evidence_does_not_overflow():
    assert log_mean_e([5000.0, 1.0]) == pytest.approx(5000.0 - math.log(2))
    assert log_mean_e([math.inf, 0.0]) == math.inf
    assert log_mean_e([-math.inf, -math.inf]) == -math.inf
    assert log_mean_e([]) == 0.0
