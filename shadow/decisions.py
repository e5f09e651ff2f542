"""What an answer decided, and what a late label says, in the same words, so that equal words mean "right".

Labels come from everywhere: JSON numbers, columns of a CSV file, names. Models answer `2`, `2.0` or `"2"` for the same class.
So both are brought to one text: numbers without needless digits, truth values as `true` and `false`, several as a JSON list, a
list of one as its item. A predicted number is no class; its words begin with `~`, and of two of them the one nearer to the
label is the better. Answers that decide nothing (texts, vectors, JSON) have no words: what they are worth is for a reward to
say.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, Final

from models.predictions.prediction import Decoded, Kind, Prediction

# Longer words (batches of many items) are kept as their hash: they can still be equal, but no longer be read.
MAX_WORDS: Final = 200
NUMBER_MARK: Final = "~"

_NUMBER: Final = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?")
_MAX_DIGITS: Final = 300
_LABELS: Final = Kind.LABELS  # looking up a member of an enumeration takes time
_PLAIN: Final = 10**9


def label_words(value: object) -> str:
    """The words of a label: text, number, truth value, or a list of them. Raises ValueError that says what it must be."""
    if isinstance(value, (list, tuple)):
        if not value:
            raise ValueError("the label is an empty list")
        words = [_one(item) for item in value]
        return _bounded(words[0] if len(words) == 1 else json.dumps(words, ensure_ascii=False, separators=(",", ":")))
    return _bounded(_one(value))


def decision_words(decoded: Decoded) -> str | None:
    """What an answer decided, over all its items; None when it decides nothing."""
    if len(decoded.items) == 1:
        only = decoded.items[0]
        if only.kind is _LABELS and type(only.value) is int and -_PLAIN < only.value < _PLAIN:
            return str(only.value)  # the usual answer, in a tenth of the time
    try:
        found = [_decision(item) for item in decoded.items]
    except ValueError:
        return None
    words = [word for word in found if word is not None]
    if not words or len(words) < len(found):
        return None
    if len(words) == 1:
        return _bounded(words[0])
    if any(word.startswith(NUMBER_MARK) for word in words):
        return None
    return _bounded(json.dumps(words, ensure_ascii=False, separators=(",", ":")))


def is_right(decision: str | None, label: str) -> bool | None:
    """Whether a decision is the label; None where that is no question of equality, or nothing was decided."""
    if decision is None or _number(decision) is not None:
        return None
    return decision == label


def verdicts(blue: str | None, green: str | None, label: str) -> tuple[bool, bool] | None:
    """(blue was right, green was right) about one label; None when the two cannot both be judged by it.

    Of two predicted numbers the nearer one is right; both are when they are equally near.
    """
    if blue is None or green is None:
        return None
    ours, theirs = _number(blue), _number(green)
    if ours is None or theirs is None:
        return (blue == label, green == label) if ours is None and theirs is None else None
    try:
        truth = float(label)
    except ValueError:
        return None
    left, right = abs(ours - truth), abs(theirs - truth)
    if math.isnan(left) or math.isnan(right):
        return None
    return left <= right, right <= left


def summary(decoded: Decoded, words: str | None) -> dict[str, Any]:
    """A prediction in a few plain JSON values: what kind, how many items, and of a single one what it says. `words` are its
    `decision_words`.
    """
    items = decoded.items
    found: dict[str, Any] = {"protocol": str(decoded.protocol), "items": len(items)}
    if not items:
        return found
    first = items[0]
    found["kind"] = str(first.kind)
    if words is not None:
        found["decision"] = words.removeprefix(NUMBER_MARK)
    if len(items) == 1:
        if first.kind is Kind.PROBABILITIES and first.value:
            score = max(first.value)
            found["score"] = score if math.isfinite(score) else None
        elif first.kind is Kind.TEXT:
            found["characters"] = len(first.value)
        elif first.kind is Kind.VECTORS:
            found["dimensions"] = len(first.value)
    if decoded.tokens is not None:
        found["tokens"] = decoded.tokens
    return found


def _decision(item: Prediction) -> str | None:
    """The words of one item: its main output's decision, or that of the first other output that decides."""
    for output in (item, *item.also):
        if output.kind is Kind.NUMBERS:
            value = output.value[0] if isinstance(output.value, Sequence) and len(output.value) == 1 else output.value
            if isinstance(value, (int, float)) and math.isfinite(value):
                return NUMBER_MARK + repr(float(value))
        decided = output.decision
        if decided is not None and decided != ():
            return label_words(decided)
    return None


def _one(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value) if abs(value) < 10**_MAX_DIGITS else "#" + _hash(repr(value % 2**512))
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError("a label must be a text, a finite number, true or false, or a list of them")
        return str(int(value)) if value.is_integer() else repr(value)
    if isinstance(value, str):
        return _text(value.strip())
    raise ValueError("a label must be a text, a number, true or false, or a list of them")


def _text(text: str) -> str:
    if text.isdecimal() and text.isascii() and text[0] != "0":
        return text
    if text.lower() in ("true", "false"):
        return text.lower()
    if not text.isascii() or len(text) > _MAX_DIGITS or _NUMBER.fullmatch(text) is None:
        return text
    try:
        return _one(int(text))
    except ValueError:
        number = float(text)
        return _one(number) if math.isfinite(number) else text


def _number(words: str) -> float | None:
    if not words.startswith(NUMBER_MARK):
        return None
    try:
        return float(words[1:])
    except ValueError:
        return None


def _bounded(words: str) -> str:
    # Lone surrogates stand for bytes that are no UTF-8; nothing could write them out.
    words = words if words.isascii() else words.encode("utf-8", "backslashreplace").decode()
    return words if len(words) <= MAX_WORDS else "#" + _hash(words)


def _hash(words: str) -> str:
    return blake2b(words.encode(), digest_size=16).hexdigest()
