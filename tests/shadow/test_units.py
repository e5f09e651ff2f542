import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shadow.units import UnitOutcome, UnitWindows

requests = st.lists(st.tuples(st.sampled_from("abcdef"), st.floats(0.0, 1.0)), max_size=120)


@settings(deadline=None)
@given(requests, st.integers(1, 6))
def test_each_user_counts_once_with_the_mean_of_the_first_outcomes(stream, window):
    units = UnitWindows(window)
    outcomes = {}
    for unit, value in stream:
        done = units.update(unit, value, unit < "c", 0.5, epoch=1)
        if done is not None:
            assert unit not in outcomes
            outcomes[unit] = done
    seen = Counter(unit for unit, _ in stream)
    assert set(outcomes) == {unit for unit, n in seen.items() if n >= window}
    for unit, done in outcomes.items():
        first = [value for name, value in stream if name == unit][:window]
        assert done == UnitOutcome(unit < "c", 0.5, pytest.approx(sum(first) / window))
    assert units.skipped == sum(max(0, n - window) for n in seen.values())


def test_a_change_of_share_restarts_open_windows_and_leaves_finished_users_alone():
    units = UnitWindows(2)
    assert units.update("done", 1.0, False, 0.05, 1) is None
    assert units.update("done", 1.0, False, 0.05, 1) == UnitOutcome(False, 0.05, 1.0)
    assert units.update("moves", 1.0, False, 0.05, 1) is None
    # the ramp puts this user on green: what he did on blue is forgotten, at the new share
    assert units.update("moves", 0.0, True, 0.2, 2) is None
    assert units.update("moves", 0.0, True, 0.2, 2) == UnitOutcome(True, 0.2, 0.0)
    assert units.update("done", 0.0, True, 0.2, 2) is None
    assert units.units == (0, 2)


def test_latecomers_of_an_older_share_and_of_the_wrong_arm_are_left_out():
    units = UnitWindows(3)
    units.update("u", 1.0, True, 0.2, 2)
    assert units.update("u", 1.0, True, 0.05, 1) is None
    assert units.update("u", 1.0, False, 0.2, 2) is None
    assert units.skipped == 2
    assert units.units == (1, 0)


def test_the_draw_stays_fair_when_windows_span_ramp_steps():
    # Users' buckets are uniform; the share of green among finished users must be the share of their epoch.
    rng = np.random.default_rng(11)
    bucket = rng.random(6000)
    units, found = UnitWindows(3), {0.05: [], 0.5: []}
    for epoch, share, n in ((1, 0.05, 9000), (2, 0.5, 30_000)):
        for user in rng.integers(6000, size=n).tolist():
            done = units.update(str(user), 0.0, bool(bucket[user] < share), share, epoch)
            if done is not None:
                found[done.share].append(done.green)
    for share, arms in found.items():
        assert len(arms) > 800
        assert np.mean(arms) == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / len(arms)))


def test_users_beyond_the_limit_are_counted_and_left_out():
    units = UnitWindows(2, limit=3)
    for unit in "abcde" * 2:
        units.update(unit, 1.0, True, 0.5, 1)
    assert units.units == (0, 3)
    assert units.refused == 4


@settings(deadline=None)
@given(requests)
def test_windows_survive_a_snapshot(stream):
    units = UnitWindows(2)
    for unit, value in stream:
        units.update(unit, value, True, 0.5, 1)
    again = UnitWindows.from_dict(json.loads(json.dumps(units.to_dict())))
    assert again.to_dict() == units.to_dict()
    assert again.update("a", 0.5, True, 0.5, 1) == units.update("a", 0.5, True, 0.5, 1)


@pytest.mark.parametrize(("window", "limit"), [(0, 10), (3, 0)])
def test_windows_that_hold_nothing_are_refused(window, limit):
    with pytest.raises(ValueError, match="at least 1"):
        UnitWindows(window, limit)
