"""Each kind's rule of agreement, its similarity and what it measures."""

import math
from array import array

import pytest

from models.predictions.prediction import Kind, Prediction
from shadow.kind_measures import Limits, as_json, common_kind, judge

LIMITS = Limits(rtol=1e-5, atol=1e-8, similarity_floor=0.9, cosine_floor=0.99)
LABELS, NUMBERS, PROBABILITIES, VECTORS, TEXT, RANKED, JSON = (
    Kind.LABELS,
    Kind.NUMBERS,
    Kind.PROBABILITIES,
    Kind.VECTORS,
    Kind.TEXT,
    Kind.RANKED,
    Kind.JSON,
)


def judged(kind, ours, theirs, limits=LIMITS, classes=((), ()), **more):
    one, other = Prediction(kind, ours, classes=classes[0]), Prediction(kind, theirs, classes=classes[1])
    forth, back = judge(kind, one, other, limits, **more), judge(kind, other, one, limits, **more)
    assert (forth.agree, forth.similarity) == (back.agree, pytest.approx(back.similarity))  # whichever is blue
    assert 0 <= forth.similarity <= 1
    return forth


@pytest.mark.parametrize(
    ("ours", "theirs", "agree", "similarity", "pair"),
    [
        (2, 2, True, 1, (2, 2)),
        (2, 3, False, 0, (2, 3)),
        (2, 2.0, True, 1, (2, 2)),
        (True, 1, True, 1, (True, 1)),
        (1, "1", False, 0, (1, "1")),
        (None, None, True, 1, (None, None)),
        (None, 0, False, 0, (None, 0)),
        (2**53 + 1, float(2**53), False, 0, (2**53 + 1, 2**53)),
        ((0, 1), (0, 1), True, 1, ("[0, 1]", "[0, 1]")),
        ((0, 1), (0, 2), False, 0.5, ("[0, 1]", "[0, 2]")),
        ((0, 1), 0, False, 0.5, ("[0, 1]", 0)),
        ((), (), True, 1, ("[]", "[]")),
        ("x" * 200, "x" * 200, True, 1, ("x" * 100, "x" * 100)),
    ],
)
def test_labels(ours, theirs, agree, similarity, pair):
    found = judged(LABELS, ours, theirs)
    assert (found.agree, found.similarity, found.labels) == (agree, similarity, pair)


def test_labels_that_are_not_a_number():
    assert judged(LABELS, math.nan, math.nan).agree
    assert judged(LABELS, math.nan, None).agree
    assert judged(LABELS, math.nan, None).labels == (None, None)  # NaN would be another row of a confusion table each time
    assert not judged(LABELS, math.nan, 0.5).agree


class TestProbabilities:
    def test_far_apart_and_still_the_same_class(self):
        found = judged(PROBABILITIES, (0.5, 0.25, 0.25), (0.75, 0.25, 0.0))
        assert (found.agree, found.similarity, found.labels) == (True, 0.75, (0, 0))
        assert found.measures == {"arg_max_flip": 0, "total_variation": 0.25, "max_probability_difference": 0.25}

    def test_near_and_another_class(self):
        found = judged(PROBABILITIES, (0.51, 0.49), (0.49, 0.51))
        assert (found.agree, found.labels, found.measures["arg_max_flip"]) == (False, (0, 1), 1)
        assert found.similarity == pytest.approx(0.98)

    def test_a_tie_on_both_sides_is_no_decision(self):
        assert judged(PROBABILITIES, (0.5, 0.5), (0.5 - 1e-9, 0.5 + 1e-9)).agree
        assert not judged(PROBABILITIES, (0.5, 0.5), (0.4, 0.6)).agree

    def test_classes_by_name_in_any_order(self):
        found = judged(PROBABILITIES, (0.75, 0.25), (0.25, 0.75), classes=(("a", "b"), ("b", "a")))
        assert (found.agree, found.similarity, found.labels) == (True, 1, ("a", "a"))

    def test_a_class_that_one_side_does_not_name(self):
        found = judged(PROBABILITIES, (0.75, 0.25), (1.0,), classes=(("a", "b"), ("a",)))
        assert (found.agree, found.measures["total_variation"]) == (True, 0.25)

    def test_different_numbers_of_classes(self):
        found = judged(PROBABILITIES, (0.5, 0.5), (0.5, 0.25, 0.25))
        assert (found.agree, found.similarity) == (False, 0)
        assert "classes" in found.reason

    def test_not_a_number(self):
        nan = math.nan
        assert judged(PROBABILITIES, (nan, 0.5), (nan, 0.5)).similarity == 1
        assert judged(PROBABILITIES, (nan, 0.5), (0.5, 0.5)).similarity == 0
        assert judged(PROBABILITIES, (), ()).agree


class TestNumbers:
    @pytest.mark.parametrize(
        ("ours", "theirs", "agree", "differences"),
        [
            (1.0, 1.0 + 9e-6, True, [9e-6]),
            (1.0, 1.0 + 2e-5, False, [2e-5]),
            (0.0, 9e-9, True, [9e-9]),
            (0.0, 2e-8, False, [2e-8]),
            (3, 1.5, False, [-1.5]),
            (math.nan, math.nan, True, []),
            (math.nan, 1.0, False, []),
            (math.inf, math.inf, True, []),
            (math.inf, -math.inf, False, []),
            (10**400, 10**400, True, [0]),
            (10**400, 1.5, False, []),
            ((1.0, 2.0), (1.0, 3.0), False, [0, 1]),
        ],
    )
    def test_agreement_and_signed_differences(self, ours, theirs, agree, differences):
        found = judged(NUMBERS, ours, theirs)
        assert (found.agree, list(found.differences)) == (agree, pytest.approx(differences, abs=1e-15))

    def test_similarity(self):
        assert judged(NUMBERS, 1.0, 3.0).similarity == 0.5
        assert judged(NUMBERS, 1.0, -1.0).similarity == 0
        assert judged(NUMBERS, 1e-12, -1e-12).similarity == 1
        assert judged(NUMBERS, (1.0, 1.0), (1.0, 3.0)).similarity == 0.75
        assert judged(NUMBERS, 1e308, -1e308).similarity == 0
        assert judged(NUMBERS, 1.0, 3.0).measures == {"max_difference": 2.0}

    def test_different_counts(self):
        assert "2 numbers" in judged(NUMBERS, (1.0, 2.0), (1.0, 2.0, 3.0)).reason + judged(NUMBERS, (1.0, 2.0), 1.0).reason
        assert judged(NUMBERS, (), ()).agree


class TestVectors:
    def vectors(self, ours, theirs, **more):
        return judged(VECTORS, array("d", ours), array("d", theirs), **more)

    @pytest.mark.parametrize(
        ("ours", "theirs", "cosine"),
        [
            ([1, 0], [1, 0], 1),
            ([1, 0], [5, 0], 1),
            ([1, 0], [0, 1], 0),
            ([1, 0], [-2, 0], -1),
            ([1, 0], [1, 1], math.sqrt(0.5)),
            ([0, 0], [0, 0], 1),
            ([0, 0], [1, 0], 0),
            ([1e300, 1e300], [1e300, 0], math.sqrt(0.5)),
            ([1e-300, 1e-300], [1e-300, 0], math.sqrt(0.5)),
            ([math.nan, 1], [math.nan, 1], 1),
            ([math.nan, 1], [1, 1], 0),
            ([math.inf, 1], [1, 1], 0),
            ([], [], 1),
        ],
    )
    def test_cosine(self, ours, theirs, cosine):
        found = self.vectors(ours, theirs)
        assert found.measures["cosine"] == pytest.approx(cosine)
        assert found.similarity == pytest.approx((1 + cosine) / 2)
        assert found.agree == (cosine >= 0.99)

    def test_the_floor(self):
        limits = Limits(0, 0, 0.9, 0.7)
        assert self.vectors([1, 0], [1, 1], limits=limits).agree
        assert "below 0.99" in self.vectors([1, 0], [1, 1]).reason

    def test_different_lengths(self):
        assert self.vectors([1, 0], [1, 0, 0]).similarity == 0


class TestText:
    def test_equal_and_nearly(self):
        assert judged(TEXT, "Paris", "Paris").measures == {
            "exact": 1,
            "edit_similarity": 1,
            "token_f1": 1,
            "length_difference": 0,
        }
        near = judged(TEXT, "Paris is the capital.", "Paris is the capital!")
        assert (near.agree, near.measures["exact"], near.measures["length_difference"]) == (True, 0, 0)
        far = judged(TEXT, "Paris", "London is")
        assert (far.agree, far.measures["token_f1"]) == (False, 0)
        assert "below 0.9" in far.reason

    def test_length_difference_is_greens_less_blues(self):
        assert judge(TEXT, Prediction(TEXT, "ab"), Prediction(TEXT, "abcde"), LIMITS).measures["length_difference"] == 3

    def test_a_recording_in_part_is_compared_as_far_as_both_go(self):
        assert judged(TEXT, "Paris is", "Paris is the capital", partial=True).agree
        assert not judged(TEXT, "Paris is", "Paris is the capital").agree


class TestRanked:
    @pytest.mark.parametrize(
        ("ours", "theirs", "overlap", "correlation", "similarity"),
        [
            ("abc", "abc", 1, 1, 1),
            ("abc", "acb", 1, 0.5, (1 + 1 / 2 + 1) / 3),
            ("abc", "cba", 1, -1, (0 + 1 / 2 + 1) / 3),
            ("abc", "xyz", 0, 1, 0),
            ("ab", "abcd", 0.5, 1, (1 + 1 + 2 / 3 + 2 / 4) / 4),
            ("", "", 1, 1, 1),
            ("", "a", 0, 1, 0),
        ],
    )
    def test_overlap_and_correlation(self, ours, theirs, overlap, correlation, similarity):
        found = judged(RANKED, tuple(ours), tuple(theirs))
        assert found.measures["overlap"] == pytest.approx(overlap)
        assert found.measures["rank_correlation"] == pytest.approx(correlation)
        assert found.similarity == pytest.approx(similarity)
        assert found.agree == (similarity >= 0.9)

    def test_long_lists_that_differ_beyond_what_is_looked_at(self):
        ours = tuple(range(2000))
        assert judged(RANKED, ours, ours).similarity == 1
        assert judged(RANKED, ours, (*ours[:-1], -1)).similarity < 1
        assert judged(RANKED, (1, 1), (1,)).similarity < 1


@pytest.mark.parametrize(
    ("one", "other", "kind"),
    [
        ((LABELS, 2), (NUMBERS, 2.0), LABELS),
        ((LABELS, 2), (NUMBERS, 3.0), LABELS),
        ((LABELS, 2), (NUMBERS, 2.5), NUMBERS),
        ((LABELS, "a"), (NUMBERS, 2.5), LABELS),
        ((LABELS, "yes"), (TEXT, "yes, of course"), TEXT),
        ((LABELS, 5), (TEXT, "five"), LABELS),
        ((LABELS, (1, 0, 0)), (PROBABILITIES, (0.9, 0.1, 0.0)), PROBABILITIES),
        ((PROBABILITIES, (0.9, 0.1)), (NUMBERS, (0.9, 0.2)), NUMBERS),
        ((PROBABILITIES, (0.5,) * 2), (VECTORS, array("d", [0.5, 0.6])), VECTORS),
        ((NUMBERS, (0.5, 0.6)), (VECTORS, array("d", [0.5, 0.6])), NUMBERS),
        ((LABELS, ("a", "b")), (RANKED, ("a", "b")), LABELS),
        ((RANKED, ("a", "b")), (TEXT, "a b"), JSON),
        ((JSON, {"a": 1}), (LABELS, 1), JSON),
        ((LABELS, (None, 1)), (VECTORS, array("d", [0.5, 0.6])), JSON),
    ],
)
def test_the_common_kind_of_two(one, other, kind):
    ours, theirs = Prediction(*one), Prediction(*other)
    assert common_kind(ours, theirs) is kind
    assert common_kind(theirs, ours) is kind
    if kind is not JSON:
        judge(kind, ours, theirs, LIMITS)


def test_values_as_json():
    assert as_json(Prediction(LABELS, (1, 2))) == [1, 2]
    assert len(as_json(Prediction(VECTORS, array("d", range(1000))))) == 20
    assert as_json(Prediction(TEXT, "x")) == "x"
