from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.reference.artifact import ModelCard
from models.reference.payloads import (
    DATATYPES,
    InferRequest,
    RequestError,
    csv_request,
    json_object,
    mlflow_request,
    model_metadata,
    open_inference_answer,
    open_inference_request,
    predictions_answer,
    v1_request,
)


def card_of(task: Any) -> ModelCard:
    classifies = task == "classification"
    return ModelCard(
        name="m",
        version="7",
        dataset="d",
        description="",
        task=task,
        classes=(0, 1, 2) if classifies else (),
        class_names=("a", "b", "c") if classifies else (),
        n_features=3,
        feature_names=("x", "y", "z, with a comma"),
        metric="accuracy" if classifies else "r2",
        score=1.0,
        n_train=1,
        n_held_out=1,
        libraries={},
        sha256="",
    )


CARD = card_of("classification")
X, Y, Z = CARD.feature_names


def tensor(**changes: Any) -> dict[str, Any]:
    whole = {"name": "in", "shape": [2, 3], "datatype": "FP64", "data": [1, 2, 3, 4, 5, 6]} | changes
    return {"inputs": [{key: value for key, value in whole.items() if value is not ...}]}


def parsed(parse: Callable[[Any, ModelCard], InferRequest], document: Any) -> InferRequest:
    return parse(json_object(json.dumps(document).encode()), CARD)


# Every way to say the same rows


numbers = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
matrices = st.lists(st.lists(numbers, min_size=3, max_size=3), min_size=1, max_size=5)


@given(matrices)
def test_every_form_of_every_protocol_gives_the_same_rows(rows: list[list[float]]) -> None:
    expected = np.array(rows, dtype=float)
    flat = [value for row in rows for value in row]
    backwards = [row[::-1] for row in rows]
    columns = {name: [row[i] for row in rows] for i, name in enumerate(CARD.feature_names)}
    records = [{Z: z, X: x, Y: y} for x, y, z in rows]
    asked = [
        parsed(open_inference_request, tensor(shape=[len(rows), 3], data=flat)),
        parsed(open_inference_request, tensor(shape=[len(rows), 3], data=rows)),
        parsed(v1_request, {"instances": rows}),
        parsed(mlflow_request, {"dataframe_split": {"data": rows}}),
        parsed(mlflow_request, {"dataframe_split": {"columns": [0, 1, 2], "index": [0], "data": rows}}),
        parsed(mlflow_request, {"dataframe_split": {"columns": [Z, Y, X], "data": backwards}}),
        parsed(mlflow_request, {"dataframe_records": records}),
        parsed(mlflow_request, {"inputs": rows}),
        parsed(mlflow_request, {"inputs": columns}),
        parsed(mlflow_request, {"inputs": records}),
        parsed(mlflow_request, {"instances": rows}),
        parsed(mlflow_request, {"instances": records}),
        csv_request((f'"{Z}",{X},{Y}\r\n' + "".join(f"{z!r},{x!r}, {y!r}\r\n" for x, y, z in rows)).encode(), CARD),
        csv_request(("\ufeff" + f'x,y,"{Z}"\n' + "".join(f"{x!r},{y!r},{z!r}\n" for x, y, z in rows)).encode(), CARD),
    ]
    for request in asked:
        assert request.rows.dtype == np.float64
        assert np.array_equal(request.rows, expected)
        assert request.outputs == ("predict",)


def test_what_is_asked_for_besides_the_rows() -> None:
    both = [{"name": "predict_proba"}, {"name": "predict", "parameters": {"x": 1}}]
    asked = parsed(open_inference_request, tensor() | {"id": "42", "outputs": both, "parameters": {"a": 1}})
    assert (asked.id, asked.outputs) == ("42", ("predict_proba", "predict"))
    assert parsed(open_inference_request, tensor() | {"outputs": [], "id": None}).outputs == ("predict",)
    asked = parsed(mlflow_request, {"inputs": [[1, 2, 3]], "params": {"predict_method": "predict_proba"}})
    assert asked.outputs == ("predict_proba",)


@pytest.mark.parametrize("name", sorted(DATATYPES))
def test_a_tensor_holds_what_its_datatype_can(name: str) -> None:
    dtype = DATATYPES[name]
    limits = np.iinfo(dtype) if dtype.kind != "f" else np.finfo(dtype)
    low, high = (int(limits.min), int(limits.max)) if dtype.kind != "f" else (float(limits.min), float(limits.max))
    rows = parsed(open_inference_request, tensor(datatype=name, shape=[1, 3], data=[low, high, 0])).rows
    assert rows.tolist() == [[float(low), float(high), 0.0]]
    too_much = [high + 1, low - 1, 0.5] if dtype.kind != "f" else [high * 2] if name == "FP32" else []
    for value in too_much:
        with pytest.raises(RequestError, match=rf"inputs\[0\]\.data\[1\] is .*, which {name} cannot hold"):
            parsed(open_inference_request, tensor(datatype=name, shape=[1, 3], data=[0, value, 0]))


def test_fp32_is_rounded_as_the_wire_would() -> None:
    rows = parsed(open_inference_request, tensor(datatype="FP32", shape=[1, 3], data=[0.1, 1e-50, 2])).rows
    assert rows.tolist() == [[float(np.float32(0.1)), 0.0, 2.0]]


# What is refused, and how it is named


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "the body is empty"),
        (b"{", "the body is not JSON: Expecting property name"),
        (b"\xff\xfe\xfa", "the body is not JSON"),
        (b"[1]", "the body is an array; expected a JSON object"),
        (b"17", "the body is a number"),
        (b"null", "the body is null"),
        (b'{"inputs": [NaN]}', "NaN is not allowed; numbers must be finite"),
        (b'{"inputs": [-Infinity]}', "-Infinity is not allowed"),
        (b'{"a": ' + b"9" * 5000 + b"}", "the body is not JSON: Exceeds the limit"),
        (b'{"a": ' + b"[" * 200_000, "nested too deeply"),
    ],
)
def test_a_body_that_is_no_json_object(body: bytes, message: str) -> None:
    with pytest.raises(RequestError) as refused:
        json_object(body)
    assert message in str(refused.value)
    assert refused.value.status == 400


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({}, "inputs is missing; expected an array of one tensor of shape [n, 3]"),
        ({"inputs": {}}, "inputs is an object"),
        ({"inputs": []}, "inputs has 0 tensors"),
        ({"inputs": tensor()["inputs"] * 2}, "inputs has 2 tensors"),
        ({"inputs": [3]}, "inputs[0] is a number; expected an object"),
        (tensor() | {"id": 3}, "id is a number; expected a string"),
        (tensor(name=...), "inputs[0].name is missing"),
        (tensor(name=4), "inputs[0].name is a number"),
        (tensor(datatype=...), "inputs[0].datatype is missing; expected one of FP32, FP64, INT8"),
        (tensor(datatype="BYTES"), "inputs[0].datatype is 'BYTES'; expected one of"),
        (tensor(datatype=["FP64"]), "inputs[0].datatype is an array"),
        (tensor(shape=...), "inputs[0].shape is missing; expected [n, 3] with n from 1"),
        (tensor(shape="2,3"), "inputs[0].shape is a string"),
        (tensor(shape=[6]), "inputs[0].shape is [6]; expected [n, 3]"),
        (tensor(shape=[2, 4]), "inputs[0].shape is [2, 4]"),
        (tensor(shape=[0, 3], data=[]), "inputs[0].shape is [0, 3]"),
        (tensor(shape=[-2, 3]), "inputs[0].shape is [-2, 3]"),
        (tensor(shape=[2.0, 3]), "inputs[0].shape is [2.0, 3]"),
        (tensor(shape=[True, 3]), "inputs[0].shape is [true, 3]"),
        (tensor(data=...), "inputs[0].data is missing; expected an array of numbers; binary tensors are not taken"),
        (tensor(data="1,2"), "inputs[0].data is a string"),
        (tensor(data=[1, 2, 3]), "inputs[0].data has 3 numbers; shape [2, 3] takes 6"),
        (tensor(data=[[1, 2, 3]]), "inputs[0].data has 3 numbers; shape [2, 3] takes 6"),
        (tensor(data=[[1, 2, 3], [4, 5]]), "inputs[0].data[1] has 2 numbers; the model takes 3"),
        (tensor(data=[[1, 2, 3], 4]), "inputs[0].data[1] is a number; expected an array of 3 numbers"),
        (tensor(data=[1, 2, 3, 4, "5", 6]), "inputs[0].data[4] is a string; expected a number"),
        (tensor(data=[1, 2, None, 4, 5, 6]), "inputs[0].data[2] is null; expected a number"),
        (tensor(data=[1, 2, True, 4, 5, 6]), "inputs[0].data[2] is a boolean; expected a number"),
        (tensor(data=[1, 2, [3], 4, 5, 6]), "inputs[0].data[2] is an array; expected a number"),
        (tensor(data=[[1, 2, 3], [4, {}, 6]]), "inputs[0].data[1][1] is an object; expected a number"),
        (tensor(data=[1, 2, 3, 4, 5, 10**400]), "inputs[0].data[5] is not a finite number"),
        (tensor(datatype="INT8", data=[1, 2, 3, 4, 5, 128]), "inputs[0].data[5] is 128, which INT8 cannot hold"),
        (tensor() | {"outputs": "predict"}, "outputs is a string; expected an array"),
        (tensor() | {"outputs": ["predict"]}, "outputs[0] has no name; expected one of predict, predict_proba"),
        (tensor() | {"outputs": [{"name": "logits"}]}, "outputs[0].name: 'logits' is not an output"),
        (tensor() | {"outputs": [{"name": "predict"}] * 2}, "outputs[1].name: 'predict' is asked for twice"),
    ],
)
def test_open_inference_requests_that_are_refused(document: Any, message: str) -> None:
    with pytest.raises(RequestError) as refused:
        parsed(open_inference_request, document)
    assert message in str(refused.value)


def test_a_number_beyond_fp64_is_no_number() -> None:
    with pytest.raises(RequestError, match=r"instances\[0\]\[1\] is not a finite number"):
        v1_request(json_object(b'{"instances": [[1, 1e999, 3]]}'), CARD)


def test_a_regression_has_no_probabilities() -> None:
    with pytest.raises(RequestError, match=r"'predict_proba' is not an output; there are predict$"):
        open_inference_request(tensor() | {"outputs": [{"name": "predict_proba"}]}, card_of("regression"))


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"inputs": [[1, 2, 3]]}, "instances is missing; expected an array of rows"),
        ({"instances": 3}, "instances must be a non-empty array of rows, each an array of 3 numbers"),
        ({"instances": []}, "instances must be a non-empty array"),
        ({"instances": [1, 2, 3]}, "instances[0] is a number; expected an array of 3 numbers"),
        ({"instances": [[1, 2, 3], [1, 2]]}, "instances[1] has 2 numbers; the model takes 3"),
        ({"instances": [[1, 2, "3"]]}, "instances[0][2] is a string; expected a number"),
    ],
)
def test_v1_requests_that_are_refused(document: Any, message: str) -> None:
    with pytest.raises(RequestError) as refused:
        parsed(v1_request, document)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({}, "expected exactly one of dataframe_split, dataframe_records, inputs, instances; found none"),
        ({"inputs": [], "instances": []}, "found inputs and instances"),
        ({"inputs": [[1, 2, 3]], "param": {}}, "param is not a field of this request"),
        ({"inputs": [[1, 2, 3]], "params": {"n": 1}}, "params takes only"),
        ({"inputs": [[1, 2, 3]], "params": [1]}, "params takes only"),
        ({"inputs": [[1, 2, 3]], "params": {"predict_method": "score"}}, "'score' is not an output"),
        ({"dataframe_split": [[1, 2, 3]]}, 'dataframe_split needs "data"'),
        ({"dataframe_split": {"columns": [X, Y, Z]}}, 'dataframe_split needs "data"'),
        ({"dataframe_split": {"columns": "xyz", "data": []}}, "dataframe_split.columns is a string"),
        ({"dataframe_split": {"columns": [X, Y], "data": []}}, "dataframe_split.columns lacks the feature 'z, with"),
        ({"dataframe_split": {"columns": [], "data": []}}, "lacks the feature 'x' and 2 more"),
        ({"dataframe_split": {"columns": [X, Y, Z, "w"], "data": []}}, "has 'w', which is no feature of the model"),
        ({"dataframe_split": {"columns": [X, Y, Z, Y], "data": []}}, "names a feature twice"),
        ({"dataframe_split": {"columns": [X, Y, Z, []], "data": []}}, "has [], which is no feature of the model"),
        ({"dataframe_split": {"data": [[1, 2]]}}, "dataframe_split.data[0] has 2 numbers; the model takes 3"),
        ({"dataframe_records": {}}, "dataframe_records must be a non-empty array of objects"),
        ({"dataframe_records": [[1]]}, "dataframe_records[0] is an array; expected an object of features"),
        ({"dataframe_records": [{X: 1, Y: 2}]}, "dataframe_records[0] lacks the feature 'z, with a comma'"),
        ({"dataframe_records": [{X: 1, Y: None, Z: 3}]}, "dataframe_records, row 0, y is null; expected a number"),
        ({"inputs": {X: [1], Y: [1]}}, "inputs lacks the feature 'z, with a comma'"),
        ({"inputs": {X: [1], Y: [1, 2], Z: [1]}}, "inputs.y must be a non-empty array as long as the other columns"),
        ({"inputs": {X: 1, Y: 1, Z: 1}}, "inputs.x must be a non-empty array"),
        ({"inputs": {X: [], Y: [], Z: []}}, "inputs.x must be a non-empty array"),
        ({"inputs": "abc"}, "inputs must be a non-empty array of rows"),
        ({"instances": [{X: 1}]}, "instances[0] lacks the feature 'y' and 1 more"),
    ],
)
def test_mlflow_requests_that_are_refused(document: Any, message: str) -> None:
    with pytest.raises(RequestError) as refused:
        parsed(mlflow_request, document)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "the CSV has no rows"),
        (b'x,y,"z, with a comma"\n', "the CSV has no rows"),
        (b"\xff\n1", "the body is not CSV in UTF-8"),
        (b'x,"y\n1,2', "the body is not CSV in UTF-8"),
        (b"x,y\n1,2\n", "the CSV's header lacks the feature 'z, with a comma'"),
        (b'x,y,"z, with a comma"\n1,2,3\n4,5\n', "row 2 of the CSV has 2 fields; its header has 3"),
        (b'x,y,"z, with a comma"\n1,2,abc\n', "row 1 of the CSV has a field that is not a number: "),
        (b'x,y,"z, with a comma"\n1,2,\n', "row 1 of the CSV has a field that is not a number"),
        (b'x,y,"z, with a comma"\n1,2,3\n4,nan,6\n', "row 2 of the CSV, y, is not a finite number"),
    ],
)
def test_csv_that_is_refused(text: bytes, message: str) -> None:
    with pytest.raises(RequestError) as refused:
        csv_request(text, CARD)
    assert message in str(refused.value)


any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from((X, Y, Z, "FP64", "", "1")),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(("name", "shape", "datatype", "data", "columns", "id", "params", X, Y, Z)),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)
FORMS = ("inputs", "outputs", "instances", "dataframe_split", "dataframe_records", "params", "id")


@given(st.dictionaries(st.sampled_from(FORMS), any_json, max_size=3))
def test_whatever_the_document_it_is_rows_or_a_request_error(document: dict[str, Any]) -> None:
    for parse in (open_inference_request, v1_request, mlflow_request):
        try:
            rows = parse(document, CARD).rows
        except RequestError:
            continue
        assert rows.ndim == 2
        assert rows.shape[1] == 3
        assert np.isfinite(rows).all()


@given(st.binary(max_size=60))
def test_whatever_the_bytes_they_are_read_or_refused(body: bytes) -> None:
    for read in (json_object, lambda b: csv_request(b, CARD)):
        try:
            read(body)
        except RequestError as error:
            message = str(error)
            assert message


# Answers


def test_an_open_inference_answer_as_servers_give_it() -> None:
    asked = InferRequest(np.zeros((2, 3)), ("predict", "predict_proba"), "42")
    proba = np.array([[0.25, 0.25, 0.5], [1.0, 0.0, 0.0]])
    answer = open_inference_answer(CARD, asked, {"predict": np.array([2, 0]), "predict_proba": proba})
    assert json.loads(json.dumps(answer)) == {
        "model_name": "m",
        "model_version": "7",
        "id": "42",
        "parameters": {},
        "outputs": [
            {"name": "predict", "shape": [2, 1], "datatype": "INT64", "data": [2, 0]},
            {"name": "predict_proba", "shape": [2, 3], "datatype": "FP64", "data": [0.25, 0.25, 0.5, 1.0, 0.0, 0.0]},
        ],
    }


def test_no_id_is_answered_with_none() -> None:
    answer = open_inference_answer(CARD, InferRequest(np.zeros((1, 3)), ("predict",)), {"predict": np.array([1.5])})
    assert "id" not in answer
    assert answer["outputs"] == [{"name": "predict", "shape": [1, 1], "datatype": "FP64", "data": [1.5]}]


def test_predictions_are_flat_for_labels_and_nested_for_probabilities() -> None:
    assert predictions_answer({"predict": np.array([0, 2])}) == {"predictions": [0, 2]}
    assert predictions_answer({"predict_proba": np.array([[0.5, 0.5]])}) == {"predictions": [[0.5, 0.5]]}


def test_metadata_says_what_is_taken_and_given() -> None:
    metadata = model_metadata(CARD, ["7", "8"])
    assert (metadata["name"], metadata["versions"]) == ("m", ["7", "8"])
    assert metadata["inputs"][0]["shape"] == [-1, 3]
    described = [(o["name"], o["datatype"], o["shape"]) for o in metadata["outputs"]]
    assert described == [("predict", "INT64", [-1, 1]), ("predict_proba", "FP64", [-1, 3])]
    (output,) = model_metadata(card_of("regression"), ["7"])["outputs"]
    assert (output["name"], output["datatype"]) == ("predict", "FP64")


def test_every_float_survives_the_way_through_json() -> None:
    value = math.nextafter(1 / 3, 1)
    answer = json.loads(json.dumps(predictions_answer({"predict": np.array([value])})))
    assert answer["predictions"][0] == value
