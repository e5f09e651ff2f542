"""The kind of a prediction, told from its shape for the whole batch at once."""

import math
from array import array

import pytest

from models.predictions import kinds
from models.predictions.prediction import Kind, Prediction, Reason, Unreadable, arg_max


def kinds_of(value, rows=None):
    return [prediction.kind for prediction in kinds.predictions(value, lambda: rows)]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([1, 2], [Kind.LABELS] * 2),
        ([True, 0], [Kind.LABELS] * 2),
        (["a", None], [Kind.LABELS] * 2),
        (["a", 1], [Kind.LABELS] * 2),
        ([1, 2.5], [Kind.NUMBERS] * 2),
        ([math.nan], [Kind.NUMBERS]),
        (["short", "a sentence of more than four blanks in all"], [Kind.TEXT] * 2),
        (["x" * 65], [Kind.TEXT]),
        (["two\nlines"], [Kind.TEXT]),
        ([[0.33, 0.33, 0.33]], [Kind.PROBABILITIES]),  # rounded to two digits
        ([[0.5, 0.4]], [Kind.NUMBERS]),
        ([[-0.5, 1.5]], [Kind.NUMBERS]),
        ([[0.5, 0.5], [0.9, 0.9]], [Kind.NUMBERS] * 2),  # one row that is none makes none of them a distribution
        ([[0.5, math.nan]], [Kind.NUMBERS]),
        ([[0.5] * 8], [Kind.VECTORS]),
        ([[1, 0, 0]], [Kind.LABELS]),
        ([[10**400, 0.5]], [Kind.NUMBERS]),
        ([["a", "b"], []], [Kind.RANKED] * 2),
        ([[]], [Kind.LABELS]),
        ([[{"a": 1}]], [Kind.JSON]),
        ([{"label": "a", "score": 0.5, "extra": 1}], [Kind.JSON]),
        ([{"label": "a", "score": "high"}], [Kind.JSON]),
        ([1, [2]], [Kind.LABELS] * 2),
        ({"a": 1}, [Kind.JSON]),
    ],
)
def test_kinds(value, expected):
    assert kinds_of(value) == expected


def test_one_row_asked_makes_a_flat_list_one_item():
    assert kinds_of([0.25, 0.75], 1) == [Kind.PROBABILITIES]
    assert kinds_of([0.25, 0.75], 2) == [Kind.NUMBERS] * 2
    assert kinds_of([0.25], 1) == [Kind.NUMBERS]
    assert kinds_of(["a", "b"], 1) == [Kind.RANKED]


def test_null_among_numbers_is_not_a_number():
    (prediction,) = kinds.predictions([[0.5, None, True]], lambda: None)
    assert prediction.value[0] == 0.5
    assert math.isnan(prediction.value[1])
    assert prediction.value[2] == 1


def test_flat_keeps_the_order_of_rows():
    assert kinds.flat([[1, [2, []]], 3, [[[4]]]]) == [1, 2, 3, 4]


def test_vectors_of_integers_beyond_every_float():
    with pytest.raises(Unreadable) as refused:
        kinds.predictions([[10**400] + [0.5] * 8], lambda: None)
    assert refused.value.reason is Reason.WRONG_SHAPE


def test_joined_outputs_lead_with_the_label():
    scores = (Prediction(Kind.VECTORS, array("d", [1.0])), Prediction(Kind.VECTORS, array("d", [2.0])))
    labels = (Prediction(Kind.LABELS, "a"), Prediction(Kind.LABELS, "b"))
    first, second = kinds.joined([scores, labels])
    assert (first.value, first.also, second.value) == ("a", (scores[0],), "b")
    assert kinds.joined([scores]) is scores


def test_arg_max_takes_the_first_and_never_not_a_number():
    assert arg_max((0.5, 0.5)) == 0
    assert arg_max((math.nan, 0.1, 0.2)) == 2
    assert arg_max((0.3, math.nan, 0.2)) == 0
    assert arg_max((math.nan, math.nan)) == 0
    assert arg_max((0.5, 10**400)) == 1


def test_decisions():
    assert Prediction(Kind.LABELS, 3).decision == 3
    assert Prediction(Kind.PROBABILITIES, (0.1, 0.9)).decision == 1
    assert Prediction(Kind.PROBABILITIES, (0.1, 0.9), classes=("a", "b")).decision == "b"
    assert Prediction(Kind.TEXT, "x").decision is None
