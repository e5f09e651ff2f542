"""The breaker by its clock: when it opens, who may try, and what closes it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from router.proxy.breaker import CLOSED, HALF_OPEN, OPEN, Breaker
from router.proxy.options import Fallback

FALLBACK = Fallback(open_after=3, open_for=5.0, budget_percent=20.0)


def test_failures_in_a_row_open_it_and_a_success_between_them_does_not() -> None:
    breaker = Breaker(FALLBACK)
    for now in range(10):
        breaker.failed(now)
        breaker.failed(now)
        breaker.succeeded()
    assert breaker.state == CLOSED
    assert not breaker.troubled
    for now in (20.0, 20.1, 20.2):
        assert breaker.allows(now)
        breaker.failed(now)
    assert breaker.state == OPEN
    assert breaker.troubled
    assert not breaker.allows(25.1)


def test_after_its_time_one_request_tries_and_decides() -> None:
    breaker = Breaker(FALLBACK)
    for _ in range(3):
        breaker.failed(10.0)
    assert breaker.allows(15.0)
    assert breaker.state == HALF_OPEN
    assert not breaker.allows(15.1)  # one at a time
    breaker.failed(15.2)
    assert breaker.state == OPEN
    assert not breaker.allows(20.1)
    assert breaker.allows(20.2)
    breaker.succeeded()
    assert breaker.state == CLOSED
    assert all(breaker.allows(20.3) for _ in range(10))


def test_a_trial_that_never_comes_back_makes_room_for_another() -> None:
    breaker = Breaker(FALLBACK)
    for _ in range(3):
        breaker.failed(0.0)
    assert breaker.allows(5.0)
    assert not breaker.allows(9.9)
    assert breaker.allows(10.0)


def test_the_budget_is_a_share_of_all_requests_within_a_second() -> None:
    breaker = Breaker(FALLBACK)
    total = 0
    for turn in range(100):  # 10 % fall back, and successes between: within the budget
        total += 10
        breaker.fell_back(turn * 0.01, total)
        breaker.succeeded()
    assert breaker.state == CLOSED
    opened = None
    for turn in range(30):  # every third
        total += 3
        breaker.fell_back(10 + turn * 0.01, total)
        if breaker.state == OPEN:
            opened = turn
            break
        breaker.succeeded()
    assert opened == 9  # the tenth: fewer say nothing about a share
    breaker.succeeded()  # a late answer to an older request
    assert breaker.state == OPEN


def test_few_fallbacks_say_nothing_about_a_share() -> None:
    breaker = Breaker(FALLBACK)
    for number in range(9):
        breaker.fell_back(0.1, number + 1)
    assert breaker.state == CLOSED


@given(st.lists(st.tuples(st.sampled_from(["ask", "good", "bad", "fell"]), st.floats(0, 3)), max_size=60))
def test_whatever_happens_green_is_never_shut_out_for_good(events: list[tuple[str, float]]) -> None:
    breaker, now = Breaker(FALLBACK), 0.0
    for total, (event, passed) in enumerate(events, 1):
        now += passed
        if event == "ask":
            breaker.allows(now)
        elif event == "good":
            breaker.succeeded()
        elif event == "bad":
            breaker.failed(now)
        else:
            breaker.fell_back(now, total)
        assert breaker.state in (CLOSED, OPEN, HALF_OPEN)
    assert breaker.allows(now + FALLBACK.open_for + 1.0)
