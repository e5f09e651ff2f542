"""HTTP/1.1 message heads, both directions, without any I/O.

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

from models.framing import CHUNKED, UNTIL_CLOSE

_TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
_FIELDS: Final = rb"(?:" + _TOKEN + rb"++:[\t\x20-\x7e\x80-\xff]*+\r\n)*+\r\n"

# Method, target and minor version. The target is any visible ASCII (RFC 9112, 3.2; what the URI means is the server's affair).
_REQUEST: Final = re.compile(rb"(" + _TOKEN + rb"{1,32}+) ([\x21-\x7e]++) HTTP/(\d)\.(\d)\r\n" + _FIELDS)
# The reason phrase may be empty, and then many servers leave out the space before it as well (RFC 9112, 4 wants the space).
_RESPONSE: Final = re.compile(rb"HTTP/1\.([01]) ([1-5]\d\d)(?: [\t\x20-\x7e\x80-\xff]*+)?\r\n" + _FIELDS)
_REQUEST_LINE: Final = re.compile(_TOKEN + rb"{1,32} [\x21-\x7e]+ HTTP/\d\.\d")
# A line end that is not CRLF. A CR at the very end may still get its LF.
_BARE: Final = re.compile(rb"(?<!\r)\n|\r(?!\n|\Z)")


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


_OTHER_LINES: Final = (
    rb"[" + re.escape(_OTHER_LETTERS) + rb"]" + _TOKEN + rb"*+:[\t\x20-\x7e\x80-\xff]*+\r\n"
    rb"|(?!" + _one_of([name + b":" for name in _MEANINGFUL]) + rb")" + _TOKEN + rb"++:[\t\x20-\x7e\x80-\xff]*+\r\n"
)


def _plain_lines(first: int) -> bytes:
    """The alternatives for a line beside Host; their groups are `first` (a length), `first` + 1 (a line) and so on."""
    length, connection, own = (_any_case(name) for name in (b"content-length", b"connection", b"x-request-id"))
    return (
        rb"|" + length + rb":[ \t]*+(?(%d)(?!))([0-9]{1,18}+)[ \t]*+\r\n" % first
        + rb"|(?(%d)(?!))(" % (first + 1) + connection + rb":[ \t]*+" + _any_case(b"keep-alive") + rb"[ \t]*+\r\n)"
        + rb"|(?(%d)(?!))(" % (first + 2) + own + rb":[ \t]*+([\x21-\x7e]{1,200}+)[ \t]*+\r\n)"
    )  # fmt: skip


_PLAIN_REQUEST: Final = re.compile(
    rb"(" + _TOKEN + rb"{1,32}+) (/[\x21-\x7e]*+) HTTP/1\.1\r\n(?:" + _OTHER_LINES
    + rb"|" + _any_case(b"host") + rb":[ \t]*+(?(3)(?!))([0-9A-Za-z._~%-]++(?::[0-9]{0,5}+)?)[ \t]*+\r\n"
    + _plain_lines(4) + rb")*\r\n"
)  # fmt: skip
# The same from the beginning of some later line on, without a Host: see Familiar.
_PLAIN_REST: Final = re.compile(rb"(?:" + _OTHER_LINES + _plain_lines(1) + rb")*\r\n")
_match_rest: Final = _PLAIN_REST.match
_match_plain: Final = _PLAIN_REQUEST.match

_REQUEST_FIELDS: Final = re.compile(
    rb"\r\n(host|connection|content-length|transfer-encoding|expect|upgrade|x-request-id|keep-alive|proxy-connection"
    rb"|proxy-authorization|te|trailer|via|x-forwarded-for|x-forwarded-proto|x-forwarded-host|x-bluegreen-arm"
    rb"|x-bluegreen-shadow|forwarded):([^\r]*)"
)
_RESPONSE_FIELDS: Final = re.compile(
    rb"\r\n(content-length|connection|transfer-encoding|upgrade|x-request-id|x-bluegreen-arm|keep-alive|proxy-connection|trailer"
    rb"|proxy-authenticate):([^\r]*)"
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
_RESPONSE_HOP: Final = re.compile(
    rb"\r\n(?:connection|keep-alive|proxy-connection|upgrade|x-request-id|x-bluegreen-arm):[^\r]*", re.IGNORECASE
)
_HOP_NAMES: Final = frozenset((b"keep-alive", b"proxy-connection", b"te", b"transfer-encoding", b"upgrade", b"close"))
# CONNECT: its 2xx answers have no body whatever their fields say (RFC 9112, 6.3), so two readers could cut the stream
# differently. PRI: the preface of HTTP/2, reserved so that an HTTP/1.1 server fails on it (RFC 9113, 11.6).
_NOT_FOR_SERVERS: Final = (b"CONNECT", b"PRI")
_LENGTH: Final = re.compile(rb"[0-9]{1,19}")
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
        return _fields(self.raw)


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
        return _fields(self.raw)


def _fields(raw: bytes) -> dict[str, str]:
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
    match = _match_plain(data)
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
                    head.passed = _cut(data, match, 0, 5)
                    if request_id is not None:
                        head.request_id = request_id
                return head
    return _parse_request(data, limit, max_fields)


def _cut(data: bytes, match: re.Match[bytes], start: int, group: int) -> bytes:
    """What is passed on of a plain head from `start` on: without the two lines that it may have and that end here.

    Those lines are the expression's groups `group` and `group` + 1.
    """
    at, passed = start, b""
    for gone in sorted((match.span(group), match.span(group + 1))):
        if gone[0] >= 0:
            passed += data[at : gone[0]]
            at = gone[1]
    return passed + data[at : match.end() - 2]


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
                            head.passed = self._passed + _cut(data, match, len(start), 2)
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
        match = _match_plain(raw)
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
            if not _LENGTH.fullmatch(value):
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
        if _BARE.search(data) or (len(data) >= 5 and not data.startswith(b"HTTP/")) or not b"HTTP/".startswith(data[:5]):
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
            if length is not None or not _LENGTH.fullmatch(value):
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
        head.nominated = tuple(o for o in options if o and o not in _HOP_NAMES and o not in _FRAMING_NAMES)
    if head.status < 200 or head.status in (204, 304) or method == b"HEAD":
        # RFC 9112, 6.3, rule 1: these end with the head whatever their fields say. A 1xx or 204 must not even carry them (6.1).
        if (chunked or length is not None) and (head.status < 200 or head.status == 204) and not (length == 0 and not chunked):
            raise HttpError(502, f"an answer with status {head.status} must not announce a body")
        head.length = 0
    elif chunked:
        if length is not None:
            raise HttpError(502, "the answer has both Content-Length and Transfer-Encoding")
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


def forwarded_fields(head: RequestHead, *, trusted: bool = False) -> bytes:
    """The request's fields as they go on, each line ending with CRLF: without those that end here.

    With `trusted` the client's X-Forwarded-Proto, -Host and Forwarded stay as they are.
    """
    raw = head.raw
    fields = raw[raw.index(b"\r\n") : -2]
    if head.hop:
        fields = (_REQUEST_HOP_TRUSTED if trusted else _REQUEST_HOP).sub(b"", fields)
    if head.nominated:
        fields = _without(fields, head.nominated)
    return replace_field(fields[2:], b"transfer-encoding", b"Transfer-Encoding: chunked\r\n") if head.recode else fields[2:]


def answered_fields(head: ResponseHead) -> bytes:
    """The answer's fields as they go on, each line ending with CRLF."""
    raw = head.raw
    start = raw.index(b"\r\n")
    if not head.hop:
        return raw[start + 2 : -2]
    fields = _RESPONSE_HOP.sub(b"", raw[start:-2])
    if head.nominated:
        fields = _without(fields, head.nominated)
    return fields[2:]


def replace_field(fields: bytes, name: bytes, line: bytes) -> bytes:
    """Field lines with every field of this name taken out and `line` (with its CRLF, or empty) put first."""
    return line + _without(b"\r\n" + fields, (name,))[2:]


_FRAMING_NAMES: Final = frozenset((b"content-length", b"host", b"connection", b"keep-alive"))


def _without(fields: bytes, names: tuple[bytes, ...]) -> bytes:
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
    head.nominated = tuple(o for o in options if o and o not in _HOP_NAMES and o not in _FRAMING_NAMES)
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
    bare = _BARE.search(data)
    if bare is not None:
        raise HttpError(400, "a line of the request does not end with CRLF")
    if line >= 0 and not _REQUEST_LINE.fullmatch(data, 0, line):
        raise HttpError(400, _why_bad_request(data))


def _why_bad_request(head: bytes) -> str:
    """The first thing that is wrong with a head that the expression refused, in words for the client's author."""
    if _BARE.search(head):
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
