from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.rollout import live_errors
from router.rollout.live_errors import StepErrors, log_e_not_worse, log_e_worse, lower, more_requests, upper
from shadow.live import error_events_log_e

SHARES = st.sampled_from([0.01, 0.05, 0.25, 0.5, 0.9])
COUNTS = st.integers(0, 400)
BAR = math.log(20)


@given(st.integers(0, 300), st.integers(0, 300), SHARES)
def test_without_a_margin_it_is_the_likelihood_of_error_events(green: int, blue: int, share: float) -> None:
    step = StepErrors(share, 1000, green, 1000, blue)
    expected = float(error_events_log_e([green], [blue], [share]))
    assert log_e_worse(step, 0.0) == pytest.approx(expected, abs=1e-9)


@given(SHARES, st.sampled_from([0.001, 0.01, 0.1]), st.floats(0, 0.5))
def test_every_bet_is_fair_at_the_margin(share: float, margin: float, base: float) -> None:
    """Each factor's expectation is 1 when green fails more often than blue by exactly the margin: a martingale (Ville)."""
    green = base + margin
    for x in live_errors._LOG_RATIOS:
        stake = share * (1 - share) * math.expm1(x) / (1 + share * math.expm1(x))
        assert _expected(share, stake, margin, green, base) == pytest.approx(1.0)
    for fraction in live_errors._STAKES:
        stake = -fraction / (1 / share - margin)
        assert _expected(share, stake, margin, green, base) == pytest.approx(1.0)


def _expected(share: float, stake: float, margin: float, green: float, blue: float) -> float:
    factors = (1 + stake * (1 / share - margin), 1 - stake * (1 / (1 - share) + margin), 1 - stake * margin)
    assert min(factors) >= 0
    chances = (share * green, (1 - share) * blue)
    return sum(f * p for f, p in zip(factors, (*chances, 1 - sum(chances)), strict=True))


@given(SHARES, COUNTS, COUNTS, st.integers(1, 50))
def test_more_errors_of_green_never_speak_for_it(share: float, green: int, blue: int, more: int) -> None:
    before = StepErrors(share, 1000, green, 1000, blue)
    after = StepErrors(share, 1000 + more, green + more, 1000, blue)
    assert log_e_worse(after, 0.005) > log_e_worse(before, 0.005)
    assert log_e_not_worse(after, 0.005) < log_e_not_worse(before, 0.005) or log_e_not_worse(before, 0.005) == -math.inf


@given(SHARES, COUNTS, st.integers(1, 2000))
def test_more_good_answers_never_speak_against_green(share: float, errors: int, more: int) -> None:
    before = StepErrors(share, 1000, errors, 1000, errors)
    after = StepErrors(share, 1000 + more, errors, 1000, errors)
    assert log_e_not_worse(after, 0.005) > log_e_not_worse(before, 0.005)
    assert log_e_worse(after, 0.005) <= log_e_worse(before, 0.005)


@given(SHARES, COUNTS, COUNTS, st.integers(0, 400))
def test_shared_errors_are_counted_against_green_on_both_sides(share: float, green: int, blue: int, shared: int) -> None:
    plain = StepErrors(share, 1000, green, 1000, blue)
    counted = StepErrors(share, 1000, green, 1000, blue, shared_errors=shared)
    assert log_e_worse(counted, 0.005) == log_e_worse(plain, 0.005)
    assert log_e_not_worse(counted, 0.005) <= log_e_not_worse(plain, 0.005) + 1e-9


def test_how_many_good_answers_show_an_increase_below_half_a_point() -> None:
    def needed(share: float) -> int:
        n = 1
        while log_e_not_worse(StepErrors(share, n, 0, round(n * (1 - share) / share), 0), 0.005) < BAR:
            n += 1
        return n

    assert 800 <= needed(0.5) <= 1000
    assert abs(needed(0.01) - needed(0.5)) <= 10  # green's requests, whatever its share


def test_bounds_hold_the_difference_and_close_in() -> None:
    few, many = StepErrors(0.2, 500, 10, 2000, 20), StepErrors(0.2, 50_000, 1000, 200_000, 2000)
    for step in (few, many):
        assert lower(step, 0.05) < 0.01 < upper(step, 0.05)
    assert upper(many, 0.05) - lower(many, 0.05) < 0.3 * (upper(few, 0.05) - lower(few, 0.05))
    assert (lower(StepErrors(0.5, 0, 0, 0, 0), 0.05), upper(StepErrors(0.5, 0, 0, 0, 0), 0.05)) == (-0.2, 0.2)


def test_a_dead_green_is_seen_after_a_few_requests_at_any_share() -> None:
    for share in (0.01, 0.1, 0.5):
        step = StepErrors(share, 12, 12, round(12 * (1 - share) / share), 0)
        assert log_e_worse(step, 0.005) >= math.log(5 / 0.03)


def test_about_how_many_more() -> None:
    start = StepErrors(0.1, 100, 0, 900, 0)
    more = more_requests(start, 0.01, 0.05)
    assert more is not None
    after = StepErrors(0.1, 100 + more, round(more * 0.01 / 101), 900 + 9 * more, 0)
    assert log_e_not_worse(after, 0.01) >= BAR
    assert more_requests(StepErrors(0.1, 5000, 0, 45000, 0), 0.01, 0.05) == 0
    assert more_requests(StepErrors(0.1, 100, 50, 900, 0), 0.01, 0.05) is None
    assert more_requests(StepErrors(0.1, 0, 0, 0, 0), 0.01, 0.05) is None


def test_two_equal_arms_are_called_unequal_by_no_more_than_alpha() -> None:
    """Looked at all the time, under a base rate that drifts from 1 to 10 %."""
    chance = random.Random(7)
    wrong = 0
    for _ in range(200):
        green = blue = greens = blues = 0
        for batch in range(40):
            rate = 0.01 + 0.09 * batch / 40
            for _ in range(25):
                bad = chance.random() < rate
                if chance.random() < 0.2:
                    greens, green = greens + 1, green + bad
                else:
                    blues, blue = blues + 1, blue + bad
            if log_e_worse(StepErrors(0.2, greens, green, blues, blue), 0.0) >= BAR:
                wrong += 1
                break
    assert wrong <= 16  # 5 % of 200 is 10; with 16 or more in 3.6 % of runs of a test that is just at its level
