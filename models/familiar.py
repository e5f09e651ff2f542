"""The heads of one client's connection, told from the one before as far as they are alike."""

from __future__ import annotations

import re
from typing import Final

from models.http1 import OTHER_LINES, RequestHead, cut_lines, match_plain, parse_request, plain_lines

# The same from the beginning of some later line on, without a Host: see Familiar.
_PLAIN_REST: Final = re.compile(rb"(?:" + OTHER_LINES + plain_lines(1) + rb")*\r\n")
_match_rest: Final = _PLAIN_REST.match


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
        if start and data.startswith(start):
            match = _match_rest(data, len(start))
            if match is not None:
                size = match.end()
                if size <= limit and (size < 4 * max_fields or data.count(b"\r\n", 0, size) <= max_fields + 2):
                    length, connection, own, request_id = match.groups()
                    if connection is None or not self._connection:
                        head = RequestHead()
                        head.raw = data[:size]
                        head.size = size
                        head.method = self._method
                        head.target = self._target
                        head.host = self._host
                        if length is not None:
                            head.length = int(length)
                        if connection is None and own is None:
                            if self._connection:
                                head.hop = True
                                head.passed = self._passed + data[len(start) : size - 2]
                            else:
                                head.passed = data[: size - 2]
                        else:
                            head.hop = True
                            head.passed = self._passed + cut_lines(data, match, len(start), 2)
                            if request_id is not None:
                                head.request_id = request_id
                        return head
        head_ = parse_request(data, limit, max_fields)
        if self._tries and head_ is not None and head_.passed:
            self._learn(head_)
        return head_

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
        self._connection = 0 <= begin < end
        self._passed = raw[:begin] + raw[stop:end] if self._connection else raw[:end]
        self._method, self._target, self._host = match.group(1, 2, 3)
        self._start = raw[:end]


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
