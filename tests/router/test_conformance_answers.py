"""What clients see of servers' answers, and which answers are refused with 502, case by case, over real sockets."""

from __future__ import annotations

import contextlib
import gzip
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import pytest
from plane import PATIENT, Client, Connection, Ended, Router, Seen, Upstream, chunked, ok, until

from router import counters as c

SETTINGS: dict[str, Any] = {
    "timeouts": PATIENT,
    "health": {"interval": 60, "timeout": 10, "eject_after": 10_000},
}

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
HEAD = b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n"
OLD = b"GET / HTTP/1.0\r\nHost: a\r\n\r\n"
OLD_KEPT = b"GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n"


def answer(*lines: bytes, body: bytes = b"", status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 %s\r\n%s\r\n%s" % (status, b"".join(line + b"\r\n" for line in lines), body)


def framed(body: bytes) -> bytes:
    return answer(b"Transfer-Encoding: chunked", body=body)


@dataclass(frozen=True, slots=True)
class Case:
    """An answer that goes through. What the client sees: `wire` (None: as it was sent), fields `there` and `gone`."""

    section: str
    name: str
    raw: bytes
    request: bytes = GET
    line: bytes | None = None
    wire: bytes | None = None
    there: dict[bytes, list[bytes]] = field(default_factory=dict)
    gone: tuple[bytes, ...] = ()
    stays: bool = True  # the client's connection goes on
    closes: bool = False  # the server closes behind its answer


GZIP = gzip.compress(b"prediction" * 20, mtime=0)
LONG = chunked(b"hello", b"world" * 1000, trailers=b"x-sum: 1\r\n")

GOOD = [
    # --- framing
    Case("9112 6.2", "a length", answer(b"Content-Length: 5", body=b"hello")),
    Case("9112 6.2", "a length of 0", answer(b"Content-Length: 0")),
    Case("9112 6.2", "every byte", answer(b"Content-Length: 256", body=bytes(range(256)))),
    Case("9112 7.1", "chunks", framed(chunked(b"hello", b"world"))),
    Case(
        "9112 7.1",
        "chunks with trailers",
        answer(b"Trailer: x-sum", b"Transfer-Encoding: chunked", body=LONG),
        there={b"trailer": [b"x-sum"]},
    ),
    Case("9112 7.1.1", "chunks with extensions", framed(b'5;a="b";c\r\nhello\r\n000;d=e\r\n\r\n')),
    Case(
        "9112 6.3",
        "until the close becomes chunked",
        answer(body=b"hello"),
        wire=b"5\r\nhello\r\n0\r\n\r\n",
        there={b"transfer-encoding": [b"chunked"]},
        closes=True,
    ),
    Case(
        "9112 6.3",
        "nothing until the close",
        answer(),
        wire=b"0\r\n\r\n",
        there={b"transfer-encoding": [b"chunked"]},
        closes=True,
    ),
    Case(
        "9112 6.3",
        "until the close, to an HTTP/1.0 client",
        answer(body=b"hello"),
        OLD_KEPT,
        wire=b"hello",
        gone=(b"transfer-encoding",),
        stays=False,
        closes=True,
    ),
    Case(
        "9112 6.1",
        "chunks to an HTTP/1.0 client",
        answer(b"Trailer: x-sum", b"Transfer-Encoding: chunked", body=LONG),
        OLD_KEPT,
        wire=b"hello" + b"world" * 1000,
        gone=(b"transfer-encoding", b"trailer"),
        stays=False,
    ),
    Case("9112 9.3", "a length to an HTTP/1.0 client", answer(b"Content-Length: 5", body=b"hello"), OLD, stays=False),
    Case(
        "9112 9.3",
        "a length to an HTTP/1.0 client that stays",
        answer(b"Content-Length: 5", body=b"hello"),
        OLD_KEPT,
        there={b"connection": [b"keep-alive"]},
    ),
    Case(
        "9112 9.6",
        "a client that closes",
        answer(b"Content-Length: 5", body=b"hello"),
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Close\r\n\r\n",
        there={b"connection": [b"close"]},
        stays=False,
    ),
    Case(
        "9112 9.6",
        "a server that closes does not close the client",
        answer(b"Content-Length: 5", b"Connection: close", body=b"hello"),
        gone=(b"connection",),
        closes=True,
    ),
    # --- answers without a body
    Case("9110 9.3.2", "HEAD with a length", answer(b"Content-Length: 5"), HEAD, wire=b"", there={b"content-length": [b"5"]}),
    Case(
        "9110 9.3.2",
        "HEAD with chunks",
        answer(b"Transfer-Encoding: chunked"),
        HEAD,
        wire=b"",
        there={b"transfer-encoding": [b"chunked"]},
    ),
    Case(
        "9110 9.3.2", "HEAD without either", answer(b"x: y"), HEAD, wire=b"", there={b"x": [b"y"]}, gone=(b"transfer-encoding",)
    ),
    Case("9110 15.3.5", "204", answer(status=b"204 No Content"), wire=b""),
    Case("own", "204 with a length of 0", answer(b"Content-Length: 0", status=b"204 No Content"), wire=b""),
    Case(
        "9110 15.4.5",
        "304 with the length of what was not sent",
        answer(b"Content-Length: 500", b'ETag: "x"', status=b"304 Not Modified"),
        wire=b"",
        there={b"content-length": [b"500"], b"etag": [b'"x"']},
    ),
    Case("9112 6.3", "304 with a coding", answer(b"Transfer-Encoding: chunked", status=b"304 Not Modified"), wire=b""),
    Case("9110 15.3.6", "205", answer(b"Content-Length: 0", status=b"205 Reset Content")),
    Case(
        "9110 15.3.7",
        "206",
        answer(b"Content-Length: 2", b"Content-Range: bytes 0-1/9", body=b"he", status=b"206 Partial Content"),
        there={b"content-range": [b"bytes 0-1/9"]},
    ),
    # --- the status line
    Case("9112 4", "an empty reason", b"HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\nok"),
    Case("own", "a reason left out with its space", b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok"),
    Case("9112 4", "a reason in another language", b"HTTP/1.1 200 tr\xc3\xa8s bien\r\nContent-Length: 2\r\n\r\nok"),
    Case("9110 15", "a status that nobody knows", b"HTTP/1.1 299 Fine\r\nContent-Length: 2\r\n\r\nok"),
    Case("9110 15", "a server error", b"HTTP/1.1 599 Bad\r\nContent-Length: 2\r\n\r\nok"),
    Case(
        "9110 2.5",
        "an HTTP/1.0 server goes on as HTTP/1.1",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        line=b"HTTP/1.1 200 OK",
    ),
    Case(
        "9110 2.5",
        "an HTTP/1.0 server without a length",
        b"HTTP/1.0 200 OK\r\n\r\nok",
        line=b"HTTP/1.1 200 OK",
        wire=b"2\r\nok\r\n0\r\n\r\n",
        closes=True,
    ),
    # --- fields
    Case(
        "9110 7.6.1",
        "hop-by-hop fields",
        answer(
            b"Connection: keep-alive",
            b"Keep-Alive: timeout=5",
            b"Proxy-Connection: keep-alive",
            b"Upgrade: h2c",
            b"x: y",
            b"Content-Length: 2",
            body=b"ok",
        ),
        there={b"x": [b"y"]},
        gone=(b"connection", b"keep-alive", b"proxy-connection", b"upgrade"),
    ),
    Case(
        "9110 7.6.1",
        "nominated fields",
        answer(b"Connection: X-Hop, close", b"x-hop: 1", b"x-hope: 2", b"Content-Length: 2", body=b"ok"),
        there={b"x-hope": [b"2"]},
        gone=(b"connection", b"x-hop"),
        closes=True,
    ),
    Case(
        "own",
        "nominating what frames the answer",
        answer(b"Connection: content-length, transfer-encoding", b"Content-Length: 2", body=b"ok"),
        there={b"content-length": [b"2"]},
        gone=(b"connection",),
    ),
    Case(
        "9110 5.3",
        "repeated fields in order",
        answer(b"Set-Cookie: a=1", b"x: y", b"Set-Cookie: b=2", b"Content-Length: 2", body=b"ok"),
        there={b"set-cookie": [b"a=1", b"b=2"]},
    ),
    Case(
        "9110 5.5",
        "bytes over 127",
        answer(b"x: caf\xc3\xa9", b"Content-Length: 2", body=b"ok"),
        there={b"x": [b"caf\xc3\xa9"]},
    ),
    Case("9110 5.5", "an empty value", answer(b"x:", b"Content-Length: 2", body=b"ok"), there={b"x": [b""]}),
    Case(
        "9110 6.6.1",
        "Date, Server and Via of the server",
        answer(b"Date: Sun, 06 Nov 1994 08:49:37 GMT", b"Server: s", b"Via: 1.1 p", b"Content-Length: 2", body=b"ok"),
        there={b"date": [b"Sun, 06 Nov 1994 08:49:37 GMT"], b"server": [b"s"], b"via": [b"1.1 p"]},
    ),
    Case(
        "9110 11.6.1",
        "WWW-Authenticate",
        answer(b"WWW-Authenticate: Bearer", b"Content-Length: 0", status=b"401 Unauthorized"),
        there={b"www-authenticate": [b"Bearer"]},
    ),
    Case(
        "own",
        "what only the router says",
        answer(b"x-bluegreen-arm: green", b"X-Request-Id: another", b"Content-Length: 2", body=b"ok"),
        there={b"x-bluegreen-arm": [b"blue"]},
    ),
    Case(
        "own",
        "gzip is not undone",
        answer(b"Content-Encoding: gzip", b"Content-Length: %d" % len(GZIP), body=GZIP),
        there={b"content-encoding": [b"gzip"]},
    ),
    Case(
        "own",
        "gzip in chunks is not undone",
        answer(b"Content-Encoding: gzip", b"Transfer-Encoding: chunked", body=chunked(GZIP[:20], GZIP[20:])),
        there={b"content-encoding": [b"gzip"]},
    ),
    Case(
        "open inference binary",
        "a binary tensor",
        answer(b"Inference-Header-Content-Length: 3", b"Content-Length: 9", body=b"{ }\x00\r\n\r\n\xff"),
        there={b"inference-header-content-length": [b"3"]},
    ),
    Case("9112 7.1", "the name in capitals", answer(b"TRANSFER-ENCODING: CHUNKED", body=chunked(b"ok"))),
    Case(
        "own",
        "the coding goes on in its usual spelling",
        answer(b"x: y", b"Transfer-Encoding:\tChunked \t", body=chunked(b"ok")),
        there={b"transfer-encoding": [b"chunked"]},
    ),
]

BAD = {
    "9112 6.3: a length and a coding": answer(b"Content-Length: 5", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
    "9112 6.3: two lengths": answer(b"Content-Length: 5", b"Content-Length: 6", body=b"hello!"),
    "own: the same length twice": answer(b"Content-Length: 5", b"Content-Length: 5", body=b"hello"),
    "own: a list of equal lengths": answer(b"Content-Length: 5, 5", body=b"hello"),
    "9110 8.6: a negative length": answer(b"Content-Length: -5", body=b"hello"),
    "9110 8.6: a length with a sign": answer(b"Content-Length: +5", body=b"hello"),
    "9110 8.6: a hexadecimal length": answer(b"Content-Length: 0x5", body=b"hello"),
    "9110 8.6: an empty length": answer(b"Content-Length: ", body=b"hello"),
    "9110 8.6: a length of 30 digits": answer(b"Content-Length: " + b"9" * 30),
    "9112 6.1: a coding that is not known": answer(b"Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n"),
    "9112 6.1: a coding without chunked": answer(b"Transfer-Encoding: gzip", body=b"x"),
    "9112 6.1: chunked twice": answer(b"Transfer-Encoding: chunked, chunked", body=b"0\r\n\r\n"),
    "9112 6.1: two codings": answer(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
    "9112 6.1: identity": answer(b"Transfer-Encoding: identity", b"Content-Length: 2", body=b"ok"),
    "9112 6.1: chunked from HTTP/1.0": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "9110 8.6: 204 with a length": answer(b"Content-Length: 2", status=b"204 No Content", body=b"ok"),
    "9112 6.1: 204 with a coding": answer(b"Transfer-Encoding: chunked", status=b"204 No Content", body=b"0\r\n\r\n"),
    "9110 8.6: an interim answer with a length": answer(b"Content-Length: 2", status=b"103 Early Hints", body=b"ok"),
    "9112 6.1: an interim answer with a coding": answer(
        b"Transfer-Encoding: chunked", status=b"103 Early Hints", body=b"0\r\n\r\n"
    ),
    "9112 5.2: a folded field": answer(b"x: a", b" b", b"Content-Length: 2", body=b"ok"),
    "9112 5.1: a space before the colon": answer(b"x : a", b"Content-Length: 2", body=b"ok"),
    "9112 5.1: a space before the colon of the length": answer(b"Content-Length : 2", body=b"ok"),
    "9112 5: a line without a colon": answer(b"nonsense", b"Content-Length: 2", body=b"ok"),
    "9112 5: a field without a name": answer(b": x", b"Content-Length: 2", body=b"ok"),
    "9112 2.2: white space before the first field": answer(b" x: y", b"Content-Length: 2", body=b"ok"),
    "9112 2.2: bare LF": b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
    "9112 2.2: one bare LF": b"HTTP/1.1 200 OK\r\nx: y\nContent-Length: 2\r\n\r\nok",
    "9112 2.2: bare CR": answer(b"x: a\rb", b"Content-Length: 2", body=b"ok"),
    "9112 2.2: CR CR LF": b"HTTP/1.1 200 OK\r\r\nContent-Length: 2\r\n\r\nok",
    "9110 5.5: NUL in a value": answer(b"x: a\x00b", b"Content-Length: 2", body=b"ok"),
    "9110 5.5: a control character in a value": answer(b"x: a\x1bb", b"Content-Length: 2", body=b"ok"),
    "9110 5.5: DEL in a value": answer(b"x: a\x7fb", b"Content-Length: 2", body=b"ok"),
    "9110 5.1: a name with a space": answer(b"x y: z", b"Content-Length: 2", body=b"ok"),
    "9110 5.1: a name with NUL": answer(b"x\x00: z", b"Content-Length: 2", body=b"ok"),
    "9112 4: a control character in the reason": answer(b"Content-Length: 2", status=b"200 \x01", body=b"ok"),
    "9112 4: a status of two digits": answer(b"Content-Length: 2", status=b"20 OK", body=b"ok"),
    "9112 4: a status of four digits": answer(b"Content-Length: 2", status=b"2000 OK", body=b"ok"),
    "9110 15: a status below 100": answer(b"Content-Length: 2", status=b"099 OK", body=b"ok"),
    "9110 15: a status over 599": answer(b"Content-Length: 2", status=b"600 OK", body=b"ok"),
    "9112 4: a status in letters": answer(b"Content-Length: 2", status=b"OK", body=b"ok"),
    "9112 4: two spaces": b"HTTP/1.1  200 OK\r\nContent-Length: 2\r\n\r\nok",
    "9112 2.3: HTTP/2.0": b"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "9112 2.3: HTTP/1.2": b"HTTP/1.2 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "9112 2.3: lower case": b"http/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "9112 2.3: no version": b"HTTP 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "9112 4: an empty line first": b"\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "9112 4: a space first": b" HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "9112 4: HTTP/0.9": b"<html>hello</html>\r\n\r\n",
    "9112 7.1: a bad chunk size": framed(b"xyz\r\n"),
    "9112 7.1: a negative chunk size": framed(b"-1\r\n"),
    "9112 7.1: a chunk size with 0x": framed(b"0x5\r\nhello\r\n0\r\n\r\n"),
    "9112 7.1: a space before the chunk size": framed(b" 5\r\nhello\r\n0\r\n\r\n"),
    "9112 7.1: bare LF after the chunk size": framed(b"5\nhello\r\n0\r\n\r\n"),
    "9112 7.1: a chunk longer than its size": framed(b"5\r\nhello!!\r\n0\r\n\r\n"),
    "9112 7.1.1: a control character in an extension": framed(b"5;\x00\r\nhello\r\n0\r\n\r\n"),
    "9110 6.5.1: a length in the trailers": framed(b"0\r\nContent-Length: 5\r\n\r\n"),
    "9112 7.1.2: a folded trailer": framed(b"0\r\nx: a\r\n b\r\n\r\n"),
    "own: a head over 64 KiB": answer(b"x: " + b"a" * 70_000, b"Content-Length: 2", body=b"ok"),
    "own: more than 200 fields": answer(*[b"x: y"] * 201, b"Content-Length: 2", body=b"ok"),
    "9110 7.8: 101 that nobody asked for": answer(
        b"Connection: upgrade", b"Upgrade: websocket", status=b"101 Switching Protocols"
    ),
}


@pytest.mark.parametrize("case", GOOD, ids=[f"{case.section}: {case.name}" for case in GOOD])
def test_passed_on(router: Router, blue: Upstream, client: Client, case: Case) -> None:
    blue.answers(case.raw, close=case.closes)
    got = client.asks(case.request, case.request.partition(b" ")[0].decode())
    head, _, body = case.raw.partition(b"\r\n\r\n")
    assert got.line == (case.line or head.split(b"\r\n")[0])
    assert got.wire == (body if case.wire is None else case.wire)
    for name, values in case.there.items():
        assert got.values(name) == values, got.head
    for name in case.gone:
        assert got.values(name) == [], got.head
    for line in got.head.split(b"\r\n"):  # other spellings of it are legal, and read differently by some
        if line.lower().startswith(b"transfer-encoding"):
            assert line.partition(b":")[2] == b" chunked"
    assert got.header(b"x-bluegreen-arm") == b"blue"
    assert got.header(b"x-request-id") == blue.request().header(b"x-request-id")
    # Nothing else has been added or lost.
    added = {b"x-bluegreen-arm", b"x-request-id", b"connection", b"transfer-encoding"}
    sent = [line.partition(b":")[0].strip().lower() for line in head.split(b"\r\n")[1:]]
    assert [n for n, _ in got.fields if n not in added] == [n for n in sent if n not in (added | set(case.gone))]
    if case.stays:
        blue.answers(ok(b"next"))
        assert client.asks(GET).payload == b"next"
    else:
        assert got.header(b"connection") in (b"close", None)
        assert client.closed()


# In pieces only the heads: a body that goes wrong when the head has been passed on is cut off (test_faults).
CUT = [
    name
    for name, raw in BAD.items()
    if raw.endswith((b"ok", b"hello", b"\r\n\r\n")) and len(raw) < 60_000 and b"\r\n0\r\n" not in raw
]


@pytest.mark.parametrize(("name", "cut"), [(name, False) for name in BAD] + [(name, True) for name in CUT])
def test_refused(router: Router, blue: Upstream, client: Client, name: str, cut: bool) -> None:
    raw = BAD[name]

    def deed(connection: Connection, _seen: Seen) -> None:
        if not cut:
            connection.send(raw)
        else:
            for i in range(0, len(raw), 9):
                connection.send(raw[i : i + 9])
                time.sleep(0.0005)

    blue.does(deed)
    before = router.counts
    got = client.asks(GET)
    while got.status == 103:  # a good interim answer may come before a bad final one
        got = client.receives()
    assert got.status == 502
    assert got.arm == "blue"
    got.problem()
    blue.answers(ok(b"next"))
    assert client.asks(GET).payload == b"next"
    n = router.counts - before
    assert (n.blue(c.ERRORS), n.blue(c.BROKEN), n.own(502)) == (1, 1, 1)


# --- interim answers -----------------------------------------------------------------------------------------------------


def test_early_hints_are_passed_on(router: Router, blue: Upstream, client: Client) -> None:
    """RFC 9110, 15.2, and 7.6.1: without their hop-by-hop fields."""
    blue.answers(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\nConnection: x-hop\r\nx-hop: 1\r\n\r\n" * 2 + ok(b"final"))
    for _ in range(2):
        hint = client.sends(GET if not _ else b"").receives()
        assert (hint.status, hint.header(b"link")) == (103, b"</x>")
        assert not hint.values(b"connection")
        assert not hint.values(b"x-hop")
    assert client.receives().payload == b"final"


def test_interim_answers_are_not_for_http_1_0(router: Router, blue: Upstream, client: Client) -> None:
    blue.answers(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + ok(b"final"))
    assert client.asks(OLD).payload == b"final"


def test_continue_that_nobody_waits_for_is_dropped(router: Router, blue: Upstream, client: Client) -> None:
    blue.answers(b"HTTP/1.1 100 Continue\r\n\r\n" + ok(b"final"))
    assert client.asks(GET).payload == b"final"


EXPECTING = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"


def test_expectation_is_passed_end_to_end(router: Router, blue: Upstream, client: Client) -> None:
    """RFC 9110, 10.1.1: the server asks for the body, and only then does the client send it."""

    def deed(connection: Connection, seen: Seen) -> None:
        assert seen.header(b"expect") == b"100-continue"
        assert seen.header(b"content-length") == b"5"
        connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        connection.send(ok(connection.reader.exactly(5)))

    blue.does(deed, early=True)
    assert client.asks(EXPECTING).status == 100
    assert client.sends(b"hello").receives().payload == b"hello"
    assert client.asks(EXPECTING).status == 100
    assert client.sends(b"again").receives().payload == b"again"


def test_expectation_with_a_chunked_body(router: Router, blue: Upstream, client: Client) -> None:
    def deed(connection: Connection, _seen: Seen) -> None:
        connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        connection.send(ok(connection.reader.chunked()[1]))

    blue.does(deed, early=True)
    assert (
        client.asks(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nExpect: 100-Continue\r\n\r\n").status == 100
    )
    assert client.sends(chunked(b"hello")).receives().payload == b"hello"


def test_expectation_refused_by_the_server(router: Router, blue: Upstream, client: Client) -> None:
    """RFC 9110, 10.1.1: the final answer comes instead of 100, and the body is never asked for."""
    blue.answers_early(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno")
    with router.timing(**{"continue": 30}):
        got = client.asks(EXPECTING)
    assert (got.status, got.payload, got.header(b"connection")) == (401, b"no", b"close")
    assert client.closed()


def test_expectation_of_a_server_that_says_nothing(router: Router, blue: Upstream, client: Client) -> None:
    """After a time the router asks for the body itself; the server's own 100 is not passed on a second time."""
    blue.answers(lambda seen: b"HTTP/1.1 100 Continue\r\n\r\n" + ok(seen.payload))
    assert client.asks(EXPECTING).status == 100
    assert client.sends(b"hello").receives().payload == b"hello"


def test_client_that_does_not_wait(router: Router, blue: Upstream, client: Client) -> None:
    blue.answers(lambda seen: b"HTTP/1.1 100 Continue\r\n\r\n" + ok(seen.payload))
    got = client.asks(EXPECTING + b"hello")
    got = client.receives() if got.status == 100 else got
    assert got.payload == b"hello"


# --- persistence and order -----------------------------------------------------------------------------------------------


def test_pipelined_requests_are_answered_in_order(router: Router, blue: Upstream, client: Client) -> None:
    """RFC 9112, 9.3.2."""

    def slow_first(seen: Seen) -> bytes:
        if seen.target == b"/0":
            time.sleep(0.05)
        return ok(seen.target + b" " + seen.payload)

    blue.answers(slow_first)
    client.sends(
        b"".join(
            b"POST /%d HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s" % (i, len(b"%d" % i), b"%d" % i) for i in range(200)
        )
    )
    assert [client.receives().payload for _ in range(200)] == [b"/%d %d" % (i, i) for i in range(200)]


def test_pipelined_requests_of_every_kind(router: Router, blue: Upstream, client: Client) -> None:
    blue.answers(lambda seen: answer(b"Content-Length: 2", body=b"" if seen.method == b"HEAD" else b"ok"))
    post = b"POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(b"abc", trailers=b"x: y\r\n")
    probe = b"GET /-/healthz HTTP/1.1\r\nHost: a\r\n\r\n"
    ready = b"GET /-/readyz HTTP/1.1\r\nHost: a\r\nx-request-id: ready\r\n\r\n"
    client.sends(HEAD + probe + post + ready + GET + ready + b"\r\n" + GET + b"bad request\r\n\r\n" + GET)
    methods = ["HEAD", "GET", "POST", "GET", "GET", "GET", "GET", "GET"]
    got = [client.receives(method) for method in methods]
    assert [one.status for one in got] == [200] * 7 + [400]
    assert [one.arm for one in got] == ["blue", None, "blue", None, "blue", None, "blue", None]
    assert got[3].header(b"x-request-id") == got[5].header(b"x-request-id") == b"ready"
    assert client.is_cut_off()
    assert len(blue.seen) == 4


def test_nothing_is_answered_after_close(router: Router, blue: Upstream, client: Client) -> None:
    client.sends(
        GET + b"GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" + b"GET /never HTTP/1.1\r\nHost: a\r\n\r\n"
    )
    assert [client.receives().status for _ in range(2)] == [200, 200]
    assert client.is_cut_off()
    assert [seen.target for seen in blue.seen] == [b"/", b"/last"]


@pytest.mark.parametrize("path", [b"/-/healthz", b"/-/readyz", b"/-/readyz?verbose"])
@pytest.mark.parametrize("how", ["kept", "closed", "old", "head", "posted"])
def test_probes(router: Router, blue: Upstream, client: Client, path: bytes, how: str) -> None:
    raw = {
        "kept": b"GET %s HTTP/1.1\r\nHost: a\r\n\r\n",
        "closed": b"GET %s HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        "old": b"GET %s HTTP/1.0\r\n\r\n",
        "head": b"HEAD %s HTTP/1.1\r\nHost: a\r\n\r\n",
        "posted": b"POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
    }[how]
    got = client.asks(raw % path, "HEAD" if how == "head" else "GET")
    assert got.status == 200
    assert got.arm is None
    assert got.header(b"x-request-id")
    if how in ("kept", "head"):
        assert client.asks(GET).status == 200
    else:
        assert got.header(b"connection") in (b"close", None if how == "old" else b"close")
        assert client.is_cut_off()
    assert all(seen.target == b"/" for seen in blue.seen)


def test_readyz_tells_the_truth(router: Router, blue: Upstream, client: Client) -> None:
    blue.refuses()
    ready = b"GET /-/readyz HTTP/1.1\r\nHost: a\r\n\r\n"
    until(lambda: client.asks(ready).status == 503, "not ready without blue")
    got = client.asks(ready)
    assert got.header(b"retry-after") == b"1"
    got.problem()
    assert client.asks(b"GET /-/healthz HTTP/1.1\r\nHost: a\r\n\r\n").status == 200
    blue.accepts()
    until(lambda: client.asks(ready).status == 200, "ready again")


def test_other_paths_below_the_probes_are_the_servers(router: Router, blue: Upstream, client: Client) -> None:
    assert client.asks(b"GET /-/other HTTP/1.1\r\nHost: a\r\n\r\n").arm == "blue"
    assert client.asks(b"GET /-/healthz/x HTTP/1.1\r\nHost: a\r\n\r\n").arm == "blue"


def test_problem_for_head_has_no_body(router: Router, blue: Upstream, client: Client) -> None:
    blue.resets_mid_head()
    got = client.asks(HEAD, "HEAD")
    assert got.status == 502
    assert got.header(b"content-length") != b"0"
    blue.answers()
    assert client.asks(GET).payload == b"ok"


def test_problem_keeps_an_http_1_0_connection_only_if_it_says_so(router: Router, blue: Upstream, client: Client) -> None:
    """RFC 9112, 9.3: an HTTP/1.0 client takes a kept connection only from an answer that says keep-alive."""
    blue.resets_mid_head()
    got = client.asks(OLD_KEPT)
    assert got.status == 502
    if got.header(b"connection") == b"keep-alive":
        blue.answers()
        assert client.asks(OLD_KEPT).status == 200
    else:
        assert client.closed()


# --- upgrades ------------------------------------------------------------------------------------------------------------

UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Key: k\r\n\r\n"
)
SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s\r\n\r\n"


def _echo(connection: Connection, seen: Seen) -> None:
    """Agree to the upgrade, with bytes right behind the head, and then send everything back in capitals."""
    assert seen.values(b"connection") == [b"upgrade"]
    connection.send(SWITCHING + b"HELLO ")
    data = connection.reader.buffer
    connection.reader.buffer = b""
    connection.send(data.upper())
    with contextlib.suppress(OSError):
        while data := connection.sock.recv(65536):
            connection.send(data.upper())


def test_tunnel(router: Router, blue: Upstream, client: Client) -> None:
    """RFC 9110, 7.8."""
    blue.does(_echo)
    before = router.counts
    got = client.asks(UPGRADE)
    assert (got.status, got.header(b"connection"), got.header(b"sec-websocket-accept")) == (101, b"upgrade", b"s")
    assert (got.header(b"upgrade") or b"").lower() == b"websocket"
    assert got.arm == "blue"
    assert client.reader.exactly(6) == b"HELLO "
    client.sends(b"abc\x00\xff\r\n\r\nGET / HTTP/1.1\r\n")
    assert client.reader.exactly(25) == b"ABC\x00\xff\r\n\r\nGET / HTTP/1.1\r\n"
    big = bytes(range(97, 123)) * 40_000
    threading.Thread(target=client.sends, args=(big,)).start()
    assert client.reader.exactly(len(big)) == big.upper()
    assert blue.request().header(b"upgrade") == b"WebSocket"
    client.closes()
    router.quiet()
    n = router.counts - before
    assert (n.word(c.TUNNELS), n.blue(c.ERRORS)) == (1, 0)


def test_tunnel_ends_with_the_server(router: Router, blue: Upstream, client: Client) -> None:
    blue.answers(SWITCHING + b"bye", close=True)
    assert client.asks(UPGRADE).status == 101
    assert client.rest() == b"bye"
    router.quiet()


def test_eager_bytes_reach_the_tunnel(router: Router, blue: Upstream, client: Client) -> None:
    """What a client sends before it has seen the 101 belongs to the tunnel, not to another request."""
    blue.does(_echo)
    assert client.asks(UPGRADE + b"eager").status == 101
    assert client.reader.exactly(11) == b"HELLO EAGER"


def test_upgrade_that_is_declined_leaves_http(router: Router, blue: Upstream, client: Client) -> None:
    client.sends(UPGRADE + GET)
    assert [client.receives().payload for _ in range(2)] == [b"ok", b"ok"]
    assert [seen.target for seen in blue.seen] == [b"/ws", b"/"]


def test_upgrade_to_what_was_not_asked_for_is_502(router: Router, blue: Upstream, client: Client) -> None:
    """RFC 9110, 7.8: a server must not switch to a protocol that the client did not name."""
    blue.answers(SWITCHING.replace(b"websocket", b"another"))
    assert client.asks(UPGRADE).status == 502


def test_idle_tunnel_ends(tmp_path: Any, blue: Upstream) -> None:
    blue.does(_echo)
    with Router(tmp_path, blue, settings={**SETTINGS, "timeouts": {**PATIENT, "idle": 0.5}}) as router:
        with router.client() as client:
            assert client.asks(UPGRADE).status == 101
            with contextlib.suppress(Ended):
                client.rest()
        until(lambda: blue.working == 0, "the server's side is closed too")
        router.quiet()


def test_websockets_library_both_ways(router: Router) -> None:
    from websockets.sync.client import connect
    from websockets.sync.server import ServerConnection, serve

    def echo(socket: ServerConnection) -> None:
        for message in socket:
            socket.send(message[::-1])

    with serve(echo, "127.0.0.1", 0, open_timeout=30) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            router.obeys(blue=[f"http://127.0.0.1:{server.socket.getsockname()[1]}"])
            with connect(
                f"ws://127.0.0.1:{router.address[1]}/chat", compression="deflate", proxy=None, open_timeout=30
            ) as socket:
                for message in ("hello", b"\x00\x01", "x" * 300_000, b"y" * 300_000):
                    socket.send(message)
                    assert socket.recv(timeout=30) == message[::-1]
        finally:
            server.shutdown()
            thread.join()
    router.quiet()
