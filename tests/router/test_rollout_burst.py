from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from router.rollout.burst import BurstWatch
from router.rollout.live_counts import Counts
from router.rollout.policy import BreakerRule

RULE = BreakerRule(errors=20, seconds=1.0, share=0.5)


def counts(answers: int, failures: int, skipped: int = 0) -> Counts:
    return Counts(green_answers=answers, green_failures=failures, skipped=skipped, fallbacks=failures)


def test_a_burst_after_good_times_is_seen_at_the_first_look_that_holds_it() -> None:
    watch = BurstWatch()
    for tenth in range(100):
        assert watch.look(counts(100 * tenth, 0), RULE, tenth / 10) is None
    found = watch.look(counts(9900 + 5, 95), RULE, 10.0)
    assert found == "95 of green's 100 requests failed within 0.1 s"


def test_a_burst_that_grows_slowly_is_seen_within_its_time() -> None:
    watch = BurstWatch()
    seen = [watch.look(counts(0, 3 * tenth), RULE, tenth / 10) for tenth in range(12)]
    assert seen[:7] == [None] * 7
    assert seen[7] == "21 of green's 21 requests failed within 0.7 s"


def test_a_few_failures_a_second_are_for_the_statistics() -> None:
    watch = BurstWatch()
    assert all(watch.look(counts(0, tenth), RULE, tenth / 10) is None for tenth in range(300))


def test_failures_among_many_good_answers_are_no_burst() -> None:
    watch = BurstWatch()
    assert all(watch.look(counts(100 * tenth, 49 * tenth), RULE, tenth / 10) is None for tenth in range(50))


def test_requests_kept_from_a_dead_green_count() -> None:
    watch = BurstWatch()
    assert watch.look(counts(0, 5, 0), RULE, 0.0) is None
    assert watch.look(counts(0, 5, 40), RULE, 0.1) == "40 of green's 40 requests failed within 0.1 s"


def test_what_was_there_before_the_watch_does_not_count() -> None:
    watch = BurstWatch()
    assert watch.look(counts(0, 10_000), RULE, 5.0) is None
    assert watch.look(counts(0, 10_019), RULE, 5.1) is None
    watch.clear()
    assert watch.look(counts(0, 10_039), RULE, 5.2) is None


def test_counts_that_begin_anew_are_no_burst() -> None:
    watch = BurstWatch()
    assert watch.look(counts(0, 10_000), RULE, 5.0) is None
    assert watch.look(counts(0, 0), RULE, 5.1) is None
    assert watch.look(counts(0, 19), RULE, 5.2) is None


def test_no_rule_no_burst() -> None:
    watch = BurstWatch()
    off = BreakerRule(errors=0)
    assert watch.look(counts(0, 0), off, 0.0) is None
    assert watch.look(counts(0, 10_000), off, 0.1) is None


@given(st.lists(st.tuples(st.floats(0.01, 0.5), st.integers(0, 30), st.integers(0, 30)), max_size=60))
def test_it_finds_exactly_the_stretches_that_the_rule_describes(growth: list[tuple[float, int, int]]) -> None:
    watch, now, answers, failures = BurstWatch(), 0.0, 0, 0
    history = [(now, answers, failures)]
    watch.look(counts(0, 0), RULE, now)
    for seconds, good, bad in growth:
        now, answers, failures = now + seconds, answers + good, failures + bad
        found = watch.look(counts(answers, failures), RULE, now)
        expected = any(
            now - then <= RULE.seconds
            and failures - f >= RULE.errors
            and failures - f >= RULE.share * (answers - a + failures - f)
            for then, a, f in history
        )
        assert (found is not None) == expected
        history.append((now, answers, failures))
