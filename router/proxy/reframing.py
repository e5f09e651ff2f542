"""An answer's body, framed anew for a client that could not read it as the server framed it.

Bodies mostly go on as they came, framing included. Two cannot: a chunked one to an HTTP/1.0 client, which knows no chunks, and
one that only the server's close ends, which goes on in chunks so that the client can tell its end from a failure.
"""

from __future__ import annotations

from models.framing import CHUNKED, UNTIL_CLOSE, ChunkedBody
from models.http1 import replace_field
from models.http1_response import ResponseHead


def needed(head: ResponseHead, minor: int) -> bool:
    """Whether the answer must be framed anew for a client of HTTP/1.`minor`."""
    return head.length == (UNTIL_CLOSE if minor else CHUNKED)


class Reframing:
    """One answer's. `head` first, then `body` for each piece."""

    __slots__ = ("_decoder",)

    def __init__(self, head: ResponseHead) -> None:
        self._decoder = ChunkedBody(collect=True) if head.length == CHUNKED else None

    def head(self, passed: bytes) -> bytes:
        """The answer's head as it goes on, without its closing line."""
        if self._decoder is None:
            return passed + b"Transfer-Encoding: chunked\r\n"
        line, _, lines = passed.partition(b"\r\n")
        return b"%s\r\n%s" % (line, replace_field(replace_field(lines, b"transfer-encoding", b""), b"trailer", b""))

    def body(self, data: bytes, done: bool) -> bytes:
        """A piece as it goes on; `done` with the last one."""
        decoder = self._decoder
        if decoder is None:
            return (b"%x\r\n%s\r\n" % (len(data), data) if data else b"") + (b"0\r\n\r\n" if done else b"")
        decoder.feed(data)
        out = b"".join(decoder.payload)
        decoder.payload.clear()
        return out
