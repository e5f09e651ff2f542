"""Answers that the router makes itself: RFC 9457 problem documents, and the two probes."""

from __future__ import annotations

import json
from http import HTTPStatus

_RETRY_AFTER = {503: b"Retry-After: 1\r\n"}


def problem(
    status: int, detail: str, request_id: bytes, *, arm_line: bytes = b"", close: bool, head_only: bool = False
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
    return _answer(
        status,
        b"application/problem+json",
        json.dumps(document).encode() + b"\n",
        request_id,
        arm_line + _RETRY_AFTER.get(status, b""),
        close=close,
        head_only=head_only,
    )


def plain(status: int, text: str, request_id: bytes, *, close: bool, head_only: bool = False) -> bytes:
    """A whole answer with one line of text."""
    return _answer(
        status, b"text/plain; charset=utf-8", text.encode() + b"\n", request_id, b"", close=close, head_only=head_only
    )


def _answer(
    status: int, content_type: bytes, body: bytes, request_id: bytes, fields: bytes, *, close: bool, head_only: bool
) -> bytes:
    head = (
        b"HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %d\r\nCache-Control: no-store\r\n%sx-request-id: %s\r\n%s\r\n"
        % (
            status,
            HTTPStatus(status).phrase.encode("ascii"),
            content_type,
            len(body),
            fields,
            request_id,
            b"Connection: close\r\n" if close else b"",
        )
    )
    return head if head_only else head + body
