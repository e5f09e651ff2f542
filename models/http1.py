"""HTTP/1.1 request heads, without any I/O; answers are read by the same rules in `http1_response`.

A head is checked whole by one compiled expression and then kept as the bytes that came: what goes on to the next hop is those
bytes less the fields that end here. So no dictionary of headers is ever built for a message that is only passed on, and what
the fields that matter say (they are few) is found by a second expression over a lower-cased copy.

The rules are the strict ones of RFC 9112, since a gateway that guesses lets two parties see two different messages (request
smuggling): a line ends with CRLF and nothing else, no folded lines (5.2), no space before the colon (5.1), one Content-Length
of digits only and never beside Transfer-Encoding (6.1, 6.2, 6.3), `chunked` as the one transfer coding.

Bodies are the business of `framing`.
"""

from __future__ import annotations

import re
from typing import Final

from models.framing import CHUNKED

_TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
# Lines repeat greedily, not possessively: CPython before 3.11.5 goes on where a failed turn of a possessive group ended
# (python/cpython#106052). Nothing is matched in two ways all the same, since what is inside of a line is possessive.
FIELDS: Final = rb"(?:" + _TOKEN + rb"++:[\t\x20-\x7e\x80-\xff]*+\r\n)*\r\n"

# Method, target and minor version. The target is any visible ASCII (RFC 9112, 3.2; what the URI means is the server's affair).
_REQUEST: Final = re.compile(rb"(" + _TOKEN + rb"{1,32}+) ([\x21-\x7e]++) HTTP/(\d)\.(\d)\r\n" + FIELDS)
_REQUEST_LINE: Final = re.compile(_TOKEN + rb"{1,32} [\x21-\x7e]+ HTTP/\d\.\d")
# A line end that is not CRLF. A CR at the very end may still get its LF.
BARE: Final = re.compile(rb"(?<!\r)\n|\r(?!\n|\Z)")


def _any_case(name: bytes) -> bytes:
    """An expression for a field name in any case. (With re.IGNORECASE the engine leaves its fast loops.)"""
    return b"".join([b"[%c%c]" % (c, c - 32) if 97 <= c <= 122 else re.escape(bytes((c,))) for c in name])


# The usual request in one pass: HTTP/1.1, a path for a target, and of the fields that mean something to a gateway at most one
# Host, one Content-Length, `Connection: keep-alive` and an X-Request-Id. Anything else (and anything wrong) does not match and
# takes the long way, which alone decides what is refused. Each alternative begins with another letter, or is shut out by the
# lookahead, so nothing is matched in two ways; `(?(n)(?!))` shuts an alternative that has matched before (it must stand outside
# of group n, which counts as unmatched while it is entered anew). (Captures may not
# stand inside possessive groups: CPython 3.11 reports wrong spans then, so the repetition over the lines is a greedy one.)
_MEANINGFUL: Final = (
    b"connection content-length expect forwarded host keep-alive proxy-authorization proxy-connection te transfer-encoding"
    b" upgrade x-bluegreen-arm x-bluegreen-shadow x-forwarded-for x-forwarded-host x-forwarded-proto x-request-id"
).split()
_OTHER_LETTERS: Final = bytes(
    c
    for c in b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    if bytes((c,)).lower() not in {name[:1] for name in _MEANINGFUL}
)


def _one_of(names: list[bytes]) -> bytes:
    """An expression for any of these names in any case: letter by letter, so that most names are told apart by their first."""
    rest: dict[bytes, list[bytes]] = {}
    for name in names:
        rest.setdefault(name[:1], []).append(name[1:])
    branches = [_any_case(first) + _one_of(tails) if first else b"" for first, tails in sorted(rest.items())]
    return branches[0] if len(branches) == 1 else b"(?:" + b"|".join(branches) + b")"


OTHER_LINES: Final = (
    rb"[" + re.escape(_OTHER_LETTERS) + rb"]" + _TOKEN + rb"*+:[\t\x20-\x7e\x80-\xff]*+\r\n"
    rb"|(?!" + _one_of([name + b":" for name in _MEANINGFUL]) + rb")" + _TOKEN + rb"++:[\t\x20-\x7e\x80-\xff]*+\r\n"
)


def plain_lines(first: int) -> bytes:
    """The alternatives for a line beside Host; their groups are `first` (a length), `first` + 1 (a line) and so on."""
    length, connection, own = (_any_case(name) for name in (b"content-length", b"connection", b"x-request-id"))
    return (
        rb"|" + length + rb":[ \t]*+(?(%d)(?!))([0-9]{1,18}+)[ \t]*+\r\n" % first
        + rb"|(?(%d)(?!))(" % (first + 1) + connection + rb":[ \t]*+" + _any_case(b"keep-alive") + rb"[ \t]*+\r\n)"
        + rb"|(?(%d)(?!))(" % (first + 2) + own + rb":[ \t]*+([\x21-\x7e]{1,200}+)[ \t]*+\r\n)"
    )  # fmt: skip


_PLAIN_REQUEST: Final = re.compile(
    rb"(" + _TOKEN + rb"{1,32}+) (/[\x21-\x7e]*+) HTTP/1\.1\r\n(?:" + OTHER_LINES
    + rb"|" + _any_case(b"host") + rb":[ \t]*+(?(3)(?!))([0-9A-Za-z._~%-]++(?::[0-9]{0,5}+)?)[ \t]*+\r\n"
    + plain_lines(4) + rb")*\r\n"
)  # fmt: skip
match_plain: Final = _PLAIN_REQUEST.match

_REQUEST_FIELDS: Final = re.compile(
    rb"\r\n(host|connection|content-length|transfer-encoding|expect|upgrade|x-request-id|keep-alive|proxy-connection"
    rb"|proxy-authorization|te|trailer|via|x-forwarded-for|x-forwarded-proto|x-forwarded-host|x-bluegreen-arm"
    rb"|x-bluegreen-shadow|forwarded):([^\r]*)"
)
# Fields of the request that end here or that the router writes anew (RFC 9110, 7.6.1). `TE: trailers` may not be passed on by
# a gateway that does not promise to forward trailers; this one forwards them, but each hop says so for itself.
_REQUEST_HOP: Final = re.compile(
    rb"\r\n(?:connection|keep-alive|proxy-connection|proxy-authorization|te|upgrade|x-request-id|x-bluegreen-arm"
    rb"|x-bluegreen-shadow|x-forwarded-for|x-forwarded-proto|x-forwarded-host|forwarded):[^\r]*",
    re.IGNORECASE,
)
_REQUEST_HOP_TRUSTED: Final = re.compile(
    rb"\r\n(?:connection|keep-alive|proxy-connection|proxy-authorization|te|upgrade|x-request-id|x-bluegreen-arm"
    rb"|x-bluegreen-shadow|x-forwarded-for):[^\r]*",
    re.IGNORECASE,
)
HOP_NAMES: Final = frozenset((b"keep-alive", b"proxy-connection", b"te", b"transfer-encoding", b"upgrade", b"close"))
# CONNECT: its 2xx answers have no body whatever their fields say (RFC 9112, 6.3), so two readers could cut the stream
# differently. PRI: the preface of HTTP/2, reserved so that an HTTP/1.1 server fails on it (RFC 9113, 11.6).
_NOT_FOR_SERVERS: Final = (b"CONNECT", b"PRI")
LENGTH: Final = re.compile(rb"[0-9]{1,19}")
_HOST: Final = re.compile(rb"(?:[0-9A-Za-z._~%!$&'()*+,;=\-]+|\[[0-9A-Fa-f:.]+\])?(?::[0-9]{0,5})?")
_REQUEST_ID: Final = re.compile(rb"[\x21-\x7e]{1,200}")
_ABSOLUTE: Final = re.compile(rb"https?://([^/?#]+)([^#]*)", re.IGNORECASE)

MAX_LINE_SHARE: Final = 2  # a request line longer than head limit / 2 is what is too long: 414, else 431


class HttpError(Exception):
    """A message that breaks the protocol or a limit. `status` is how a request is refused; an answer is a 502 always."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


class RequestHead:
    """A checked request head.

    raw: the head as it came (an absolute target made relative), its closing empty line included. size: how many bytes it took
    of the stream; the body starts there. method, target: as they came. minor: 0 or 1.
    length: of the body in bytes, 0 when there is none, or framing.CHUNKED.
    host: the authority asked for, None when an HTTP/1.0 client named none. keep_alive: what the client wants.
    expects: it waits for 100 (Continue). upgrade: the protocol it wants to change to, or b"".
    request_id: the client's own or b"". hop: fields are to be taken out before it goes on. nominated: names that `Connection`
    lists beside the well-known ones. passed: of the usual request, what goes on: the head without the fields that end here and
    without its closing line; else b"".
    """

    # Class attributes stand for what most requests do not have: a head is made for every request, and each attribute that is
    # set costs as much as a comparison.
    raw: bytes
    size: int
    method: bytes
    target: bytes
    minor: int = 1
    length: int = 0
    host: bytes | None = None
    keep_alive: bool = True
    expects: bool = False
    upgrade: bytes = b""
    request_id: bytes = b""
    forwarded_for: bytes = b""
    hop: bool = False
    nominated: tuple[bytes, ...] = ()
    passed: bytes = b""
    recode: bool = False

    def header(self, name: bytes) -> bytes | None:
        """The value of the first field of this lower-case name, or None."""
        return field_value(self.raw, name)

    def fields(self) -> dict[str, str]:
        """All fields by lower-case name; repeated ones joined by commas (RFC 9110, 5.3). Not for the hot path."""
        return all_fields(self.raw)


def all_fields(raw: bytes) -> dict[str, str]:
    out: dict[str, str] = {}
    for line in raw.decode("latin-1").split("\r\n")[1:-2]:
        name, _, value = line.partition(":")
        name, value = name.lower(), value.strip(" \t")
        out[name] = f"{out[name]}, {value}" if name in out else value
    return out


def field_value(raw: bytes, name: bytes) -> bytes | None:
    """The value of a head's first field of this lower-case name, or None."""
    lowered = raw.lower()
    at = lowered.find(b"\r\n" + name + b":")
    if at < 0:
        return None
    start = at + len(name) + 3
    return raw[start : raw.index(b"\r", start)].strip(b" \t")


def parse_request(data: bytes, limit: int = 32768, max_fields: int = 100) -> RequestHead | None:
    """The head at the start of `data`, or None while it is not all there. Raises HttpError.

    `limit` bounds the head in bytes, `max_fields` the number of its lines. Bytes after the head are left alone: the body
    starts at `head.size`.
    """
    match = match_plain(data)
    if match is not None:
        size = match.end()
        # A field takes at least four bytes, so a short head need not be counted.
        if size <= limit and (size < 4 * max_fields or match.group().count(b"\r\n") <= max_fields + 2):
            method, target, host, length, connection, own, request_id = match.groups()
            if host is not None and method not in _NOT_FOR_SERVERS:
                head = RequestHead()
                head.raw = data[:size]
                head.size = size
                head.method = method
                head.target = target
                head.host = host
                if length is not None:
                    head.length = int(length)
                if connection is None and own is None:
                    head.passed = data[: size - 2]
                else:
                    head.hop = True
                    head.passed = cut_lines(data, match, 0, 5)
                    if request_id is not None:
                        head.request_id = request_id
                return head
    return _parse_request(data, limit, max_fields)


def cut_lines(data: bytes, match: re.Match[bytes], start: int, group: int) -> bytes:
    """What is passed on of a plain head from `start` on: without the two lines that it may have and that end here.

    Those lines are the expression's groups `group` and `group` + 1.
    """
    at, passed = start, b""
    for gone in sorted((match.span(group), match.span(group + 1))):
        if gone[0] >= 0:
            passed += data[at : gone[0]]
            at = gone[1]
    return passed + data[at : match.end() - 2]


def _parse_request(data: bytes, limit: int, max_fields: int) -> RequestHead | None:
    """The long way: every field looked at, every refusal given its reason."""
    end = data.find(b"\r\n\r\n", 0, limit)
    if end < 0:
        _refuse_early(data, limit)
        return None
    match = _REQUEST.match(data, 0, end + 4)
    if match is None or match.end() != end + 4:
        raise HttpError(400, _why_bad_request(data[: end + 4]))
    method, target, major, minor = match.groups()
    if major != b"1" or minor not in (b"0", b"1"):
        raise HttpError(505, "only HTTP/1.0 and HTTP/1.1 are spoken here")
    if method == b"CONNECT":
        raise HttpError(501, "CONNECT is for forward proxies; this is a gateway")
    if method == b"PRI":
        raise HttpError(505, "only HTTP/1.0 and HTTP/1.1 are spoken here, not HTTP/2")
    raw = match.group()
    if raw.count(b"\r\n") > max_fields + 2:
        raise HttpError(431, f"the request has more than {max_fields} header fields")
    head = RequestHead()
    head.raw = raw
    head.size = end + 4
    head.method = method
    head.target = target
    head.minor = 1 if minor != b"0" else 0
    head.keep_alive = head.minor == 1
    lengths = codings = hosts = 0
    connection = None
    for name, value in _REQUEST_FIELDS.findall(raw.lower(), raw.index(b"\r\n")):
        value = value.strip(b" \t")
        if name == b"host":
            hosts += 1
            if not _HOST.fullmatch(value):
                raise HttpError(400, "the Host field is not a host and port")
            head.host = value
        elif name == b"content-length":
            lengths += 1
            if not LENGTH.fullmatch(value):
                raise HttpError(400, "Content-Length is not one whole number")
            head.length = int(value)
        elif name == b"transfer-encoding":
            codings += 1
            if value != b"chunked":
                _refuse_coding(value)
            # Goes on as ` chunked` and nothing else: other spellings are legal, but some servers read another framing in them.
            head.recode = True
        elif name == b"expect":
            if value != b"100-continue":
                raise HttpError(417, "the only expectation known here is 100-continue")
            head.expects = head.minor == 1
        elif name == b"x-request-id":
            # Values are case-sensitive, so it is read from the bytes as they came.
            own = head.header(b"x-request-id") or b""
            head.request_id = own if _REQUEST_ID.fullmatch(own) else b""
            head.hop = True
        elif name == b"upgrade":
            head.upgrade = value
            head.hop = True
        elif name == b"connection":
            connection = value if connection is None else connection + b"," + value
            head.hop = True
        elif name == b"x-forwarded-for":
            head.forwarded_for = value if not head.forwarded_for else head.forwarded_for + b", " + value
            head.hop = True
        elif name not in (b"via", b"trailer"):
            head.hop = True
    if hosts != 1 and (hosts > 1 or head.minor == 1):
        # RFC 9112, 3.2: exactly one Host in HTTP/1.1.
        raise HttpError(400, "the request has no Host field" if not hosts else "the request has more than one Host field")
    if codings:
        if lengths:
            raise HttpError(400, "the request has both Content-Length and Transfer-Encoding")
        if codings > 1:
            raise HttpError(400, "the request has more than one Transfer-Encoding field")
        if head.minor == 0:
            raise HttpError(400, "Transfer-Encoding is not for HTTP/1.0")
        head.length = CHUNKED
    elif lengths > 1:
        raise HttpError(400, "the request has more than one Content-Length field")
    if connection is not None:
        _read_connection(head, connection)
    elif head.upgrade:
        head.upgrade = b""  # RFC 9110, 7.8: Upgrade counts only when Connection names it
    if head.expects and head.length == 0:
        head.expects = False
    if head.length != 0:
        # Some servers let a request that asks for an upgrade end with its head; the wish may be ignored (RFC 9110, 7.8).
        head.upgrade = b""
    if target[:1] != b"/":
        _resolve_target(head)
    return head


def forwarded_fields(head: RequestHead, *, trusted: bool = False) -> bytes:
    """The request's fields as they go on, each line ending with CRLF: without those that end here.

    With `trusted` the client's X-Forwarded-Proto, -Host and Forwarded stay as they are.
    """
    raw = head.raw
    fields = raw[raw.index(b"\r\n") : -2]
    if head.hop:
        fields = (_REQUEST_HOP_TRUSTED if trusted else _REQUEST_HOP).sub(b"", fields)
    if head.nominated:
        fields = without(fields, head.nominated)
    return replace_field(fields[2:], b"transfer-encoding", b"Transfer-Encoding: chunked\r\n") if head.recode else fields[2:]


def replace_field(fields: bytes, name: bytes, line: bytes) -> bytes:
    """Field lines with every field of this name taken out and `line` (with its CRLF, or empty) put first."""
    return line + without(b"\r\n" + fields, (name,))[2:]


FRAMING_NAMES: Final = frozenset((b"content-length", b"host", b"connection", b"keep-alive"))


def without(fields: bytes, names: tuple[bytes, ...]) -> bytes:
    """Field lines (the first one after a CRLF) without those of these lower-case names."""
    gone = frozenset(names)
    lines = fields.split(b"\r\n")
    return b"\r\n".join(line for line in lines if not line or line.partition(b":")[0].lower() not in gone)


def _read_connection(head: RequestHead, connection: bytes) -> None:
    """What `Connection` says (RFC 9110, 7.6.1): persistence, an upgrade, and fields that must not go on."""
    options = [option.strip(b" \t") for option in connection.split(b",")]
    if b"close" in options:
        head.keep_alive = False
    elif b"keep-alive" in options:
        head.keep_alive = True
    if b"upgrade" not in options or head.minor == 0:
        head.upgrade = b""
    # A client that nominates Host or Content-Length would take out what frames and addresses the request; those stay.
    head.nominated = tuple(o for o in options if o and o not in HOP_NAMES and o not in FRAMING_NAMES)
    for option in head.nominated:
        if not re.fullmatch(_TOKEN + rb"+", option):
            raise HttpError(400, "the Connection field is not a list of names")


def _resolve_target(head: RequestHead) -> None:
    """The three target forms that do not start with a slash (RFC 9112, 3.2)."""
    if head.target == b"*" and head.method == b"OPTIONS":
        return
    match = _ABSOLUTE.fullmatch(head.target)
    if match is None:
        raise HttpError(400, "the request target is neither a path nor an absolute URI")
    authority, rest = match.groups()
    if not authority or b"@" in authority or not _HOST.fullmatch(authority):
        raise HttpError(400, "the authority in the request target is not a host and port")
    # RFC 9112, 3.2.2: with an absolute target the received Host is ignored and replaced by the target's own.
    head.host = authority
    if not rest and head.method == b"OPTIONS":
        head.target = b"*"  # RFC 9112, 3.2.4
    else:
        head.target = rest if rest[:1] == b"/" else b"/" + rest
    fields = replace_field(head.raw[head.raw.index(b"\r\n") + 2 : -2], b"host", b"Host: " + authority + b"\r\n")
    head.raw = b"%s %s HTTP/1.%d\r\n%s\r\n" % (head.method, head.target, head.minor, fields)


def _refuse_coding(value: bytes) -> None:
    codings = [coding.strip(b" \t") for coding in value.split(b",")]
    if len(codings) > 1 and codings[-1] == b"chunked" and b"chunked" not in codings[:-1] and all(codings):
        # RFC 9112, 6.1: a coding that is not understood is answered 501.
        raise HttpError(501, "the only transfer coding known here is chunked")
    raise HttpError(400, "Transfer-Encoding does not end with one `chunked`")


def _refuse_early(data: bytes, limit: int) -> None:
    """A head that is not all there may already be one that will never be good."""
    line = data.find(b"\r\n")
    if len(data) >= limit:
        if line < 0 or line > limit // MAX_LINE_SHARE:
            raise HttpError(414, "the request line is too long")
        raise HttpError(431, f"the header fields take more than {limit} bytes")
    bare = BARE.search(data)
    if bare is not None:
        raise HttpError(400, "a line of the request does not end with CRLF")
    if line >= 0 and not _REQUEST_LINE.fullmatch(data, 0, line):
        raise HttpError(400, _why_bad_request(data))


def _why_bad_request(head: bytes) -> str:
    """The first thing that is wrong with a head that the expression refused, in words for the client's author."""
    if BARE.search(head):
        return "a line of the request does not end with CRLF"
    line, _, fields = head.partition(b"\r\n")
    if not _REQUEST_LINE.fullmatch(line):
        return "the request line is not `METHOD target HTTP/1.1`"
    for field in fields.split(b"\r\n"):
        if field[:1] in (b" ", b"\t"):
            return "a header field is folded over two lines"
        name, colon, _ = field.partition(b":")
        if field and not colon:
            return "a header line has no colon"
        if field and name[-1:] in (b" ", b"\t"):
            return "a header field has white space before its colon"
        if field and not re.fullmatch(_TOKEN + rb"+", name):
            return "a header field's name is not a token"
    return "a header field holds a control character"
