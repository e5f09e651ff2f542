"""Answers that the router makes itself: RFC 9457 problem documents, and one line of text for a probe."""

from __future__ import annotations

import json
from http import HTTPStatus

_RETRY_AFTER = {503: b"Retry-After: 1\r\n"}


def problem(
    status: int,
    detail: str,
    request_id: bytes,
    *,
    keep_alive: bool,
    minor: int = 1,
    arm_line: bytes = b"",
    head_only: bool = False,
) -> bytes:
    """A whole answer with an `application/problem+json` body: type, title, status, detail and request_id."""
    phrase = HTTPStatus(status).phrase
    document = {
        "type": "about:blank",
        "title": phrase,
        "status": status,
        "detail": detail,
        "request_id": request_id.decode("ascii"),
    }
    body = json.dumps(document).encode() + b"\n"
    fields = arm_line + _RETRY_AFTER.get(status, b"") + _connection(keep_alive, minor)
    return _answer(status, b"application/problem+json", body, request_id, fields, head_only)


def plain(status: int, text: str, request_id: bytes, *, keep_alive: bool, minor: int = 1, head_only: bool = False) -> bytes:
    """A whole answer with one line of text."""
    body = text.encode() + b"\n"
    return _answer(status, b"text/plain; charset=utf-8", body, request_id, _connection(keep_alive, minor), head_only)


def _connection(keep_alive: bool, minor: int) -> bytes:
    """HTTP/1.1 stays open unless told otherwise, HTTP/1.0 closes unless told otherwise (RFC 9112, 9.3)."""
    if not keep_alive:
        return b"Connection: close\r\n"
    return b"" if minor else b"Connection: keep-alive\r\n"


def _answer(status: int, content_type: bytes, body: bytes, request_id: bytes, fields: bytes, head_only: bool) -> bytes:
    line = b"HTTP/1.1 %d %s\r\n" % (status, HTTPStatus(status).phrase.encode("ascii"))
    about = b"Content-Type: %s\r\nContent-Length: %d\r\nCache-Control: no-store\r\n" % (content_type, len(body))
    head = b"%s%s%sx-request-id: %s\r\n\r\n" % (line, about, fields, request_id)
    return head if head_only else head + body
