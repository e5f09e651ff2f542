"""JSON pointers (RFC 6901): read a value, or give a document without it or with another in its place.

Documents are never changed: `remove` and `replace` copy the containers on the way to the value and share everything
else, so that the same parsed answer can be compared, redacted and stored. A pointer that leads nowhere is a KeyError
when reading and no change when removing: an operator who asks to ignore `/usage` means "if it is there".
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from models.predictions.prediction import Json

_BAD_ESCAPE = re.compile(r"~(?![01])")
_INDEX = re.compile(r"(?:0|[1-9][0-9]{0,17})\Z", re.ASCII)  # RFC 6901 section 4: no leading zeros


@lru_cache(maxsize=4096)
def parse(pointer: str) -> tuple[str, ...]:
    """The pointer's reference tokens, unescaped; () for the whole document. Raises ValueError that says what is
    wrong.
    """
    if not pointer:
        return ()
    if not pointer.startswith("/"):
        raise ValueError(f"{pointer!r} is not a JSON pointer: it is empty or begins with '/', as '/outputs/0/data'")
    if _BAD_ESCAPE.search(pointer):
        raise ValueError(f"{pointer!r} is not a JSON pointer: write '~0' for '~' and '~1' for '/' inside a name")
    # section 4: first ~1, then ~0, so that '~01' gives '~1' and not '/'
    return tuple(token.replace("~1", "/").replace("~0", "~") for token in pointer[1:].split("/"))


def escape(token: str) -> str:
    """A member's name as it stands in a pointer (section 3)."""
    return token.replace("~", "~0").replace("/", "~1") if "~" in token or "/" in token else token


def get(document: Json, pointer: str) -> Json:
    """The value that the pointer names. Raises KeyError with the pointer when there is none, ValueError when it is no
    pointer.
    """
    value = document
    for token in parse(pointer):
        if isinstance(value, dict) and token in value:
            value = value[token]
        elif isinstance(value, list) and (index := _index(token, len(value))) is not None:
            value = value[index]
        else:
            raise KeyError(pointer)
    return value


def remove(document: Json, pointer: str) -> Json:
    """The document without the value that the pointer names, or itself when there is none; the empty pointer leaves
    None.

    Removing from an array moves the later elements down, as RFC 6902 section 4.2 does.
    """
    return _edited(document, parse(pointer), None, keep=False)


def replace(document: Json, pointer: str, value: Json) -> Json:
    """The document with another value where the pointer leads, or the document itself when it leads nowhere."""
    return _edited(document, parse(pointer), value, keep=True)


def _index(token: str, length: int) -> int | None:
    if _INDEX.match(token) and (index := int(token)) < length:
        return index
    return None


def _edited(document: Json, tokens: tuple[str, ...], value: Json, *, keep: bool) -> Json:
    if not tokens:
        return value if keep else None
    token, rest = tokens[0], tokens[1:]
    if isinstance(document, dict):
        if token not in document:
            return document
        members = dict(document)
        if rest:
            members[token] = _edited(document[token], rest, value, keep=keep)
        elif keep:
            members[token] = value
        else:
            del members[token]
        return members
    if isinstance(document, list) and (index := _index(token, len(document))) is not None:
        elements = list(document)
        if rest:
            elements[index] = _edited(document[index], rest, value, keep=keep)
        elif keep:
            elements[index] = value
        else:
            del elements[index]
        return elements
    return document
