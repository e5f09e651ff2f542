"""Which colour a request gets: by a stable hash of its key, or by chance.

The bucket of a key is fixed for ever by (key, salt), so that a ramp from 5 % to 10 % only adds users, a switch back and forth
brings everyone home, and anyone can recompute an assignment without asking the router.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final, TypeAlias

Blake2b: TypeAlias = blake2b

BUCKETS: Final = 10_000  # steps of 0.01 %


def keyed_hash(salt: bytes) -> Blake2b:
    """The hash of a split, ready for `update(key)`; at most 64 bytes of salt."""
    return blake2b(digest_size=8, key=salt)


def bucket_of(digest: bytes) -> int:
    """The bucket of an 8-byte digest."""
    return int.from_bytes(digest, "big") % BUCKETS


def bucket(key: bytes, salt: bytes) -> int:
    """The bucket in [0, 10000) of a key: blake2b keyed by the salt (RFC 7693), its first 8 bytes big-endian, mod 10000.

    The salt is used as the BLAKE2 key, which may be at most 64 bytes long.
    """
    return bucket_of(blake2b(key, digest_size=8, key=salt).digest())


def green_buckets(green_percent: float) -> int:
    """How many of the 10,000 buckets go to green at this percentage (a multiple of 0.01)."""
    return round(green_percent * 100)
