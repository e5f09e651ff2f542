"""Labels and decisions in the same words."""

import json
import math
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.predictions.prediction import Decoded, Kind, Prediction, Protocol
from shadow.decisions import MAX_WORDS, decision_words, is_right, label_words, summary, verdicts


def decoded(*items: Prediction) -> Decoded:
    return Decoded(Protocol.JSON, "shape", items)


def labels(*values):
    return decoded(*[Prediction(Kind.LABELS, value) for value in values])


def number(value):
    return decoded(Prediction(Kind.NUMBERS, value))


def told_of(answer: Decoded):
    return summary(answer, decision_words(answer))


@pytest.mark.parametrize(
    "same",
    [
        (2, 2.0, "2", " 2 ", "2.0", "+2", "2e0", [2], ["2"]),
        (0, "0", "-0", 0.0, "0.000", "00"),
        (-3, "-3", -3.0),
        (0.5, ".5", "0.50", "5e-1"),
        (True, "true", "TRUE", "True"),
        ("setosa", " setosa", ["setosa"]),
        (10**30, str(10**30)),
        ([1, 2], ["1", 2.0]),
    ],
)
def test_one_class_has_one_spelling(same):
    assert len({label_words(value) for value in same}) == 1


@pytest.mark.parametrize(
    "different", [(1, True), ("a", "A"), ([1, 2], [2, 1]), (1, [1, 1]), ("1 2", 12), (0.1, 0.10000000000000002)]
)
def test_different_labels_stay_different(different):
    assert len({label_words(value) for value in different}) == len(different)


@pytest.mark.parametrize("wrong", [None, {}, {"a": 1}, [], [[]], math.nan, math.inf, [math.nan], object()])
def test_what_is_no_label_is_refused_in_words(wrong):
    with pytest.raises(ValueError, match="label"):
        label_words(wrong)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=5))
def test_every_label_is_words_that_can_be_written_or_a_refusal(value):
    try:
        words = label_words(value)
    except ValueError:
        return
    assert len(words) <= MAX_WORDS
    words.encode()
    assert label_words(words) == words or isinstance(value, list)


def test_long_words_can_still_be_equal():
    batch = [f"class {n}" for n in range(100)]
    assert label_words(batch) == label_words(list(batch))
    assert label_words(batch) != label_words([*batch[:-1], "another"])
    assert decision_words(labels(*batch)) == label_words(batch)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (labels(2), "2"),
        (labels("2"), "2"),
        (labels(1, 2), '["1","2"]'),
        (labels(("a", "b")), '["a","b"]'),
        (decoded(Prediction(Kind.PROBABILITIES, (0.1, 0.9), classes=("no", "yes"))), "yes"),
        (decoded(Prediction(Kind.PROBABILITIES, (0.1, 0.9))), "1"),
        (number(2.5), "~2.5"),
        (number((2.5,)), "~2.5"),
        (number((2.5, 3.5)), None),
        (number(math.nan), None),
        (decoded(Prediction(Kind.NUMBERS, 1.0), Prediction(Kind.NUMBERS, 2.0)), None),
        (decoded(Prediction(Kind.TEXT, "hello")), None),
        (decoded(Prediction(Kind.VECTORS, array("d", [1.0]))), None),
        (decoded(Prediction(Kind.TEXT, "hello", also=(Prediction(Kind.LABELS, "spam"),))), "spam"),
        (labels(1, None), None),
        (decoded(), None),
    ],
)
def test_what_an_answer_decided(answer, words):
    assert decision_words(answer) == words


def test_a_label_is_held_against_a_decision():
    assert is_right("2", label_words("2.0")) is True
    assert is_right("2", label_words(3)) is False
    assert is_right(None, "2") is None
    assert is_right("~2.0", "2") is None


@pytest.mark.parametrize(
    ("blue", "green", "label", "found"),
    [
        ("2", "2", "2", (True, True)),
        ("2", "3", "2", (True, False)),
        ("3", "2", "2", (False, True)),
        ("3", "4", "2", (False, False)),
        (None, "2", "2", None),
        ("~10.0", "~12.0", "11.5", (False, True)),
        ("~10.0", "~13.0", "11.5", (True, True)),
        ("~10.0", "~13.0", "eleven", None),
        ("~10.0", "2", "2", None),
    ],
)
def test_two_decisions_are_judged_by_one_label(blue, green, label, found):
    assert verdicts(blue, green, label) == found


def test_a_class_that_begins_like_a_number_mark_is_a_class():
    assert verdicts("~high", "~low", "~high") == (True, False)


def test_the_summary_is_small_plain_json():
    told = told_of(decoded(Prediction(Kind.PROBABILITIES, (0.1, 0.9), classes=("no", "yes"))))
    assert told == {"protocol": "json", "items": 1, "kind": "probabilities", "decision": "yes", "score": 0.9}
    assert told_of(decoded(Prediction(Kind.TEXT, "hello")))["characters"] == 5
    assert told_of(number(2.5))["decision"] == "2.5"
    assert len(json.dumps(told_of(labels(*range(1000))), allow_nan=False)) < 400
    assert told_of(decoded())["items"] == 0
