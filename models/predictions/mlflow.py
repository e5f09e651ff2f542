"""MLflow scoring servers: `POST /invocations`, answered by `{"predictions": ...}`.

Older servers answer with the bare array. A data frame comes back as one object per row, which is taken apart by
column as in V1. Which of the input forms the request used matters only for its number of rows, see `request.py`.
Models of the chat flavour answer in OpenAI's shape at the same path: recognising by shape sends those to `openai.py`.
"""

from __future__ import annotations

from models.predictions import v1
from models.predictions.kinds import Rows
from models.predictions.prediction import Json, Options, Prediction, Reason, Unreadable


def fits(document: Json) -> bool:
    """Whether the document has the shape of an MLflow answer."""
    return type(document) is list or (type(document) is dict and "predictions" in document)


def decode(document: Json, rows: Rows, options: Options) -> tuple[Prediction, ...]:
    """The predictions, item by item. Raises Unreadable (`wrong shape`, `wrong kind`, `too large`)."""
    if isinstance(document, list):
        return v1.of_batch(document, "", rows, options)
    if isinstance(document, dict) and "predictions" in document:
        return v1.of_batch(document["predictions"], "/predictions", rows, options)
    raise Unreadable(Reason.WRONG_SHAPE, "neither 'predictions' nor a bare array")
