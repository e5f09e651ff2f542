"""Content-codings undone in a copy (RFC 9110 section 8.4), with a bound on the size of the result.

A few bytes of any of these codings can stand for gigabytes, so each decoder hands out its output in bounded pieces
and stops at the first byte over the limit: a bomb is an error, not memory. A body that ends before its coding does is
`truncated`; with `partial` (a body that the recorder cut) what was decoded so far is given instead. Codings of which
nobody sends a body (`compress`) are left out and refused as unknown.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Final

import brotli  # type: ignore[import-untyped,unused-ignore]  # publishes no type information
import zstandard

from models.predictions.prediction import DEFAULT_MAX_DECODED, Reason, Unreadable

MAX_CODINGS: Final = 4  # stacked codings beyond what any server does only multiply work
_MAX_MEMBERS: Final = 1024  # concatenated gzip members or zstd frames; each costs a copy of what is left
_GZIP_MAGIC: Final = b"\x1f\x8b"
_ZSTD_WINDOW: Final = 8 * 1024 * 1024  # RFC 9659: a decoder of Content-Encoding: zstd need not support more
# libzstd's decompressobj has no bound on its output. A block decodes to at most 128 KiB and takes at least 4 bytes
# (RFC 8878 section 3.1.1.2), so one piece of this many bytes overshoots the limit by at most 8 MiB.
_ZSTD_PIECE: Final = 256


def decode(body: bytes, codings: str, limit: int = DEFAULT_MAX_DECODED, *, partial: bool = False) -> bytes:
    """The body without its content-codings.

    `codings` is the Content-Encoding field as sent: codings in the order they were applied, so undone from the last
    to the first. `limit` bounds the bytes after each of them. Raises Unreadable with the reason `encoding`,
    `truncated` or `too large`.
    """
    if len(body) > limit:
        raise _too_large(limit)
    names = [name for part in codings.split(",") if (name := part.strip().lower()) and name != "identity"]
    if len(names) > MAX_CODINGS:
        raise Unreadable(Reason.ENCODING, f"{len(names)} stacked content-codings")
    for name in reversed(names):
        decoder = _DECODERS.get(name)
        if decoder is None:
            raise Unreadable(Reason.ENCODING, f"unknown content-coding {name[:40]!r}")
        body = decoder(body, limit, partial)
    return body


def _gzip(body: bytes, limit: int, partial: bool) -> bytes:
    pieces: list[bytes] = []
    size = 0
    for _ in range(_MAX_MEMBERS):
        decoded, rest = _inflate(body, 31, limit - size, partial, limit)
        pieces.append(decoded)
        size += len(decoded)
        if not rest.startswith(_GZIP_MAGIC):
            if rest.strip(b"\0"):
                raise Unreadable(Reason.ENCODING, "bytes after the end of the gzip data")
            return b"".join(pieces)
        body = rest
    raise Unreadable(Reason.ENCODING, f"more than {_MAX_MEMBERS} gzip members")


def _deflate(body: bytes, limit: int, partial: bool) -> bytes:
    # "deflate" means the zlib format (RFC 9110 section 8.4.1.2), but some servers send raw deflate data, as that
    # section's note says.
    try:
        decoded, rest = _inflate(body, 15, limit, partial, limit)
    except Unreadable as error:
        if error.reason is not Reason.ENCODING:
            raise
        decoded, rest = _inflate(body, -15, limit, partial, limit)
    if rest:
        raise Unreadable(Reason.ENCODING, "bytes after the end of the deflate data")
    return decoded


def _inflate(body: bytes, window_bits: int, room: int, partial: bool, limit: int) -> tuple[bytes, bytes]:
    inflater = zlib.decompressobj(window_bits)
    try:
        # one more than allowed tells "full" from "too much"; 0 would mean no bound
        decoded = inflater.decompress(body, room + 1)
    except zlib.error as error:
        raise Unreadable(Reason.ENCODING, str(error)) from None
    if len(decoded) > room:
        raise _too_large(limit)
    if not inflater.eof and not partial:
        raise _cut("deflate")
    return decoded, inflater.unused_data


def _brotli(body: bytes, limit: int, partial: bool) -> bytes:
    decompressor = brotli.Decompressor()
    pieces: list[bytes] = []
    size = 0
    try:
        while True:
            piece: bytes = decompressor.process(body, output_buffer_limit=limit - size + 1)
            pieces.append(piece)
            size += len(piece)
            if size > limit:
                raise _too_large(limit)
            if decompressor.is_finished():
                break
            # everything was taken in, what was held back was given out, and the end was not there
            if not piece and decompressor.can_accept_more_data():
                if partial:
                    break
                raise _cut("br")
            body = b""
    except brotli.error as error:
        raise Unreadable(Reason.ENCODING, str(error)) from None
    return b"".join(pieces)


def _zstd(body: bytes, limit: int, partial: bool) -> bytes:
    pieces: list[bytes] = []
    size = 0
    try:
        for _ in range(_MAX_MEMBERS):
            frame = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW).decompressobj()
            at = 0
            while not frame.eof and at < len(body):
                piece = frame.decompress(body[at : at + _ZSTD_PIECE])
                at += _ZSTD_PIECE
                pieces.append(piece)
                size += len(piece)
                if size > limit:
                    raise _too_large(limit)
            if not frame.eof:
                if partial:
                    return b"".join(pieces)
                raise _cut("zstd")
            body = frame.unused_data + body[at:]
            if not body:
                return b"".join(pieces)
    except zstandard.ZstdError as error:
        raise Unreadable(Reason.ENCODING, str(error)) from None
    raise Unreadable(Reason.ENCODING, f"more than {_MAX_MEMBERS} zstd frames")


def _too_large(limit: int) -> Unreadable:
    return Unreadable(Reason.TOO_LARGE, f"more than {limit} bytes when decoded")


def _cut(coding: str) -> Unreadable:
    return Unreadable(Reason.TRUNCATED, f"the {coding} data ends early")


_DECODERS: Final[dict[str, Callable[[bytes, int, bool], bytes]]] = {
    "gzip": _gzip,
    "x-gzip": _gzip,  # RFC 9110 section 8.4.1.3: equivalent
    "deflate": _deflate,
    "br": _brotli,
    "zstd": _zstd,
}
