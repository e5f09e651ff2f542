"""What is still random about the arm of a unit: the probability with which each observation was drawn.

Under a sticky split a unit has a place between 0 and 1, its bucket, and is green's while that lies below green's share. The
place is drawn once. So the first observation of a unit is green's with the probability of the share; after that the place is
known to lie on one side of it, and as long as the share stays, more observations of the unit tell nothing new about the arms.
They are left out, or forty busy users would look like thousands of independent ones. When a ramp moves the share into the part
that is still open, the unit is drawn again: one that was blue's at 5 % is green's at 20 % with probability (20 - 5)/(100 - 5),
whatever it did before. That holds given all its past, so the observation counts, at that probability.

Each question (requests, errors, latencies, labels, rewards) knows only what was told to itself, and any order of arrival is
right. What is assumed: which units come, and which of them get feedback, does not depend on the arm while the arms are alike.
"""

from __future__ import annotations

import base64
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from hashlib import blake2b
from typing import Any, Final

MAX_UNITS: Final = 300_000
BUCKETS: Final = 10_000  # the steps in which a split's share is given
_PLACE_BITS: Final = 14
_PLACE: Final = (1 << _PLACE_BITS) - 1
_FIELD_BITS: Final = 2 * _PLACE_BITS
_FIELD: Final = (1 << _FIELD_BITS) - 1
_NUMBER_BYTES: Final = 8
_HASHED: Final = re.compile("[0-9a-f]{16}").fullmatch  # a unit's name that is a hash already
_ROW_BYTES: Final = 32


class Question(IntEnum):
    """What is asked of units, each answered by observations of its own."""

    REQUEST = 0
    LATENCY = 1
    ERROR = 2
    LABEL = 3
    REWARD = 4


_REVISION_SHIFT: Final = _FIELD_BITS * len(Question)


@dataclass(frozen=True, slots=True)
class Drawn:
    """How one exchange came to its arm. `unit`: the name of what was drawn, None when it was this request alone. `green`: the
    arm that the plan gave it to; `share`: green's share (0 to 1) under the plan `revision`; `scheme`: a number for the split
    key and salt, since under another one every unit is drawn anew.
    """

    unit: str | None
    green: bool
    share: float
    revision: int
    scheme: int = 0


class Draws:
    """What is known of each unit. At most `limit` units, 0.2 kB each; a question about a later one is counted in `refused`."""

    __slots__ = ("_known", "contradictions", "limit", "refused")

    def __init__(self, limit: int = MAX_UNITS) -> None:
        self.limit = limit
        self.refused = 0
        self.contradictions = 0  # observations of an arm that cannot be the unit's: the split was not kept
        # Unit -> one number: the last revision in which it was counted, and for each question the bounds of its place, the
        # lower one and (so that nothing known is 0) the upper one's distance from 10,000.
        self._known: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._known)

    def chance(self, drawn: Drawn, question: Question) -> float | None:
        """The probability that this observation was green's, given all the unit told this question before; None when it was
        certain. The question knows of this observation from now on.
        """
        if not 0.0 < drawn.share < 1.0:
            return None
        if drawn.unit is None:
            return drawn.share
        number = _number(drawn)
        known = self._known.get(number)
        if known is None and not self._room():
            return None
        known = known or 0
        shift = question * _FIELD_BITS
        bounds = known >> shift & _FIELD
        low, high = bounds & _PLACE, BUCKETS - (bounds >> _PLACE_BITS)
        place = round(drawn.share * BUCKETS)
        if not low < place < high:
            self.contradictions += (place <= low) == drawn.green
            return None
        new = low | BUCKETS - place << _PLACE_BITS if drawn.green else place | BUCKETS - high << _PLACE_BITS
        self._known[number] = known ^ (bounds ^ new) << shift
        return (place - low) / (high - low)

    def open_chance(self, drawn: Drawn, question: Question) -> float | None:
        """What `chance` would give, without the question's knowing of it: a unit that has not answered it yet stays undrawn."""
        if not 0.0 < drawn.share < 1.0:
            return None
        if drawn.unit is None:
            return drawn.share
        known = self._known.get(_number(drawn))
        if known is None and len(self._known) >= self.limit:
            return None
        bounds = (known or 0) >> question * _FIELD_BITS & _FIELD
        low, high = bounds & _PLACE, BUCKETS - (bounds >> _PLACE_BITS)
        place = round(drawn.share * BUCKETS)
        return (place - low) / (high - low) if low < place < high else None

    def new_in_revision(self, drawn: Drawn) -> bool:
        """Whether the unit is counted for the first time in this plan revision; late ones of an older revision are not."""
        if drawn.unit is None:
            return True
        number = _number(drawn)
        known = self._known.get(number)
        if known is None and not self._room():
            return False
        known = known or 0
        if known >> _REVISION_SHIFT >= drawn.revision:
            return False
        self._known[number] = drawn.revision << _REVISION_SHIFT | known & ((1 << _REVISION_SHIFT) - 1)
        return True

    def _room(self) -> bool:
        if len(self._known) < self.limit:
            return True
        self.refused += 1
        return False

    def to_dict(self) -> dict[str, Any]:
        """For a state: 40 bytes for each unit, compressed."""
        rows = (n.to_bytes(_NUMBER_BYTES, "big") + known.to_bytes(_ROW_BYTES, "big") for n, known in self._known.items())
        packed = base64.b64encode(zlib.compress(b"".join(rows), 1)).decode("ascii")
        return {"limit": self.limit, "refused": self.refused, "contradictions": self.contradictions, "known": packed}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Draws:
        """The inverse of `to_dict`."""
        made = cls(int(state["limit"]))
        made.refused, made.contradictions = int(state["refused"]), int(state["contradictions"])
        packed = zlib.decompress(base64.b64decode(state["known"]))
        size = _NUMBER_BYTES + _ROW_BYTES
        for at in range(0, len(packed), size):
            number = int.from_bytes(packed[at : at + _NUMBER_BYTES], "big")
            made._known[number] = int.from_bytes(packed[at + _NUMBER_BYTES : at + size], "big")
        return made


def _number(drawn: Drawn) -> int:
    """64 bits for a unit under a scheme: those that its name is, or a hash of the name."""
    unit = drawn.unit or ""
    if _HASHED(unit):  # not whatever `int` takes for sixteen digits: a sign or a blank may stand in a client's own key
        return int(unit, 16) ^ drawn.scheme << 48
    return int.from_bytes(blake2b(unit.encode("utf-8", "backslashreplace"), digest_size=8).digest(), "big") ^ drawn.scheme << 48
