"""How many items a request asks about, for answers whose shape leaves it open.

`[0.1, 0.7, 0.2]` is three predictions or one item's three probabilities; only the request tells. It is read lazily
and only then, because a request is often larger than its answer. Every input form of the protocols is known: tensors'
shapes (Open Inference Protocol), `instances` and `inputs` (V1, MLflow), `dataframe_split`, `dataframe_records` and
CSV (MLflow), bare arrays. None when it cannot be told; never an error, because the question is about the answer.
"""

from __future__ import annotations

import csv
import io
import re
from typing import Final

from models.predictions import encoding, json_document
from models.predictions.prediction import Json, Options, Unreadable, Wire

_SHAPE: Final = re.compile(rb'"shape"\s*:\s*\[\s*(\d{1,9})\s*[,\]]')


def rows_asked(wire: Wire, options: Options) -> int | None:
    """Items in the request's batch, or None when its body does not say."""
    body = wire.request_body
    if not body:
        return None
    headers = wire.request_headers
    try:
        if coding := headers.get("content-encoding"):
            body = encoding.decode(body, coding, options.max_decoded)
        if headers.get("content-type", "").partition(";")[0].strip().lower() == "text/csv":
            return _csv_rows(body)
        # A tensor request may be megabytes of data, or end in binary tensors: its first shape is enough.
        if (shape := _SHAPE.search(body)) is not None and b'"inputs"' in body:
            return int(shape[1])
        return _json_rows(json_document.load(body))
    except Unreadable:
        return None


def _csv_rows(body: bytes) -> int | None:
    lines = csv.reader(io.StringIO(body.decode("utf-8", "replace"), newline=""))
    try:
        return max(sum(1 for line in lines if line) - 1, 0)  # the first names the columns
    except csv.Error:
        return None


def _json_rows(document: Json) -> int | None:
    if isinstance(document, list):
        return len(document)
    if not isinstance(document, dict):
        return None
    split = document.get("dataframe_split")
    if isinstance(split, dict) and isinstance(data := split.get("data"), list):
        return len(data)
    for key in ("dataframe_records", "instances"):
        if isinstance(entries := document.get(key), list):
            return len(entries)
    inputs = document.get("inputs", document.get("input"))
    if isinstance(inputs, dict):  # columns by name
        inputs = next(iter(inputs.values()), None)
    if isinstance(inputs, list):
        return len(inputs)
    return 1 if isinstance(inputs, str) else None
