from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.quantities import is_loopback, parse_duration, parse_listen, parse_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("250ms", 0.25), ("1s", 1), ("1.5s", 1.5), ("10m", 600), ("24h", 86400), ("7d", 604800), (" 2 s ", 2), (3, 3), (0.5, 0.5)],
)
def test_durations_are_seconds(text: object, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "1", "1 parsec", "-1s", "s", "1s2m", None, True, -1, float("inf"), float("nan"), [1]])
def test_what_is_no_duration_is_refused_with_an_example(text: object) -> None:
    with pytest.raises(ValueError, match="such as 250ms"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [("64MiB", 64 << 20), ("32KiB", 32768), ("1MB", 10**6), ("1kB", 1000), ("1.5GiB", 3 << 29), ("7B", 7), (12, 12), (0, 0)],
)
def test_sizes_are_bytes(text: object, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "1x", "64 mib", "-1MB", None, True, 1.5, -1])
def test_what_is_no_size_is_refused_with_an_example(text: object) -> None:
    with pytest.raises(ValueError, match="such as 32KiB"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("127.0.0.1:8000", ("127.0.0.1", 8000)),
        ("[::1]:8000", ("::1", 8000)),
        ("localhost:0", ("localhost", 0)),
        ("my-host.example:65535", ("my-host.example", 65535)),
    ],
)
def test_addresses(text: str, where: tuple[str, int]) -> None:
    assert parse_listen(text) == where


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("8000", "must be an address"),
        (8000, "must be an address"),
        (":8000", "0.0.0.0:8000"),
        ("127.0.0.1:", "the port"),
        ("127.0.0.1:65536", "the port"),
        ("127.0.0.1:+1", "the port"),
        ("::1:8000", "in brackets"),
        ("[nonsense]:8000", "no IPv6 address"),
        ("a b:8000", "not a host name"),
        ("-a:8000", "not a host name"),
    ],
)
def test_wrong_addresses_are_refused_with_what_to_write(text: object, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_listen(text)


@given(st.text(max_size=30))
def test_no_text_makes_the_readers_fail_otherwise_than_by_refusing(text: str) -> None:
    for read in (parse_duration, parse_size, parse_listen):
        with contextlib.suppress(ValueError):
            read(text)
    assert is_loopback(text) in (True, False)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "localhost.", "127.0.0.1", "127.9.9.9", "::1", "[::1]"])
def test_loopback_hosts(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "10.0.0.1", "example.com", "localhost.example.com", "127.0.0.1.example.com", ""]
)
def test_other_hosts_are_not_loopback(host: str) -> None:
    assert not is_loopback(host)
