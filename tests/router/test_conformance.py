"""What the data plane takes from clients and what servers see of it, case by case, over real sockets.

Each case names the section that demands it: RFC 9112 (HTTP/1.1), RFC 9110 (semantics), or the project's own rule where it is
stricter than the RFC allows it to be (`own`): a gateway that guesses lets two parties see two different messages.
Answers are in test_conformance_answers.py, arms and splits in test_conformance_arms.py.
"""

from __future__ import annotations

import contextlib
import gzip
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from plane import PATIENT, Client, Router, Upstream, chunked, ok

from router import counters as c

SETTINGS: dict[str, Any] = {
    "timeouts": PATIENT,
    "limits": {"head": 16384, "body": 1 << 20},
    "health": {"interval": 60, "timeout": 10, "eject_after": 10_000},
}

HOST = b"Host: a\r\n"


@dataclass(frozen=True, slots=True)
class Bad:
    """A request that is refused: with this status, a problem document, and the end of the connection."""

    section: str
    name: str
    raw: bytes
    status: int = 400


def fields(*lines: bytes, method: bytes = b"GET") -> bytes:
    return method + b" / HTTP/1.1\r\n" + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


def hosted(*lines: bytes, method: bytes = b"GET") -> bytes:
    return fields(b"Host: a", *lines, method=method)


def post(*lines: bytes, body: bytes = b"") -> bytes:
    return hosted(*lines, method=b"POST") + body


def framed(body: bytes) -> bytes:
    return post(b"Transfer-Encoding: chunked", body=body)


BAD = [
    # --- the request line
    Bad("9112 3", "two spaces before the target", b"GET  / HTTP/1.1\r\n" + HOST + b"\r\n"),
    Bad("9112 3", "two spaces before the version", b"GET /  HTTP/1.1\r\n" + HOST + b"\r\n"),
    Bad("9112 3", "a tab as separator", b"GET\t/ HTTP/1.1\r\n" + HOST + b"\r\n"),
    Bad("9112 3", "a space before the method", b" GET / HTTP/1.1\r\n" + HOST + b"\r\n"),
    Bad("9112 3", "a space after the version", b"GET / HTTP/1.1 \r\n" + HOST + b"\r\n"),
    Bad("9112 3", "no target", b"GET HTTP/1.1\r\n" + HOST + b"\r\n"),
    Bad("9112 3", "nothing but a method", b"GET\r\n\r\n"),
    Bad("9112 3", "HTTP/0.9", b"GET /\r\n\r\n"),
    Bad("9112 3.1", "a method that is no token", b"G@T / HTTP/1.1\r\n" + HOST + b"\r\n"),
    Bad("9112 3.1", "a method in parentheses", b"(GET) / HTTP/1.1\r\n" + HOST + b"\r\n"),
    Bad("9112 3.1", "a method with a byte over 127", b"G\xc3\x8bT / HTTP/1.1\r\n" + HOST + b"\r\n"),
    Bad("9112 3.1", "no method", b" / HTTP/1.1\r\n" + HOST + b"\r\n"),
    Bad("9112 2.3", "a version in lower case", b"GET / http/1.1\r\n" + HOST + b"\r\n"),
    Bad("9112 2.3", "a version without minor", b"GET / HTTP/1\r\n" + HOST + b"\r\n"),
    Bad("9112 2.3", "a version of two digits", b"GET / HTTP/1.10\r\n" + HOST + b"\r\n"),
    Bad("9112 2.3", "a version with a leading zero", b"GET / HTTP/01.1\r\n" + HOST + b"\r\n"),
    Bad("9112 2.3", "another protocol", b"GET / ICY/1.1\r\n" + HOST + b"\r\n"),
    Bad("9110 15.6.6", "HTTP/2.0", b"GET / HTTP/2.0\r\n" + HOST + b"\r\n", 505),
    Bad("9110 15.6.6", "HTTP/3.0", b"GET / HTTP/3.0\r\n" + HOST + b"\r\n", 505),
    Bad("9110 15.6.6", "the preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    Bad("own", "HTTP/1.2, which this router could not pass on as its own", b"GET / HTTP/1.2\r\n" + HOST + b"\r\n", 505),
    Bad("9112 2.1", "a TLS client", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(60) + b"\r\n\r\n"),
    # --- the target
    Bad("9112 3.2", "a space in the target", b"GET /a b HTTP/1.1\r\n" + HOST + b"\r\n"),
    Bad("9112 3.2", "a control character in the target", b"GET /\x01 HTTP/1.1\r\n" + HOST + b"\r\n"),
    Bad("9112 3.2", "NUL in the target", b"GET /\x00 HTTP/1.1\r\n" + HOST + b"\r\n"),
    Bad("9112 3.2", "DEL in the target", b"GET /\x7f HTTP/1.1\r\n" + HOST + b"\r\n"),
    Bad("9112 3.2", "a byte over 127 in the target", b"GET /\xc3\xa9 HTTP/1.1\r\n" + HOST + b"\r\n"),
    Bad("9112 3.2", "a relative target", b"GET models HTTP/1.1\r\n" + HOST + b"\r\n"),
    Bad("9112 3.2", "a target without its host", b"GET ?q=1 HTTP/1.1\r\n" + HOST + b"\r\n"),
    Bad("9112 3.2.2", "an absolute target of another scheme", b"GET ftp://a/x HTTP/1.1\r\n" + HOST + b"\r\n"),
    Bad("9110 4.2.4", "an absolute target with a user", b"GET http://me@a/x HTTP/1.1\r\n" + HOST + b"\r\n"),
    Bad("9110 4.2.1", "an absolute target without a host", b"GET http:///x HTTP/1.1\r\n" + HOST + b"\r\n"),
    Bad("9110 4.2.1", "an absolute target with a bad port", b"GET http://a:b/x HTTP/1.1\r\n" + HOST + b"\r\n"),
    Bad("9112 3.2.2", "an absolute target with a fragment", b"GET http://a/x#y HTTP/1.1\r\n" + HOST + b"\r\n"),
    Bad("9112 3.2.4", "an asterisk for another method than OPTIONS", b"GET * HTTP/1.1\r\n" + HOST + b"\r\n"),
    Bad("9110 9.3.6", "CONNECT", b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", 501),
    Bad("9113 3.4", "the method of the HTTP/2 preface", b"PRI / HTTP/1.1\r\n" + HOST + b"\r\n", 505),
    Bad(
        "9112 6.3",
        "CONNECT to a path: its 2xx would be a tunnel to the server only",
        b"CONNECT / HTTP/1.1\r\n" + HOST + b"\r\n",
        501,
    ),
    # --- lines
    Bad("9112 2.2", "bare LF for all line ends", b"GET / HTTP/1.1\nHost: a\n\n"),
    Bad("9112 2.2", "bare LF after the request line", b"GET / HTTP/1.1\nHost: a\r\n\r\n"),
    Bad("9112 2.2", "bare LF after a field", b"GET / HTTP/1.1\r\nHost: a\nx: y\r\n\r\n"),
    Bad("9112 2.2", "bare LF as the empty line", b"GET / HTTP/1.1\r\nHost: a\r\n\n"),
    Bad("9112 2.2", "bare CR in a value", hosted(b"x: a\rb")),
    Bad("9112 2.2", "bare CR that hides a field", hosted(b"x: a\rTransfer-Encoding: chunked")),
    Bad("9112 2.2", "bare CR in a name", hosted(b"x\ry: a")),
    Bad("9112 2.2", "CR CR LF", b"GET / HTTP/1.1\r\nHost: a\r\r\n\r\n"),
    Bad("9112 2.2", "white space before the first field", b"GET / HTTP/1.1\r\n Host: a\r\n\r\n"),
    Bad("9112 2.2", "two empty lines before the request", b"\r\n\r\nGET / HTTP/1.1\r\n" + HOST + b"\r\n"),
    # --- fields
    Bad("9112 5.1", "a space before the colon", hosted(b"x : y")),
    Bad("9112 5.1", "a tab before the colon", hosted(b"x\t: y")),
    Bad("9112 5.1", "a space before the colon of Transfer-Encoding", post(b"Transfer-Encoding : chunked")),
    Bad("9112 5.1", "a space before the colon of Content-Length", post(b"Content-Length : 5", body=b"hello")),
    Bad("9112 5.2", "a field folded with a space", hosted(b"x: a", b" b")),
    Bad("9112 5.2", "a field folded with a tab", hosted(b"x: a", b"\tb")),
    Bad("9112 5.2", "Transfer-Encoding folded", post(b"Transfer-Encoding:", b" chunked")),
    Bad("9112 5", "a line without a colon", hosted(b"nonsense")),
    Bad("9112 5", "a field without a name", hosted(b": nameless")),
    Bad("9110 5.1", "a name with a space", hosted(b"x y: z")),
    Bad("9110 5.1", "a name with a parenthesis", hosted(b"x(y): z")),
    Bad("9110 5.1", "a name with a slash", hosted(b"x/y: z")),
    Bad("9110 5.1", "a name with a byte over 127", hosted(b"\xc3\xa9: z")),
    Bad("9110 5.1", "a name with NUL", hosted(b"x\x00y: z")),
    Bad("9110 5.5", "NUL in a value", hosted(b"x: a\x00b")),
    Bad("9110 5.5", "a control character in a value", hosted(b"x: a\x01b")),
    Bad("9110 5.5", "vertical tab in a value", hosted(b"x: a\x0bb")),
    Bad("9110 5.5", "form feed in a value", hosted(b"x: a\x0cb")),
    Bad("9110 5.5", "DEL in a value", hosted(b"x: a\x7fb")),
    Bad("9110 5.5", "escape in a value", hosted(b"x: \x1b[31m")),
    # --- Host
    Bad("9112 3.2", "no Host", fields()),
    Bad("9112 3.2", "no Host with an absolute target", b"GET http://a/ HTTP/1.1\r\n\r\n"),
    Bad("9112 3.2", "two Hosts", fields(b"Host: a", b"Host: b")),
    Bad("9112 3.2", "the same Host twice", fields(b"Host: a", b"HOST: a")),
    Bad("9112 3.2", "two Hosts of an HTTP/1.0 client", b"GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n"),
    Bad("9112 3.2", "a list as Host", fields(b"Host: a, b")),
    Bad("9112 3.2", "a path in Host", fields(b"Host: a/b")),
    Bad("9112 3.2", "a user in Host", fields(b"Host: me@a")),
    Bad("9112 3.2", "a space in Host", fields(b"Host: a b")),
    Bad("9112 3.2", "a bad port in Host", fields(b"Host: a:http")),
    Bad("9112 3.2", "a port of six digits in Host", fields(b"Host: a:808080")),
    Bad("9112 3.2", "half an IPv6 address in Host", fields(b"Host: [::1")),
    # --- the length
    Bad(
        "9112 6.3",
        "Content-Length and Transfer-Encoding",
        post(b"Content-Length: 5", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
    ),
    Bad(
        "9112 6.3",
        "Transfer-Encoding and Content-Length",
        post(b"Transfer-Encoding: chunked", b"Content-Length: 5", body=b"0\r\n\r\n"),
    ),
    Bad("9112 6.3", "two lengths", post(b"Content-Length: 5", b"Content-Length: 6", body=b"hello")),
    Bad("own", "the same length twice", post(b"Content-Length: 5", b"content-length: 5", body=b"hello")),
    Bad("own", "a list of equal lengths", post(b"Content-Length: 5, 5", body=b"hello")),
    Bad("9112 6.3", "a list of lengths", post(b"Content-Length: 5, 6", body=b"hello")),
    Bad("9110 8.6", "a negative length", post(b"Content-Length: -5", body=b"hello")),
    Bad("9110 8.6", "a length with a sign", post(b"Content-Length: +5", body=b"hello")),
    Bad("9110 8.6", "a hexadecimal length", post(b"Content-Length: 0x5", body=b"hello")),
    Bad("9110 8.6", "a length with a point", post(b"Content-Length: 5.0", body=b"hello")),
    Bad("9110 8.6", "a length with an exponent", post(b"Content-Length: 1e1", body=b"hello")),
    Bad("9110 8.6", "a length with an underscore", post(b"Content-Length: 1_0", body=b"hello")),
    Bad("9110 8.6", "a length of two words", post(b"Content-Length: 5 5", body=b"hello")),
    Bad("9110 8.6", "a length with a parameter", post(b"Content-Length: 5;x", body=b"hello")),
    Bad("9110 8.6", "an empty length", post(b"Content-Length:", body=b"hello")),
    Bad("9110 8.6", "a length in other digits", post("Content-Length: ٥".encode(), body=b"hello")),
    Bad("9110 8.6", "a length in quotes", post(b'Content-Length: "5"', body=b"hello")),
    Bad("9110 8.6", "a length of 30 digits", post(b"Content-Length: " + b"9" * 30)),
    Bad("9110 15.5.14", "a length over the limit", post(b"Content-Length: 1048577"), 413),
    # --- the transfer coding
    Bad("9112 6.1", "a coding that is not known", post(b"Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n"), 501),
    Bad("9112 6.3", "a coding without chunked", post(b"Transfer-Encoding: gzip", body=b"0\r\n\r\n")),
    Bad("9112 6.1", "chunked twice", post(b"Transfer-Encoding: chunked, chunked", body=b"0\r\n\r\n")),
    Bad("9112 6.1", "chunked not last", post(b"Transfer-Encoding: chunked, gzip", body=b"0\r\n\r\n")),
    Bad("9112 6.1", "two fields", post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n")),
    Bad(
        "9112 6.1",
        "two fields, identity",
        post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity", body=b"0\r\n\r\n"),
    ),
    Bad("9112 7", "identity", post(b"Transfer-Encoding: identity", body=b"0\r\n\r\n")),
    Bad("9112 7", "an empty coding", post(b"Transfer-Encoding:", body=b"0\r\n\r\n")),
    Bad("9112 7", "an empty element before it", post(b"Transfer-Encoding: , chunked", body=b"0\r\n\r\n")),
    Bad("9112 7", "chunked with a parameter", post(b"Transfer-Encoding: chunked;q=1", body=b"0\r\n\r\n")),
    Bad("9112 7", "nearly chunked", post(b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n")),
    Bad("9112 7", "chunked in quotes", post(b'Transfer-Encoding: "chunked"', body=b"0\r\n\r\n")),
    Bad("9112 7", "chunked with a control character", post(b"Transfer-Encoding: \x0bchunked", body=b"0\r\n\r\n")),
    Bad("9112 7", "chunked with a byte over 127", post(b"Transfer-Encoding: chunked\xa0", body=b"0\r\n\r\n")),
    Bad(
        "9112 6.1",
        "chunked from an HTTP/1.0 client",
        b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    # --- chunks
    Bad("9112 7.1", "a size that is no number", framed(b"xyz\r\n")),
    Bad("9112 7.1", "no size", framed(b"\r\nhello\r\n0\r\n\r\n")),
    Bad("9112 7.1", "a negative size", framed(b"-5\r\nhello\r\n0\r\n\r\n")),
    Bad("9112 7.1", "a size with a sign", framed(b"+5\r\nhello\r\n0\r\n\r\n")),
    Bad("9112 7.1", "a size with 0x", framed(b"0x5\r\nhello\r\n0\r\n\r\n")),
    Bad("9112 7.1", "a space before the size", framed(b" 5\r\nhello\r\n0\r\n\r\n")),
    Bad("own", "a space after the size", framed(b"5 \r\nhello\r\n0\r\n\r\n")),
    Bad("9112 7.1", "a size with an underscore", framed(b"1_0\r\nhello\r\n0\r\n\r\n")),
    Bad("9112 7.1", "a size of 17 digits", framed(b"00000000000000005\r\nhello\r\n0\r\n\r\n")),
    Bad("9112 7.1", "a size that wraps round", framed(b"10000000000000005\r\nhello\r\n0\r\n\r\n")),
    Bad("9112 7.1", "bare LF after the size", framed(b"5\nhello\r\n0\r\n\r\n")),
    Bad("9112 7.1", "bare CR after the size", framed(b"5\rhello\r\n0\r\n\r\n")),
    Bad("9112 7.1", "bare LF after the data", framed(b"5\r\nhello\n0\r\n\r\n")),
    Bad("9112 7.1", "nothing after the data", framed(b"5\r\nhello0\r\n\r\n")),
    Bad("9112 7.1", "more data than the size", framed(b"5\r\nhello!\r\n0\r\n\r\n")),
    Bad("9112 7.1", "less data than the size", framed(b"5\r\nhell\r\n0\r\n\r\n")),
    Bad("9112 7.1.1", "an extension without a name", framed(b"5;\r\nhello\r\n0\r\n\r\n")),
    Bad("9112 7.1.1", "an extension without a value", framed(b"5;a=\r\nhello\r\n0\r\n\r\n")),
    Bad("9112 7.1.1", "a control character in an extension", framed(b"5;a=\x01\r\nhello\r\n0\r\n\r\n")),
    Bad("9112 7.1.1", "bare LF in an extension", framed(b"5;a\nhello\r\n0\r\n\r\n")),
    Bad("9112 7.1.1", "bare CR in an extension", framed(b"5;a\rb\r\nhello\r\n0\r\n\r\n")),
    Bad("9112 7.1.1", "an open quote in an extension", framed(b'5;a="b\r\nhello\r\n0\r\n\r\n')),
    Bad("own", "white space in an extension", framed(b"5; a=b\r\nhello\r\n0\r\n\r\n")),
    Bad("9112 7.1.1", "an extension without end", framed(b"5;" + b"a" * 5000)),
    Bad("9110 15.5.14", "chunks over the limit", framed(b"100001\r\n"), 413),
    # --- trailers
    Bad("9110 6.5.1", "Content-Length in the trailers", framed(b"0\r\nContent-Length: 5\r\n\r\n")),
    Bad("9110 6.5.1", "Transfer-Encoding in the trailers", framed(b"0\r\nTransfer-Encoding: chunked\r\n\r\n")),
    Bad("9110 6.5.1", "Host in the trailers", framed(b"0\r\nHost: b\r\n\r\n")),
    Bad("9110 6.5.1", "Authorization in the trailers", framed(b"0\r\nAuthorization: Basic eDp5\r\n\r\n")),
    Bad("9112 7.1.2", "a trailer without a colon", framed(b"0\r\nnonsense\r\n\r\n")),
    Bad("9112 7.1.2", "a folded trailer", framed(b"0\r\nx: a\r\n b\r\n\r\n")),
    Bad("9112 7.1.2", "a space before a trailer's colon", framed(b"0\r\nx : a\r\n\r\n")),
    Bad("9112 7.1.2", "bare LF in the trailers", framed(b"0\r\nx: a\n\r\n")),
    Bad("9112 7.1.2", "NUL in a trailer", framed(b"0\r\nx: \x00\r\n\r\n")),
    Bad("9112 7.1.2", "trailers without end", framed(b"0\r\n" + b"x: aaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n" * 1000)),
    # --- the rest
    Bad("9110 10.1.1", "an expectation that is not known", post(b"Expect: 200-ok", b"Content-Length: 0"), 417),
    Bad("9110 7.6.1", "Connection that is not a list of names", hosted(b"Connection: close, x y")),
    Bad("6585 5", "a head over the limit", hosted(b"x: " + b"a" * 20_000), 431),
    Bad("9110 15.5.15", "a target over the limit", b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 414),
    Bad("6585 5", "more fields than the limit", hosted(*[b"x: y"] * 101), 431),
]


def names(cases: Any) -> list[str]:
    return [f"{case.section}: {case.name}" for case in cases]


def split(raw: bytes) -> Iterator[bytes]:
    yield from (raw[i : i + 11] for i in range(0, min(len(raw), 400), 11))
    yield raw[400 + (-400 % 11) :] if len(raw) > 400 else b""


@pytest.mark.parametrize("case", BAD, ids=names(BAD))
@pytest.mark.parametrize("cut", [False, True], ids=["whole", "cut"])
def test_refused(router: Router, blue: Upstream, client: Client, case: Bad, cut: bool) -> None:
    own = router.counts.own(case.status)
    with contextlib.suppress(OSError):
        client.sends(*(split(case.raw) if cut else [case.raw]), pause=0)
    answer = client.receives()
    assert answer.status == case.status, answer.payload
    answer.problem()
    assert answer.header(b"connection") == b"close"
    assert client.is_cut_off()
    assert blue.seen == []  # never a whole request
    assert router.counts.own(case.status) == own + 1


@pytest.mark.parametrize("pieces", [(b"\r\n", b"\r\n"), (b"\r", b"\n\r", b"\n"), (b"\r\n\r", b"\n")])
def test_two_empty_lines_are_refused_in_however_many_pieces(client: Client, pieces: tuple[bytes, ...]) -> None:
    """RFC 9112, 2.2: one may come before a request, and where the bytes were cut on their way says nothing."""
    with contextlib.suppress(OSError):
        client.sends(*pieces, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert client.receives().status == 400


def test_an_empty_line_may_come_before_each_request(client: Client) -> None:
    for _ in range(3):
        assert client.asks(b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n").status == 200


def test_refused_requests_end_what_is_pipelined_behind_them(router: Router, blue: Upstream) -> None:
    """RFC 9112, 9.6: after an error nothing of what follows on the connection is taken for a request."""
    smuggled = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
    for case in BAD:
        with router.client() as client:
            with contextlib.suppress(OSError):
                client.sends(case.raw + smuggled)
            assert client.receives().status == case.status, case.name
            assert client.is_cut_off()
    assert [seen.target for seen in blue.seen] == []
    assert [head for head in blue.heads if b"smuggled" in head] == []


# --- requests that are passed on -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Good:
    """A request that goes through. `line` and `wire`: what the server sees (None: as it was sent); `gone` and `there`: fields."""

    section: str
    name: str
    raw: bytes
    line: bytes | None = None
    there: dict[bytes, list[bytes]] = field(default_factory=dict)
    gone: tuple[bytes, ...] = ()
    wire: bytes | None = None


EVERY_TOKEN = b"!#$%&'*+-.^_`|~0123456789abcXYZ"

GOOD = [
    # --- request line and target
    Good("9112 2.2", "an empty line before the request", b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", line=b"GET / HTTP/1.1"),
    Good("9112 3.2.1", "a path with a query", b"GET /a/b;c=1?d=%20&e HTTP/1.1\r\nHost: a\r\n\r\n"),
    Good("9112 3.2.1", "a path is not normalised", b"GET //a/../b/./%2e%2E/%zz?? HTTP/1.1\r\nHost: a\r\n\r\n"),
    Good(
        "9112 3.2.2",
        "an absolute target",
        b"GET http://b/x?y HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /x?y HTTP/1.1",
        {b"host": [b"b"]},
    ),
    Good(
        "9112 3.2.2",
        "an absolute target with a port",
        b"GET HTTP://B.c:80/ HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1",
        {b"host": [b"B.c:80"]},
    ),
    Good(
        "9112 3.2.2",
        "an absolute target without a path",
        b"GET http://b HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1",
        {b"host": [b"b"]},
    ),
    Good(
        "9112 3.2.2",
        "an absolute target with only a query",
        b"GET http://b?q HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /?q HTTP/1.1",
        {b"host": [b"b"]},
    ),
    Good(
        "9112 3.2.2",
        "an absolute https target",
        b"GET https://[::1]:9/z HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /z HTTP/1.1",
        {b"host": [b"[::1]:9"]},
    ),
    Good(
        "9112 3.2.2",
        "an absolute target of an HTTP/1.0 client",
        b"GET http://b/x HTTP/1.0\r\n\r\n",
        b"GET /x HTTP/1.1",
        {b"host": [b"b"]},
    ),
    Good("9112 3.2.4", "OPTIONS *", b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"),
    Good(
        "9112 3.2.4",
        "OPTIONS of a host",
        b"OPTIONS http://b HTTP/1.1\r\nHost: a\r\n\r\n",
        b"OPTIONS * HTTP/1.1",
        {b"host": [b"b"]},
    ),
    Good("9110 9.1", "a method of its own", b"M-SEARCH /x HTTP/1.1\r\nHost: a\r\n\r\n"),
    Good("9110 9.1", "methods are case-sensitive", b"get / HTTP/1.1\r\nHost: a\r\n\r\n"),
    Good("9110 9.3.5", "DELETE with a body", b"DELETE / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nxy"),
    Good("9110 9.3.1", "GET with a body", b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nxy"),
    Good(
        "9110 2.5", "HTTP/1.0 goes on as HTTP/1.1", b"GET /x HTTP/1.0\r\nHost: a\r\n\r\n", b"GET /x HTTP/1.1", {b"host": [b"a"]}
    ),
    Good("9112 3.2", "an empty Host", b"GET / HTTP/1.1\r\nHost:\r\n\r\n", there={b"host": [b""]}),
    Good(
        "9112 3.2",
        "Host as the client sent it",
        fields(b"hOsT:   Models.Example:8000\t"),
        there={b"host": [b"Models.Example:8000"]},
    ),
    Good("9112 3.2", "Host with an IPv6 address", fields(b"Host: [2001:db8::1]:80"), there={b"host": [b"[2001:db8::1]:80"]}),
    # --- fields that go on
    Good("9110 5.1", "a name of every token character", hosted(EVERY_TOKEN + b": x"), there={EVERY_TOKEN.lower(): [b"x"]}),
    Good("9110 5.5", "bytes over 127 in a value", hosted(b"x: caf\xc3\xa9 \xff"), there={b"x": [b"caf\xc3\xa9 \xff"]}),
    Good("9110 5.5", "an empty value", hosted(b"x:"), there={b"x": [b""]}),
    Good("9110 5.5", "white space around a value", hosted(b"x:\t  a  b \t"), there={b"x": [b"a  b"]}),
    Good("9110 5.3", "repeated fields in order", hosted(b"x: 1", b"y: 2", b"X: 3"), there={b"x": [b"1", b"3"], b"y": [b"2"]}),
    Good("9110 11.6.2", "Authorization", hosted(b"Authorization: Bearer x"), there={b"authorization": [b"Bearer x"]}),
    Good("9110 12.5.3", "Accept-Encoding", hosted(b"Accept-Encoding: gzip, br"), there={b"accept-encoding": [b"gzip, br"]}),
    Good(
        "trace-context 3",
        "traceparent and tracestate",
        hosted(b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", b"tracestate: a=b"),
        there={b"traceparent": [b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"], b"tracestate": [b"a=b"]},
    ),
    Good("6265 4.2", "Cookie", hosted(b"Cookie: a=b; c=d"), there={b"cookie": [b"a=b; c=d"]}),
    Good(
        "own",
        "a name that only looks like a framing field",
        hosted(b"x-content-length: 9", b"transfer-encoding-x: chunked"),
        there={b"x-content-length": [b"9"], b"transfer-encoding-x": [b"chunked"]},
    ),
    # --- fields that end here
    Good("9110 7.6.1", "Connection: close", hosted(b"Connection: close"), gone=(b"connection",)),
    Good(
        "9110 7.6.1",
        "Connection: keep-alive",
        hosted(b"Connection: keep-alive", b"Keep-Alive: timeout=5"),
        gone=(b"connection", b"keep-alive"),
    ),
    Good(
        "9110 7.6.1",
        "a nominated field",
        hosted(b"Connection: X-Own", b"x-own: 1", b"x-own: 2", b"x-owner: 3"),
        there={b"x-owner": [b"3"]},
        gone=(b"connection", b"x-own"),
    ),
    Good(
        "9110 7.6.1",
        "nominated fields of two Connections",
        hosted(b"Connection: a,,b ,", b"connection: C", b"a: 1", b"b: 2", b"c: 3", b"d: 4"),
        there={b"d": [b"4"]},
        gone=(b"connection", b"a", b"b", b"c"),
    ),
    Good(
        "9110 7.6.1",
        "nominated Trailer and TE",
        hosted(b"Connection: trailer, te", b"Trailer: x", b"TE: trailers"),
        gone=(b"connection", b"trailer", b"te"),
    ),
    Good(
        "own",
        "nominating what frames or addresses a message",
        post(b"Connection: content-length, host", b"Content-Length: 2", body=b"xy"),
        there={b"host": [b"a"], b"content-length": [b"2"]},
        gone=(b"connection",),
    ),
    Good(
        "own",
        "nominating Transfer-Encoding",
        post(b"Connection: transfer-encoding", b"Transfer-Encoding: chunked", body=chunked(b"xy")),
        there={b"transfer-encoding": [b"chunked"]},
        gone=(b"connection",),
    ),
    Good("9110 7.6.1", "Proxy-Connection", hosted(b"Proxy-Connection: keep-alive"), gone=(b"proxy-connection",)),
    Good("9110 11.7.2", "Proxy-Authorization", hosted(b"Proxy-Authorization: Basic eDp5"), gone=(b"proxy-authorization",)),
    Good("9110 10.1.4", "TE", hosted(b"TE: trailers, deflate;q=0.5", b"Connection: te"), gone=(b"te", b"connection")),
    Good("9110 7.8", "Upgrade that Connection does not name", hosted(b"Upgrade: websocket"), gone=(b"upgrade", b"connection")),
    Good(
        "9110 7.8",
        "Upgrade of an HTTP/1.0 client",
        b"GET / HTTP/1.0\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        b"GET / HTTP/1.1",
        gone=(b"upgrade", b"connection"),
    ),
    Good(
        "own",
        "Connection: keep-alive twice",
        hosted(b"Connection: keep-alive", b"Connection: keep-alive", b"x: y"),
        there={b"x": [b"y"]},
        gone=(b"connection",),
    ),
    Good(
        "own",
        "Upgrade of a request with a body",
        post(b"Connection: upgrade", b"Upgrade: h2c", b"Content-Length: 5", body=b"hello"),
        gone=(b"upgrade", b"connection"),
    ),
    Good(
        "own",
        "the router's own fields are not the client's to set",
        hosted(b"x-bluegreen-arm: green", b"x-bluegreen-shadow: 1"),
        gone=(b"x-bluegreen-arm", b"x-bluegreen-shadow"),
    ),
    # --- fields that the router writes
    Good("9110 7.6.3", "Via", hosted(), there={b"via": [b"1.1 bluegreen"]}),
    Good(
        "9110 7.6.3",
        "Via after the Via of others",
        hosted(b"Via: 1.0 fred, 1.1 p.example"),
        there={b"via": [b"1.0 fred, 1.1 p.example", b"1.1 bluegreen"]},
    ),
    Good(
        "9110 7.6.3",
        "Via of an HTTP/1.0 request",
        b"GET / HTTP/1.0\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1",
        {b"via": [b"1.0 bluegreen"]},
    ),
    Good(
        "7239 8.1",
        "X-Forwarded fields of a client nobody trusts",
        hosted(b"X-Forwarded-For: 1.2.3.4", b"X-Forwarded-Proto: https", b"x-forwarded-host: evil", b"Forwarded: for=1.2.3.4"),
        there={b"x-forwarded-for": [b"127.0.0.1"], b"x-forwarded-proto": [b"http"], b"x-forwarded-host": [b"a"]},
        gone=(b"forwarded",),
    ),
    Good(
        "own",
        "X-Forwarded-Host is the Host of the request",
        fields(b"Host: models.example:81"),
        there={b"x-forwarded-host": [b"models.example:81"]},
    ),
    Good("own", "x-request-id is kept", hosted(b"X-Request-ID: Own/id=1"), there={b"x-request-id": [b"Own/id=1"]}),
    # --- bodies
    Good("9112 6.2", "a body of a length", post(b"Content-Length: 5", body=b"hello")),
    Good("9112 6.2", "a body of length 0", post(b"Content-Length: 0"), there={b"content-length": [b"0"]}),
    Good("9112 6.2", "a length with leading zeros", post(b"Content-Length: 005", body=b"hello")),
    Good("9112 6.2", "POST without a length has no body", post()),
    Good("9112 6.2", "every byte", post(b"Content-Length: 256", body=bytes(range(256)))),
    Good("9112 7.1", "a chunked body", framed(chunked(b"hello", b" ", b"world"))),
    Good("9112 7.1", "an empty chunked body", framed(b"0\r\n\r\n")),
    Good("9112 7.1", "the name in capitals", post(b"TRANSFER-ENCODING:\tCHUNKED ", body=chunked(b"abc"))),
    Good("9112 7.1", "sizes with zeros and capitals", framed(b"0000A\r\n0123456789\r\n000\r\n\r\n")),
    Good("9112 7.1", "CRLF in the data", framed(b"4\r\n\r\n\r\n\r\n5\r\n0\r\n\r\n\r\n0\r\n\r\n")),
    Good("9112 7.1.1", "extensions", framed(b'5;a;b=c;d="e;f \\,"\r\nhello\r\n0;last\r\n\r\n'.replace(b"\\", b""))),
    Good(
        "9112 7.1.2",
        "trailers",
        post(b"Transfer-Encoding: chunked", b"Trailer: x-sum", body=chunked(b"abc", trailers=b"x-sum: 3\r\nx-b: \xff\r\n")),
        there={b"trailer": [b"x-sum"]},
    ),
    Good(
        "own",
        "gzip is not undone",
        post(
            b"Content-Encoding: gzip",
            b"Content-Length: %d" % len(gzip.compress(b"x" * 99, mtime=0)),
            body=gzip.compress(b"x" * 99, mtime=0),
        ),
        there={b"content-encoding": [b"gzip"]},
    ),
    Good(
        "open inference binary",
        "a binary tensor",
        post(b"Inference-Header-Content-Length: 12", b"Content-Length: 20", body=b'{"inputs":1}\x00\x01\x02\xff\r\n\r\n'),
        there={b"inference-header-content-length": [b"12"]},
    ),
    Good("9110 10.1.1", "Expect without a body", post(b"Expect: 100-continue", b"Content-Length: 0")),
]


@pytest.mark.parametrize("case", GOOD, ids=names(GOOD))
def test_passed_on(router: Router, blue: Upstream, client: Client, case: Good) -> None:
    answer = client.asks(case.raw)
    assert answer.status == 200, answer.payload
    assert answer.arm == "blue"
    seen = blue.request()
    head, _, body = case.raw.removeprefix(b"\r\n").partition(b"\r\n\r\n")
    assert seen.line == (case.line or head.split(b"\r\n")[0])
    assert seen.wire == (body if case.wire is None else case.wire)
    for name, values in case.there.items():
        assert seen.values(name) == values, seen.head
    for name in case.gone:
        assert seen.values(name) == [], seen.head
    for line in seen.head.split(b"\r\n"):  # other spellings of it are legal, and read differently by some
        if line.lower().startswith(b"transfer-encoding:"):
            assert line.partition(b":")[2] == b" chunked"
    # What every request has, whatever was sent.
    assert len(seen.values(b"host")) == 1
    assert len(seen.values(b"x-forwarded-for")) == len(seen.values(b"x-forwarded-proto")) == 1
    assert seen.header(b"x-request-id") == answer.header(b"x-request-id")
    # And nothing else has been added or lost.
    added = {b"host", b"via", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-request-id"}
    sent = [line.partition(b":")[0].strip().lower() for line in head.split(b"\r\n")[1:]]
    assert sorted(n for n, _ in seen.fields if n not in added) == sorted(n for n in sent if n not in (added | set(case.gone)))


@pytest.mark.parametrize(
    "own", [b"two words", b"", b"x" * 201, b"caf\xc3\xa9"], ids=["a space", "empty", "too long", "over 127"]
)
def test_request_id_that_cannot_be_kept_is_made_anew(client: Client, blue: Upstream, own: bytes) -> None:
    answer = client.asks(hosted(b"x-request-id: " + own))
    made = answer.header(b"x-request-id")
    assert made is not None
    assert len(made) == 32
    int(made, 16)
    assert blue.request().header(b"x-request-id") == made


def test_request_ids_differ(client: Client) -> None:
    assert len({client.asks(hosted()).header(b"x-request-id") for _ in range(50)}) == 50


def test_two_request_ids_become_one(client: Client, blue: Upstream) -> None:
    answer = client.asks(hosted(b"x-request-id: one", b"x-request-id: two"))
    assert blue.request().header(b"x-request-id") == answer.header(b"x-request-id") == b"one"


def test_host_is_added_for_an_http_1_0_client_without(client: Client, blue: Upstream) -> None:
    """RFC 9112, 3.2: an HTTP/1.1 request, which this becomes, must have one."""
    assert client.asks(b"GET / HTTP/1.0\r\n\r\n").status == 200
    assert blue.request().header(b"host") == b"127.0.0.1:%d" % blue.port


def test_forwarded_fields_of_a_trusted_proxy(tmp_path: Any, blue: Upstream) -> None:
    settings = {**SETTINGS, "forwarded": {"trust": ["127.0.0.0/8"]}}
    with Router(tmp_path, blue, settings=settings) as router:
        router.asks(
            hosted(
                b"X-Forwarded-For: 1.2.3.4", b"x-forwarded-for: 5.6.7.8", b"X-Forwarded-Proto: https", b"Forwarded: for=1.2.3.4"
            )
        )
        router.asks(hosted(b"x-forwarded-host: shop.example"))
        router.asks(hosted())
        router.asks(b"GET / HTTP/1.0\r\n\r\n")
    first, second, third, fourth = blue.seen
    assert first.header(b"x-forwarded-for") == b"1.2.3.4, 5.6.7.8, 127.0.0.1"
    assert first.header(b"x-forwarded-proto") == b"https"
    assert first.header(b"x-forwarded-host") == b"a"
    assert first.header(b"forwarded") == b"for=1.2.3.4"
    assert second.header(b"x-forwarded-host") == b"shop.example"
    assert third.header(b"x-forwarded-for") == b"127.0.0.1"
    assert third.header(b"x-forwarded-proto") == b"http"
    assert fourth.header(b"x-forwarded-for") == b"127.0.0.1"
    assert not fourth.values(b"x-forwarded-host")


def test_there_are_as_many_cases_as_promised() -> None:
    assert len(BAD) + len(GOOD) >= 150
    everything = names(BAD) + names(GOOD)
    assert len(set(everything)) == len(everything)


def test_counts_of_own_answers_only_name_statuses_that_are_counted() -> None:
    assert {case.status for case in BAD} <= set(c.OWN_STATUSES)


def test_keep_alive_survives_hundreds_of_requests(client: Client, blue: Upstream) -> None:
    blue.answers(lambda seen: ok(seen.target))
    for i in range(300):
        target = b"/%d" % i
        assert client.asks(b"GET %s HTTP/1.1\r\nHost: a\r\n\r\n" % target).payload == target
