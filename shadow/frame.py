"""An exchange as one frame: what a worker hands to the shadow over the tap, and back.

A frame is a fixed head of little-endian numbers and then five byte strings, as they stood on the wire: nothing is decoded,
copied twice or escaped in the worker. Bodies keep their chunk framing; the shadow takes it off. A frame also says which
release and plan revision the exchange was made under, so that late frames are never counted for another release.

Layout: u32 length of what follows, u8 version, u8 colour (0 blue, 1 green), u16 flags, u64 release, u64 revision, f64 start
(seconds since the epoch), f64 first byte and f64 whole answer (milliseconds from the request's arrival), u16 length of the
request id, u32 lengths of request head, request body, response head, response body.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Final

from models.record import record

VERSION: Final = 1
MAX_FRAME: Final = 256 << 20

REQUEST_CUT: Final = 1  # the request's body was longer than what is kept
RESPONSE_CUT: Final = 2  # the response's body was longer than what is kept
FELL_BACK: Final = 4  # green failed first and blue gave this answer
RECALLED: Final = 8  # a switch took the request back from green
LOGGED_ONLY: Final = 16  # for the prediction log; not in the shadow's sample

_HEAD: Final = struct.Struct("<IBBHQQdddHIIII")
_START: Final = struct.Struct("<IBBHQ")  # its beginning: enough to tell whether a frame is wanted
_REST: Final = struct.Struct("<4xxBHQQdddHIIII")  # without what the beginning has told
HEAD_BYTES: Final = _HEAD.size


class FrameError(ValueError):
    """The bytes are not a frame of this version: the stream cannot be read any further."""


@record
class Frame:
    """A finished exchange. Times: `started` in seconds since the epoch, the others in milliseconds after it."""

    colour: int
    flags: int
    release: int
    revision: int
    started: float
    first_byte_ms: float
    total_ms: float
    request_id: bytes
    request_head: bytes
    request_body: bytes
    response_head: bytes
    response_body: bytes


def size(frame: Frame) -> int:
    """The bytes of a frame's five parts: what it holds in memory."""
    return (
        len(frame.request_id)
        + len(frame.request_head)
        + len(frame.request_body)
        + len(frame.response_head)
        + len(frame.response_body)
    )


def encode(
    colour: int,
    flags: int,
    release: int,
    revision: int,
    started: float,
    first_byte_ms: float,
    total_ms: float,
    request_id: bytes,
    request_head: bytes,
    request_body: bytes,
    response_head: bytes,
    response_body: bytes,
) -> bytes:
    """One frame's bytes. Takes values, not a Frame: the worker's hot path makes no record it would throw away."""
    sizes = len(request_id), len(request_head), len(request_body), len(response_head), len(response_body)
    head = _HEAD.pack(
        HEAD_BYTES - 4 + sum(sizes), VERSION, colour, flags, release, revision, started, first_byte_ms, total_ms, *sizes
    )
    return b"".join((head, request_id, request_head, request_body, response_head, response_body))


Refusal = Callable[[int, int, int], bool]  # (release, flags, `size`) of a frame -> whether nothing more of it is wanted


class FrameReader:
    """Cuts a byte stream into frames. `feed` may be given any pieces; a piece that is not a frame raises FrameError."""

    __slots__ = ("_have", "_held", "_need")

    def __init__(self) -> None:
        self._held: list[bytes] = []  # pieces of a frame that is not all there
        self._have = self._need = 0

    def feed(self, data: bytes, refuses: Refusal | None = None) -> Iterator[Frame]:
        """The frames that are whole with `data`, less those that `refuses` does not want: they are never decoded."""
        if self._held:
            self._held.append(data)
            self._have += len(data)
            if self._have < self._need:
                return
            data = b"".join(self._held)
            self._held.clear()
        at, end = 0, len(data)
        while True:
            if end - at < HEAD_BYTES:
                self._need = HEAD_BYTES
                break
            length, version, _, flags, release = _START.unpack_from(data, at)
            length += 4
            if version != VERSION or not HEAD_BYTES <= length <= MAX_FRAME + 4:
                raise FrameError("not a frame of this version")
            if end - at < length:
                self._need = length
                break
            if refuses is None or not refuses(release, flags, length - HEAD_BYTES):
                yield _decode(data, at, length)
            at += length
        if at < end:
            self._held.append(data[at:])
            self._have = end - at


def decode(data: bytes) -> Frame:
    """The one frame that `data` is. Raises FrameError."""
    if len(data) < HEAD_BYTES or data[4] != VERSION or int.from_bytes(data[:4], "little") + 4 != len(data):
        raise FrameError("not one whole frame of this version")
    return _decode(data, 0, len(data))


def _decode(data: bytes, at: int, length: int) -> Frame:
    colour, flags, release, revision, started, first, total, a, b, c, d, e = _REST.unpack_from(data, at)
    start = at + HEAD_BYTES
    a += start  # from lengths to where each part ends
    b += a
    c += b
    d += c
    e += d
    if colour > 1 or e != at + length:
        raise FrameError("the lengths within a frame do not add up")
    parts = data[start:a], data[a:b], data[b:c], data[c:d], data[d:e]
    return Frame(colour, flags, release, revision, started, first, total, *parts)
