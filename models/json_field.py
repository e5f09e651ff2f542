"""Replace one top-level field of a JSON object in its text, leaving every other byte as it was.

A body that were parsed and written again would come out with other spaces, other number formats and perhaps another order;
here only the bytes of the one value change.
"""

from __future__ import annotations

import json
import re
from json.decoder import scanstring  # type: ignore[attr-defined]  # public in name, missing from the type stubs

_SPACE = re.compile(r"[ \t\n\r]*")
_decoder = json.JSONDecoder()


def replace_top_level(body: bytes, name: str, value: str) -> bytes | None:
    """`body` with the value of its top-level field `name` replaced by the string `value` (every time the field occurs).

    None when the body is not a JSON object in UTF-8 or has no such field.
    """
    try:
        text = body.decode("utf-8")
        spans = _spans(text, name)
    except (ValueError, IndexError, RecursionError):
        return None
    if not spans:
        return None
    new = json.dumps(value)
    out, at = [], 0
    for start, end in spans:
        out += [text[at:start], new]
        at = end
    out.append(text[at:])
    return "".join(out).encode("utf-8")


def _spans(text: str, name: str) -> list[tuple[int, int]]:
    """Where the values of the field lie in the text of a JSON object. Raises ValueError or IndexError when it is none."""
    at = _after_space(text, 0)
    if text[at] != "{":
        raise ValueError("not an object")
    at = _after_space(text, at + 1)
    spans = []
    while text[at] != "}":
        if text[at] != '"':
            raise ValueError("a name was expected")
        key, at = scanstring(text, at + 1, True)
        at = _after_space(text, at)
        if text[at] != ":":
            raise ValueError("a colon was expected")
        start = _after_space(text, at + 1)
        _, at = _decoder.raw_decode(text, start)
        if key == name:
            spans.append((start, at))
        at = _after_space(text, at)
        if text[at] == ",":
            at = _after_space(text, at + 1)
            if text[at] == "}":
                raise ValueError("a comma before the end")
        elif text[at] != "}":
            raise ValueError("a comma was expected")
    if _after_space(text, at + 1) != len(text):
        raise ValueError("more than one value")
    return spans


def _after_space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    assert match is not None
    return match.end()
