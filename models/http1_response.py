"""HTTP/1.1 heads of answers, read as strictly as those of requests are in `http1`, and for the same reason."""

from __future__ import annotations

import re
from typing import Final

from models.framing import CHUNKED, UNTIL_CLOSE
from models.http1 import BARE, FIELDS, FRAMING_NAMES, HOP_NAMES, LENGTH, HttpError, all_fields, replace_field, without

# The reason phrase may be empty, and then many servers leave out the space before it as well (RFC 9112, 4 wants the space).
_RESPONSE: Final = re.compile(rb"HTTP/1\.([01]) ([1-5]\d\d)(?: [\t\x20-\x7e\x80-\xff]*+)?\r\n" + FIELDS)
_RESPONSE_FIELDS: Final = re.compile(
    rb"\r\n(content-length|connection|transfer-encoding|upgrade|x-request-id|x-bluegreen-arm|keep-alive|proxy-connection|trailer"
    rb"|proxy-authenticate):([^\r]*)"
)
_RESPONSE_HOP: Final = re.compile(
    rb"\r\n(?:connection|keep-alive|proxy-connection|upgrade|x-request-id|x-bluegreen-arm):[^\r]*", re.IGNORECASE
)


class ResponseHead:
    """A checked response head.

    length: of the body, framing.CHUNKED or framing.UNTIL_CLOSE; 0 where the status or the method forbids a body.
    reusable: the connection may carry another exchange once the body is over. hop: fields are to be taken out.
    passed: what goes on of an HTTP/1.1 head: without the fields that end here and without its closing line.
    """

    __slots__ = ("hop", "length", "minor", "nominated", "passed", "raw", "reusable", "status", "upgrade")

    raw: bytes
    status: int
    minor: int
    length: int
    passed: bytes
    reusable: bool
    hop: bool
    nominated: tuple[bytes, ...]
    upgrade: bytes

    def fields(self) -> dict[str, str]:
        """All fields by lower-case name; repeated ones joined by commas (RFC 9110, 5.3). Not for the hot path."""
        return all_fields(self.raw)


def parse_response(data: bytes, method: bytes, limit: int = 65536, max_fields: int = 200) -> ResponseHead | None:
    """The head of the answer to a `method` request at the start of `data`, or None while it is not all there.

    Raises HttpError, always with status 502: whatever is wrong with an answer is the upstream's fault. Heads are shared between
    equal answers: take them as immutable.
    """
    end = data.find(b"\r\n\r\n", 0, limit)
    if end >= 0 and method != b"HEAD":
        # A server's answers have few different heads within a second (its Date, the length of the body), so that the same bytes
        # have mostly been checked before.
        raw = data[: end + 4]
        known = known_answers.get(raw)
        if known is None:
            known = _parse_response(data, method, limit, max_fields)
            if len(raw) <= _KNOWN_BYTES and known is not None:
                if len(known_answers) >= _KNOWN_ANSWERS:
                    known_answers.clear()
                known_answers[raw] = known
        return known
    return _parse_response(data, method, limit, max_fields)


_KNOWN_ANSWERS: Final = 256
_KNOWN_BYTES: Final = 2048
# Heads of answers to requests other than HEAD, by their bytes. Read by models.upstream too, to save a call for each answer.
known_answers: Final[dict[bytes, ResponseHead]] = {}


def _parse_response(data: bytes, method: bytes, limit: int, max_fields: int) -> ResponseHead | None:
    end = data.find(b"\r\n\r\n", 0, limit)
    if end < 0:
        if len(data) >= limit:
            raise HttpError(502, f"the head of the answer is longer than {limit} bytes")
        if BARE.search(data) or (len(data) >= 5 and not data.startswith(b"HTTP/")) or not b"HTTP/".startswith(data[:5]):
            raise HttpError(502, "the answer is not HTTP/1.1")
        return None
    match = _RESPONSE.match(data, 0, end + 4)
    if match is None or match.end() != end + 4:
        raise HttpError(502, "the head of the answer is not well-formed HTTP/1.1")
    raw = match.group()
    minor, status = match.groups()
    if raw.count(b"\r\n") > max_fields + 2:
        raise HttpError(502, f"the answer has more than {max_fields} header fields")
    head = ResponseHead()
    head.raw = raw
    head.status = int(status)
    head.minor = 1 if minor == b"1" else 0
    head.reusable = head.minor == 1
    head.hop = False
    head.nominated = ()
    head.upgrade = b""
    length: int | None = None
    connection = None
    chunked = False
    for name, value in _RESPONSE_FIELDS.findall(raw.lower(), 12):
        value = value.strip(b" \t")
        if name == b"content-length":
            if length is not None or not LENGTH.fullmatch(value):
                raise HttpError(502, "the answer's Content-Length is repeated or not one whole number")
            length = int(value)
        elif name == b"transfer-encoding":
            if value != b"chunked" or chunked:
                raise HttpError(502, "the answer's Transfer-Encoding is not `chunked` alone")
            chunked = True
        elif name == b"connection":
            connection = value if connection is None else connection + b"," + value
            head.hop = True
        elif name == b"upgrade":
            head.upgrade = value
            head.hop = True
        elif name not in (b"trailer", b"proxy-authenticate"):
            head.hop = True
    if connection is not None:
        options = [option.strip(b" \t") for option in connection.split(b",")]
        if b"close" in options:
            head.reusable = False
        elif b"keep-alive" in options:
            head.reusable = True
        head.nominated = tuple(o for o in options if o and o not in HOP_NAMES and o not in FRAMING_NAMES)
    if chunked and length is not None:
        raise HttpError(502, "the answer has both Content-Length and Transfer-Encoding")
    if head.status < 200 or head.status in (204, 304) or method == b"HEAD":
        # RFC 9112, 6.3, rule 1: these end with the head whatever their fields say. A 1xx or 204 must not even carry them (6.1).
        if (chunked or length is not None) and (head.status < 200 or head.status == 204) and not (length == 0 and not chunked):
            raise HttpError(502, f"an answer with status {head.status} must not announce a body")
        head.length = 0
    elif chunked:
        if head.minor == 0:
            raise HttpError(502, "the answer is HTTP/1.0 and chunked")
        head.length = CHUNKED
    elif length is not None:
        head.length = length
    else:
        head.length = UNTIL_CLOSE
        head.reusable = False
    if head.minor and not head.hop and not chunked:
        head.passed = raw[:-2]
    else:
        fields = answered_fields(head)
        if chunked:
            # In its usual spelling: ` \tchunked` is legal, but some clients read another framing in it.
            fields = replace_field(fields, b"transfer-encoding", b"Transfer-Encoding: chunked\r\n")
        head.passed = b"HTTP/1.1%s\r\n%s" % (raw[8 : raw.index(b"\r\n")], fields)
    return head


def answered_fields(head: ResponseHead) -> bytes:
    """The answer's fields as they go on, each line ending with CRLF."""
    raw = head.raw
    start = raw.index(b"\r\n")
    if not head.hop:
        return raw[start + 2 : -2]
    fields = _RESPONSE_HOP.sub(b"", raw[start:-2])
    if head.nominated:
        fields = without(fields, head.nominated)
    return fields[2:]
