"""V1 as KServe and TensorFlow Serving send it."""

import json
from array import array

import pytest

from models.predictions.decode import decode_response
from models.predictions.prediction import Kind, Options, Protocol, Reason, Unreadable, Wire

PATH = "/v1/models/iris:predict"


def read(body, request=b"", path=PATH, options=None):
    return decode_response(Wire("POST", path, {}, request, 200, {}, json.dumps(body).encode()), options or Options())


def said(body, **more):
    return [(item.kind, item.value) for item in read(body, **more).items]


BODIES = {
    "labels": ({"predictions": [0, 2]}, [(Kind.LABELS, 0), (Kind.LABELS, 2)]),
    "labels, one to a row": ({"predictions": [[0], [2]]}, [(Kind.LABELS, 0), (Kind.LABELS, 2)]),
    "class names": ({"predictions": ["setosa", "virginica"]}, [(Kind.LABELS, "setosa"), (Kind.LABELS, "virginica")]),
    "probabilities": (
        {"predictions": [[0.1, 0.9], [1.0, 0.0]]},
        [(Kind.PROBABILITIES, (0.1, 0.9)), (Kind.PROBABILITIES, (1.0, 0.0))],
    ),
    "regression": ({"predictions": [[151.5], [90.0]]}, [(Kind.NUMBERS, 151.5), (Kind.NUMBERS, 90.0)]),
    "a number that JSON wrote whole": ({"predictions": [0.5, 2]}, [(Kind.NUMBERS, 0.5), (Kind.NUMBERS, 2)]),
    "embeddings": ({"predictions": [[0.5] * 8]}, [(Kind.VECTORS, array("d", [0.5] * 8))]),
    "an image": (
        {"predictions": [[[[0.5, 1.5], [2.5, 3.5]], [[0.5, 1.5], [2.5, 3.5]]]]},
        [(Kind.VECTORS, array("d", [0.5, 1.5, 2.5, 3.5] * 2))],
    ),
    "ranked": ({"predictions": [["b", "a", "c"]]}, [(Kind.RANKED, ("b", "a", "c"))]),
    "columns": ({"outputs": [[0.1, 0.9]]}, [(Kind.PROBABILITIES, (0.1, 0.9))]),
    "no instances": ({"predictions": []}, []),
    "one bare prediction": ({"predictions": 3}, [(Kind.LABELS, 3)]),
    "mixed": ({"predictions": [[1, "a"]]}, [(Kind.JSON, [1, "a"])]),
    "nothing": ({"predictions": None}, [(Kind.LABELS, None)]),
}


@pytest.mark.parametrize(("body", "expected"), BODIES.values(), ids=BODIES)
def test_bodies_as_servers_send_them(body, expected):
    assert said(body) == expected


def test_what_was_taken_is_said():
    decoded = read({"predictions": [1]})
    assert (decoded.protocol, decoded.recognised, decoded.items[0].path) == (Protocol.V1, "path", "/predictions")
    for path in ("/prefix/v1/models/iris/versions/3:predict", "/v1/models/iris/labels/stable:predict?x=1"):
        assert read({"predictions": [1]}, path=path).recognised == "path"
    assert read({"predictions": [1]}, path="/score").recognised == "shape"


def test_named_outputs_of_a_row_are_outputs():
    rows = [{"class": 1, "probabilities": [0.1, 0.9]}, {"probabilities": [0.8, 0.2], "class": 0}]
    assert [
        (item.path, item.value, item.also[0].path, item.also[0].value, item.also[0].kind)
        for item in read({"predictions": rows}).items
    ] == [
        ("/predictions/class", 1, "/predictions/probabilities", (0.1, 0.9), Kind.PROBABILITIES),
        ("/predictions/class", 0, "/predictions/probabilities", (0.8, 0.2), Kind.PROBABILITIES),
    ]


def test_columns_by_name_mean_the_same_as_rows():
    rows = {"predictions": [{"a/b": 1, "p": 0.5}, {"a/b": 0, "p": 0.25}]}
    columns = {"outputs": {"a/b": [1, 0], "p": [0.5, 0.25]}}
    flat = [[(output.name, output.kind, output.value) for output in (item, *item.also)] for item in read(rows).items]
    assert flat == [[(output.name, output.kind, output.value) for output in (item, *item.also)] for item in read(columns).items]
    assert read(rows).items[0].path == "/predictions/a~1b"


def test_one_row_of_several_named_outputs():
    (item,) = read({"predictions": [{"label": "cat", "embedding": [0.5] * 8}]}).items
    assert (item.value, item.also[0].kind) == ("cat", Kind.VECTORS)


def test_label_and_score_entries_are_classes():
    entries = [{"label": "dog", "score": 0.25}, {"label": "cat", "score": 0.75}]
    for body in ({"predictions": [entries]}, {"predictions": entries}):
        (item,) = read(body).items
        assert (item.kind, item.value, item.classes, item.decision) == (Kind.PROBABILITIES, (0.75, 0.25), ("cat", "dog"), "cat")
    two = b'{"instances": ["x", "y"]}'
    assert [item.decision for item in read({"predictions": entries}, request=two).items] == ["dog", "cat"]


def test_the_request_tells_a_row_from_a_batch():
    body = {"predictions": [0.25, 0.75]}
    assert said(body, request=b'{"instances": [[1, 2]]}') == [(Kind.PROBABILITIES, (0.25, 0.75))]
    assert said(body, request=b'{"instances": [[1, 2], [3, 4]]}') == [(Kind.NUMBERS, 0.25), (Kind.NUMBERS, 0.75)]
    assert said(body, request=b"garbage") == [(Kind.NUMBERS, 0.25), (Kind.NUMBERS, 0.75)]


def test_wrong_shapes():
    for body in ([1], {"result": 1}, "text"):
        with pytest.raises(Unreadable) as refused:
            read(body, options=Options(Protocol.V1))
        assert refused.value.reason is Reason.WRONG_SHAPE
    with pytest.raises(Unreadable) as refused:
        read({"predictions": [0] * 5}, options=Options(max_items=4))
    assert refused.value.reason is Reason.TOO_LARGE
    with pytest.raises(Unreadable) as refused:
        read({"predictions": [[0.5] * 7 + [10**400]]})
    assert refused.value.reason is Reason.WRONG_SHAPE


def test_a_configured_kind():
    assert said({"predictions": [[3, 1, 2]]}, options=Options(kind=Kind.RANKED)) == [(Kind.RANKED, (3, 1, 2))]
    assert said({"predictions": [[0.5, 0.75]]}, options=Options(kind=Kind.VECTORS)) == [(Kind.VECTORS, array("d", [0.5, 0.75]))]
    assert said({"predictions": ["a b"]}, options=Options(kind=Kind.TEXT)) == [(Kind.TEXT, "a b")]
    assert said({"predictions": [1, 2]}, options=Options(kind=Kind.JSON)) == [(Kind.JSON, [1, 2])]
    with pytest.raises(Unreadable) as refused:
        read({"predictions": ["a"]}, options=Options(kind=Kind.NUMBERS))
    assert refused.value.reason is Reason.WRONG_KIND
