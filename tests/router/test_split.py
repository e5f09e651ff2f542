from __future__ import annotations

import re
from hashlib import blake2b
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from router.split import BUCKETS, bucket, green_buckets

DOC = Path(__file__).resolve().parents[2] / "docs/splitting.md"
keys = st.binary(max_size=200)
salts = st.binary(max_size=64)
percents = st.integers(0, BUCKETS).map(lambda hundredths: hundredths / 100)


@given(key=keys, salt=salts)
def test_a_bucket_is_the_documented_hash(key: bytes, salt: bytes) -> None:
    digest = blake2b(key, digest_size=8, key=salt).digest()
    assert bucket(key, salt) == int.from_bytes(digest, "big") % 10_000
    assert 0 <= bucket(key, salt) < BUCKETS


@given(percents)
def test_every_step_of_a_hundredth_of_a_percent_is_one_bucket(percent: float) -> None:
    assert green_buckets(percent) == round(percent * 100)
    assert green_buckets(percent) / 100 == percent


@given(key=keys, salt=salts, low=percents, high=percents)
def test_a_ramp_only_adds_users(key: bytes, salt: bytes, low: float, high: float) -> None:
    low, high = sorted((low, high))
    if bucket(key, salt) < green_buckets(low):
        assert bucket(key, salt) < green_buckets(high)


def test_the_ends_are_absolute() -> None:
    assert green_buckets(0) == 0
    assert green_buckets(100) == BUCKETS


def test_shares_over_100_000_keys() -> None:
    """At 10 % green's share is within 10 % +- 0.3 %; raising to 25 % moves nobody from green to blue."""
    buckets = [bucket(b"user-%d" % number, b"iris") for number in range(100_000)]
    at_10 = {number for number, b in enumerate(buckets) if b < green_buckets(10)}
    at_25 = {number for number, b in enumerate(buckets) if b < green_buckets(25)}
    assert abs(len(at_10) / 1000 - 10) < 0.3
    assert abs(len(at_25) / 1000 - 25) < 0.3
    assert at_10 < at_25


def test_another_salt_is_an_independent_assignment() -> None:
    """Of the users that are green at 10 % under one salt, a tenth are under another: 1000 +- 5 standard deviations."""
    both = sum(bucket(b"user-%d" % n, b"one") < 1000 and bucket(b"user-%d" % n, b"two") < 1000 for n in range(100_000))
    assert abs(both - 1000) < 5 * (100_000 * 0.01 * 0.99) ** 0.5


def test_the_documented_examples() -> None:
    rows = re.findall(r"^\| `(.+?)` \| (?:`(.+?)`|none) \| (\d+) \| (\w+) \| (\w+) \|$", DOC.read_text(), flags=re.MULTILINE)
    assert len(rows) == 10
    for key, salt, number, at_10, at_25 in rows:
        found = bucket(key.encode(), salt.encode())
        assert found == int(number), key
        assert at_10 == ("green" if found < 1000 else "blue")
        assert at_25 == ("green" if found < 2500 else "blue")


def test_the_documented_program_is_the_real_one() -> None:
    program = re.search(r"```python\n(.+?)```", DOC.read_text(), flags=re.DOTALL)
    assert program is not None
    names: dict[str, object] = {}
    exec(program[1], names)
    for number in range(1000):
        key = b"user-%d" % number
        assert names["bucket"](key, b"iris") == bucket(key, b"iris")  # type: ignore[operator]
        expected = "green" if bucket(key, b"iris") < green_buckets(12.34) else "blue"
        assert names["colour"](key, b"iris", 12.34) == expected  # type: ignore[operator]
