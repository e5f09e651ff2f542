"""Two JSON documents compared field by field, with the path of every difference, as Diffy does it.

Numbers are equal within a tolerance when one of them has a fraction and exactly when both are whole (identifiers are
whole). null and a member that is not there mean the same; true is not 1. What an operator ignores, and the members at
the top that differ in every answer, are not looked at. The walk keeps its own stack, since the documents come from
outside, and ends with None when there is more than `MAX_LEAVES` to look at: a partial look must not pass as
agreement.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import zip_longest
from typing import Any, Final, TypeAlias

from models.predictions import json_pointer
from models.predictions.plain_json import ALWAYS_DIFFERENT
from models.predictions.prediction import Json

MAX_LEAVES: Final = 50_000  # about 0.1 s
MAX_FIELDS: Final = 50
_ENCODER: Final = json.JSONEncoder(ensure_ascii=False)
_ABSENT: Final = object()  # stands for an element beyond the end of the shorter array
_SHOWN: Final = 200  # characters of a value that a difference shows

Ignored: TypeAlias = "dict[str, Ignored | None]"  # names to look into; None: ignored with all that is below
_Path: TypeAlias = "tuple[_Path, str | int] | None"


@dataclass(frozen=True, slots=True)
class FieldDifference:
    """One place where the answers differ: its JSON pointer and both values, long ones cut; None for null and for what
    is not there.
    """

    path: str
    blue: Json
    green: Json


@dataclass(frozen=True, slots=True)
class FieldComparison:
    """How many leaves were looked at, how many differ, the first `MAX_FIELDS` differences, and green - blue of the
    numbers that differ.
    """

    leaves: int
    differing: int
    fields: tuple[FieldDifference, ...]
    differences: tuple[float, ...]


@lru_cache(maxsize=64)
def ignored_members(pointers: tuple[str, ...]) -> Ignored:
    """The pointers as a tree. Raises ValueError for one that is no JSON pointer."""
    tree: Ignored = {}
    for pointer in pointers:
        tokens = json_pointer.parse(pointer)
        node: Ignored | None = tree
        for token in tokens[:-1]:
            if node is None:
                break  # something above is ignored already
            node = node.setdefault(token, {})
        if node is not None and tokens:
            node[tokens[-1]] = None
    return tree


@lru_cache(maxsize=64)
def _ignored_at_top(pointers: tuple[str, ...]) -> Ignored:
    return {**ignored_members(pointers), **dict.fromkeys(ALWAYS_DIFFERENT)}


def below(pointers: tuple[str, ...], path: str) -> Ignored | None:
    """What is ignored under a pointer; None when all of it is."""
    node: Ignored | None = ignored_members(pointers)
    for token in json_pointer.parse(path):
        if node is None:
            return None
        if token not in node:
            return {}
        node = node[token]
    return node


@lru_cache(maxsize=1024)
def is_ignored(pointers: tuple[str, ...], path: str) -> bool:
    """Whether all that stands at a pointer is ignored."""
    return below(pointers, path) is None


def compare_fields(
    blue: Json, green: Json, ignore: tuple[str, ...] = (), *, path: str = "", rtol: float = 1e-5, atol: float = 1e-8
) -> FieldComparison | None:
    """The differences between two values that stand at `path` in their documents; None when there is too much to look
    at.

    `ignore` holds JSON pointers into the whole document. Raises ValueError for one that is no pointer.
    """
    leaves = differing = 0
    fields: list[FieldDifference] = []
    differences: list[float] = []
    top = below(ignore, path) if path else _ignored_at_top(ignore)
    stack: list[tuple[_Path, Any, Any, Ignored | None]] = [(None, blue, green, top)]
    while stack:
        where, one, other, ignored = stack.pop()
        if ignored is None:
            continue
        if type(one) is dict and type(other) is dict:
            names = one if one.keys() == other.keys() else {**one, **other}
            # the stack gives back the last first
            stack.extend([((where, name), one.get(name), other.get(name), ignored.get(name, {})) for name in reversed(names)])
        elif type(one) is list and type(other) is list:
            pairs = list(enumerate(zip_longest(one, other, fillvalue=_ABSENT)))
            stack.extend([((where, i), x, y, ignored.get(str(i), {}) if ignored else ignored) for i, (x, y) in reversed(pairs)])
        else:
            leaves += 1
            if not _equal(one, other, rtol, atol):
                differing += 1
                if len(fields) < MAX_FIELDS:
                    fields.append(FieldDifference(path + _pointer(where), shown(one), shown(other)))
                if type(one) in _NUMBER and type(other) in _NUMBER and len(differences) < MAX_FIELDS:
                    difference = signed_difference(one, other)
                    if math.isfinite(difference):
                        differences.append(difference)
        if leaves + len(stack) > MAX_LEAVES:
            return None
    return FieldComparison(leaves, differing, tuple(fields), tuple(differences))


def close(one: float, other: float, rtol: float, atol: float) -> bool:
    """|one - other| <= max(rtol * max(|one|, |other|), atol): symmetric, as PEP 485 has it, unlike numpy's.

    NaN equals NaN (both models said "no number") and nothing else; an infinity equals itself.
    """
    try:
        return math.isclose(one, other, rel_tol=rtol, abs_tol=atol) or (math.isnan(one) and math.isnan(other))
    except OverflowError:  # an integer beyond every floating-point number
        return one == other


def signed_difference(blue: float, green: float) -> float:
    """Green - blue; an infinity where it is beyond every floating-point number, NaN when one side is NaN."""
    try:
        return float(green - blue)
    except OverflowError:
        return math.inf if green > blue else -math.inf


def shown(value: Any) -> Json:
    """A value as a difference shows it: scalars as they are, what is long cut."""
    if isinstance(value, str):
        return value if len(value) <= _SHOWN else value[:_SHOWN] + "…"
    if isinstance(value, (dict, list)):
        text = ""
        for piece in _ENCODER.iterencode(value):  # lazy: only the beginning of a large value is written
            text += piece
            if len(text) > _SHOWN:
                return text[:_SHOWN] + "…"
        return value
    return "(no element)" if value is _ABSENT else value


_NUMBER: Final = frozenset({int, float})


def _equal(one: Any, other: Any, rtol: float, atol: float) -> bool:
    kind, other_kind = type(one), type(other)
    if kind is not other_kind:
        return kind in _NUMBER and other_kind in _NUMBER and close(one, other, rtol, atol)
    if kind is float:
        return close(one, other, rtol, atol)
    return bool(one == other)  # str, int, bool, None: containers of one type were taken apart


def _pointer(where: _Path) -> str:
    tokens: list[str] = []
    while where is not None:
        where, token = where
        tokens.append(json_pointer.escape(str(token)))
    return "".join(f"/{token}" for token in reversed(tokens))
