"""MLflow scoring servers: every input form, every form of the answer."""

import json

import pytest

from models.predictions.decode import decode_response
from models.predictions.prediction import Kind, Options, Protocol, Reason, Unreadable, Wire

ONE_ROW = {
    "dataframe_split": {"dataframe_split": {"columns": ["a", "b"], "data": [[1, 2]]}},
    "dataframe_records": {"dataframe_records": [{"a": 1, "b": 2}]},
    "inputs, rows": {"inputs": [[1, 2]]},
    "inputs, columns": {"inputs": {"a": [1], "b": [2]}},
    "inputs, one text": {"inputs": "hello"},
    "instances": {"instances": [[1, 2]]},
    "csv": b"a,b\n1,2\n",
    "csv with a line break in a field": b'a,b\n"x\ny",2\n',
    "csv that ends in a blank line": b"a,b\r\n1,2\r\n\r\n",
}
TWO_ROWS = {
    "dataframe_split": {"dataframe_split": {"columns": ["a"], "data": [[1], [2]]}},
    "dataframe_records": {"dataframe_records": [{"a": 1}, {"a": 2}]},
    "inputs, rows": {"inputs": [[1], [2]]},
    "inputs, columns": {"inputs": {"a": [1, 2]}},
    "instances": {"instances": [[1], [2]]},
    "csv": b"a,b\n1,2\n3,4\n",
    "nothing that tells": {"data": 5},
    "not even JSON": b"\xff{",
}


def wire(body, request=b""):
    headers = {"content-type": "application/json"}
    if isinstance(request, bytes):
        headers["content-type"] = "text/csv; charset=utf-8" if request.startswith(b"a,b") else "application/json"
    else:
        request = json.dumps(request).encode()
    return Wire("POST", "/invocations", headers, request, 200, {"content-type": "application/json"}, json.dumps(body).encode())


def said(body, request=b"", options=None):
    return [(item.kind, item.value) for item in decode_response(wire(body, request), options or Options()).items]


@pytest.mark.parametrize("request_body", ONE_ROW.values(), ids=ONE_ROW)
def test_one_row_in_every_input_form(request_body):
    assert said({"predictions": [0.25, 0.75]}, request_body) == [(Kind.PROBABILITIES, (0.25, 0.75))]


@pytest.mark.parametrize("request_body", TWO_ROWS.values(), ids=TWO_ROWS)
def test_several_rows_in_every_input_form(request_body):
    assert said({"predictions": [0.25, 0.75]}, request_body) == [(Kind.NUMBERS, 0.25), (Kind.NUMBERS, 0.75)]


BODIES = {
    "labels": ({"predictions": [0, 2]}, [(Kind.LABELS, 0), (Kind.LABELS, 2)]),
    "nested": ({"predictions": [[0.1, 0.9], [0.7, 0.3]]}, [(Kind.PROBABILITIES, (0.1, 0.9)), (Kind.PROBABILITIES, (0.7, 0.3))]),
    "a bare array": ([0, 2], [(Kind.LABELS, 0), (Kind.LABELS, 2)]),
    "a series written out": ({"predictions": [{"0": "a"}, {"0": "b"}]}, [(Kind.LABELS, "a"), (Kind.LABELS, "b")]),
    "text": (
        {"predictions": ["A whole sentence of a language model, no less."]},
        [(Kind.TEXT, "A whole sentence of a language model, no less.")],
    ),
}


@pytest.mark.parametrize(("body", "expected"), BODIES.values(), ids=BODIES)
def test_bodies_as_servers_send_them(body, expected):
    assert said(body) == expected


def test_a_missing_value_in_a_column_of_numbers_is_not_a_number():
    (_, first), (kind, second) = said({"predictions": [1.5, None]})
    assert (first, kind) == (1.5, Kind.NUMBERS)
    assert second != second


def test_what_was_taken_is_said():
    for body in ([0], {"predictions": [0]}):
        decoded = decode_response(wire(body))
        assert (decoded.protocol, decoded.recognised) == (Protocol.MLFLOW, "path")


def test_a_chat_model_at_the_same_path():
    body = {
        "id": "c",
        "object": "chat.completion",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}}],
    }
    decoded = decode_response(wire(body))
    assert (decoded.protocol, decoded.recognised, decoded.items[0].value) == (Protocol.OPENAI, "shape", "Hi")


def test_wrong_shape_when_configured():
    with pytest.raises(Unreadable) as refused:
        said({"result": 1}, options=Options(Protocol.MLFLOW))
    assert refused.value.reason is Reason.WRONG_SHAPE
