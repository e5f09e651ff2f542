"""Bytes -> JSON, with the bounds that keep one hostile answer from taking the process down.

`json.loads` is fast and exact for integers of any size, but it takes what RFC 8259 does not (NaN, Infinity: real
servers on Python send them, so they are kept) and it turns 3 bytes of `[],` into 64 bytes of memory. So large bodies
are measured before they are parsed, and nesting is bounded: what is let through can be walked and written again by
others without a thought about the recursion limit.
"""

from __future__ import annotations

import json
from typing import Final

from models.predictions.prediction import InBandError, Json, Reason, Unreadable

MAX_DEPTH: Final = 128
MAX_VALUES: Final = 4_000_000  # about 250 MB of Python objects at worst
_DECODER: Final = json.JSONDecoder()
_scan: Final = _DECODER.scan_once  # type: ignore[attr-defined]  # what `raw_decode` wraps, missing from the type stubs
_OPENING: Final = frozenset((b"{", b"["))
_NOT_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))
_SMALL: Final = 4 * 1024 * 1024  # bytes; cannot hold more than MAX_VALUES values


def load(body: bytes) -> Json:
    """The JSON document in `body` (UTF-8, -16 or -32, with or without a mark).

    Raises Unreadable: `not json`, `too deep` (more than 128 levels), `too large` (more than about four million values).
    """
    if len(body) > _SMALL:
        refuse_too_many_values(body)
    try:
        document = _parsed(body)
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:  # JSONDecodeError, UnicodeDecodeError, and integers of more than 4,300 digits
        raise Unreadable(Reason.NOT_JSON, str(error)) from None
    if len(body) > MAX_DEPTH and body.count(b"[") + body.count(b"{") > MAX_DEPTH and _may_be_deep(body) and _is_deep(document):
        raise _too_deep()
    return document


def _parsed(body: bytes) -> Json:
    """What `json.loads` gives, for a container in UTF-8 without its search for another encoding and for white space, which
    takes half as long as parsing a small answer.
    """
    document: Json
    if body[:1] not in _OPENING or 0 in body[:4]:  # UTF-16 and UTF-32 have zero bytes there
        document = json.loads(body)
        return document
    text = body.decode("utf-8", "surrogatepass")
    try:
        document, end = _scan(text, 0)
    except StopIteration as error:
        raise json.JSONDecodeError("Expecting value", text, error.value) from None
    if end != len(text) and (rest := text[end:].lstrip(" \t\n\r")):
        raise json.JSONDecodeError("Extra data", text, len(text) - len(rest))
    return document


def load_at(text: str, start: int) -> tuple[Json, int]:
    """The document that begins at `start`, and where it ends: for several in one text.

    Raises Unreadable: `not json`, `too deep`.
    """
    try:
        document, end = _DECODER.raw_decode(text, start)
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:
        raise Unreadable(Reason.NOT_JSON, str(error)) from None
    if end - start > 2 * MAX_DEPTH and _is_deep(document):  # less text cannot close that many levels
        raise _too_deep()
    return document, end


def refuse_too_many_values(body: bytes) -> None:
    """Raise Unreadable (`too large`) for a body with more values than may become objects. Counts, without parsing."""
    if len(body) > _SMALL and body.count(b",") + body.count(b"[") + body.count(b"{") > MAX_VALUES:
        raise Unreadable(Reason.TOO_LARGE, f"more than {MAX_VALUES} JSON values")


def _too_deep() -> Unreadable:
    return Unreadable(Reason.TOO_DEEP, f"JSON nested more than {MAX_DEPTH} levels")


def _may_be_deep(body: bytes) -> bool:
    """A cheap look at the brackets alone, which clears nearly every body.

    Brackets inside strings can make it say yes too often, or be arranged to cancel out; the parser's own recursion limit stands
    behind it.
    """
    brackets = body.translate(None, _NOT_BRACKETS)
    for _ in range(MAX_DEPTH):
        if not brackets:
            return False
        shorter = brackets.replace(b"[]", b"").replace(b"{}", b"")
        if len(shorter) == len(brackets):
            return True
        brackets = shorter
    return bool(brackets)


def _is_deep(document: Json) -> bool:
    """Whether containers stand more than MAX_DEPTH deep, seen one level at a time."""
    level = [document] if isinstance(document, (dict, list)) else []
    for _ in range(MAX_DEPTH):
        if not level:
            return False
        inner: list[dict[str, Json] | list[Json]] = []
        for container in level:
            values = container.values() if isinstance(container, dict) else container
            inner.extend([value for value in values if isinstance(value, (dict, list))])
        level = inner
    return bool(level)


def raise_in_band_error(document: Json, chunks: int = 0) -> None:
    """Raise InBandError when the document is an error that was sent as a success.

    Known forms: `{"error": "…"}` and `{"error": {"message": …}}` (OpenAI, V1, Open Inference Protocol, MLServer), and
    `{"object": "error", "message": …}` (older OpenAI-style servers). A number, a boolean or null under `error` is
    data (an error *estimate*), not an error.
    """
    if not isinstance(document, dict):
        return
    error = document.get("error")
    if isinstance(error, (str, dict)) and error:
        message = error.get("message", error) if isinstance(error, dict) else error
        raise InBandError(_text(message), chunks)
    if document.get("object") == "error":
        raise InBandError(_text(document.get("message", document)), chunks)


def _text(message: Json) -> str:
    return message if isinstance(message, str) else json.dumps(message)
