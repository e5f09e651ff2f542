"""The header fields of messages, as mappings from lower-case names, made as late and as seldom as can be.

Requests differ in their fields (user ids, traces), and of most of them one field is asked for: their mapping is made only when
it is needed. Answers of a server are alike within a second (its Date, a length), and several of their fields are asked for:
their mappings are kept for a while and shared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import TypeVar, overload

from models.http1 import RequestHead, ResponseHead

_T = TypeVar("_T")


class RequestFields(Mapping[str, str]):
    """All fields of a request's head, read when one that may be there is first asked for."""

    __slots__ = ("_found", "_head")

    def __init__(self, head: RequestHead) -> None:
        self._head = head
        self._found: dict[str, str] | None = None

    @overload
    def get(self, name: str, /) -> str | None: ...
    @overload
    def get(self, name: str, /, default: str | _T) -> str | _T: ...
    def get(self, name: str, /, default: str | _T | None = None) -> str | _T | None:
        """The field's value. One whose name stands nowhere in the head is not there: that much is told without reading it."""
        found = self._found
        if found is None:
            if name.encode("latin-1", "replace") not in self._head.raw.lower():
                return default
            found = self._read()
        return found.get(name, default)

    def __getitem__(self, name: str) -> str:
        return (self._found or self._read())[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found or self._read())

    def __len__(self) -> int:
        return len(self._found or self._read())

    def __repr__(self) -> str:
        return repr(self._found or self._read())

    def _read(self) -> dict[str, str]:
        found = self._found = self._head.fields()
        return found


@lru_cache(maxsize=64)
def answered_fields(head: ResponseHead) -> Mapping[str, str]:
    """All fields of an answer's head. Equal heads are one object (`models.http1.parse_response`), so that most are known."""
    return head.fields()
