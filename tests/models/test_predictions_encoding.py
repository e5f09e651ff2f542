"""Content-codings are undone exactly, a bomb is an error and not memory, and nothing but Unreadable escapes."""

import contextlib
import gzip
import tracemalloc
import zlib

import brotli
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from models.predictions import encoding
from models.predictions.prediction import Reason, Unreadable

BODY = b'{"predictions": [0, 2, 1]}' * 40


def raw_deflate(body: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-15)
    return compressor.compress(body) + compressor.flush()


def streamed_zstd(body: bytes) -> bytes:
    """Without the content's size in its head, as a server sends what it does not hold whole."""
    compressor = zstandard.ZstdCompressor().compressobj()
    return compressor.compress(body) + compressor.flush()


def quick_brotli(body: bytes) -> bytes:
    return brotli.compress(body, quality=5)


CODINGS = [
    ("gzip", gzip.compress),
    ("x-gzip", gzip.compress),
    ("GZip", gzip.compress),
    ("deflate", zlib.compress),
    ("deflate", raw_deflate),
    ("br", quick_brotli),
    ("zstd", zstandard.compress),
    ("zstd", streamed_zstd),
]
NAMES = [f"{name}-{getattr(encode, '__name__', 'compress')}" for name, encode in CODINGS]


def reason_of(body: bytes, codings: str, limit: int = 2**20) -> Reason:
    with pytest.raises(Unreadable) as refused:
        encoding.decode(body, codings, limit)
    return refused.value.reason


@pytest.mark.parametrize(("name", "encode"), CODINGS, ids=NAMES)
class TestEveryCoding:
    def test_is_undone(self, name, encode):
        assert encoding.decode(encode(BODY), name) == BODY

    def test_empty_content(self, name, encode):
        assert encoding.decode(encode(b""), name) == b""

    def test_early_end_is_truncated_at_every_length(self, name, encode):
        whole = encode(BODY)
        for length in range(len(whole)):
            assert reason_of(whole[:length], name) is Reason.TRUNCATED

    def test_what_there_is_of_a_recording_that_was_cut(self, name, encode):
        text = "".join(f"{n * 7919 % 65536:x} " for n in range(200_000)).encode()
        whole = encode(text)
        cut = encoding.decode(whole[: len(whole) * 3 // 4], name, partial=True)
        assert text.startswith(cut)
        assert len(cut) > 100_000

    def test_exactly_the_limit_is_allowed_and_one_more_is_not(self, name, encode):
        assert encoding.decode(encode(BODY), name, len(BODY)) == BODY
        assert reason_of(encode(BODY), name, len(BODY) - 1) is Reason.TOO_LARGE

    def test_a_bomb_is_an_error_and_not_memory(self, name, encode):
        bomb = encode(bytes(64 * 2**20))
        assert len(bomb) < 2**17
        tracemalloc.start()
        try:
            assert reason_of(bomb, name, 4 * 2**20) is Reason.TOO_LARGE
            assert tracemalloc.get_traced_memory()[1] < 40 * 2**20
        finally:
            tracemalloc.stop()


def test_identity_and_no_coding():
    assert encoding.decode(BODY, "") == BODY
    assert encoding.decode(BODY, "identity") == BODY
    assert reason_of(BODY, "identity", 10) is Reason.TOO_LARGE


def test_stacked_codings_are_undone_from_the_last():
    assert encoding.decode(brotli.compress(gzip.compress(BODY)), "gzip, br") == BODY
    assert encoding.decode(zstandard.compress(zlib.compress(gzip.compress(BODY))), "gzip,identity ,deflate,zstd") == BODY
    assert reason_of(brotli.compress(gzip.compress(BODY)), "br, gzip") is Reason.ENCODING


def test_the_limit_holds_between_stacked_codings():
    inner = bytes(2**22)
    assert reason_of(gzip.compress(gzip.compress(inner)), "gzip, gzip", 2**21) is Reason.TOO_LARGE


def test_more_codings_than_any_server_stacks():
    body = b"x"
    for _ in range(5):
        body = gzip.compress(body)
    assert reason_of(body, "gzip, gzip, gzip, gzip, gzip") is Reason.ENCODING


def test_several_gzip_members_and_zstd_frames_are_one_content():
    assert encoding.decode(gzip.compress(b"one ") + gzip.compress(b"two"), "gzip") == b"one two"
    assert encoding.decode(gzip.compress(b"one") + bytes(8), "gzip") == b"one"  # padding
    assert encoding.decode(zstandard.compress(b"one ") + streamed_zstd(b"two"), "zstd") == b"one two"


def test_endless_members_are_refused():
    assert reason_of(gzip.compress(b"") * 3000, "gzip") is Reason.ENCODING
    assert reason_of(zstandard.compress(b"") * 3000, "zstd") is Reason.ENCODING


@pytest.mark.parametrize(
    ("body", "codings"),
    [
        (BODY, "gzip"),
        (BODY, "deflate"),
        (BODY, "br"),
        (BODY, "zstd"),
        (b"x", "compress"),
        (b"x", "gzip; q=1"),
        (gzip.compress(BODY) + b"more", "gzip"),
        (zlib.compress(BODY) + b"more", "deflate"),
        (brotli.compress(BODY) + b"more", "br"),
        (zstandard.compress(BODY) + b"more", "zstd"),
        (gzip.compress(BODY)[:-8] + bytes(8), "gzip"),  # the checksum is wrong
    ],
)
def test_what_is_not_its_coding(body, codings):
    assert reason_of(body, codings) in (Reason.ENCODING, Reason.TRUNCATED)


@settings(max_examples=150, deadline=None)
@given(
    st.binary(max_size=400),
    st.lists(st.sampled_from(["gzip", "deflate", "br", "zstd", "identity", "x", ""]), max_size=5),
    st.booleans(),
)
def test_nothing_else_escapes_from_random_bytes(body, codings, partial):
    try:
        decoded = encoding.decode(body, ",".join(codings), 4096, partial=partial)
    except Unreadable:
        return
    assert len(decoded) <= 4096


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(CODINGS), st.binary(max_size=300), st.data())
def test_nothing_else_escapes_from_damaged_content(coding, content, data):
    name, encode = coding
    body = bytearray(encode(content))
    for _ in range(data.draw(st.integers(0, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(Unreadable):
        assert len(encoding.decode(bytes(body), name, 2**16)) <= 2**16
