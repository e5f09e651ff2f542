"""Bodies end where they end, however their bytes are cut; what is malformed is refused at any cut."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.framing import (
    CHUNKED,
    UNTIL_CLOSE,
    BodyTooLarge,
    ChunkedBody,
    FramingError,
    LengthBody,
    UntilCloseBody,
    body_of,
    unframed,
)

AFTER = b"GET /next HTTP/1.1\r\n"


def in_pieces(raw: bytes, cuts: list[int], **options: int) -> tuple[str, bytes, bytes, int]:
    """Feed a chunked body cut at these places: how it ended, its payload, its trailers, and where it ended."""
    body = ChunkedBody(collect=True, **options)
    at = 0
    try:
        for start, end in pairwise([0, *sorted(cuts), len(raw)]):
            if body.done:
                break
            stop = body.feed(raw[start:end])
            at = start + stop
            assert body.done or stop == end - start
    except FramingError:
        return "refused", b"", b"", -1
    except BodyTooLarge:
        return "too large", b"", b"", -1
    return "done" if body.done else "more", b"".join(body.payload), body.trailers, at


GOOD = [
    (b"0\r\n\r\n", b"", b""),
    (b"5\r\nhello\r\n0\r\n\r\n", b"hello", b""),
    (b"1\r\na\r\n2\r\nbc\r\n0\r\n\r\n", b"abc", b""),
    (b'0005;a;b=c;d="e;f"\r\nhello\r\n000;x\r\n\r\n', b"hello", b""),
    (b"A\r\n0\r\n\r\n0\r\n\r\n\r\n0\r\n\r\n", b"0\r\n\r\n0\r\n\r\n", b""),
    (b"a\r\n0123456789\r\n0\r\nx: y\r\nz:\r\n\r\n", b"0123456789", b"x: y\r\nz:\r\n"),
    (b"3\r\n\x00\xff\r\r\n0\r\nx: \xff\t\r\n\r\n", b"\x00\xff\r", b"x: \xff\t\r\n"),
]

BAD = [
    *(
        b"\r\n",
        b"g\r\n",
        b"-1\r\n",
        b"+1\r\na\r\n",
        b"0x1\r\na\r\n",
        b" 1\r\na\r\n",
        b"1 \r\na\r\n",
        b"1\ra\r\n",
        b"1\na\r\n0\r\n\r\n",
        b"1_0\r\n",
    ),
    *(
        b"1;\r\na\r\n0\r\n\r\n",
        b"1;a=\r\na\r\n",
        b"1; a\r\na\r\n",
        b"1;a b\r\n",
        b'1;a="\r\n',
        b'1;a="b"c\r\n',
        b"1;a\x00\r\n",
        b"1;a\xff\r\n",
    ),
    *(
        b"1\r\nab\r\n",
        b"1\r\na\n0\r\n\r\n",
        b"1\r\na\r0\r\n\r\n",
        b"1\r\na0\r\n\r\n",
        b"11111111111111111\r\n",
        b"1;" + b"a" * 1100,
    ),
    *(
        b"0\r\nx\r\n\r\n",
        b"0\r\nx : y\r\n\r\n",
        b"0\r\n x: y\r\n\r\n",
        b"0\r\nx: a\r\n b\r\n\r\n",
        b"0\r\nx: y\n\r\n",
        b"0\r\nx: \x00\r\n\r\n",
        b"0\r\n: y\r\n\r\n",
    ),
    *(
        b"0\r\nContent-Length: 1\r\n\r\n",
        b"0\r\na: b\r\ntransfer-encoding: chunked\r\n\r\n",
        b"0\r\nHOST: b\r\n\r\n",
        b"0\r\nx: " + b"a" * 17000 + b"\r\n\r\n",
    ),
    *(b"0\r\nx: a\rb\r\n\r\n", b"0\r\n\n\r\n", b"0\r\nTrailer: x\r\n\r\n", b"0\r\nConnection: close\r\n\r\n"),
    *(b"0\r\nProxy-Connection: close\r\n\r\n", b"0\r\nx: y\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n"),
]


@pytest.mark.parametrize(("raw", "payload", "trailers"), GOOD)
def test_every_cut_in_two_and_byte_by_byte(raw: bytes, payload: bytes, trailers: bytes) -> None:
    expected = ("done", payload, trailers, len(raw))
    whole = raw + AFTER
    for cut in range(len(whole) + 1):
        assert in_pieces(whole, [cut]) == expected
    assert in_pieces(whole, list(range(len(whole)))) == expected
    for end in range(len(raw)):
        assert in_pieces(raw[:end], [])[0] == "more"


@pytest.mark.parametrize("raw", BAD)
def test_malformed_is_refused_at_every_cut(raw: bytes) -> None:
    assert in_pieces(raw, [])[0] == "refused"
    if len(raw) < 200:
        for cut in range(len(raw) + 1):
            assert in_pieces(raw, [cut])[0] == "refused", cut
        assert in_pieces(raw, list(range(len(raw))))[0] == "refused"
    else:
        assert in_pieces(raw, list(range(0, len(raw), 97)))[0] == "refused"


@pytest.mark.parametrize(
    "raw",
    [
        *(b"1;\r", b"1;a=\r", b'1;a="b\r', b"1; ", b"1;=", b"1;a b", b"1 ", b"g", b"1\rx", b'1;a="b"c'),
        *(b"0\r\n ", b"0\r\n:", b"0\r\nx ", b"0\r\nx\r", b"0\r\nx: y\r\n ", b"0\r\nhost:", b"0\r\nx: \x00", b"0\r\nx: y\n"),
    ],
)
def test_beginning_of_nothing_good_is_refused_at_once(raw: bytes) -> None:
    """What has been read of a line goes on before the line is whole, so it is not taken on trust."""
    assert in_pieces(raw, [])[0] == "refused"
    assert in_pieces(raw, list(range(len(raw))))[0] == "refused"


chunks = st.lists(st.binary(min_size=1, max_size=40), max_size=6)
bodies = st.tuples(
    chunks, st.sampled_from([b"", b"x: y\r\n", b"x: y\r\nz: \xff\r\n"]), st.sampled_from([b"%x", b"%X", b"0%x", b'%x;a="b"'])
)


def framed(pieces: list[bytes], trailers: bytes, size: bytes) -> bytes:
    return b"".join(size % len(p) + b"\r\n" + p + b"\r\n" for p in pieces) + b"0\r\n" + trailers + b"\r\n"


@given(bodies, st.lists(st.integers(0, 400), max_size=8), st.binary(max_size=10))
def test_any_cut_gives_the_same(body: tuple[list[bytes], bytes, bytes], cuts: list[int], after: bytes) -> None:
    pieces, trailers, size = body
    raw = framed(pieces, trailers, size)
    cuts = [cut for cut in cuts if cut <= len(raw + after)]
    assert in_pieces(raw + after, cuts) == ("done", b"".join(pieces), trailers, len(raw))


scraps = st.lists(
    st.sampled_from(
        [
            b"0",
            b"1",
            b"5",
            b"a",
            b"\r\n",
            b"\r",
            b"\n",
            b";",
            b"=",
            b'"',
            b" ",
            b"x: y\r\n",
            b"hello",
            b"0\r\n\r\n",
            b"\x00",
            b":",
        ]
    ),
    max_size=14,
).map(b"".join)


@given(scraps, st.lists(st.integers(0, 40), max_size=6))
@settings(max_examples=200)
def test_any_cut_of_anything_gives_the_same(raw: bytes, cuts: list[int]) -> None:
    """Waiting may become a refusal a little earlier or later, but never the end of a body, nor another payload."""
    whole, cut = in_pieces(raw, []), in_pieces(raw, [c for c in cuts if c <= len(raw)])
    assert whole == cut


@given(bodies, st.integers(0, 250))
def test_limit_counts_payload_alone(body: tuple[list[bytes], bytes, bytes], limit: int) -> None:
    pieces, trailers, size = body
    raw = framed(pieces, trailers, size)
    expected = "done" if len(b"".join(pieces)) <= limit else "too large"
    assert in_pieces(raw, [], limit=limit)[0] == expected
    assert in_pieces(raw, list(range(len(raw))), limit=limit)[0] == expected


@given(st.integers(0, 50), st.binary(max_size=60), st.lists(st.integers(0, 60), max_size=5))
def test_length(length: int, raw: bytes, cuts: list[int]) -> None:
    body = LengthBody(length)
    taken = b""
    for start, end in pairwise([0, *sorted(c for c in cuts if c <= len(raw)), len(raw)]):
        if body.done:
            break
        stop = body.feed(raw[start:end])
        taken += raw[start : start + stop]
    assert taken == raw[:length]
    assert body.done == (len(raw) >= length)
    assert body.seen == len(taken)


def test_start_of_a_feed_is_honoured() -> None:
    length = LengthBody(3)
    assert length.feed(b"headabcd", 4) == 7
    assert length.done
    body = ChunkedBody(collect=True)
    assert body.feed(b"head3\r\nabc\r\n0\r\n\r\nrest", 4) == 17
    assert body.payload == [b"abc"]
    until = UntilCloseBody()
    assert until.feed(b"headrest", 4) == 8
    assert (until.done, until.seen) == (False, 4)


def test_body_of() -> None:
    assert isinstance(body_of(CHUNKED), ChunkedBody)
    assert isinstance(body_of(UNTIL_CLOSE), UntilCloseBody)
    assert body_of(0).done
    assert isinstance(body_of(5, 5), LengthBody)
    with pytest.raises(BodyTooLarge):
        body_of(6, 5)


def test_unframed() -> None:
    assert unframed(b"plain", 5) == b"plain"
    assert unframed(b"plain", UNTIL_CLOSE) == b"plain"
    assert unframed(b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", CHUNKED) == b"abcde"
    assert unframed(b"3\r\nabc\r\n5\r\nde", CHUNKED) == b"abcde"  # cut off where keeping it ended
