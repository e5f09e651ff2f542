"""Histograms as short text, for a state that is written several times a second and must stay small whatever the traffic.

A histogram's own `to_dict` lists every bucket that holds something; one that has seen everything is then 100 kB. Here the
counts are compressed: a few kB as a rule, at most some 20 kB.
"""

from __future__ import annotations

import binascii
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from shadow.quantiles import Histogram


def pack_histogram(histogram: Histogram) -> dict[str, Any]:
    """The histogram as JSON values: its layout, its extremes, and its counts as text."""
    counts = np.frombuffer(histogram.counts, dtype=np.int64).astype("<i8")
    return {
        "low_exponent": histogram.low_exponent,
        "high_exponent": histogram.high_exponent,
        "signed": histogram.signed,
        "least": histogram.least if histogram.n else None,
        "most": histogram.most if histogram.n else None,
        "packed": binascii.b2a_base64(zlib.compress(counts.tobytes(), 1), newline=False).decode("ascii"),
    }


def unpack_histogram(state: Mapping[str, Any]) -> Histogram:
    """The inverse of `pack_histogram`. Raises ValueError for text that is not such a histogram."""
    made = Histogram(bool(state["signed"]), int(state["low_exponent"]), int(state["high_exponent"]))
    size = 8 * len(made.counts)
    try:
        inflater = zlib.decompressobj()
        packed = inflater.decompress(binascii.a2b_base64(state["packed"]), size + 1)
    except zlib.error as error:
        raise ValueError(f"a histogram's counts cannot be unpacked ({error}): discard the state") from None
    if len(packed) != size:
        raise ValueError(f"a histogram has {len(packed)} bytes of counts where {size} are due: discard the state")
    counts = np.frombuffer(packed, dtype="<i8")
    np.frombuffer(made.counts, dtype=np.int64)[:] = counts
    made.n = int(counts.sum())
    if made.n:
        made.least, made.most = float(state["least"]), float(state["most"])
    return made
