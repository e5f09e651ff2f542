"""Message heads: the same however the bytes come, and what goes on is what came less what ends at this hop."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from benchmarks.fuzz import HEAD_FACTS
from models import http1, http1_response
from models.familiar import Familiar
from models.framing import CHUNKED, UNTIL_CLOSE
from models.http1 import HttpError, RequestHead, forwarded_fields, parse_request, replace_field
from models.http1_response import ResponseHead, parse_response

STATUSES = {400, 414, 417, 431, 501, 505}

tokens = st.text("!#$%&'*+-.^_`|~0123456789abcXYZ", min_size=1, max_size=12).map(str.encode)
values = st.binary(max_size=20).map(lambda raw: re.sub(rb"[^\t\x20-\x7e\x80-\xff]", b"", raw))
HOP = {
    *(b"connection", b"keep-alive", b"proxy-connection", b"proxy-authorization", b"te", b"upgrade", b"x-request-id"),
    *(b"x-bluegreen-arm", b"x-bluegreen-shadow", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"forwarded"),
}
MEANT = HOP | {b"host", b"content-length", b"transfer-encoding", b"expect", b"trailer", b"via"}

others = st.tuples(tokens, values).filter(lambda field: field[0].lower() not in MEANT)
meant = st.sampled_from(
    [
        *(
            (b"Connection", b"keep-alive"),
            (b"connection", b"close"),
            (b"CONNECTION", b"x-hop, Keep-Alive"),
            (b"Keep-Alive", b"timeout=5"),
        ),
        *((b"X-Request-ID", b"r-1"), (b"x-request-id", b"two words"), (b"TE", b"trailers"), (b"Upgrade", b"websocket")),
        *(
            (b"Connection", b"upgrade"),
            (b"X-Forwarded-For", b"1.2.3.4"),
            (b"Forwarded", b"for=x"),
            (b"x-forwarded-proto", b"https"),
        ),
        *(
            (b"Proxy-Connection", b"close"),
            (b"x-bluegreen-arm", b"green"),
            (b"Via", b"1.1 p"),
            (b"X-Hop", b"1"),
            (b"Expect", b"100-continue"),
        ),
    ]
)
framings = st.sampled_from(
    [
        [],
        [(b"Content-Length", b"5")],
        [(b"content-LENGTH", b" 007\t")],
        [(b"Transfer-Encoding", b"chunked")],
        [(b"TRANSFER-encoding", b"\tChunked ")],
    ]
)


@st.composite
def requests(draw: st.DrawFn) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    """A good HTTP/1.1 request head and its fields."""
    fields = [(b"Host", b"a.example:80"), *draw(framings), *draw(st.lists(others | meant, max_size=8))]
    fields = draw(st.permutations(fields))
    method = draw(st.sampled_from([b"GET", b"POST", b"HEAD", b"brew"]))
    target = draw(st.sampled_from([b"/", b"/a?b=c", b"//x/../%20", b"http://b.example/x", b"https://b:1"]))
    lines = [b"%s %s HTTP/1.1" % (method, target), *(name + b":" + value for name, value in fields)]
    return b"".join(line + b"\r\n" for line in lines) + b"\r\n", fields


def facts(head: RequestHead | None) -> tuple[object, ...] | None:
    if head is None:
        return None
    return (*(getattr(head, name) for name in HEAD_FACTS), (head.host or b"").lower())


def goes_on(head: RequestHead | None) -> bytes | None:
    """The head as it is passed on, by whichever way it was parsed."""
    if head is None:
        return None
    return head.passed or head.raw[: head.raw.index(b"\r\n") + 2] + forwarded_fields(head)


@given(requests(), st.binary(max_size=30))
@settings(max_examples=40)
def test_good_head_is_whole_at_its_last_byte_and_not_before(
    request_: tuple[bytes, list[tuple[bytes, bytes]]], rest: bytes
) -> None:
    raw, _ = request_
    for end in range(len(raw)):
        assert parse_request(raw[:end]) is None
    assert facts(parse_request(raw + rest)) == facts(parse_request(raw)) != None  # noqa: E711  a comparison in a chain
    head = parse_request(raw)
    assert head is not None
    assert head.size == len(raw)


usual = st.sampled_from(
    [
        *(
            b"Host: a",
            b"host:  B.c:8 ",
            b"Content-Length: 5",
            b"content-length:05\t",
            b"Connection: keep-alive",
            b"CONNECTION:Keep-Alive ",
        ),
        *(
            b"X-Request-Id: r-1",
            b"x-request-id:\tr-2 ",
            b"X-Request-Id: r 3",
            b"Accept: */*",
            b"x-other:",
            b"Cookie: a=b",
            b"hosts: c",
            b"Connection: close",
        ),
        *(
            b"content-lengths: 6",
            b"te: x",
            b"tea: x",
            b"User-Agent: caf\xc3\xa9",
            b"Transfer-Encoding: chunked",
            b"x-forwarded-form: y",
            b"xhost: z",
        ),
    ]
)


@given(
    requests().map(lambda pair: pair[0])
    | st.lists(usual, max_size=7).map(lambda fields: b"\r\n".join([b"GET / HTTP/1.1", *fields, b"", b""]))
)
@settings(max_examples=150)
@example(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\nConnection: keep-alive\r\n\r\n")
@example(b"GET / HTTP/1.1\r\nHost: a\r\nX-Request-Id: a\r\nx: y\r\nX-Request-Id: b\r\n\r\n")
@example(b"GET / HTTP/1.1\r\nX-Request-Id: a\r\nConnection: keep-alive\r\nHost: a\r\n\r\n")
def test_fast_path_and_long_way_agree(raw: bytes) -> None:
    results: list[object] = []
    for parse in (parse_request, http1._parse_request):
        try:
            head = parse(raw, 32768, 100)
            results.append((facts(head), goes_on(head)))
        except HttpError as error:
            results.append(error.status)
    assert results[0] == results[1]


@st.composite
def relatives(draw: st.DrawFn) -> list[bytes]:
    """Heads as one client might send them: each is the one before with a piece of it replaced by a piece of another."""
    raws = [draw(requests())[0]]
    for _ in range(draw(st.integers(1, 6))):
        last = raws[-1]
        kind = draw(st.sampled_from(["same", "same", "tail", "line", "other", "bytes"]))
        lines = last.split(b"\r\n")[:-2]
        at = draw(st.integers(0, len(lines)))
        if kind == "tail":
            other = draw(requests())[0].split(b"\r\n")[1:]
            raws.append(b"\r\n".join(lines[:at] + other))
        elif kind == "line":
            name, value = draw(others | meant | st.sampled_from([(b"Host", b"b"), (b"Content-Length", b"7")]))
            raws.append(b"\r\n".join([*lines[:at], name + b":" + value, *lines[at:], b"", b""]))
        elif kind == "bytes":
            raws.append(last[:at] + draw(st.binary(max_size=4)) + last[at:])
        else:
            raws.append(last if kind == "same" else draw(requests())[0])
    return raws


def outcome(parse: Callable[[bytes, int, int], RequestHead | None], raw: bytes) -> object:
    """Everything that a parser says of some bytes."""
    try:
        head = parse(raw, 32768, 8)
    except HttpError as error:
        return error.status, error.detail
    return head and {name: getattr(head, name) for name in RequestHead.__annotations__}


@settings(max_examples=400)
@given(relatives(), st.binary(max_size=6))
def test_familiar_heads_are_read_like_strange_ones(raws: list[bytes], body: bytes) -> None:
    familiar = Familiar()
    for raw in raws:
        for _ in range(2):
            assert outcome(familiar.parse, raw + body) == outcome(parse_request, raw + body)


def test_what_a_connection_s_heads_have_in_common_is_compared_and_not_read_again() -> None:
    familiar = Familiar()
    raw = b"POST /m HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\nX-User: %d\r\nContent-Length: 4\r\n\r\n"
    for number in range(100):
        head = familiar.parse(raw % number, 32768, 100)
        assert head is not None
        assert head.passed == b"POST /m HTTP/1.1\r\nHost: a\r\nX-User: %d\r\nContent-Length: 4\r\n" % number
    # The method and target are those of the very first head: bytes that are equal were not cut out again.
    first = familiar.parse(raw % 1, 32768, 100)
    again = familiar.parse(raw % 2, 32768, 100)
    assert first is not None
    assert again is not None
    assert again.target is first.target
    # A second Host or Connection after what is remembered is judged like any other.
    with pytest.raises(HttpError, match="more than one Host"):
        familiar.parse((raw % 1)[:-2] + b"Host: b\r\n\r\n", 32768, 100)
    closing = familiar.parse((raw % 1)[:-2] + b"Connection: close\r\n\r\n", 32768, 100)
    assert closing is not None
    assert not closing.keep_alive


@given(requests())
@settings(max_examples=60)
def test_what_goes_on_is_what_came_less_what_ends_here(request_: tuple[bytes, list[tuple[bytes, bytes]]]) -> None:
    raw, fields = request_
    head = http1._parse_request(raw, 32768, 100)
    assert head is not None
    nominated = {
        option.strip(b" \t").lower() for name, value in fields if name.lower() == b"connection" for option in value.split(b",")
    } - {b"content-length", b"host", b"transfer-encoding"}
    absolute = b" http" in raw[: raw.index(b"\r\n")]
    expected = []
    for name, value in fields:
        lowered = name.lower()
        if lowered in HOP or lowered in nominated:
            continue
        if lowered == b"transfer-encoding":
            expected.append((lowered, b"chunked"))
        elif lowered == b"host" and absolute:
            expected.append((lowered, re.findall(rb"https?://([^/ ]+)", raw)[0]))
        else:
            expected.append((lowered, value.strip(b" \t")))
    lines = forwarded_fields(head).split(b"\r\n")
    assert lines.pop() == b""
    got = [(line.partition(b":")[0].lower(), line.partition(b":")[2].strip(b" \t")) for line in lines]
    assert sorted(got) == sorted(expected)
    kept = [pair for pair in got if pair[0] not in (b"host", b"transfer-encoding")]
    assert kept == [pair for pair in expected if pair[0] not in (b"host", b"transfer-encoding")]  # in their order


pieces = st.sampled_from(
    [
        *(
            b"GET ",
            b"/ ",
            b"HTTP/1.1\r\n",
            b"Host: a\r\n",
            b"\r\n",
            b"\r",
            b"\n",
            b" ",
            b":",
            b"x: y\r\n",
            b"Content-Length: 5\r\n",
            b"\x00",
        ),
        *(
            b"Transfer-Encoding: chunked\r\n",
            b"HTTP/1.1 200 OK\r\n",
            b"Connection: close\r\n",
            b"\t",
            b"\xff",
            b"Host",
            b"200 OK",
            b"HTTP/",
            b"1.1",
        ),
    ]
)
noise = st.lists(pieces | st.binary(max_size=4), max_size=12).map(b"".join)


@given(noise)
@settings(max_examples=150)
def test_any_bytes_are_a_head_or_refused_or_not_yet_whole(raw: bytes) -> None:
    results: list[object] = []
    for parse in (parse_request, http1._parse_request):
        try:
            head = parse(raw, 32768, 100)
            results.append((facts(head), goes_on(head)))
        except HttpError as error:
            results.append(error.status if error.detail else "no reason given")
    assert results[0] == results[1]
    assert isinstance(results[0], tuple) or results[0] in STATUSES


@given(noise, st.sampled_from([b"GET", b"HEAD", b"POST"]))
@settings(max_examples=150)
def test_any_bytes_are_an_answer_s_head_or_refused_or_not_yet_whole(raw: bytes, method: bytes) -> None:
    status = 502
    try:
        head = parse_response(raw, method)
    except HttpError as error:
        status = error.status
    else:
        assert head is None or raw.startswith(head.raw)
    assert status == 502


@given(st.one_of(requests().map(lambda pair: pair[0]), noise))
@settings(max_examples=60)
def test_what_is_refused_whole_is_refused_in_pieces(raw: bytes) -> None:
    """A refusal may come before the head is whole, never after: no prefix is taken for a whole head."""
    try:
        whole = parse_request(raw)
    except HttpError:
        for end in range(len(raw)):
            try:
                assert parse_request(raw[:end]) is None
            except HttpError:
                return
        return
    if whole is None:
        for end in range(len(raw)):
            assert parse_request(raw[:end]) is None


def test_limits_are_exact() -> None:
    line = b"GET / HTTP/1.1\r\nHost: a\r\n"
    raw = line + b"x: " + b"a" * (1000 - len(line) - 7) + b"\r\n\r\n"
    assert len(raw) == 1000
    assert parse_request(raw, limit=1000) is not None
    assert parse_request(raw + b"body", limit=1000) is not None
    for given_ in (raw, raw[:999], raw + b"body"):
        with pytest.raises(HttpError) as caught:
            parse_request(given_, limit=999)
        assert caught.value.status == 431
    assert parse_request(raw[:998], limit=999) is None
    for count, plain in ((100, True), (100, False)):
        fields = b"x: y\r\n" * (count - 1) if plain else b"Expect: 100-continue\r\n" * (count - 1)
        assert parse_request(line + fields + b"\r\n", max_fields=count) is not None
        with pytest.raises(HttpError) as caught:
            parse_request(line + fields + b"z: y\r\n\r\n", max_fields=count)
        assert caught.value.status == 431


def test_long_target_is_414_and_long_fields_431() -> None:
    for raw, status in ((b"GET /" + b"a" * 2000, 414), (b"GET / HTTP/1.1\r\nx: " + b"a" * 2000, 431)):
        with pytest.raises(HttpError) as caught:
            parse_request(raw, limit=1000)
        assert caught.value.status == status


@pytest.mark.parametrize(
    ("line", "detail"),
    [
        (b" folded", "folded"),
        (b"x : y", "before its colon"),
        (b"nocolon", "no colon"),
        (b"x y: z", "not a token"),
        (b"x: \x01", "control character"),
        (b"x: a\nb", "CRLF"),
    ],
)
def test_refusal_says_what_is_wrong(line: bytes, detail: str) -> None:
    with pytest.raises(HttpError, match=detail):
        parse_request(b"GET / HTTP/1.1\r\nHost: a\r\n" + line + b"\r\n\r\n")


def test_fields_of_a_head() -> None:
    head = parse_request(b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\nx:  2 \r\nCaf: \xe9\r\n\r\n")
    assert head is not None
    assert head.fields() == {"host": "a", "x": "1, 2", "caf": "é"}
    assert head.header(b"x") == b"1"
    assert head.header(b"nothing") is None
    answer = parse_response(b"HTTP/1.1 200 OK\r\nA: b\r\nContent-Length: 0\r\n\r\n", b"GET")
    assert answer is not None
    assert answer.fields() == {"a": "b", "content-length": "0"}


# --- answers -------------------------------------------------------------------------------------------------------------


def answer(raw: bytes, method: bytes = b"GET") -> ResponseHead:
    head = parse_response(raw, method)
    assert head is not None
    return head


@pytest.mark.parametrize(
    ("raw", "method", "length", "reusable"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", b"GET", 5, True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", b"HEAD", 0, True),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"GET", CHUNKED, True),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"HEAD", 0, True),
        (b"HTTP/1.1 200 OK\r\n\r\n", b"GET", UNTIL_CLOSE, False),
        (b"HTTP/1.1 200 OK\r\n\r\n", b"HEAD", 0, True),
        (b"HTTP/1.1 204 No\r\n\r\n", b"GET", 0, True),
        (b"HTTP/1.1 304 No\r\nContent-Length: 5\r\n\r\n", b"GET", 0, True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: foo, Close\r\n\r\n", b"GET", 5, False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n", b"GET", 5, False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\nConnection: Keep-Alive\r\n\r\n", b"GET", 5, True),
        (b"HTTP/1.1 103 Hints\r\n\r\n", b"GET", 0, True),
    ],
)
def test_body_of_an_answer(raw: bytes, method: bytes, length: int, reusable: bool) -> None:
    """RFC 9112, 6.3. Twice, and in between for HEAD: heads are remembered, and must not be mixed up between methods."""
    for _ in range(2):
        head = answer(raw, method)
        assert (head.length, head.reusable) == (length, reusable)
        for end in range(len(raw)):
            assert parse_response(raw[:end], method) is None
        answer(raw, b"HEAD")


@pytest.mark.parametrize(("status", "method"), [(200, b"GET"), (304, b"GET"), (200, b"HEAD"), (204, b"GET")])
def test_an_answer_with_both_framings_is_refused_even_where_it_has_no_body(status: int, method: bytes) -> None:
    raw = b"HTTP/1.1 %d X\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n" % status
    with pytest.raises(HttpError, match="both Content-Length and Transfer-Encoding"):
        parse_response(raw, method)


def test_remembered_heads_are_bounded() -> None:
    for i in range(2000):
        assert answer(b"HTTP/1.1 200 OK\r\nDate: %d\r\nContent-Length: %d\r\n\r\n" % (i, i)).length == i
    assert len(http1_response.known_answers) <= 256
    answer(b"HTTP/1.1 200 OK\r\nx: " + b"a" * 5000 + b"\r\nContent-Length: 1\r\n\r\n")
    assert all(len(raw) <= 2048 for raw in http1_response.known_answers)


@given(
    st.lists(
        others
        | st.sampled_from(
            [(b"Connection", b"x-hop"), (b"X-Hop", b"1"), (b"Keep-Alive", b"5"), (b"Upgrade", b"h2c"), (b"X-REQUEST-ID", b"z")]
        ),
        max_size=8,
    )
)
def test_answer_goes_on_less_what_ends_here(fields: list[tuple[bytes, bytes]]) -> None:
    raw = b"HTTP/1.1 200 OK\r\n" + b"".join(n + b":" + v + b"\r\n" for n, v in fields) + b"Content-Length: 0\r\n\r\n"
    head = answer(raw)
    gone = {b"connection", b"keep-alive", b"proxy-connection", b"upgrade", b"x-request-id", b"x-bluegreen-arm"}
    if any(n.lower() == b"connection" for n, _ in fields):
        gone |= {b"x-hop"}
    lines = [n + b":" + v for n, v in fields if n.lower() not in gone]
    assert head.passed == b"\r\n".join([b"HTTP/1.1 200 OK", *lines, b"Content-Length: 0", b""])


def test_replace_field() -> None:
    fields = b"A: 1\r\nb: 2\r\na: 3\r\nab: 4\r\n"
    assert replace_field(fields, b"a", b"A: 9\r\n") == b"A: 9\r\nb: 2\r\nab: 4\r\n"
    assert replace_field(fields, b"b", b"") == b"A: 1\r\na: 3\r\nab: 4\r\n"
    assert replace_field(fields, b"c", b"c: 5\r\n") == b"c: 5\r\n" + fields
    assert replace_field(b"", b"c", b"c: 5\r\n") == b"c: 5\r\n"
    assert replace_field(b"a: 1\r\n", b"a", b"") == b""


def test_trusted_proxies_keep_what_they_say() -> None:
    raw = b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 1\r\nX-Forwarded-Proto: https\r\nForwarded: for=1\r\nTE: x\r\n\r\n"
    head = parse_request(raw)
    assert head is not None
    assert head.forwarded_for == b"1"
    assert forwarded_fields(head) == b"Host: a\r\n"
    assert forwarded_fields(head, trusted=True) == b"Host: a\r\nX-Forwarded-Proto: https\r\nForwarded: for=1\r\n"
