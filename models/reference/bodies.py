"""HTTP bodies in and out: read whole within a bound, gzip undone or applied.

The bound holds for the bytes as they arrive and again for what they unpack to, so that a small gzip file cannot fill
the memory.
Left out: every coding but gzip (a request in another one gets 415 with what is accepted), and streaming, because an
answer needs all of its request.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Mapping
from typing import Any

from fastapi import Request, Response

from models.reference.payloads import RequestError

MAX_BODY = 64 * 1024 * 1024
# Answers below this gain nothing: the gzip frame alone is 20 bytes, and most clients read such an answer in one
# packet anyway.
GZIP_FROM = 1000
_GZIP_LEVEL = 5

_CODING = re.compile(r"\s*([\w*-]+)\s*(?:;\s*q\s*=\s*([01](?:\.\d{0,3})?))?\s*", re.ASCII)


async def read_body(request: Request, bound: int = MAX_BODY) -> bytes:
    """The body of `request`, unpacked if it came gzipped.

    Raises:
        RequestError: 413 over `bound` bytes, before or after unpacking; 415 an unknown coding; 400 broken gzip.
    """
    received = bytearray()
    async for chunk in request.stream():
        received += chunk
        if len(received) > bound:
            raise RequestError(f"the body is longer than {bound} bytes", 413)
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding in ("", "identity"):
        return bytes(received)
    if coding not in ("gzip", "x-gzip"):
        raise RequestError(f"content-encoding {coding} is not taken; send the body plain or with gzip", 415)
    return gunzip(bytes(received), bound)


def gunzip(packed: bytes, bound: int) -> bytes:
    """What `packed` holds: one gzip member or several, one after the other (RFC 1952 section 2.2).

    Raises:
        RequestError: 413 over `bound` bytes; 400 if it is no gzip, damaged or cut short.
    """
    unpacked = bytearray()
    while packed:
        member = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)  # 16: a gzip frame is expected
        try:
            unpacked += member.decompress(packed, bound + 1 - len(unpacked))
        except zlib.error as error:
            raise RequestError(f"the body is not the gzip that content-encoding says: {error}") from error
        if len(unpacked) > bound:
            raise RequestError(f"the body unpacks to more than {bound} bytes", 413)
        if not member.eof:
            raise RequestError("the gzip body ends before its last block")
        packed = member.unused_data
    return bytes(unpacked)


def json_answer(request: Request, document: Mapping[str, Any], status: int = 200) -> Response:
    """`document` as the answer to `request`, gzipped when it is large and the client takes gzip."""
    body = json.dumps(document, allow_nan=False, separators=(",", ":")).encode()
    if len(body) < GZIP_FROM:
        return Response(body, status, media_type="application/json")
    headers = {"vary": "accept-encoding"}
    if takes_gzip(request.headers.get("accept-encoding", "")):
        body = gzip.compress(body, _GZIP_LEVEL, mtime=0)  # no time stamp: the same answer is the same bytes
        headers["content-encoding"] = "gzip"
    return Response(body, status, headers, "application/json")


def takes_gzip(accept_encoding: str) -> bool:
    """Whether an Accept-Encoding value allows gzip (RFC 9110 section 12.5.3); what cannot be read allows nothing."""
    weights = {}
    for part in accept_encoding.split(","):
        match = _CODING.fullmatch(part)
        if match:
            weights[match[1].lower()] = float(match[2] or 1)
    return weights.get("gzip", weights.get("x-gzip", weights.get("*", 0.0))) > 0
