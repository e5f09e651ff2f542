"""The header fields of messages, as mappings from lower-case names, made as late and as seldom as can be.

Requests differ in their fields (user ids, traces), and of most of them one field is asked for: their mapping is made only when
it is needed. Answers of a server are alike within a second (its Date, a length), and several of their fields are asked for:
their mappings are kept for a while and shared. The request's head itself is parsed once for the prediction log and the mirror,
which look at the same frame one after the other.
"""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, Mapping
from functools import lru_cache
from typing import TypeVar, overload

from models.http1 import HttpError, RequestHead, parse_request
from models.http1_response import ResponseHead

_T = TypeVar("_T")
MAX_HEAD = 1 << 20  # frames come from our own workers, which have checked their heads against the limits
MAX_FIELDS = 10_000
_KNOWN_BYTES = 4096  # of a head that is kept


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

    def items(self) -> ItemsView[str, str]:
        """All of them; a mapping's own `items` would look each of them up."""
        return (self._found or self._read()).items()

    def __repr__(self) -> str:
        return repr(self._found or self._read())

    def _read(self) -> dict[str, str]:
        found = self._found = self._head.fields()
        return found


def request_head(raw: bytes) -> RequestHead:
    """The head of a frame's request; take it as immutable, others have it too. Raises HttpError for what is none, or half."""
    return _known(raw) if len(raw) <= _KNOWN_BYTES else _parsed(raw)


def _parsed(raw: bytes) -> RequestHead:
    head = parse_request(raw, MAX_HEAD, MAX_FIELDS)
    if head is None:
        raise HttpError(400, "half a head")
    return head


_known = lru_cache(maxsize=512)(_parsed)  # more than the frames that wait, as a rule


@lru_cache(maxsize=64)
def answered_fields(head: ResponseHead) -> Mapping[str, str]:
    """All fields of an answer's head. Equal heads are one object (see `parse_response`), so that most are known."""
    return head.fields()
