"""The heads of one client's connection, told from the one before as far as they are alike."""

from __future__ import annotations

import re
from typing import Final

from models.http1 import OTHER_LINES, RequestHead, cut_lines, match_plain, parse_request, plain_lines

# The same from the beginning of some later line on, without a Host: see Familiar.
_PLAIN_REST: Final = re.compile(rb"(?:" + OTHER_LINES + plain_lines(1) + rb")*\r\n")
_match_rest: Final = _PLAIN_REST.match
# A connection that is idle keeps what it remembers: three times this at most.
_REMEMBERED_BYTES: Final = 2048


class Familiar:
    """Reads the heads of one connection. What they begin with alike has been checked with the last one, and is only compared.

    A client sends the same method, path, host and most of its fields again and again; what differs (a user, a trace, a length)
    mostly comes after. Only whole lines of usual requests are remembered, Host among them, and none that decides where the
    message ends: those are read anew each time. What is returned, and refused, is what `parse_request` would.
    """

    __slots__ = ("_connection", "_host", "_last", "_method", "_passed", "_start", "_target", "_tries")

    def __init__(self) -> None:
        self._start = b""
        self._passed = b""  # of it
        self._connection = False  # it has a Connection field
        self._method = b""
        self._target = b""
        self._host: bytes | None = None
        self._last = b""
        self._tries = 16  # a client whose requests have nothing in common is not compared for ever

    def parse(self, data: bytes, limit: int, max_fields: int) -> RequestHead | None:
        """As `parse_request`."""
        start = self._start
        match = _match_rest(data, len(start)) if start and data.startswith(start) else None
        if match is None:
            return self._read(data, limit, max_fields)
        size = match.end()
        length, connection, own, request_id = match.groups()
        if (
            size > limit
            or (size >= 4 * max_fields and data.count(b"\r\n", 0, size) > max_fields + 2)
            or (connection is not None and self._connection)  # two of them
        ):
            return self._read(data, limit, max_fields)
        head = RequestHead()
        head.raw = data[:size]
        head.size = size
        head.method = self._method
        head.target = self._target
        head.host = self._host
        if length is not None:
            head.length = int(length)
        if connection is None and own is None and not self._connection:
            head.passed = data[: size - 2]
        else:
            head.hop = True
            head.passed = self._passed + cut_lines(data, match, len(start), 2)
            if request_id is not None:
                head.request_id = request_id
        return head

    def _read(self, data: bytes, limit: int, max_fields: int) -> RequestHead | None:
        head = parse_request(data, limit, max_fields)
        if self._tries and head is not None and head.passed and head.size <= _REMEMBERED_BYTES:
            self._learn(head)
        return head

    def _learn(self, head: RequestHead) -> None:
        self._tries -= 1
        last, raw = self._last, head.raw
        self._last = raw if self._tries else b""
        match = match_plain(raw)
        end = _alike(last, raw)
        if not end or match is None:
            return
        end = min(end, len(raw) - 2)  # the empty line ends the head anew each time
        # The lines of a length and of a request id are not among what is remembered.
        for at in (match.start(4), match.start(6)):
            if at >= 0:
                end = min(end, raw.rfind(b"\r\n", 0, at) + 2)
        end = raw.rfind(b"\r\n", 0, end) + 2
        if not 0 <= match.end(3) < end:
            return
        begin, stop = match.span(5)
        self._start = raw[:end]
        self._connection = 0 <= begin < end
        self._passed = raw[:begin] + raw[stop:end] if self._connection else self._start
        self._method, self._target, self._host = match.group(1, 2, 3)


def _alike(one: bytes, other: bytes) -> int:
    """How many bytes two strings begin with alike."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
