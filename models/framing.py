"""Where a message body ends, without any I/O: by length, by chunks, or by the end of the connection.

A gateway passes bodies on as the bytes that came, chunk framing included; what it must know is where the body stops, and that
the framing was well formed on the way. So a scanner says how many of the bytes it is given belong to the body, and raises as
soon as one cannot. The payload without its framing is collected only where it is asked for.

Chunk framing is read strictly (RFC 9112, 7.1): sizes are hexadecimal digits alone, extensions are `;name` or `;name=value`
without white space, lines end with CRLF. Trailers are checked like header fields, and may not name what frames or addresses a
message (RFC 9110, 6.5.1).
"""

from __future__ import annotations

import re
from typing import Final

CHUNKED: Final = -1  # a length: the body is chunked
UNTIL_CLOSE: Final = -2  # a length: the body ends with the connection

_SIZE_LINE: Final = re.compile(
    rb"([0-9A-Fa-f]{1,16})(?:;[!#$%&'*+\-.^_`|~0-9A-Za-z]+(?:=(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]+|\"[\t\x20\x21\x23-\x5b\x5d-\x7e]*\"))?)*\r\n"
)
# The beginning of such a line: what is there goes on at once, so it must be good at once.
_SIZE_PART: Final = re.compile(
    rb"[0-9A-Fa-f]{1,16}(?:;[!#$%&'*+\-.^_`|~0-9A-Za-z]+(?:=(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]+|\"[\t\x20\x21\x23-\x5b\x5d-\x7e]*\"))?)*"
    rb"(?:\r|;(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]+(?:=(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]*|\"[\t\x20\x21\x23-\x5b\x5d-\x7e]*))?)?)?"
)
# Greedy groups of possessive parts, for the reason given in models.http1.FIELDS.
_TRAILERS: Final = re.compile(rb"(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]++:[\t\x20-\x7e\x80-\xff]*+\r\n)*\r\n")
_PART: Final = re.compile(
    rb"(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]++:[\t\x20-\x7e\x80-\xff]*+\r\n)*"
    rb"(?:\r|[!#$%&'*+\-.^_`|~0-9A-Za-z]++(?::[\t\x20-\x7e\x80-\xff]*+\r?)?)?"
)
_FORBIDDEN_TRAILER: Final = re.compile(
    rb"(?:\A|\n)(?:content-length|transfer-encoding|host|trailer|te|connection|keep-alive|proxy-connection|upgrade|expect"
    rb"|content-encoding|content-type|content-range|authorization|proxy-authorization|forwarded|x-forwarded-(?:for|host|proto)"
    rb"|x-request-id|x-bluegreen-(?:arm|shadow)):",
    re.IGNORECASE,
)
_MAX_SIZE_LINE: Final = 1024
_MAX_TRAILERS: Final = 16384

# The states of a chunked body.
_SIZE, _DATA, _DATA_END, _TRAILER, _OVER = range(5)


class FramingError(Exception):
    """The body breaks the framing rules; the connection cannot be used any further."""


class BodyTooLarge(Exception):
    """The body is longer than the limit."""


class LengthBody:
    """A body of a known number of bytes."""

    __slots__ = ("done", "left", "seen")

    def __init__(self, length: int, limit: int = 1 << 62) -> None:
        """`length` in bytes; raises BodyTooLarge at once when it is over `limit`."""
        if length > limit:
            raise BodyTooLarge(f"the body is longer than {limit} bytes")
        self.left = length
        self.seen = 0
        self.done = length == 0

    def feed(self, data: bytes, start: int = 0) -> int:
        """Where the body stops in `data[start:]`: the position after its last byte, which is len(data) while it goes on."""
        available = len(data) - start
        if available < self.left:
            self.left -= available
            self.seen += available
            return len(data)
        end = start + self.left
        self.seen += self.left
        self.left = 0
        self.done = True
        return end


class UntilCloseBody:
    """A body that ends with the connection: everything belongs to it."""

    __slots__ = ("done", "seen")

    def __init__(self) -> None:
        self.seen = 0
        self.done = False

    def feed(self, data: bytes, start: int = 0) -> int:
        """All of `data` is body."""
        self.seen += len(data) - start
        return len(data)


class ChunkedBody:
    """A chunked body, trailers included. With `collect` its payload is gathered in `payload` (a list of bytes)."""

    __slots__ = ("_collect", "_left", "_limit", "_line", "_state", "done", "payload", "seen", "trailers")

    def __init__(self, limit: int = 1 << 62, *, collect: bool = False) -> None:
        self._state = _SIZE
        self._left = 0
        self._line = b""  # a size line or a trailer section that is not all there
        self._limit = limit
        self._collect = collect
        self.payload: list[bytes] = []
        self.trailers = b""
        self.seen = 0  # bytes of payload so far
        self.done = False

    def feed(self, data: bytes, start: int = 0) -> int:
        """Where the body stops in `data[start:]`, as for LengthBody. Raises FramingError or BodyTooLarge."""
        at, end = start, len(data)
        while at < end and self._state != _OVER:
            if self._state == _DATA:
                take = min(self._left, end - at)
                if self._collect:
                    self.payload.append(data[at : at + take])
                self._left -= take
                at += take
                if not self._left:
                    self._state = _DATA_END
            elif self._state == _DATA_END:
                at = self._data_end(data, at)
            elif self._state == _SIZE:
                at = self._size(data, at)
            else:
                at = self._trailer(data, at)
        return at

    def _size(self, data: bytes, at: int) -> int:
        stop = data.find(b"\n", at)
        line = self._line + (data[at:] if stop < 0 else data[at : stop + 1])
        if stop < 0:
            if len(line) > _MAX_SIZE_LINE or not _SIZE_PART.fullmatch(line):
                raise FramingError("a chunk size is not well formed")
            self._line = line
            return len(data)
        match = _SIZE_LINE.fullmatch(line) if len(line) <= _MAX_SIZE_LINE else None
        if match is None:
            raise FramingError("a chunk size is not well formed")
        self._line = b""
        size = int(match.group(1), 16)
        self.seen += size
        if self.seen > self._limit:
            raise BodyTooLarge(f"the body is longer than {self._limit} bytes")
        self._left = size
        self._state = _DATA if size else _TRAILER
        return stop + 1

    def _data_end(self, data: bytes, at: int) -> int:
        """The CRLF after a chunk's data, which may come in two pieces."""
        wanted = b"\n" if self._line else b"\r\n"
        piece = data[at : at + len(wanted)]
        if not wanted.startswith(piece):
            raise FramingError("a chunk is longer than its size says")
        if piece == wanted:
            self._line = b""
            self._state = _SIZE
        else:
            self._line = piece
        return at + len(piece)

    def _trailer(self, data: bytes, at: int) -> int:
        held = self._line
        section = held + data[at:]
        if section.startswith(b"\r\n"):
            stop = 2
        else:
            stop = section.find(b"\r\n\r\n") + 4
            if stop == 3:
                # What is there goes on at once, so it must be good at once.
                if len(section) > _MAX_TRAILERS or not _PART.fullmatch(section) or _FORBIDDEN_TRAILER.search(section):
                    raise FramingError("the trailers are not well formed")
                self._line = section
                return len(data)
        trailers = section[:stop]
        if len(trailers) > _MAX_TRAILERS or not _TRAILERS.fullmatch(trailers) or _FORBIDDEN_TRAILER.search(trailers):
            raise FramingError("the trailers are not well formed, or name a field that must not come so late")
        self.trailers = trailers[:-2]
        self._line = b""
        self._state = _OVER
        self.done = True
        return at + stop - len(held)


Body = LengthBody | ChunkedBody | UntilCloseBody


def body_of(length: int, limit: int = 1 << 62, *, collect: bool = False) -> Body:
    """The scanner for a head's `length`. Raises BodyTooLarge when the announced length is over `limit`."""
    if length >= 0:
        return LengthBody(length, limit)
    return ChunkedBody(limit, collect=collect) if length == CHUNKED else UntilCloseBody()


def unframed(data: bytes, length: int) -> bytes:
    """The payload of a whole or cut-off body that was kept as it came on the wire."""
    if length != CHUNKED:
        return data
    body = ChunkedBody(collect=True)
    body.feed(data)
    return b"".join(body.payload)
