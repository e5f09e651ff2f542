"""What kind of prediction a value is, told from its shape: the one place with these rules, used by every protocol.

A value is judged for the whole batch at once, so that `[0.5, 2]` is two numbers and not a number and a label. The
rules, in order:

- whole numbers, booleans and short strings are labels; strings that read like sentences are text; numbers with a
  fraction are numbers;
- a row of at least two numbers that are all in [0, 1] and sum to one is a distribution: probabilities;
- other rows of numbers are vectors from `VECTOR_LENGTH` components on, and a few numbers of their own (several
  regression targets) below that;
- a row of strings is a ranked list; `{"label": …, "score": …}` entries are probabilities with named classes; anything
  else is JSON.

They are guesses where a server does not say, so a kind in the configuration overrides them, and where blue and green
are judged differently the comparison finds the common ground. null among numbers is NaN: that is how data frames are
written out as JSON.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any, Final

from models.predictions.prediction import Json, Kind, Label, Prediction, Reason, Unreadable

VECTOR_LENGTH: Final = 8
SUM_TOLERANCE: Final = 0.02  # of a distribution's sum: servers round to two or three digits, or compute in 16 bits
_LABEL_LENGTH: Final = 64
_LABEL_SPACES: Final = 4

_LABELS: Final = Kind.LABELS  # looking up a member of an enumeration takes time
_NUMBERS: Final = Kind.NUMBERS
_PROBABILITIES: Final = Kind.PROBABILITIES
_NONE: Final = type(None)
_WHOLE: Final = frozenset({int, bool})
_PLAIN_NUMBERS: Final = frozenset({int, float})
_NUMERIC: Final = frozenset({int, float, bool, _NONE})
_SCALARS: Final = frozenset({int, float, bool, str, _NONE})

Rows = Callable[[], "int | None"]  # how many items the request asked about; called only where the answer's shape leaves it open


def predictions(value: Json, rows: Rows, *, path: str = "", name: str = "", kind: Kind | None = None) -> tuple[Prediction, ...]:
    """The predictions in a JSON value that holds a batch: a list of one entry per item, or the single item itself.

    `rows` settles whether a flat list is many items or one item with many values. Raises Unreadable (`wrong kind`)
    when `kind` is given and does not fit.
    """
    if kind is not None:
        return _as_kind(value, kind, rows, path, name)
    if not isinstance(value, list):
        return (item(value, path, name),)
    if not value:
        return ()
    types = set(map(type, value))
    if types <= _SCALARS:
        if len(value) > 1 and rows() == 1:
            return of_rows([value], path, name)
        return of_scalars(value, path, name)
    if types == {list}:
        nested: list[list[Json]] = value  # type: ignore[assignment]  # just looked
        found = of_rows([flat(row) for row in nested], path, name)
        # what is compared field by field keeps its nesting
        return tuple([Prediction(Kind.JSON, row, path, name) for row in value]) if found[0].kind is Kind.JSON else found
    if types == {dict} and len(value) > 1 and rows() in (1, None):
        scored = _scored(value, path, name)
        if scored is not None and _is_distribution(scored.value):
            return (scored,)  # the classes of one item, not so many items
    return of_column(value, path, name)


def of_scalars(values: Sequence[Any], path: str = "", name: str = "") -> tuple[Prediction, ...]:
    """One prediction for each scalar."""
    types = set(map(type, values))
    if float in types and types <= _NUMERIC:
        return tuple([Prediction(_NUMBERS, number(value), path, name) for value in values])
    if str in types and any(type(value) is str and is_text(value) for value in values):
        return tuple([Prediction(Kind.TEXT if type(value) is str else _LABELS, value, path, name) for value in values])
    return tuple([Prediction(_LABELS, value, path, name) for value in values])


def of_column(values: Sequence[Any], path: str = "", name: str = "") -> tuple[Prediction, ...]:
    """One prediction for each value, whatever it is."""
    if set(map(type, values)) <= _SCALARS:
        return of_scalars(values, path, name)
    return tuple([item(value, path, name) for value in values])


def of_rows(rows: Sequence[Sequence[Any]], path: str = "", name: str = "") -> tuple[Prediction, ...]:
    """One prediction for each row of scalars (or of `{"label", "score"}` entries); rows may differ in length."""
    if not rows or (len(rows[0]) == 1 and all(len(row) == 1 for row in rows)):
        return of_column([row[0] for row in rows], path, name)
    types = set(map(type, rows[0]))
    for row in islice(rows, 1, None):
        types.update(map(type, row))
    if types <= _WHOLE:
        return tuple([Prediction(Kind.LABELS, tuple(row), path, name) for row in rows])
    if types <= _NUMERIC:
        if not types <= _PLAIN_NUMBERS:
            rows = [[number(value) for value in row] for row in rows]
        return of_numbers(rows, path, name)
    if types == {str}:
        return tuple([Prediction(Kind.RANKED, tuple(row), path, name) for row in rows])
    if types == {dict}:
        return tuple([_scored(row, path, name) or Prediction(Kind.JSON, list(row), path, name) for row in rows])
    return tuple([Prediction(Kind.JSON, list(row), path, name) for row in rows])


def joined(outputs: Sequence[tuple[Prediction, ...]]) -> tuple[Prediction, ...]:
    """The predictions of several outputs of equal length, put together item by item; a labels output leads."""
    if len(outputs) == 1:
        return outputs[0]
    items = []
    for group in zip(*outputs, strict=True):
        first, also = group[0], group[1:]
        if first.kind is not _LABELS:
            for place, prediction in enumerate(also):
                if prediction.kind is _LABELS:
                    first, also = prediction, (*group[: place + 1], *group[place + 2 :])
                    break
        items.append(Prediction(first.kind, first.value, first.path, first.name, first.classes, also))
    return tuple(items)


def number(value: Any) -> float | int:
    """A JSON number as a number; null is NaN, a boolean 0 or 1."""
    if value is None:
        return math.nan
    return int(value) if type(value) is bool else value


def flat(values: Iterable[Any]) -> list[Any]:
    """Nested lists as one list, in order (row-major)."""
    found: list[Any] = []
    stack = [iter(values)]
    while stack:
        for value in stack[-1]:
            if type(value) is list:
                stack.append(iter(value))
                break
            found.append(value)
        else:
            stack.pop()
    return found


def is_text(value: str) -> bool:
    """Whether a string reads like a sentence and not like the name of a class."""
    return len(value) > _LABEL_LENGTH or "\n" in value or value.count(" ") > _LABEL_SPACES


def _is_distribution(row: Sequence[Any]) -> bool:
    # NaN makes the sum NaN, which is within no tolerance; an integer of any size compares exactly
    return len(row) > 1 and min(row) >= 0 and max(row) <= 1 + SUM_TOLERANCE and abs(sum(row) - 1) <= SUM_TOLERANCE


def of_numbers(rows: Sequence[Sequence[Any]], path: str, name: str) -> tuple[Prediction, ...]:
    """One prediction for each row of at least two numbers."""
    if len(rows) == 1 and _is_distribution(rows[0]):
        return (Prediction(_PROBABILITIES, tuple(rows[0]), path, name),)
    if all(map(_is_distribution, rows)):
        return tuple([Prediction(_PROBABILITIES, tuple(row), path, name) for row in rows])
    if max(map(len, rows)) >= VECTOR_LENGTH:
        return tuple([Prediction(Kind.VECTORS, _vector(row), path, name) for row in rows])
    return tuple([Prediction(Kind.NUMBERS, tuple(row), path, name) for row in rows])


def _vector(row: Sequence[Any]) -> array[float]:
    try:
        return array("d", row)
    except OverflowError:
        raise Unreadable(Reason.WRONG_SHAPE, "a vector's component is an integer beyond every floating-point number") from None


def item(value: Json, path: str = "", name: str = "") -> Prediction:
    """One item by itself, judged without a batch around it."""
    if isinstance(value, dict):
        return _scored([value], path, name) or Prediction(Kind.JSON, value, path, name)
    if isinstance(value, list):
        row = flat(value)
        found = of_rows([row], path, name)[0] if row else None
        return Prediction(Kind.JSON, value, path, name) if found is None or found.kind is Kind.JSON else found
    return of_scalars([value], path, name)[0]


def _scored(entries: Sequence[Any], path: str, name: str) -> Prediction | None:
    """`[{"label": "cat", "score": 0.9}, …]`, in any order of classes and with nothing else in the entries, or None."""
    scores: dict[Label, float] = {}
    for entry in entries:
        if type(entry) is not dict or len(entry) != 2 or "label" not in entry or "score" not in entry:
            return None
        label, score = entry["label"], entry["score"]
        if type(label) not in (str, int) or type(score) not in (float, int) or label in scores:
            return None
        scores[label] = score
    classes = sorted(scores, key=str)
    return Prediction(Kind.PROBABILITIES, tuple(scores[label] for label in classes), path, name, tuple(classes))


def _as_kind(value: Json, kind: Kind, rows: Rows, path: str, name: str) -> tuple[Prediction, ...]:
    if kind is Kind.JSON:
        return (Prediction(kind, value, path, name),)
    if not isinstance(value, list):
        return (single(value, kind, path, name),)
    if kind in (Kind.PROBABILITIES, Kind.VECTORS, Kind.RANKED) and set(map(type, value)) <= _SCALARS:
        asked = rows()
        if asked == 1 or kind is not Kind.PROBABILITIES or asked is None or asked != len(value):
            return (single(value, kind, path, name),)  # one item's row; else one probability for each of many items
    elif kind is Kind.RANKED and set(map(type, value)) == {dict}:
        return (single(value, kind, path, name),)
    return tuple([single(entry, kind, path, name) for entry in value])


def single(value: Json, kind: Kind, path: str, name: str) -> Prediction:
    """One item's value as the kind that is asked for. Raises Unreadable (`wrong kind`)."""
    row = flat(value) if isinstance(value, list) else [value]
    types = set(map(type, row))
    if kind is Kind.JSON:
        return Prediction(kind, value, path, name)
    if kind is Kind.PROBABILITIES and types == {dict} and (scored := _scored(row, path, name)) is not None:
        return scored
    if kind is Kind.RANKED and types == {dict} and (order := ranking(row)) is not None:
        return Prediction(kind, order, path, name)
    fits = {
        Kind.LABELS: types <= _SCALARS,
        Kind.RANKED: types <= _SCALARS,
        Kind.TEXT: types == {str} and len(row) == 1,
        Kind.NUMBERS: types <= _NUMERIC,
        Kind.VECTORS: types <= _NUMERIC,
        Kind.PROBABILITIES: types <= _NUMERIC,
    }[kind]
    if not fits or not row:
        raise Unreadable(Reason.WRONG_KIND, f"the value at {path or 'the top'} is not of the kind {kind}")
    if kind is Kind.TEXT:
        return Prediction(kind, row[0], path, name)
    if kind is Kind.LABELS:
        return Prediction(kind, row[0] if len(row) == 1 else tuple(row), path, name)
    if kind is Kind.RANKED:
        return Prediction(kind, tuple(row), path, name)
    numbers = [number(entry) for entry in row]
    if kind is Kind.VECTORS:
        return Prediction(kind, _vector(numbers), path, name)
    if kind is Kind.NUMBERS:
        return Prediction(kind, numbers[0] if len(numbers) == 1 else tuple(numbers), path, name)
    if len(numbers) == 1:  # the positive class's probability alone
        numbers = [1 - numbers[0], numbers[0]]
    return Prediction(kind, tuple(numbers), path, name)


def ranking(entries: Sequence[Any]) -> tuple[Label, ...] | None:
    """The order of `{"index" or "id": …, "relevance_score" or "score": …}` entries by falling score (ties as sent),
    or None.
    """
    order: list[tuple[float, Label]] = []
    for entry in entries:
        label = entry.get("index", entry.get("id"))
        score = entry.get("relevance_score", entry.get("score"))
        if type(label) not in (str, int) or type(score) not in (float, int):
            return None
        order.append((score, label))
    order.sort(key=lambda pair: pair[0], reverse=True)
    return tuple(label for _, label in order)
