"""JSON of no known protocol, with and without pointers."""

import json
from array import array

import pytest

from models.predictions.decode import decode_response
from models.predictions.prediction import InBandError, Kind, Options, Pointer, Protocol, Reason, Unreadable, Wire


def read(body, options=None, request=b"", path="/predict"):
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    return decode_response(
        Wire("POST", path, {}, request, 200, {"content-type": "application/json"}, body), options or Options()
    )


def said(body, *pointers, **more):
    options = Options(pointers=tuple(Pointer(p) if isinstance(p, str) else p for p in pointers))
    return [(item.kind, item.value) for item in read(body, options, **more).items]


BODIES = {
    "bare labels": ([0, 2], [(Kind.LABELS, 0), (Kind.LABELS, 2)]),
    "bare rows": ([[0.1, 0.9]], [(Kind.PROBABILITIES, (0.1, 0.9))]),
    "a bare number": (7.5, [(Kind.NUMBERS, 7.5)]),
    "a bare text": ("cat", [(Kind.LABELS, "cat")]),
    "null": (None, [(Kind.LABELS, None)]),
    "litserve": ({"output": 16.5}, [(Kind.NUMBERS, 16.5)]),
    "one member that is told by its shape": ({"id": "8f", "created": 5, "prediction": [3]}, [(Kind.LABELS, 3)]),
    "an embedding": ({"embedding": [[0.5] * 8], "model": "m"}, [(Kind.VECTORS, array("d", [0.5] * 8))]),
    "classification of one text": (
        [[{"label": "NEGATIVE", "score": 0.25}, {"label": "POSITIVE", "score": 0.75}]],
        [(Kind.PROBABILITIES, (0.25, 0.75))],
    ),
    "the best class only": ([{"label": "POSITIVE", "score": 0.75}], [(Kind.PROBABILITIES, (0.75,))]),
    "rerank": (
        {
            "id": "r",
            "results": [{"index": 0, "relevance_score": 0.1}, {"index": 2, "relevance_score": 0.9}],
            "meta": {"tokens": 5},
        },
        [(Kind.RANKED, (2, 0))],
    ),
    "several members": (
        {"label": 1, "score": 0.5, "more": {"a": 1}},
        [(Kind.JSON, {"label": 1, "score": 0.5, "more": {"a": 1}})],
    ),
    "an empty object": ({}, [(Kind.JSON, {})]),
    "an empty array": ([], []),
    "objects": ([{"a": {"b": 1}}, {"c": 2}], [(Kind.JSON, {"a": {"b": 1}}), (Kind.JSON, {"c": 2})]),
    "an error estimate": ({"error": 0.25}, [(Kind.NUMBERS, 0.25)]),
    "an empty error": ({"error": None, "result": 4}, [(Kind.JSON, {"error": None, "result": 4})]),
    "uneven nesting keeps it": ([[["a"], 1]], [(Kind.JSON, [["a"], 1])]),
}


@pytest.mark.parametrize(("body", "expected"), BODIES.values(), ids=BODIES)
def test_bodies_as_servers_send_them(body, expected):
    assert said(body) == expected


def test_what_was_taken_is_said():
    decoded = read({"output": 16})
    assert (decoded.protocol, decoded.recognised, decoded.items[0].path) == (Protocol.JSON, "shape", "/output")


def test_pointers_name_outputs():
    body = {"result": {"class": ["cat", "dog"], "scores": [[0.25, 0.75], [0.5, 0.5]]}, "took_ms": 3.2}
    options = Options(pointers=(Pointer("/result/scores"), Pointer("/result/class", "species")))
    decoded = read(body, options, path="/v1/models/m:predict")
    assert (decoded.protocol, decoded.recognised) == (Protocol.JSON, "configured")
    assert [(item.name, item.path, item.value) for item in decoded.items] == [
        ("species", "/result/class", "cat"),
        ("species", "/result/class", "dog"),
    ]
    assert decoded.items[1].also[0].value == (0.5, 0.5)


def test_pointers_of_different_length_describe_one_item():
    (item,) = read({"label": 3, "top": [7, 8, 9]}, Options(pointers=(Pointer("/label"), Pointer("/top")))).items
    assert (item.value, item.also[0].value) == (3, (7, 8, 9))


def test_pointers_with_kinds():
    body = {"e": [0.5, 0.5], "order": ["b", "a"], "text": "x", "p": [0.9, 0.8], "n": 4, "l": 2.0, "j": [1, [2]]}
    assert said(body, Pointer("/e", kind=Kind.VECTORS)) == [(Kind.VECTORS, array("d", [0.5, 0.5]))]
    assert said(body, Pointer("/order", kind=Kind.RANKED)) == [(Kind.RANKED, ("b", "a"))]
    assert said(body, Pointer("/text", kind=Kind.TEXT)) == [(Kind.TEXT, "x")]
    assert said(body, Pointer("/p", kind=Kind.PROBABILITIES)) == [(Kind.PROBABILITIES, (0.9, 0.8))]
    two = b'{"instances": [1, 2]}'
    both = said(body, Pointer("/p", kind=Kind.PROBABILITIES), request=two)
    assert [(kind, value[1]) for kind, value in both] == [(Kind.PROBABILITIES, 0.9), (Kind.PROBABILITIES, 0.8)]
    assert said(body, Pointer("/n", kind=Kind.NUMBERS)) == [(Kind.NUMBERS, 4)]
    assert said(body, Pointer("/l", kind=Kind.LABELS)) == [(Kind.LABELS, 2.0)]
    assert said(body, Pointer("/j", kind=Kind.JSON)) == [(Kind.JSON, [1, [2]])]


def test_ranked_entries():
    entries = [{"id": "a", "score": 0.1}, {"id": "b", "score": 0.9}]
    assert said({"items": entries, "n": 2}, Pointer("/items", kind=Kind.RANKED)) == [(Kind.RANKED, ("b", "a"))]


@pytest.mark.parametrize(
    ("pointer", "reason"),
    [
        (Pointer("/nowhere"), Reason.POINTER),
        (Pointer("/text/0"), Reason.POINTER),
        (Pointer("/text", kind=Kind.NUMBERS), Reason.WRONG_KIND),
        (Pointer("/empty", kind=Kind.VECTORS), Reason.WRONG_KIND),
        (Pointer("/list", kind=Kind.TEXT), None),
        (Pointer("/list/0", kind=Kind.PROBABILITIES), Reason.WRONG_KIND),
    ],
)
def test_pointers_that_do_not_fit(pointer, reason):
    body = {"text": "x", "empty": [], "list": ["a", "b"]}
    if reason is None:
        assert said(body, pointer) == [(Kind.TEXT, "a"), (Kind.TEXT, "b")]
        return
    with pytest.raises(Unreadable) as refused:
        said(body, pointer)
    assert refused.value.reason is reason


def test_a_pointer_is_checked_where_it_is_written():
    with pytest.raises(ValueError, match="is not a JSON pointer"):
        Pointer("result/class")


def test_errors_under_status_200():
    with pytest.raises(InBandError, match="no such model"):
        read({"error": "no such model", "request_id": "5"})


def test_more_items_than_the_bound():
    for body, options in (([0] * 5, Options(max_items=4)), ({"a": [0] * 5}, Options(max_items=4, pointers=(Pointer("/a"),)))):
        with pytest.raises(Unreadable) as refused:
            read(body, options)
        assert refused.value.reason is Reason.TOO_LARGE
