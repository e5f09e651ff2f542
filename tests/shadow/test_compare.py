"""Pairs of whole answers: what agrees, what does not, and what says nothing."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.predictions.decode import read_response
from models.predictions.prediction import Decoded, InBandError, Kind, Options, Pointer, Reason, Unreadable, Wire
from shadow import compare as comparing
from shadow.compare import CompareOptions, Outcome, compare
from shadow.json_fields import FieldDifference


def answer(body, path="/predict", options=None, headers=None, truncated=False, request=b""):
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    return read_response(Wire("POST", path, {}, request, 200, headers or {}, body, truncated), options or Options())


def v2(*outputs, **members):
    keys = ("name", "datatype", "shape", "data")
    return answer({"outputs": [dict(zip(keys, output, strict=True)) for output in outputs], **members}, "/v2/models/m/infer")


def pair(blue, green, **options):
    """Compared both ways, which must say the same but for signs."""
    forth = compare(blue, green, CompareOptions(**options))
    back = compare(green, blue, CompareOptions(**options))
    assert (forth.outcome, forth.kind, forth.items, forth.agreeing, forth.flags) == (
        back.outcome,
        back.kind,
        back.items,
        back.agreeing,
        back.flags,
    )
    assert forth.similarity == pytest.approx(back.similarity)
    assert forth.labels == tuple((theirs, ours) for ours, theirs in back.labels)
    return forth


class TestTheSameSaidInAnotherShape:
    """Blue and green are often different servers around the same model."""

    @pytest.mark.parametrize(
        "green",
        [
            v2(("predict", "INT64", [2], [0, 2])),
            v2(("predict", "INT32", [2, 1], [0, 2])),
            v2(("predict", "INT32", [2, 1], [[0], [2]])),
            v2(("output-0", "FP64", [2, 1], [0.0, 2.0])),
            v2(("predict", "INT64", [2], ["0", "2"])),
            v2(("predict", "INT64", [2], [0, 2]), id="another", model_version="9", parameters=None),
            answer({"predictions": [0, 2]}, "/v1/models/m:predict"),
            answer({"predictions": [[0], [2]]}, "/invocations"),
            answer([0, 2], "/invocations"),
            answer([0.0, 2.0]),
        ],
    )
    def test_labels(self, green):
        found = pair(v2(("predict", "INT64", [2, 1], [0, 2]), id="one", parameters={}), green)
        assert (found.outcome, found.kind, found.items, found.agreeing) == (Outcome.AGREE, Kind.LABELS, 2, 2)
        assert [(int(ours), int(theirs)) for ours, theirs in found.labels] == [(0, 0), (2, 2)]
        assert found.agree

    def test_null_and_absent(self):
        blue = answer({"class": "a", "score": 0.5, "detail": None})
        assert pair(blue, answer({"score": 0.5, "class": "a"})).agree

    def test_numbers_written_whole(self):
        assert pair(v2(("p", "FP64", [1, 1], [151.0])), answer({"predictions": [151]})).agree
        assert pair(answer([151.3]), answer([151])).differences == pytest.approx([-0.3])

    def test_classes_in_another_order(self):
        blue = answer([[{"label": "a", "score": 0.75}, {"label": "b", "score": 0.25}]])
        green = answer([[{"label": "b", "score": 0.25}, {"label": "a", "score": 0.75}]])
        assert (pair(blue, green).agree, pair(blue, green).similarity, pair(blue, green).labels) == (True, 1, (("a", "a"),))

    def test_outputs_in_another_order(self):
        label, score = ("y", "INT64", [1], [1]), ("p", "FP32", [1, 2], [0.1, 0.9])
        assert pair(v2(label, score), v2(score, label)).agree

    def test_plain_and_streamed(self):
        plain = answer({"choices": [{"message": {"content": "Paris"}}]}, "/v1/chat/completions")
        stream = b'data: {"choices":[{"delta":{"content":"Pa"}}]}\n\ndata: {"choices":[{"delta":{"content":"ris"}}]}\n\n'
        streamed = answer(stream, "/v1/chat/completions", headers={"content-type": "text/event-stream"})
        assert pair(plain, streamed).agree


class TestDisagreement:
    def test_labels(self):
        found = pair(answer({"predictions": [0, 2, 1]}), answer({"predictions": [0, 1, 1]}))
        assert (found.outcome, found.agree, found.similarity) == (Outcome.DISAGREE, False, pytest.approx(2 / 3))
        assert (found.items, found.agreeing, found.flags) == (3, 2, (True, False, True))
        assert found.labels == ((0, 0), (2, 1), (1, 1))
        assert found.fields == (FieldDifference("/predictions", 2, 1),)
        assert found.reason == "different label"

    def test_one_label(self):
        found = pair(v2(("y", "INT64", [1], [2])), v2(("y", "INT64", [1], [3])))
        assert (found.flags, found.labels, found.fields) == ((False,), ((2, 3),), (FieldDifference("/outputs/0/data", 2, 3),))

    def test_labels_of_64_bits(self):
        assert not pair(v2(("y", "INT64", [1], [2**63 - 1])), v2(("y", "INT64", [1], [2**63 - 2]))).agree
        assert not pair(answer([2**53 + 1]), answer([float(2**53)])).agree

    def test_different_numbers_of_items(self):
        found = pair(answer([0, 2]), answer([0, 2, 1]))
        assert (found.outcome, found.similarity, found.items, found.agreeing) == (Outcome.DISAGREE, 0, 3, 0)
        reason = compare(answer([0, 2]), answer([0, 2, 1])).reason
        assert reason == "different number of items: 2 in blue's answer, 3 in green's"

    def test_no_items_against_some(self):
        assert pair(answer([]), answer([1])).outcome is Outcome.DISAGREE

    def test_another_kind(self):
        assert not pair(answer(["cat"]), answer([3])).agree
        assert not pair(answer({"a": 1, "b": 2}), answer([3])).agree

    def test_an_output_that_is_missing(self):
        found = compare(v2(("y", "INT64", [1], [1]), ("p", "FP32", [1], [0.5])), v2(("y", "INT64", [1], [1])))
        assert found.outcome is Outcome.DISAGREE
        assert found.reason == "different outputs: ['p', 'y'] in blue's answer, ['y'] in green's"

    def test_every_output_counts(self):
        found = pair(
            v2(("y", "INT64", [1], [1]), ("p", "FP32", [1], [0.5])),
            v2(("y", "INT64", [1], [1]), ("p", "FP32", [1], [0.75])),
        )
        assert (found.kind, found.agree, found.labels) == (Kind.LABELS, False, ((1, 1),))
        assert (found.fields[0].path, found.reason) == ("/outputs/1/data", "different number")

    def test_fields_of_json(self):
        blue = answer({"class": "a", "detail": {"score": 0.5, "path": [1, 2]}, "took_ms": 5})
        green = answer({"class": "a", "detail": {"score": 0.75, "path": [1, 3]}, "took_ms": 9})
        found = pair(blue, green, ignore=("/took_ms",))
        assert (found.kind, found.agree, found.similarity) == (Kind.JSON, False, 0.5)
        assert {field.path for field in found.fields} == {"/detail/score", "/detail/path/1"}
        assert found.reason == "2 of 4 fields differ"
        assert found.measures == {"fields": 4, "fields_differing": 2}


class TestMeasures:
    def test_means_over_items_and_the_largest(self):
        blue = answer([[0.5, 0.5], [1.0, 0.0]])
        green = answer([[0.75, 0.25], [1.0, 0.0]])
        found = pair(blue, green)
        assert found.measures == {"arg_max_flip": 0, "total_variation": 0.125, "max_probability_difference": 0.25}
        assert found.similarity == 0.875

    def test_one_decision_for_each_item(self):
        both = v2(("proba", "FP32", [2, 2], [0.1, 0.9, 0.8, 0.2]), ("y", "BYTES", [2], ["b", "a"]))
        assert pair(both, both).labels == (("b", "b"), ("a", "a"))

    def test_signed_differences_are_greens_less_blues(self):
        assert compare(answer([1.5, 2.5]), answer([1.0, 3.5])).differences == (-0.5, 1.0)

    def test_what_is_kept_is_bounded(self):
        found = pair(answer([n + 0.5 for n in range(5000)]), answer([n + 0.75 for n in range(5000)]))
        assert (found.items, len(found.differences), len(found.fields)) == (
            5000,
            comparing.MAX_DIFFERENCES,
            comparing.MAX_FIELDS,
        )
        labels = pair(answer(list(range(5000))), answer(list(range(1, 5001))))
        assert (len(labels.labels), len(labels.fields)) == (5000, comparing.MAX_FIELDS)


class TestIgnoring:
    def test_an_output(self):
        blue, green = (v2(("y", "INT64", [1], [1]), ("p", "FP32", [1], [p])) for p in (0.5, 0.75))
        for pointer in ("/outputs/1", "/outputs/1/data"):
            assert pair(blue, green, ignore=(pointer,)).agree
        assert not pair(blue, green, ignore=("/outputs/10", "/outputs/1/parameters")).agree

    def test_a_column(self):
        blue, green = (answer({"predictions": [{"y": 1, "p": p}]}) for p in (0.5, 0.75))
        assert pair(blue, green, ignore=("/predictions/p",)).agree

    def test_what_differs_in_every_answer(self):
        blue, green = ({"id": n, "created": n, "usage": {"n": n}, "class": "a", "score": 0.5} for n in (1, 2))
        assert pair(answer(blue), answer(green), ignore=()).agree

    def test_all_of_it_is_no_agreement(self):
        for found in (
            pair(answer({"y": 1}), answer({"y": 1}), ignore=("/y",)),
            pair(answer({"id": 1, "model": "m"}), answer({"id": 2, "model": "m"})),
            pair(answer([]), answer([])),
            pair(answer({}), answer({})),
        ):
            assert (found.outcome, found.agree) == (Outcome.UNREADABLE, False)
            assert found.unreadable == (("blue", Reason.NOTHING), ("green", Reason.NOTHING))


class TestUnreadable:
    def test_either_side(self):
        good, bad = answer([1]), answer(b"<html>")
        assert isinstance(bad, Unreadable)
        assert compare(bad, good).unreadable == (("blue", Reason.NOT_JSON),)
        assert compare(good, bad).unreadable == (("green", Reason.NOT_JSON),)
        both = compare(bad, bad)  # the very same bytes, and still no agreement
        assert (both.outcome, both.agree, both.kind, both.items) == (Outcome.UNREADABLE, False, None, 0)
        assert both.unreadable == (("blue", Reason.NOT_JSON), ("green", Reason.NOT_JSON))
        assert both.reason.startswith("blue unreadable: not json: ")

    def test_in_band_errors(self):
        found = compare(answer([1]), InBandError("out of memory"))
        assert found.unreadable == (("green", Reason.IN_BAND_ERROR),)
        assert "out of memory" in found.reason

    def test_more_fields_than_are_looked_at(self):
        one_item = answer({"a": [[0, "x"]] * 30_000, "b": 1})
        many_items = answer([{"a": [0] * 100}] * 300 + [{"b": [0] * 100}] * 300)
        for many in (one_item, many_items):
            found = compare(many, many)
            assert (found.outcome, found.unreadable[0][1]) == (Outcome.UNREADABLE, Reason.TOO_LARGE)


def test_a_stream_that_was_recorded_in_part():
    def stream(text, truncated):
        body = "".join(f"data: {json.dumps({'output': c})}\n\n" for c in text).encode()
        return answer(body, headers={"content-type": "text/event-stream"}, truncated=truncated)

    found = pair(stream("Paris", True), stream("Paris is the capital", False))
    assert (found.agree, found.partial) == (True, True)
    assert not pair(stream("Paris", False), stream("Paris is the capital", False)).agree


def test_tolerances_and_floors():
    assert pair(answer([1.5]), answer([1.6]), rtol=0.1).agree
    assert pair(answer([0.5]), answer([0.6]), atol=0.2).agree
    sentences = answer(["the cat sat on the mat today"]), answer(["the cat sat on the hat today"])
    assert pair(*sentences).agree
    assert not pair(*sentences, similarity_floor=0.99).agree
    vectors = answer([[1.5] * 8]), answer([[1.5] * 7 + [0.5]])
    assert not pair(*vectors).agree
    assert pair(*vectors, cosine_floor=0.9).agree


@pytest.mark.parametrize(
    "options",
    [
        {"rtol": -1},
        {"atol": math.nan},
        {"similarity_floor": 1.5},
        {"cosine_floor": -2},
        {"ignore": ("id",)},
    ],
)
def test_options_out_of_range(options):
    with pytest.raises(ValueError, match=next(iter(options)) if "ignore" not in options else "JSON pointer"):
        CompareOptions(**options)


# --- properties ---

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.integers(2**62, 2**64)
    | st.just(10**400)
    | st.sampled_from([0.0, 0.5, 0.25, 1.0, 2.0, math.nan, math.inf, 1e308, -1e308])
    | st.floats()
    | st.sampled_from(["a", "b", "1", "a long text that has many blanks in it"])
)
rows = st.lists(scalars, max_size=9) | st.lists(st.floats(0, 1), min_size=2, max_size=9)
entries = st.fixed_dictionaries({"label": st.sampled_from("abc"), "score": st.sampled_from([0.25, 0.5, 1.0, math.nan])})
bodies = (
    st.lists(scalars, max_size=4)
    | st.lists(rows, max_size=3)
    | st.lists(entries, max_size=3)
    | st.dictionaries(
        st.sampled_from(["predictions", "id", "a", "b", "output"]), scalars | rows | st.lists(rows, max_size=2), max_size=4
    )
    | st.lists(st.dictionaries(st.sampled_from("ab"), scalars | rows, max_size=2), max_size=3)
    | st.builds(
        lambda outputs: {"outputs": outputs},
        st.lists(
            st.builds(
                lambda name, datatype, data: {"name": name, "datatype": datatype, "shape": [len(data)], "data": data},
                st.sampled_from("xy"),
                st.sampled_from(["INT64", "FP32", "BYTES", "BOOL"]),
                st.lists(scalars, max_size=3),
            ),
            max_size=3,
        ),
    )
)
read_options = st.builds(
    Options,
    kind=st.none() | st.none() | st.sampled_from(Kind),
    pointers=st.sampled_from([(), (), (Pointer("/a"), Pointer("/b")), (Pointer("/predictions"),)]),
)
compare_options = st.builds(
    CompareOptions,
    rtol=st.sampled_from([0.0, 1e-5, 1.0]),
    atol=st.sampled_from([0.0, 1e-8, 10.0]),
    ignore=st.lists(st.sampled_from(["/id", "/a", "/predictions", "/outputs/0", "/0", ""]), max_size=3).map(tuple),
    similarity_floor=st.sampled_from([0.0, 0.9, 1.0]),
    cosine_floor=st.sampled_from([-1.0, 0.99]),
)
paths = st.sampled_from(["/v1/models/m:predict", "/x", "/invocations"])


@settings(max_examples=200, deadline=None)
@given(bodies, bodies, paths, paths, read_options, read_options, compare_options, st.booleans())
def test_never_raises_and_is_symmetric(one, other, path, other_path, reading, other_reading, options, truncated):
    blue, green = answer(one, path, reading, truncated=truncated), answer(other, other_path, other_reading)
    forth, back = compare(blue, green, options), compare(green, blue, options)
    assert (forth.outcome, forth.kind, forth.agreeing, forth.items) == (back.outcome, back.kind, back.agreeing, back.items)
    assert forth.similarity == pytest.approx(back.similarity)
    assert 0 <= forth.similarity <= 1
    assert forth.agree == (forth.outcome is Outcome.AGREE)
    assert (forth.reason is None) == forth.agree
    assert all(map(math.isfinite, [*forth.differences, *forth.measures.values()]))
    json.dumps([forth.labels, [[field.path, field.blue, field.green] for field in forth.fields], forth.reason])


@settings(max_examples=150, deadline=None)
@given(bodies, paths, read_options, compare_options)
def test_everything_agrees_with_itself(body, path, reading, options):
    same = answer(body, path, reading)
    found = compare(same, answer(body, path, reading), options)
    if isinstance(same, Decoded):
        assert found.agree or found.unreadable[0][1] in (Reason.NOTHING, Reason.TOO_LARGE)
        assert not found.fields
    else:
        assert found.outcome is Outcome.UNREADABLE


_data = st.one_of(
    st.tuples(st.sampled_from(["INT64", "BYTES"]), st.sampled_from([[1], [2], ["a"], ["b"], [1, 2]])),
    st.tuples(
        st.sampled_from(["FP64", "FP32"]),
        st.sampled_from([[0.5], [0.25, 0.75], [0.75, 0.25], [0.5, 0.5], [3.5, 4.5], [1.0] * 9]),
    ),
)


@given(st.lists(st.tuples(_data, _data), min_size=1, max_size=3), st.sampled_from([(), ("/outputs/0",), ("/outputs/1",)]))
def test_single_items_are_compared_as_a_batch_of_one_would_be(outputs, ignore):
    """The way that single items take beside the tally says the same as the tally."""
    blue, green = (
        v2(*((f"o{i}", kind, [1, len(data)], data) for i, (kind, data) in enumerate(output[side] for output in outputs)))
        for side in (0, 1)
    )
    options = CompareOptions(ignore=ignore)
    found = compare(blue, green, options)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(comparing, "_of_one_item", lambda *_: None)
        assert compare(blue, green, options) == found
