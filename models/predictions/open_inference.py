"""The Open Inference Protocol, version 2: tensors in JSON, and its binary tensor extension.

An output is a flat list in row-major order with its shape and datatype; some servers nest the list, say shape [2]
where others say [2, 1], send null for what others leave out, and write 64-bit integers or NaN as strings (the JSON
mapping of protocol buffers): all of these are read as what they mean. The first dimension is the batch, unless the
request had one item and the output's only dimension is longer. What does not add up (a shape that its data does not
fill, a tensor cut short) is `wrong shape`: nothing is guessed about missing data.
"""

from __future__ import annotations

import math
import re
import struct
import sys
from array import array
from collections.abc import Sequence
from typing import Any, Final

from models.predictions import json_document, kinds
from models.predictions.kinds import Rows
from models.predictions.prediction import Json, Kind, Options, Prediction, Reason, Unreadable

BINARY_HEADER: Final = "inference-header-content-length"

# Binary tensor data extension: raw little-endian elements. Datatype -> (array typecode, bytes per element).
_FIXED: Final = {
    "INT8": "b",
    "UINT8": "B",
    "INT16": "h",
    "UINT16": "H",
    "INT32": "i",
    "UINT32": "I",
    "INT64": "q",
    "UINT64": "Q",
    "FP32": "f",
    "FP64": "d",
}
_WHOLE: Final = frozenset(name for name in _FIXED if "INT" in name)
_REAL: Final = frozenset({"FP16", "BF16", "FP32", "FP64"})
_INTEGERS: Final = frozenset({int})
_FLOATS: Final = frozenset({float})
_BOOLEANS: Final = frozenset({bool})
_DATATYPES: Final = _WHOLE | _REAL | {"BOOL", "BYTES"}
_SPELLED: Final = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}
_INTEGER: Final = re.compile(r"-?[0-9]{1,20}\Z", re.ASCII)
_NUMBERS: Final = Kind.NUMBERS
_LABELS: Final = Kind.LABELS
_TEXT: Final = Kind.TEXT
_PATHS: Final = tuple(f"/outputs/{index}/data" for index in range(16))
# What the one value of a tensor is in Python, by datatype.
_SCALAR: Final = {**dict.fromkeys(_WHOLE, int), **dict.fromkeys(_REAL, float), "BOOL": bool, "BYTES": str}
_MAX_DIMENSIONS: Final = 64
_JSON_CONTENT_TYPES: Final = frozenset({"hg_jsonstr", "hg_json"})  # BYTES elements that are themselves JSON documents


def fits(document: Json) -> bool:
    """Whether the document has the shape of this protocol's inference answer."""
    if type(document) is not dict:
        return False
    outputs = document.get("outputs")
    if type(outputs) is not list or not outputs:
        return False
    first = outputs[0]
    return type(first) is dict and ("datatype" in first or "shape" in first)


def split(body: bytes, header_length: str) -> tuple[bytes, bytes]:
    """The JSON and the binary tensors of a body; `header_length` is the field Inference-Header-Content-Length, which
    counts uncompressed bytes.
    """
    if not header_length.isascii() or not header_length.isdigit() or len(header_length) > 18 or int(header_length) > len(body):
        raise Unreadable(Reason.WRONG_SHAPE, f"{BINARY_HEADER}: {header_length[:40]!r} in a body of {len(body)} bytes")
    end = int(header_length)
    return body[:end], body[end:]


def decode(document: Json, rows: Rows, options: Options, tensors: bytes = b"") -> tuple[Prediction, ...]:
    """The predictions of an inference answer, item by item; `tensors` is what follows the JSON when the binary
    extension is used.

    Raises Unreadable (`wrong shape`, `wrong kind`, `too large`).
    """
    if not isinstance(document, dict) or not isinstance(outputs := document.get("outputs"), list):
        raise Unreadable(Reason.WRONG_SHAPE, "no list under 'outputs'")
    if options.kind is None and not tensors and (plain := _one_item(outputs)) is not None:
        return plain
    decoded: list[tuple[Prediction, ...]] = []
    tensor_values: list[list[Any]] = []
    at = 0
    for index, output in enumerate(outputs):
        if not isinstance(output, dict):
            raise Unreadable(Reason.WRONG_SHAPE, f"outputs[{index}] is not an object")
        path = f"/outputs/{index}/data"
        parameters = output.get("parameters")
        size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
        datatype = output.get("datatype")
        if size is not None:
            if type(size) is not int or size < 0 or size > len(tensors) - at:
                raise Unreadable(
                    Reason.WRONG_SHAPE, f"{path}: binary_data_size {size!r:.40} with {len(tensors) - at} bytes left"
                )
            values = _binary(tensors[at : at + size], datatype, path)
            at += size
        else:
            values = _listed(output.get("data"), datatype, path)
        kind = options.kind if options.kind is None or len(outputs) == 1 or _suits(options.kind, output) else None
        decoded.append(_items(values, output, datatype, path, rows, kind, options.max_items))
        tensor_values.append(values)
    if at != len(tensors):
        raise Unreadable(Reason.WRONG_SHAPE, f"{len(tensors) - at} bytes after the last binary tensor")
    if not decoded:
        return ()
    if len(decoded) == 1 or len(set(map(len, decoded))) == 1:
        return kinds.joined(decoded)
    # outputs that do not share a batch dimension (boxes [5,4], count [1]) describe one item together
    together = []
    for index, values in enumerate(tensor_values):
        one: dict[str, Json] = {**outputs[index], "shape": [1, len(values)]}  # type: ignore[dict-item]  # looked at above
        path = f"/outputs/{index}/data"
        found = _items(values, one, one.get("datatype"), path, rows, None, options.max_items)
        if len(found) != 1:  # nothing in it, or elements that are JSON documents themselves
            found = (Prediction(Kind.JSON, [part.value for part in found], path, found[0].name if found else ""),)
        together.append(found)
    return kinds.joined(together)


def _one_item(outputs: list[Json]) -> tuple[Prediction, ...] | None:
    """The prediction of an answer about a single item whose outputs are as plain as most are, told in a third of the time; None
    for every other one, which takes the long way.

    Plain: shape [1] or [1, k], values of exactly the datatype's type, and no parameters.
    """
    if not 0 < len(outputs) <= len(_PATHS):
        return None
    found: list[tuple[Kind, Any, str, str]] = []
    leading = -1
    for path, output in zip(_PATHS, outputs, strict=False):
        if type(output) is not dict or "parameters" in output:
            return None
        data, shape, datatype, name = output.get("data"), output.get("shape"), output.get("datatype"), output.get("name")
        if type(data) is not list or type(shape) is not list or type(datatype) is not str:
            return None
        if type(name) is not str:
            name = ""
        dimensions = len(shape)
        if not data or not 0 < dimensions < 3 or shape[0] != 1 or type(shape[0]) is not int:
            return None
        if len(data) == 1:
            value = data[0]
            if type(value) is not _SCALAR.get(datatype) or (dimensions == 2 and (shape[1] != 1 or type(shape[1]) is not int)):
                return None
            if type(value) is float:
                kind = _NUMBERS
            elif type(value) is str and kinds.is_text(value):
                kind = _TEXT
            else:
                kind = _LABELS
                if leading < 0:
                    leading = len(found)
            found.append((kind, value, path, name))
        else:
            if dimensions != 2 or shape[1] != len(data) or type(shape[1]) is not int:
                return None
            if datatype not in _REAL or set(map(type, data)) != _FLOATS:
                return None
            row = kinds.of_numbers((data,), path, name)[0]
            found.append((row.kind, row.value, path, name))
    first = found.pop(max(leading, 0))
    return (Prediction(*first, (), tuple([Prediction(*output) for output in found])),)


def _suits(kind: Kind, output: dict[str, Json]) -> bool:
    """Whether a kind that is configured for the answer is meant for this one of its several outputs."""
    if kind in (Kind.LABELS, Kind.RANKED):
        return output.get("datatype") not in _REAL
    if kind is Kind.TEXT:
        return output.get("datatype") == "BYTES"
    return kind is Kind.JSON or output.get("datatype") in _REAL


def _items(
    values: list[Any], output: dict[str, Json], datatype: Json, path: str, rows: Rows, kind: Kind | None, max_items: int
) -> tuple[Prediction, ...]:
    """One prediction for each entry along the tensor's first dimension."""
    name = output.get("name")
    name = name if type(name) is str else ""
    shape = _shape(output.get("shape"), path)
    if shape is None:
        shape = [len(values)]
    count = shape[0] if shape else 1
    width = math.prod(shape[1:])
    if count * width != len(values):
        raise Unreadable(Reason.WRONG_SHAPE, f"{path}: shape {shape!r:.80} but {len(values)} values")
    if not values:
        return ()
    if count > 1 and len(shape) == 1 and rows() == 1:
        count, width = 1, count
    if count > max_items:
        raise Unreadable(Reason.TOO_LARGE, f"{path}: {count} items")
    if kind is not None:
        parts = values if width == 1 else [values[i * width : (i + 1) * width] for i in range(count)]
        return tuple([kinds.single(part, kind, path, name) for part in parts])
    if "parameters" in output and _holds_json(output):
        return tuple([Prediction(Kind.JSON, _element_json(value), path, name) for value in values])
    real = datatype in _REAL  # then all values are floats
    if width == 1:
        if real:  # 2.0 as FP64 is a number, even where its JSON says 2
            return tuple([Prediction(_NUMBERS, value, path, name) for value in values])
        return kinds.of_column(values, path, name)
    parts = [values] if count == 1 else [values[i * width : (i + 1) * width] for i in range(count)]
    return kinds.of_numbers(parts, path, name) if real else kinds.of_rows(parts, path, name)


def _shape(shape: Json, path: str) -> list[int] | None:
    if shape is None:
        return None
    if type(shape) is not list or len(shape) > _MAX_DIMENSIONS:
        raise Unreadable(Reason.WRONG_SHAPE, f"{path}: shape is not a short list")
    dimensions: list[int] = []
    for dimension in shape:
        if type(dimension) is str and _INTEGER.match(dimension):  # int64 in the JSON mapping of protocol buffers
            dimension = int(dimension)
        if type(dimension) is not int or dimension < 0 or dimension >= 1 << 63:
            raise Unreadable(Reason.WRONG_SHAPE, f"{path}: shape {shape!r:.80}")
        dimensions.append(dimension)
    return dimensions


def _listed(data: Json, datatype: Json, path: str) -> list[Any]:
    """The values of a tensor in JSON, flat, converted to what its datatype says."""
    if type(data) is not list:
        raise Unreadable(Reason.WRONG_SHAPE, f"{path}: no list under 'data'")
    values: list[Any] = data
    types = set(map(type, values))
    if list in types:
        values = kinds.flat(data)
        types = set(map(type, values))
    if type(datatype) is not str:
        if datatype is None:
            return values
        raise Unreadable(Reason.WRONG_SHAPE, f"{path}: unknown datatype {datatype!r:.40}")
    if datatype in _WHOLE:
        return values if types <= _INTEGERS else [_whole_number(value, path) for value in values]
    if datatype in _REAL:
        return values if types <= _FLOATS else [_real_number(value, path) for value in values]
    if datatype == "BOOL":
        return values if types <= _BOOLEANS else [_boolean(value, path) for value in values]
    if datatype == "BYTES":
        # BYTES elements are strings; some servers put objects there
        return values
    raise Unreadable(Reason.WRONG_SHAPE, f"{path}: unknown datatype {datatype!r:.40}")


def _whole_number(value: Any, path: str) -> int | None:
    if value is None or type(value) is int:
        return value
    if type(value) is bool or (type(value) is float and value.is_integer()) or (type(value) is str and _INTEGER.match(value)):
        return int(value)
    raise Unreadable(Reason.WRONG_SHAPE, f"{path}: {value!r:.40} in a tensor of integers")


def _real_number(value: Any, path: str) -> float:
    if type(value) is float:
        return value
    if value is None:
        return _SPELLED["NaN"]
    if type(value) is int or type(value) is bool:
        try:
            return float(value)
        except OverflowError:
            pass
    elif type(value) is str and value in _SPELLED:
        return _SPELLED[value]
    raise Unreadable(Reason.WRONG_SHAPE, f"{path}: {str(value)[:40]!r} in a tensor of floating-point numbers")


def _boolean(value: Any, path: str) -> bool | None:
    if value is None or type(value) is bool:
        return value
    if value in (0, 1) and type(value) in (int, float):
        return bool(value)
    raise Unreadable(Reason.WRONG_SHAPE, f"{path}: {value!r:.40} in a tensor of booleans")


def _holds_json(output: dict[str, Json]) -> bool:
    parameters = output.get("parameters")
    content_type = parameters.get("content_type") if type(parameters) is dict else None
    return type(content_type) is str and content_type in _JSON_CONTENT_TYPES


def _element_json(value: Any) -> Json:
    """A BYTES element that the server marks as a JSON document; what does not parse is compared as the string it is."""
    if type(value) is not str:
        return value  # type: ignore[no-any-return]
    try:
        return json_document.load(value.encode("utf-8", "surrogatepass"))
    except Unreadable:
        return value


def _binary(data: bytes, datatype: Json, path: str) -> list[Any]:
    """The values of a raw tensor."""
    if type(datatype) is not str or datatype not in _DATATYPES:
        raise Unreadable(Reason.WRONG_SHAPE, f"{path}: unknown datatype {datatype!r:.40}")
    if datatype == "BYTES":
        return _byte_strings(data, path)
    if datatype == "BOOL":
        return [byte != 0 for byte in data]
    size = 2 if datatype in ("FP16", "BF16") else array(_FIXED[datatype]).itemsize
    if len(data) % size:
        raise Unreadable(Reason.WRONG_SHAPE, f"{path}: {len(data)} bytes are no whole number of {datatype}")
    if datatype == "FP16":
        return list(struct.unpack(f"<{len(data) // 2}e", data))
    if datatype == "BF16":  # the upper half of an FP32
        halves = struct.unpack(f"<{len(data) // 2}H", data)
        return list(struct.unpack(f"<{len(halves)}f", struct.pack(f"<{len(halves)}I", *(half << 16 for half in halves))))
    values: array[Any] = array(_FIXED[datatype])
    values.frombytes(data)
    if sys.byteorder == "big":
        values.byteswap()
    return values.tolist()


def _byte_strings(data: bytes, path: str) -> list[str]:
    """Elements of a BYTES tensor: each a 4-byte little-endian length and as many bytes. Bytes that are no UTF-8 stay
    distinct from all others.
    """
    values: list[str] = []
    at = 0
    while at < len(data):
        end = at + 4 + int.from_bytes(data[at : at + 4], "little")
        if end > len(data) or at + 4 > len(data):
            raise Unreadable(Reason.WRONG_SHAPE, f"{path}: a BYTES element reaches beyond its tensor")
        values.append(data[at + 4 : end].decode("utf-8", "surrogateescape"))
        at = end
    return values


def joined_text(items: Sequence[Prediction]) -> str | None:
    """The one string that these predictions are, as a token of a streamed answer, or None."""
    if len(items) == 1 and type(items[0].value) is str and not items[0].also:
        return items[0].value
    return None
