"""Two predictions of one kind -> whether they agree, how alike they are, and what that kind measures.

The rules are stated in `compare.py`. Everything here is a pure function of two values, plain Python but for long
vectors, where one numpy call replaces a loop; for a label or ten probabilities numpy would cost more than it saves.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from models.predictions.prediction import Json, Kind, Label, Prediction, arg_max
from models.record import record
from shadow import text_similarity
from shadow.json_fields import close, signed_difference

NO_MEASURES: Final[Mapping[str, float]] = MappingProxyType({})
MAX_RANKED: Final = 1_000
_ALMOST: Final = math.nextafter(1.0, 0.0)  # of lists that are equal only as far as they are looked at
_LABELS: Final = Kind.LABELS
_PROBABILITIES: Final = Kind.PROBABILITIES
_NUMBERS: Final = Kind.NUMBERS  # looking up a member of an enumeration takes time
_SHOWN_LABEL: Final = 100  # characters of a label in a confusion table
_SHOWN_COMPONENTS: Final = 20
_NUMERIC_ROWS: Final = frozenset({Kind.PROBABILITIES, Kind.NUMBERS, Kind.VECTORS})


@dataclass(frozen=True, slots=True)
class Limits:
    """How strict a judgement is; see `CompareOptions`."""

    rtol: float
    atol: float
    similarity_floor: float
    cosine_floor: float


@record
class Judged:
    """One output of one item, judged: what `Comparison` gathers. `reason` says what differs, for one that does not
    agree.
    """

    kind: Kind
    agree: bool
    similarity: float
    labels: tuple[Label, Label] | None = None
    differences: Sequence[float] = ()
    measures: Mapping[str, float] = field(default_factory=lambda: NO_MEASURES)
    reason: str = ""


def common_kind(one: Prediction, other: Prediction) -> Kind:
    """The kind by which two predictions can be compared: their own, or the nearest that fits both.

    A label that is a whole number and a number are compared as labels when both are whole (FP64 2.0 against INT64 2)
    and as numbers otherwise; a label and a text as text; rows of numbers as probabilities, numbers or vectors,
    whichever judges more strictly; what has nothing in common as JSON.
    """
    ours, theirs = one.kind, other.kind
    if ours is theirs:
        return ours
    kinds = {ours, theirs}
    if kinds == {Kind.LABELS, Kind.TEXT}:
        return Kind.TEXT if type(one.value) is str and type(other.value) is str else Kind.LABELS
    if kinds == {Kind.LABELS, Kind.NUMBERS}:
        rows = _row(one), _row(other)
        if not all(map(_numeric, rows)):
            return Kind.LABELS
        return Kind.LABELS if all(_whole(value) for row in rows for value in row) else Kind.NUMBERS
    if kinds == {Kind.LABELS, Kind.RANKED}:
        return Kind.LABELS
    if kinds <= _NUMERIC_ROWS | {Kind.LABELS} and _numeric(_row(one)) and _numeric(_row(other)):
        if Kind.NUMBERS in kinds:
            return Kind.NUMBERS
        return Kind.VECTORS if Kind.VECTORS in kinds else Kind.PROBABILITIES
    return Kind.JSON


def judge(kind: Kind, one: Prediction, other: Prediction, limits: Limits, *, partial: bool = False, batch: int = 1) -> Judged:
    """The judgement by any kind but JSON. `partial`: an answer was recorded in part, so texts are compared as far as
    both go.
    """
    if kind is _LABELS:
        return _labels(one.value, other.value)
    if kind is _PROBABILITIES:
        return _probabilities(one, other, limits)
    if kind is _NUMBERS:
        return _numbers(_row(one), _row(other), limits)
    if kind is Kind.VECTORS:
        return _vectors(_row(one), _row(other), limits)
    if kind is Kind.RANKED:
        return _ranked(one.value, other.value, limits)
    return _text(one.value, other.value, limits, partial=partial, batch=batch)


def as_json(prediction: Prediction) -> Json:
    """The prediction's value as JSON would have it; of a long one the beginning."""
    value = prediction.value
    if isinstance(value, (tuple, array)):
        return list(islice(value, _SHOWN_COMPONENTS)) if prediction.kind is Kind.VECTORS else list(value)
    return value  # type: ignore[no-any-return]


def _row(prediction: Prediction) -> Sequence[Any]:
    return _as_row(prediction.value)


def _as_row(value: Any) -> Sequence[Any]:
    return value if isinstance(value, (tuple, array)) else (value,)


def _numeric(row: Sequence[Any]) -> bool:
    return isinstance(row, array) or all(isinstance(value, (int, float)) for value in row)


def _whole(value: float) -> bool:
    return not isinstance(value, float) or value.is_integer()


def _labels(our_value: Any, their_value: Any) -> Judged:
    kind = type(our_value)
    if kind is type(their_value) and (kind is int or kind is str):  # the usual label
        same = our_value == their_value
        pair = (our_value, their_value) if kind is int else (our_value[:_SHOWN_LABEL], their_value[:_SHOWN_LABEL])
        return Judged(_LABELS, same, 1.0 if same else 0.0, pair, (), NO_MEASURES, "different label")
    ours, theirs = _as_row(our_value), _as_row(their_value)
    equal = sum(map(_same_label, ours, theirs))
    longer = max(len(ours), len(theirs))
    agree = equal == longer
    pair = (_shown_label(ours), _shown_label(theirs))
    return Judged(_LABELS, agree, equal / longer if longer else 1.0, pair, reason="different label")


def _same_label(one: Any, other: Any) -> bool:
    # 1, 1.0 and True are equal in Python, too; an integer of 64 bits and a float are compared exactly
    return bool(one == other) or (_missing(one) and _missing(other))


def _missing(label: Any) -> bool:
    """Whether it is null or NaN: which of them a server writes depends on what else was in the batch."""
    return label is None or (isinstance(label, float) and math.isnan(label))


def _shown_label(row: Sequence[Any]) -> Label:
    """A label for a confusion table: whole numbers as `int`, several labels as one text."""
    if len(row) == 1:
        label: Label = row[0]
        if _missing(label):
            return None
        if isinstance(label, float) and label.is_integer():
            return int(label)
        return label[:_SHOWN_LABEL] if isinstance(label, str) else label
    return str(list(row[:_SHOWN_LABEL]))[:_SHOWN_LABEL]


def _numbers(ours: Sequence[Any], theirs: Sequence[Any], limits: Limits) -> Judged:
    if len(ours) != len(theirs):
        return Judged(_NUMBERS, False, 0.0, reason=f"{len(ours)} numbers in blue's answer, {len(theirs)} in green's")
    if len(ours) == 0:
        return Judged(_NUMBERS, True, 1.0)
    agree = True
    similarity = 0.0
    largest = 0.0
    differences = []
    for one, other in zip(ours, theirs, strict=True):
        difference = signed_difference(one, other)
        if math.isfinite(difference):
            differences.append(difference)
            largest = max(largest, abs(difference))
        if close(one, other, limits.rtol, limits.atol):
            similarity += 1.0
        else:
            agree = False
            similarity += _nearness(one, other)
    measures = {"max_difference": largest}
    return Judged(_NUMBERS, agree, similarity / len(ours), None, differences, measures, "" if agree else "different number")


def _nearness(one: float, other: float) -> float:
    """1 - |a - b| / (|a| + |b|), the complement of the Canberra distance; 0 where that is not a number."""
    try:
        distance = abs(one - other) / (abs(one) + abs(other))
    except (OverflowError, ZeroDivisionError):
        return 0.0
    return max(0.0, 1 - distance) if distance >= 0 else 0.0


def _probabilities(one: Prediction, other: Prediction, limits: Limits) -> Judged:
    ours, theirs, classes = _aligned(one, other)
    if len(ours) != len(theirs):
        reason = f"{len(ours)} classes in blue's answer, {len(theirs)} in green's"
        return Judged(_PROBABILITIES, False, 0.0, reason=reason)
    if not ours:
        return Judged(_PROBABILITIES, True, 1.0)
    best, their_best = arg_max(ours), arg_max(theirs)
    # where both hold two classes equally probable, which of them comes first is no decision
    flip = best != their_best and not (
        close(ours[best], ours[their_best], limits.rtol, limits.atol)
        and close(theirs[best], theirs[their_best], limits.rtol, limits.atol)
    )
    try:
        distances = [abs(b - a) for a, b in zip(ours, theirs, strict=True)]
        total = sum(distances)
    except OverflowError:  # an integer beyond every floating-point number
        total = math.inf
    if total < math.inf:
        largest = max(distances)
    else:
        distances = [0.0 if a == b else _distance(a, b) for a, b in zip(ours, theirs, strict=True)]
        total, largest = sum(distances), max(filter(math.isfinite, distances), default=1.0)
    total_variation = min(1.0, total / 2)
    measures = {
        "arg_max_flip": 1.0 if flip else 0.0,
        "total_variation": total_variation,
        "max_probability_difference": largest,
    }
    labels = (classes[best], classes[their_best]) if classes else (best, their_best)
    return Judged(_PROBABILITIES, not flip, 1 - total_variation, labels, (), measures, "different most probable class")


def _aligned(one: Prediction, other: Prediction) -> tuple[tuple[float, ...], tuple[float, ...], tuple[Label, ...]]:
    """Both distributions over the same classes; a class that one side does not name has probability 0 there."""
    if not one.classes or not other.classes or one.classes == other.classes:
        ours, theirs = one.value, other.value
        if type(ours) is not tuple or type(theirs) is not tuple:
            ours, theirs = tuple(_as_row(ours)), tuple(_as_row(theirs))
        return ours, theirs, one.classes or other.classes
    classes = tuple(sorted({*one.classes, *other.classes}, key=str))
    ours, theirs = dict(zip(one.classes, one.value, strict=True)), dict(zip(other.classes, other.value, strict=True))
    return tuple(ours.get(label, 0.0) for label in classes), tuple(theirs.get(label, 0.0) for label in classes), classes


def _distance(one: float, other: float) -> float:
    distance = abs(signed_difference(one, other))
    if math.isnan(distance):
        return 0.0 if math.isnan(one) and math.isnan(other) else math.inf
    return distance


def _vectors(ours: Sequence[float], theirs: Sequence[float], limits: Limits) -> Judged:
    if len(ours) != len(theirs):
        return Judged(Kind.VECTORS, False, 0.0, reason=f"{len(ours)} components in blue's answer, {len(theirs)} in green's")
    cosine = _cosine(ours, theirs)
    agree = cosine >= limits.cosine_floor
    reason = f"cosine {cosine:.6g} is below {limits.cosine_floor:g}"
    return Judged(Kind.VECTORS, agree, (1 + cosine) / 2, measures={"cosine": cosine}, reason=reason)


def _cosine(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Cosine of the angle, in [-1, 1]: 1 for equal vectors (zeros, NaN and infinities included), else 0 where it is
    not defined.
    """
    try:
        one, other = (np.asarray(row, dtype=np.float64) for row in (ours, theirs))
    except OverflowError:  # an integer beyond every floating-point number
        return 1.0 if list(ours) == list(theirs) else 0.0
    if np.array_equal(one, other, equal_nan=True):
        return 1.0
    with np.errstate(all="ignore"):  # what overflows or is NaN is looked at below
        scales = np.abs(one).max(), np.abs(other).max()
        if not all(0 < scale < math.inf for scale in scales):
            return 0.0
        one, other = one / scales[0], other / scales[1]  # squares of very large or small components stay finite
        cosine = float(one @ other / math.sqrt(float(one @ one) * float(other @ other)))
    return min(1.0, max(-1.0, cosine))


def _text(ours: str, theirs: str, limits: Limits, *, partial: bool, batch: int) -> Judged:
    if partial:
        kept = min(len(ours), len(theirs))
        ours, theirs = ours[:kept], theirs[:kept]
    similarity = text_similarity.edit_similarity(ours, theirs, batch)
    exact = ours == theirs
    measures = {
        "exact": float(exact),
        "edit_similarity": similarity,
        "token_f1": 1.0 if exact else text_similarity.token_f1(ours, theirs),
        "length_difference": float(len(theirs) - len(ours)),
    }
    agree = exact or similarity >= limits.similarity_floor
    return Judged(
        Kind.TEXT,
        agree,
        similarity,
        measures=measures,
        reason=f"edit similarity {similarity:.3f} is below {limits.similarity_floor:g}",
    )


def _ranked(ours: Sequence[Any], theirs: Sequence[Any], limits: Limits) -> Judged:
    one, other = list(dict.fromkeys(ours[:MAX_RANKED])), list(dict.fromkeys(theirs[:MAX_RANKED]))
    same = tuple(ours) == tuple(theirs)
    similarity = 1.0 if same else min(_average_overlap(one, other), _ALMOST)
    common = set(one) & set(other)
    measures = {
        "overlap": len(common) / max(len(one), len(other), 1) if one or other else 1.0,
        "rank_correlation": _spearman([item for item in one if item in common], [item for item in other if item in common]),
        "same_first": float(one[:1] == other[:1]),
    }
    agree = same or similarity >= limits.similarity_floor
    reason = f"average overlap {similarity:.3f} is below {limits.similarity_floor:g}"
    return Judged(Kind.RANKED, agree, similarity, measures=measures, reason=reason)


def _average_overlap(one: list[Any], other: list[Any]) -> float:
    """Mean over the depths d = 1..k of |first d of one and of other| / d (Fagin, Kumar, Sivakumar 2003, section 3):
    the top counts most.
    """
    depth = max(len(one), len(other))
    if depth == 0:
        return 1.0
    seen: set[Any] = set()
    shared = 0
    total = 0.0
    for d in range(depth):
        for ranking in (one, other):
            if d < len(ranking):
                if ranking[d] in seen:
                    shared += 1
                else:
                    seen.add(ranking[d])
        total += shared / (d + 1)
    return total / depth


def _spearman(one: list[Any], other: list[Any]) -> float:
    """Spearman's rank correlation of two orders of the same distinct things; 1 for fewer than two, which are in one
    order only.
    """
    n = len(one)
    if n < 2:
        return 1.0
    place = {item: rank for rank, item in enumerate(other)}
    squares = sum((rank - place[item]) ** 2 for rank, item in enumerate(one))
    return 1 - 6 * squares / (n * (n * n - 1))
