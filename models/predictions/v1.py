"""The V1 protocol: `POST /v1/models/M:predict` with `instances`, answered by `{"predictions": [...]}`, one entry per
instance.

`outputs` stands in for `predictions` where the request was in columns (`inputs`). An entry that is an object with
several named outputs is taken apart into one prediction for each, so that a class and its probabilities are compared
each by its own rule.
"""

from __future__ import annotations

from functools import partial
from typing import Final

from models.predictions import json_pointer, kinds
from models.predictions.kinds import Rows
from models.predictions.prediction import Json, Options, Prediction, Reason, Unreadable

_MAX_COLUMNS: Final = 64


def fits(document: Json) -> bool:
    """Whether the document has the shape of a V1 answer."""
    return type(document) is dict and ("predictions" in document or type(document.get("outputs")) in (list, dict))


def decode(document: Json, rows: Rows, options: Options) -> tuple[Prediction, ...]:
    """The predictions, item by item. Raises Unreadable (`wrong shape`, `wrong kind`, `too large`)."""
    if isinstance(document, dict):
        for key in ("predictions", "outputs"):
            if key in document:
                return of_batch(document[key], f"/{key}", rows, options)
    raise Unreadable(Reason.WRONG_SHAPE, "neither 'predictions' nor 'outputs'")


def of_batch(batch: Json, path: str, rows: Rows, options: Options) -> tuple[Prediction, ...]:
    """A list with one entry per item; or columns by name, each of them such a list.

    The path of a named output leaves out the number of the row, which is why one pointer names it in every row.
    """
    columns: dict[str, list[Json]] | None = None
    if isinstance(batch, list):
        if len(batch) > options.max_items:
            raise Unreadable(Reason.TOO_LARGE, f"{path}: {len(batch)} items")
        columns = _by_column(batch)
    elif isinstance(batch, dict):
        columns = _equal_columns(batch)
    if columns is None or options.kind is not None:
        return kinds.predictions(batch, rows, path=path, kind=options.kind)
    return kinds.joined(
        [
            kinds.predictions(column, partial(len, column), path=f"{path}/{json_pointer.escape(name)}", name=name)
            for name, column in columns.items()
        ]
    )


def _by_column(batch: list[Json]) -> dict[str, list[Json]] | None:
    """The rows by column when all are objects with the same few names, and not label-and-score entries."""
    first = batch[0] if batch else None
    if not isinstance(first, dict) or not 1 <= len(first) <= _MAX_COLUMNS or first.keys() == {"label", "score"}:
        return None
    columns: dict[str, list[Json]] = {name: [] for name in first}
    for row in batch:
        if not isinstance(row, dict) or row.keys() != first.keys():
            return None
        for name, value in row.items():
            columns[name].append(value)
    return columns


def _equal_columns(batch: dict[str, Json]) -> dict[str, list[Json]] | None:
    columns = {name: column for name, column in batch.items() if isinstance(column, list) and column}
    if (
        not 1 <= len(columns) <= _MAX_COLUMNS
        or len(columns) < len(batch)
        or len({len(column) for column in columns.values()}) > 1
    ):
        return None
    return columns
