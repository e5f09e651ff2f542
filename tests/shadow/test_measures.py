import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shadow.measures import MAX_MEASURES, Measures, Numbers


def test_the_mean_difference_counts_each_pair_once():
    numbers = Numbers()
    draw = random.Random(1)
    for _ in range(400):
        numbers.update([draw.gauss(2.0, 1.0)])
        numbers.update([2.0, float("nan"), 4.0, 0.0])
    found = numbers.snapshot(0.05)
    assert (found["n"], found["differences"], found["not_finite"]) == (800, 1600, 400)
    low, high = found["ci"]
    assert low < 2.0 < high
    assert found["mean"] == pytest.approx(2.0, abs=0.1)
    assert found["quantiles"]["p50"] == pytest.approx(2.0, abs=0.1)


@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=80))
def test_every_difference_is_in_the_histogram(values):
    numbers = Numbers()
    for value in values:
        numbers.update([value])
    histogram = numbers.snapshot(0.05)["histogram"]
    assert len(histogram["edges"]) == len(histogram["counts"]) + 1
    assert histogram["edges"] == sorted(histogram["edges"])
    assert sum(histogram["counts"]) + histogram["below"] + histogram["above"] == len(values)


def test_differences_of_nothing_are_in_the_middle():
    numbers = Numbers()
    for _ in range(10):
        numbers.update([0.0])
    histogram = numbers.snapshot(0.05)["histogram"]
    assert histogram["counts"][len(histogram["counts"]) // 2] == 10


def test_measures_within_bounds_have_an_exact_interval_from_the_first_on():
    measures = Measures()
    for _ in range(300):
        measures.update({"token_f1": 0.9, "length_difference": 3.0, "fields": 7.0})
    found = measures.snapshot(0.05)
    assert set(found) == {"token_f1", "length_difference"}
    assert found["token_f1"]["mean"] == pytest.approx(0.9)
    low, high = found["token_f1"]["ci"]
    assert 0.5 < low < 0.9 < high <= 1.0
    assert found["length_difference"]["n"] == 300


def test_what_a_measure_cannot_be_is_refused():
    measures = Measures()
    measures.update({"token_f1": 1.5, "cosine": float("nan"), "other": float("inf")})
    measures.update({f"name {i}": 1.0 for i in range(100)}, own=True)
    assert len(measures.unbounded) == MAX_MEASURES
    assert measures.refused >= 3
    json.dumps(measures.to_dict(), allow_nan=False)


def test_an_own_measure_promises_no_bounds():
    measures = Measures()
    measures.update({"token_f1": 17.0}, own=True)
    assert measures.snapshot(0.05)["token_f1"]["mean"] == 17.0


def test_measures_survive_a_restart():
    measures, numbers = Measures(), Numbers()
    for value in (0.1, 0.5, 0.9):
        measures.update({"exact": value, "cosine": -value})
        numbers.update([value, -2 * value])
    assert Measures.from_dict(json.loads(json.dumps(measures.to_dict()))).snapshot(0.05) == measures.snapshot(0.05)
    assert Numbers.from_dict(json.loads(json.dumps(numbers.to_dict()))).snapshot(0.05) == numbers.snapshot(0.05)
    assert Numbers.from_dict(Numbers().to_dict()).snapshot(0.05) == Numbers().snapshot(0.05)
