from __future__ import annotations

import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.reference.bodies import gunzip, takes_gzip
from models.reference.payloads import RequestError


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=3))
def test_gzip_of_one_or_more_members_is_undone(parts: list[bytes]) -> None:
    assert gunzip(b"".join(gzip.compress(part) for part in parts), 1000) == b"".join(parts)


@given(st.binary(max_size=300))
def test_whatever_the_bytes_it_is_an_answer_or_a_request_error(packed: bytes) -> None:
    try:
        unpacked = gunzip(packed, 10_000)
    except RequestError:
        return
    assert gzip.decompress(packed) == unpacked


@pytest.mark.parametrize("cut", [1, 8, 12])
def test_gzip_that_was_cut_short(cut: int) -> None:
    with pytest.raises(RequestError, match="ends before its last block") as refused:
        gunzip(gzip.compress(b"x" * 100)[:-cut], 1000)
    assert refused.value.status == 400


def test_a_damaged_checksum_is_noticed() -> None:
    packed = bytearray(gzip.compress(b"x" * 100))
    packed[-5] ^= 1
    with pytest.raises(RequestError, match="not the gzip that content-encoding says"):
        gunzip(bytes(packed), 1000)


def test_the_bound_holds_for_what_was_unpacked_in_one_member_or_over_several() -> None:
    assert len(gunzip(gzip.compress(bytes(1000)), 1000)) == 1000
    for packed in (gzip.compress(bytes(1001)), gzip.compress(bytes(500)) * 3, gzip.compress(bytes(1000)) * 2):
        with pytest.raises(RequestError, match="more than 1000 bytes") as refused:
            gunzip(packed, 1000)
        assert refused.value.status == 413


@pytest.mark.parametrize(
    ("accept_encoding", "takes"),
    [
        ("", False),
        ("gzip", True),
        ("GZip", True),
        ("deflate, gzip, br", True),
        ("gzip, deflate, br, zstd", True),
        ("gzip;q=0", False),
        ("gzip; q=0.000", False),
        ("gzip ; q=0.5, br", True),
        ("br, deflate", False),
        ("identity", False),
        ("*", True),
        ("*;q=0", False),
        ("gzip;q=0, *", False),
        ("x-gzip", True),
        ("gzip;q=x", False),
    ],
)
def test_who_takes_gzip(accept_encoding: str, takes: bool) -> None:
    assert takes_gzip(accept_encoding) is takes
