import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shadow.noise import NoiseComparison
from shadow.sequential import Interval

answers = st.lists(st.tuples(st.booleans(), st.booleans()), max_size=80)
similar = st.lists(st.tuples(st.floats(0.0, 1.0), st.floats(0.0, 1.0)), max_size=80)


def compared(pairs, **margins):
    state = NoiseComparison(**margins)
    for green, blue in pairs:
        state.update(green, blue)
    return state


def noisy(rng, n, blue, green):
    """(green differs, blue differs) of three answers out of two labels, wrong with these probabilities."""
    first, second, third = (rng.random(n) < p for p in (blue, blue, green))
    return list(zip((first ^ third).tolist(), (first ^ second).tolist(), strict=True))


def test_a_green_as_noisy_as_blue_is_not_worse():
    snapshot = compared(noisy(np.random.default_rng(1), 3000, 0.026, 0.026), margin=0.02).snapshot()
    assert not snapshot.worse
    assert snapshot.not_worse
    assert 0.95 in snapshot.blue_interval
    assert snapshot.excess in snapshot.excess_interval
    assert "no more often" in snapshot.in_words()


def test_a_noisier_green_is_worse():
    snapshot = compared(noisy(np.random.default_rng(2), 1500, 0.026, 0.08)).snapshot()
    assert snapshot.worse
    assert not snapshot.not_worse
    assert snapshot.excess_interval.low > 0.0
    assert snapshot.green_agreement < snapshot.blue_agreement
    assert "more often than that" in snapshot.in_words()


def test_little_evidence_is_said_to_be_little():
    snapshot = compared([(True, False)] * 3 + [(False, False)] * 60).snapshot()
    assert not snapshot.worse
    assert not snapshot.not_worse
    assert snapshot.more is not None
    assert snapshot.more > 0
    assert f"about {snapshot.more} more noise pairs" in snapshot.in_words()


def test_without_noise_pairs():
    snapshot = NoiseComparison().snapshot()
    assert (snapshot.n, snapshot.more, snapshot.similarity) == (0, None, None)
    assert (snapshot.blue_agreement, snapshot.green_agreement, snapshot.excess) == (None, None, None)
    assert snapshot.blue_interval == Interval(0.0, 1.0)
    assert "not yet been compared" in snapshot.in_words()


@settings(max_examples=40, deadline=None)
@given(answers)
def test_rates_are_those_of_the_pairs(pairs):
    state = compared(pairs)
    assert state.green.failures == sum(green for green, _ in pairs)
    assert state.green.n == state.blue.n == state.pairs.n == len(pairs)
    assert state.blue.failures == sum(blue for _, blue in pairs)


def test_lost_similarity_is_found_and_equal_noise_is_not():
    rng = np.random.default_rng(3)
    equal, lossy = NoiseComparison(similarity_margin=0.02), NoiseComparison(similarity_margin=0.02)
    for _ in range(3000):
        blue, green = rng.beta(30, 1, 2).tolist()
        equal.update(False, False, green, blue)
        lossy.update(True, False, max(0.0, green - 0.08), blue)
    same, worse = equal.snapshot().similarity, lossy.snapshot().similarity
    assert (same.less, same.not_less) == (False, True)
    assert (worse.less, worse.not_less) == (True, False)
    assert 0.0 in same.interval
    assert 0.08 in worse.interval
    assert worse.interval.low > 0.02
    assert worse.mean == pytest.approx(0.08, abs=0.01)


def test_bad_similarities_are_refused_and_nothing_is_counted():
    state = NoiseComparison()
    with pytest.raises(ValueError, match="of both answers or of neither"):
        state.update(False, False, 0.5, None)
    with pytest.raises(ValueError, match="map a cosine"):
        state.update(False, False, -0.5, 0.9)
    assert state.pairs.n == state.blue.n == state.similarity.n == 0
    with pytest.raises(ValueError, match="put up with"):
        NoiseComparison(margin=-0.1)


@settings(max_examples=30, deadline=None)
@given(answers, similar)
def test_comparison_survives_a_snapshot_and_merges(pairs, similarities):
    one, other = compared(pairs), NoiseComparison()
    for green, blue in similarities:
        other.update(green < 0.5, blue < 0.5, green, blue)
    one.merge(other)
    assert one.pairs.n == len(pairs) + len(similarities)
    again = NoiseComparison.from_dict(json.loads(json.dumps(one.to_dict())))
    assert again.to_dict() == one.to_dict()
    assert again.snapshot() == one.snapshot()


def test_comparisons_with_other_margins_do_not_merge():
    with pytest.raises(ValueError, match="same margins"):
        NoiseComparison(margin=0.01).merge(NoiseComparison(margin=0.02))
