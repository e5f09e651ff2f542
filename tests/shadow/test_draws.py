"""What is still random about a unit's arm: checked against the bucket that the unit really has."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shadow.draws import BUCKETS, Drawn, Draws, Question

SHARES = st.integers(0, BUCKETS).map(lambda n: n / BUCKETS)


def drawn(unit, bucket, share, revision=1, scheme=0):
    return Drawn(unit, bucket < round(share * BUCKETS), share, revision, scheme)


def test_the_first_observation_is_drawn_at_the_share_and_the_next_ones_tell_nothing():
    draws = Draws()
    assert draws.chance(drawn("a", 700, 0.05), Question.REQUEST) == 0.05
    assert draws.chance(drawn("a", 700, 0.05), Question.REQUEST) is None
    assert draws.chance(drawn("b", 700, 0.05), Question.REQUEST) == 0.05
    assert draws.contradictions == 0


def test_a_ramp_draws_again_those_who_were_blues():
    draws = Draws()
    draws.chance(drawn("a", 1500, 0.05), Question.REQUEST)
    assert draws.chance(drawn("a", 1500, 0.20), Question.REQUEST) == pytest.approx(0.15 / 0.95)
    # It was green's at 20 %: it stays that at 50 %, and between 5 % and 20 % it is open on the way down.
    assert draws.chance(drawn("a", 1500, 0.50), Question.REQUEST) is None
    assert draws.chance(drawn("a", 1500, 0.10), Question.REQUEST) == pytest.approx(0.05 / 0.15)
    assert draws.chance(drawn("a", 1500, 0.05), Question.REQUEST) is None


def test_each_question_knows_only_its_own_past():
    draws = Draws()
    draws.chance(drawn("a", 1500, 0.20), Question.REQUEST)
    assert draws.chance(drawn("a", 1500, 0.20), Question.REWARD) == 0.20
    assert draws.chance(drawn("a", 1500, 0.05), Question.REWARD) == pytest.approx(0.25)
    assert draws.chance(drawn("a", 1500, 0.20), Question.REQUEST) is None


@given(st.integers(0, BUCKETS - 1), st.lists(st.tuples(SHARES, st.booleans()), max_size=8))
def test_what_is_open_is_what_is_drawn_then_and_looking_changes_nothing(bucket, looks):
    draws = Draws()
    for share, asks in looks:
        one = drawn("a", bucket, share)
        before = draws.to_dict()
        found = draws.open_chance(one, Question.ERROR)
        assert draws.to_dict() == before
        if asks:
            assert draws.chance(one, Question.ERROR) == found
            assert draws.open_chance(one, Question.ERROR) is None


def test_nothing_is_open_to_units_for_whom_there_is_no_room():
    draws = Draws(limit=1)
    draws.chance(drawn("a", 700, 0.5), Question.ERROR)
    assert draws.open_chance(drawn("b", 700, 0.5), Question.ERROR) is None
    assert draws.open_chance(Drawn(None, True, 0.5, 1), Question.ERROR) == 0.5
    assert draws.refused == 0


def test_a_request_by_itself_is_drawn_every_time():
    draws = Draws()
    assert [draws.chance(Drawn(None, True, 0.1, 1), Question.ERROR) for _ in range(3)] == [0.1] * 3
    assert len(draws) == 0


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_what_is_not_split_is_not_drawn(share):
    assert Draws().chance(drawn("a", 5, share), Question.REQUEST) is None


def test_another_key_or_salt_draws_everybody_anew():
    draws = Draws()
    draws.chance(drawn("a", 10, 0.5, scheme=1), Question.REQUEST)
    assert draws.chance(drawn("a", 9000, 0.5, scheme=2), Question.REQUEST) == 0.5
    assert draws.contradictions == 0


def test_an_arm_that_cannot_be_the_units_is_a_contradiction():
    draws = Draws()
    draws.chance(Drawn("a", False, 0.5, 1), Question.REQUEST)
    assert draws.chance(Drawn("a", True, 0.5, 1), Question.REQUEST) is None
    assert draws.chance(Drawn("a", True, 0.2, 2), Question.REQUEST) is None
    assert draws.contradictions == 2


def test_a_unit_is_counted_once_in_a_revision_and_never_for_an_older_one():
    draws = Draws()
    found = [draws.new_in_revision(drawn("a", 5, 0.5, revision)) for revision in (3, 3, 2, 4, 4)]
    assert found == [True, False, False, True, False]
    assert draws.chance(drawn("a", 5, 0.5, 4), Question.LABEL) == 0.5


def test_beyond_the_limit_new_units_are_left_out_and_counted():
    draws = Draws(limit=2)
    for unit in ("a", "b", "c"):
        draws.chance(drawn(unit, 5, 0.5), Question.REQUEST)
    assert (len(draws), draws.refused) == (2, 1)
    assert draws.new_in_revision(drawn("a", 5, 0.5, 7))
    assert not draws.new_in_revision(drawn("d", 5, 0.5, 7))


@given(st.integers(0, BUCKETS - 1), st.lists(st.tuples(SHARES, st.sampled_from(Question)), max_size=12))
def test_chances_are_the_shares_of_the_buckets_that_are_left(bucket, told):
    """Against the set of buckets that agree with all that the question was told."""
    draws = Draws()
    left = {question: range(BUCKETS) for question in Question}
    for share, question in told:
        place = round(share * BUCKETS)
        still = left[question]
        below = len(range(still.start, min(max(place, still.start), still.stop)))
        expected = None if below in (0, len(still)) else Fraction(below, len(still))
        found = draws.chance(drawn("a", bucket, share), question)
        assert found == (None if expected is None else pytest.approx(float(expected)))
        if expected is not None:
            left[question] = range(still.start, place) if bucket < place else range(place, still.stop)
    assert draws.contradictions == 0


def test_inverse_propensity_by_these_chances_is_unbiased_over_all_buckets():
    """Over every bucket, the score of a unit that answers y under green and x under blue has the mean y - x, ramp or no ramp."""
    shares = (0.05, 0.3, 0.1, 0.7)
    totals = np.zeros(len(shares))
    counted = np.zeros(len(shares))
    for bucket in range(BUCKETS):
        draws = Draws()
        for step, share in enumerate(shares):
            one = drawn("a", bucket, share)
            chance = draws.chance(one, Question.REQUEST)
            if chance is not None:
                totals[step] += 0.9 / chance if one.green else -0.2 / (1 - chance)
                counted[step] += 1
    assert totals / counted == pytest.approx([0.7] * len(shares))


@given(st.lists(st.tuples(st.text(max_size=20), st.integers(0, BUCKETS - 1), SHARES, st.sampled_from(Question)), max_size=30))
def test_a_state_goes_on_exactly(told):
    draws = Draws(limit=10)
    for number, (unit, bucket, share, question) in enumerate(told):
        draws.new_in_revision(drawn(unit, bucket, share, number))
        draws.chance(drawn(unit, bucket, share, number), question)
    again = Draws.from_dict(draws.to_dict())
    assert (again._known, again.refused, again.contradictions) == (draws._known, draws.refused, draws.contradictions)


@pytest.mark.parametrize(
    "unit", ["-00000000000000a", "+00000000000000a", "0x0000000000000a", "1_0_0_0_0_0_0_0_", " 00000000000000a"]
)
def test_a_key_of_sixteen_characters_is_no_number_because_int_would_take_it(unit):
    draws = Draws()
    for name in (unit, "000000000000000a"):
        assert draws.new_in_revision(drawn(name, 5, 0.5, 7))
    assert len(draws) == 2
    assert len(Draws.from_dict(draws.to_dict())) == 2
