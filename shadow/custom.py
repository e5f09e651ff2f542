"""A user's own comparison, `compare: {python: "module:function"}`, run in the shadow process.

The function gets blue's answer and green's, parsed when they are JSON and as bytes (content-codings undone) when they
are not, and returns whether they agree: a bool; a similarity in [0, 1], judged by `similarity_floor`; or a dict that
says more. Whatever it raises or returns instead is a `Failure`, which the caller counts and shows: a broken
comparison must neither stop the shadow nor pass as agreement. There is no bound on its time; that is the user's, who
runs it in a process where nobody's traffic waits.
"""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np

from models.predictions import decode, json_document
from models.predictions.prediction import DEFAULT_OPTIONS, Json, Options, Reason, Unreadable, Wire
from shadow.compare import Comparison, Outcome
from shadow.kind_measures import NO_MEASURES

Answer: TypeAlias = "Json | bytes"
OwnComparison: TypeAlias = Callable[[Any, Any], object]

_BOOLEANS: Final = (bool, np.bool_)  # comparing arrays gives the latter
_KEYS: Final = frozenset({"agree", "similarity", "reason", "measures"})


class UnusableComparison(ValueError):
    """The name in the configuration leads to nothing that can be called. The text says what to do."""


@dataclass(frozen=True, slots=True)
class Failure:
    """The user's function did not give a judgement: `reason` in words, with the exception's type when it raised one."""

    reason: str


def load_comparison(name: str, directory: Path | None = None) -> OwnComparison:
    """The function that `module:function` names; `directory` (the configuration file's) is searched first.

    Raises UnusableComparison. Importing runs the module's code: the name comes from the operator's own configuration,
    never from a client.
    """
    module_name, _, function_name = name.partition(":")
    if not module_name or not function_name:
        raise UnusableComparison(f"compare.python is {name!r}: write it as 'module:function'")
    if directory is not None and (place := str(directory.resolve())) not in sys.path:
        sys.path.insert(0, place)
    try:
        found: Any = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # the module's own code runs, and may raise anything
        raise UnusableComparison(f"compare.python: cannot import {module_name!r}: {_said(error)}") from error
    for part in function_name.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise UnusableComparison(f"compare.python: {module_name!r} has no function {function_name!r}")
    return found  # type: ignore[no-any-return]


def answer_of(wire: Wire, options: Options = DEFAULT_OPTIONS) -> Answer:
    """What the user's function gets of one side: JSON when the body is, else its bytes.

    Raises Unreadable for an answer that is no success, or whose encoding is broken.
    """
    if not 200 <= wire.status < 300:
        raise Unreadable(Reason.STATUS, str(wire.status))
    body = decode.plain_body(wire, options)
    try:
        return json_document.load(body)
    except Unreadable:
        return body


def compare_with(own: OwnComparison, blue: Answer, green: Answer, similarity_floor: float = 0.9) -> Comparison | Failure:
    """The user's judgement of a pair, as a Comparison of no kind. Never raises an Exception."""
    try:
        judgement = own(blue, green)
    except (Exception, SystemExit) as error:  # anything may come from code that is not ours
        return Failure(_said(error))
    if isinstance(judgement, _BOOLEANS):
        return _comparison(bool(judgement), float(judgement))
    if isinstance(judgement, dict):
        return _from_dict(judgement, similarity_floor)
    similarity = _unit(judgement)
    if similarity is None:
        return Failure(f"returned {_shown(judgement)}: return a bool, a similarity from 0 to 1, or a dict")
    return _comparison(similarity >= similarity_floor, similarity)


def _from_dict(judgement: dict[Any, Any], similarity_floor: float) -> Comparison | Failure:
    """`{"agree": bool, "similarity": 0..1, "reason": str, "measures": {name: number}}`; one of the first two must be
    there.
    """
    if unknown := [key for key in judgement if key not in _KEYS]:
        return Failure(f"returned a dict with {_shown(unknown[0])}: known are {', '.join(sorted(_KEYS))}")
    similarity: float | None = None
    if judgement.get("similarity") is not None and (similarity := _unit(judgement["similarity"])) is None:
        return Failure(f"returned the similarity {_shown(judgement['similarity'])}: it is a number from 0 to 1")
    agree = judgement.get("agree")
    if agree is None and similarity is not None:
        agree = similarity >= similarity_floor
    if not isinstance(agree, _BOOLEANS):
        return Failure("returned a dict without a bool under 'agree' or a number under 'similarity'")
    reason = judgement.get("reason")
    given = judgement.get("measures") or {}
    if not isinstance(given, dict):
        return Failure("returned 'measures' that are not a dict of numbers")
    measures: dict[str, float] = {}
    for name, value in list(given.items())[:100]:
        measure = _finite(value)
        if not isinstance(name, str) or measure is None:
            return Failure(f"returned the measure {_shown(name)} = {_shown(value)}: it is a name with a finite number")
        measures[name] = measure
    words = None if reason is None else str(reason)[:500] if isinstance(reason, str) else _shown(reason)
    return _comparison(bool(agree), float(agree) if similarity is None else similarity, words, measures)


def _comparison(
    agree: bool, similarity: float, reason: str | None = None, measures: dict[str, float] | None = None
) -> Comparison:
    outcome = Outcome.AGREE if agree else Outcome.DISAGREE
    words = None if agree else reason or "your comparison says so"
    return Comparison(outcome, None, similarity, 1, int(agree), (agree,), measures=measures or NO_MEASURES, reason=words)


def _finite(value: object) -> float | None:
    # numpy's numbers are not int or float, but know how to become one
    try:
        number = float(value)  # type: ignore[arg-type]  # what cannot become one raises
    except Exception:
        return None
    return number if not isinstance(value, (str, bytes)) and math.isfinite(number) else None


def _unit(value: object) -> float | None:
    number = _finite(value)
    return number if number is not None and 0 <= number <= 1 else None


def _shown(value: object) -> str:
    try:
        return repr(value)[:80]
    except Exception:
        return f"a {type(value).__name__}"


def _said(error: BaseException) -> str:
    try:
        words = str(error)[:300]
    except Exception:
        words = ""
    return f"{type(error).__name__}: {words}" if words else type(error).__name__
