"""JSON of no known protocol: bare arrays, objects, and whatever the configured JSON pointers name.

Without pointers, an object that comes down to one member once the members that differ in every answer are left out
(`id`, `created`, `model`, …) is read by that member's shape; any other object is compared field by field, which is
right for everything and says the least. Pointers say where predictions stand; each one is an output of its own, and
one that leads nowhere makes the answer unreadable, since an output that green forgot must not pass as equal.
"""

from __future__ import annotations

from typing import Final

from models.predictions import json_pointer, kinds, v1
from models.predictions.kinds import Rows
from models.predictions.prediction import Json, Kind, Options, Prediction, Reason, Unreadable

# Members at the top of an answer that differ between any two answers of the same server.
ALWAYS_DIFFERENT: Final = frozenset(
    {"id", "created", "model", "model_name", "model_version", "system_fingerprint", "date", "usage", "x-request-id"}
)


def decode(document: Json, rows: Rows, options: Options) -> tuple[Prediction, ...]:
    """The predictions, item by item. Raises Unreadable (`pointer not found`, `wrong kind`, `too large`)."""
    if options.pointers:
        return _pointed(document, rows, options)
    if isinstance(document, dict) and options.kind is not Kind.JSON:
        members = [name for name in document if name not in ALWAYS_DIFFERENT]
        if len(members) == 1:
            return _batch(document[members[0]], rows, options, f"/{json_pointer.escape(members[0])}")
        if (order := _reranked(document)) is not None:
            return (Prediction(Kind.RANKED, order, "/results"),)
    return _batch(document, rows, options, "")


def _pointed(document: Json, rows: Rows, options: Options) -> tuple[Prediction, ...]:
    outputs: list[tuple[Prediction, ...]] = []
    for pointer in options.pointers:
        try:
            value = json_pointer.get(document, pointer.at)
        except KeyError:
            raise Unreadable(Reason.POINTER, f"nothing at {pointer.at!r}") from None
        if isinstance(value, list) and len(value) > options.max_items:
            raise Unreadable(Reason.TOO_LARGE, f"{pointer.at}: {len(value)} items")
        name = pointer.name or pointer.at
        outputs.append(kinds.predictions(value, rows, path=pointer.at, name=name, kind=pointer.kind or options.kind))
    if len({len(items) for items in outputs}) == 1:
        return kinds.joined(outputs)
    # outputs of different length describe one item together
    together = []
    for pointer in options.pointers:
        value = json_pointer.get(document, pointer.at)
        kind = pointer.kind or options.kind
        name = pointer.name or pointer.at
        whole = kinds.item(value, pointer.at, name) if kind is None else kinds.single(value, kind, pointer.at, name)
        together.append((whole,))
    return kinds.joined(together)


def _batch(value: Json, rows: Rows, options: Options, path: str) -> tuple[Prediction, ...]:
    if isinstance(value, list):
        return v1.of_batch(value, path, rows, options)
    return kinds.predictions(value, rows, path=path, kind=options.kind)


def _reranked(document: dict[str, Json]) -> tuple[str | int | float | bool | None, ...] | None:
    """The order that a rerank call gives: `{"results": [{"index": 2, "relevance_score": 0.9, …}, …]}`."""
    results = document.get("results")
    if (
        isinstance(results, list)
        and results
        and all(isinstance(entry, dict) and "relevance_score" in entry for entry in results)
    ):
        return kinds.ranking(results)
    return None
