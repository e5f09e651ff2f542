"""Which colour a request gets: by a stable hash of its key, or by chance.

The bucket of a key is fixed for ever by (key, salt), so that a ramp from 5 % to 10 % only adds users, a switch back and forth
brings everyone home, and anyone can recompute an assignment without asking the router.
"""

from __future__ import annotations

from hashlib import blake2b

BUCKETS = 10_000  # steps of 0.01 %


def bucket(key: bytes, salt: bytes) -> int:
    """The bucket in [0, 10000) of a key: blake2b keyed by the salt (RFC 7693), its first 8 bytes big-endian, mod 10000.

    The salt is used as the BLAKE2 key, which may be at most 64 bytes long.
    """
    return int.from_bytes(blake2b(key, digest_size=8, key=salt).digest(), "big") % BUCKETS


def green_buckets(green_percent: float) -> int:
    """How many of the 10,000 buckets go to green at this percentage (a multiple of 0.01)."""
    return round(green_percent * 100)
