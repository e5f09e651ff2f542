"""Request bodies to feature rows and arrays to answers, for the three protocols that the reference server speaks.

Pure: no HTTP, no model; what is wrong with a body is raised as `RequestError`, which names the place in the body and
what was expected there. Everything ends in one FP64 array [n, n_features] of finite numbers, so a model never sees
input that it would have to guess about. Numbers are taken as JSON has them: `"1.5"`, `true` and `null` are refused,
because NumPy would quietly turn each of them into a number.
Formats: Open Inference Protocol v2 (KServe), its predecessor V1 (TensorFlow Serving's row format) and MLflow's
`/invocations`.
Left out: the binary tensor extension, tensors of other ranks than 2, and several input tensors in one request.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from models.reference.artifact import ModelCard

Rows = NDArray[np.float64]
JsonObject = dict[str, Any]

# Tensor datatypes taken as input, by their names in the Open Inference Protocol. BOOL and BYTES are no numbers; FP16
# and BF16 have no JSON form there.
DATATYPES: dict[str, np.dtype[Any]] = {
    name: np.dtype(kind)
    for name, kind in {
        **{"FP32": "float32", "FP64": "float64"},
        **{f"INT{bits}": f"int{bits}" for bits in (8, 16, 32, 64)},
        **{f"UINT{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)},
    }.items()
}

_NUMBER_TYPES = frozenset((int, float))  # exactly these: bool is a subclass of int
_JSON_NAMES = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}


class RequestError(Exception):
    """The client's fault. `status` is a 4xx; the message names what is wrong and what was expected."""

    def __init__(self, message: str, status: int = 400) -> None:
        """A refusal of the request with `status`."""
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class InferRequest:
    """What a client asks: outputs, by name, for FP64 rows [n, n_features]. `id` is to be echoed if there is one."""

    rows: Rows
    outputs: tuple[str, ...]
    id: str | None = None


def json_object(body: bytes) -> JsonObject:
    """The JSON object that `body` holds. NaN and infinities are no JSON (RFC 8259 section 6) and are refused."""
    if not body:
        raise RequestError("the body is empty; expected a JSON object")
    try:
        document = json.loads(body, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise RequestError("the body is nested too deeply to be read") from error
    except ValueError as error:  # includes bad UTF-8 and integers of thousands of digits
        raise RequestError(f"the body is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise RequestError(f"the body is {_json_name(document)}; expected a JSON object")
    return document


def open_inference_request(document: JsonObject, card: ModelCard) -> InferRequest:
    """An Open Inference Protocol v2 inference request: one input tensor [n, n_features] of any name."""
    request_id = document.get("id")
    if not isinstance(request_id, str | None):
        raise RequestError(f"id is {_json_name(request_id)}; expected a string")
    inputs = document.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1:
        found = f"has {len(inputs)} tensors" if isinstance(inputs, list) else f"is {_missing_or(inputs)}"
        raise RequestError(f"inputs {found}; expected an array of one tensor of shape [n, {card.n_features}]")
    return InferRequest(_tensor(inputs[0], card.n_features), _requested(document.get("outputs"), card), request_id)


def v1_request(document: JsonObject, card: ModelCard) -> InferRequest:
    """A V1 request: `instances` holds one array of numbers per row."""
    if "instances" not in document:
        raise RequestError("instances is missing; expected an array of rows")
    return InferRequest(_matrix(document["instances"], card.n_features, "instances"), card.outputs[:1])


def mlflow_request(document: JsonObject, card: ModelCard) -> InferRequest:
    """An MLflow `/invocations` request: exactly one of its four JSON forms.

    Columns may come in any order when they are named. `params: {"predict_method": "predict_proba"}` asks for
    probabilities.
    """
    forms = [form for form in _MLFLOW_FORMS if form in document]
    if len(forms) != 1:
        found = " and ".join(forms) if forms else "none"
        raise RequestError(f"expected exactly one of {', '.join(_MLFLOW_FORMS)}; found {found}")
    unknown = sorted(document.keys() - _MLFLOW_FORMS.keys() - {"params"})
    if unknown:
        raise RequestError(f"{unknown[0]} is not a field of this request; there are {', '.join(_MLFLOW_FORMS)}, params")
    params = document.get("params") or {}
    if not isinstance(params, dict) or params.keys() - {"predict_method"}:
        raise RequestError('params takes only {"predict_method": ...}')
    output = params.get("predict_method", card.outputs[0])
    if output not in card.outputs:
        raise RequestError(f"params.predict_method: {output!r} is not an output; there are {', '.join(card.outputs)}")
    return InferRequest(_MLFLOW_FORMS[forms[0]](document[forms[0]], forms[0], card), (output,))


def csv_request(body: bytes, card: ModelCard) -> InferRequest:
    """An MLflow `/invocations` request as `text/csv`: a line of feature names in any order, then a line per row."""
    try:
        lines = [line for line in csv.reader(io.StringIO(body.decode("utf-8-sig"), newline=""), strict=True) if line]
    except (UnicodeDecodeError, csv.Error) as error:
        raise RequestError(f"the body is not CSV in UTF-8: {error}") from error
    if len(lines) < 2:
        raise RequestError("the CSV has no rows; expected a line of feature names and a line for each row")
    header, *rows = lines
    order = _column_order([name.strip() for name in header], card, "the CSV's header")
    parsed = []
    for number, row in enumerate(rows, start=1):
        if len(row) != len(header):
            raise RequestError(f"row {number} of the CSV has {len(row)} fields; its header has {len(header)}")
        try:
            parsed.append([float(field) for field in row])
        except ValueError as error:
            raise RequestError(f"row {number} of the CSV has a field that is not a number: {error}") from error
    names = [header[column] for column in order]
    flat = [row[column] for row in parsed for column in order]
    values = _finite(flat, lambda i: f"row {i // len(names) + 1} of the CSV, {names[i % len(names)]},")
    return InferRequest(values.reshape(-1, card.n_features), card.outputs[:1])


def open_inference_answer(card: ModelCard, asked: InferRequest, outputs: Mapping[str, NDArray[Any]]) -> JsonObject:
    """The v2 answer: `predict` [n, 1] (INT64 or FP64), `predict_proba` FP64 [n, k]; data flat in row-major order."""
    tensors = []
    for name in asked.outputs:
        values = outputs[name]
        shape = [len(values), values.shape[1] if values.ndim == 2 else 1]
        datatype = "INT64" if values.dtype.kind == "i" else "FP64"
        tensors.append({"name": name, "shape": shape, "datatype": datatype, "data": values.ravel().tolist()})
    answer: JsonObject = {"model_name": card.name, "model_version": card.version}
    if asked.id is not None:
        answer["id"] = asked.id
    return answer | {"parameters": {}, "outputs": tensors}


def predictions_answer(outputs: Mapping[str, NDArray[Any]]) -> JsonObject:
    """The V1 and MLflow answer: one label, number or list of probabilities per row."""
    (values,) = outputs.values()
    return {"predictions": values.tolist()}


def model_metadata(card: ModelCard, versions: Sequence[str]) -> JsonObject:
    """The v2 model metadata; a dimension that varies is -1."""
    label = "INT64" if card.task == "classification" else "FP64"
    described = {
        "predict": {"name": "predict", "datatype": label, "shape": [-1, 1]},
        "predict_proba": {"name": "predict_proba", "datatype": "FP64", "shape": [-1, len(card.classes)]},
    }
    return {
        "name": card.name,
        "versions": list(versions),
        "platform": "scikit-learn",
        "inputs": [{"name": "input-0", "datatype": "FP64", "shape": [-1, card.n_features]}],
        "outputs": [described[name] for name in card.outputs],
    }


def _tensor(tensor: object, n_features: int) -> Rows:
    where = "inputs[0]"
    if not isinstance(tensor, dict):
        raise RequestError(f"{where} is {_json_name(tensor)}; expected an object")
    if not isinstance(tensor.get("name"), str):
        raise RequestError(f"{where}.name is {_missing_or(tensor.get('name'))}; expected a string")
    datatype = tensor.get("datatype")
    if not isinstance(datatype, str) or datatype not in DATATYPES:
        found = repr(datatype) if isinstance(datatype, str) else _missing_or(datatype)
        raise RequestError(f"{where}.datatype is {found}; expected one of {', '.join(DATATYPES)}")
    shape = tensor.get("shape")
    if (
        not isinstance(shape, list)
        or len(shape) != 2
        or any(type(size) is not int for size in shape)
        or shape[0] < 1
        or shape[1] != n_features
    ):
        found = json.dumps(shape) if isinstance(shape, list) else _missing_or(shape)
        raise RequestError(f"{where}.shape is {found}; expected [n, {n_features}] with n from 1")
    data = tensor.get("data")
    if not isinstance(data, list):
        hint = "; binary tensors are not taken here" if data is None else ""
        raise RequestError(f"{where}.data is {_missing_or(data)}; expected an array of numbers{hint}")
    if data and type(data[0]) is list:
        flat = _flat(data, n_features, f"{where}.data")

        def locate(i: int) -> str:
            return f"{where}.data[{i // n_features}][{i % n_features}]"
    else:
        flat = data

        def locate(i: int) -> str:
            return f"{where}.data[{i}]"

    if len(flat) != shape[0] * n_features:
        raise RequestError(f"{where}.data has {len(flat)} numbers; shape {shape} takes {shape[0] * n_features}")
    return _as_datatype(flat, datatype, locate).reshape(-1, n_features)


def _as_datatype(flat: list[Any], datatype: str, locate: Callable[[int], str]) -> NDArray[np.float64]:
    """The numbers as a tensor of `datatype` holds them, widened to FP64."""
    values = _numbers(flat, locate)
    dtype = DATATYPES[datatype]
    if dtype.kind == "f":
        with np.errstate(over="ignore"):  # what overflows is found and named below
            values = values.astype(dtype).astype(np.float64)
        fits = np.isfinite(values)
    else:
        limits = np.iinfo(dtype)
        # Compared as Python numbers: FP64 cannot tell the largest INT64 from the number after it.
        in_range = limits.min <= min(flat) and max(flat) <= limits.max
        fits = values % 1 == 0
        if not in_range:
            fits &= np.array([limits.min <= value <= limits.max for value in flat])
    if not fits.all():
        index = int(np.argmin(fits))
        raise RequestError(f"{locate(index)} is {flat[index]}, which {datatype} cannot hold")
    return values


def _requested(outputs: object, card: ModelCard) -> tuple[str, ...]:
    """The names in `outputs`; none given means the first output alone, as servers of scikit-learn models do."""
    if outputs is None or outputs == []:
        return card.outputs[:1]
    if not isinstance(outputs, list):
        raise RequestError(f"outputs is {_json_name(outputs)}; expected an array of objects with a name")
    names = []
    for number, output in enumerate(outputs):
        name = output.get("name") if isinstance(output, dict) else None
        if not isinstance(name, str):
            raise RequestError(f"outputs[{number}] has no name; expected one of {', '.join(card.outputs)}")
        if name not in card.outputs:
            known = ", ".join(card.outputs)
            raise RequestError(f"outputs[{number}].name: {name!r} is not an output; there are {known}")
        if name in names:
            raise RequestError(f"outputs[{number}].name: {name!r} is asked for twice")
        names.append(name)
    return tuple(names)


def _split_frame(frame: object, where: str, card: ModelCard) -> Rows:
    if not isinstance(frame, dict) or "data" not in frame:
        raise RequestError(f'{where} needs "data", an array of rows, and may have "columns"')
    columns = frame.get("columns")
    # A data frame that was made without names numbers its columns; those are positions.
    if columns is None or columns == list(range(card.n_features)):
        return _matrix(frame["data"], card.n_features, f"{where}.data")
    if not isinstance(columns, list):
        raise RequestError(f"{where}.columns is {_json_name(columns)}; expected an array of feature names")
    order = _column_order(columns, card, f"{where}.columns")
    return _matrix(frame["data"], card.n_features, f"{where}.data")[:, order]


def _records(records: object, where: str, card: ModelCard) -> Rows:
    if not isinstance(records, list) or not records:
        raise RequestError(f"{where} must be a non-empty array of objects, one for each row")
    rows = []
    for number, record in enumerate(records):
        if not isinstance(record, dict):
            raise RequestError(f"{where}[{number}] is {_json_name(record)}; expected an object of features")
        _column_order(list(record), card, f"{where}[{number}]")
        rows.append([record[name] for name in card.feature_names])
    return _named(rows, where, card)


def _matrix_or_columns(data: object, where: str, card: ModelCard) -> Rows:
    """`inputs`: rows, or an object of named columns of equal length."""
    if not isinstance(data, dict):
        return _matrix_or_records(data, where, card)
    _column_order(list(data), card, where)
    columns = [data[name] for name in card.feature_names]
    for name, column in zip(card.feature_names, columns, strict=True):
        if not isinstance(column, list) or not column or len(column) != len(columns[0]):
            raise RequestError(f"{where}.{name} must be a non-empty array as long as the other columns")
    return _named([list(row) for row in zip(*columns, strict=True)], where, card)


def _matrix_or_records(data: object, where: str, card: ModelCard) -> Rows:
    if isinstance(data, list) and data and isinstance(data[0], dict):
        return _records(data, where, card)
    return _matrix(data, card.n_features, where)


_MLFLOW_FORMS: dict[str, Callable[[object, str, ModelCard], Rows]] = {
    "dataframe_split": _split_frame,
    "dataframe_records": _records,
    "inputs": _matrix_or_columns,
    "instances": _matrix_or_records,
}


def _matrix(rows: object, n_features: int, where: str) -> Rows:
    """An array of rows, each an array of `n_features` numbers."""
    if not isinstance(rows, list) or not rows:
        raise RequestError(f"{where} must be a non-empty array of rows, each an array of {n_features} numbers")
    flat = _flat(rows, n_features, where)
    return _numbers(flat, lambda i: f"{where}[{i // n_features}][{i % n_features}]").reshape(-1, n_features)


def _named(rows: list[list[Any]], where: str, card: ModelCard) -> Rows:
    flat = [value for row in rows for value in row]
    names, width = card.feature_names, card.n_features
    return _numbers(flat, lambda i: f"{where}, row {i // width}, {names[i % width]}").reshape(-1, width)


def _flat(rows: list[Any], n_features: int, where: str) -> list[Any]:
    flat: list[Any] = []
    for number, row in enumerate(rows):
        if type(row) is not list:
            raise RequestError(f"{where}[{number}] is {_json_name(row)}; expected an array of {n_features} numbers")
        if len(row) != n_features:
            raise RequestError(f"{where}[{number}] has {len(row)} numbers; the model takes {n_features}")
        flat += row
    return flat


def _numbers(flat: list[Any], locate: Callable[[int], str]) -> NDArray[np.float64]:
    if not _NUMBER_TYPES.issuperset(map(type, flat)):
        index = next(i for i, value in enumerate(flat) if type(value) not in _NUMBER_TYPES)
        raise RequestError(f"{locate(index)} is {_json_name(flat[index])}; expected a number")
    return _finite(flat, locate)


def _finite(flat: list[int | float], locate: Callable[[int], str]) -> NDArray[np.float64]:
    try:
        values = np.array(flat, dtype=np.float64)
    except OverflowError:  # an integer beyond FP64, which JSON allows
        values = np.array([float(value) if abs(value) < 2**1023 else np.inf for value in flat])
    if not np.isfinite(values).all():
        raise RequestError(f"{locate(int(np.argmin(np.isfinite(values))))} is not a finite number")
    return values


def _column_order(columns: list[Any], card: ModelCard, where: str) -> list[int]:
    """Where in `columns` each feature of the model stands."""
    position = {name: i for i, name in enumerate(columns) if isinstance(name, str)}
    missing = [name for name in card.feature_names if name not in position]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise RequestError(f"{where} lacks the feature {missing[0]!r}{more}")
    if len(columns) != card.n_features:
        surplus = next((name for name in columns if name not in card.feature_names), None)
        problem = "names a feature twice" if surplus is None else f"has {surplus!r}, which is no feature of the model"
        raise RequestError(f"{where} {problem}")
    return [position[name] for name in card.feature_names]


def _json_name(value: object) -> str:
    return _JSON_NAMES.get(type(value), "a number")


def _missing_or(value: object) -> str:
    return "missing" if value is None else _json_name(value)


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not allowed; numbers must be finite")
