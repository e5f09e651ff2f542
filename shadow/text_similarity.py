"""How alike two texts are: normalised edit similarity and token F1, at a bounded cost.

The edit distance is computed with bit-parallel columns (Myers 1999, "A fast bit-vector algorithm for approximate
string matching based on dynamic programming"; the form for plain distance is Hyyrö 2003), with one Python integer as
the column: about n steps of m/64 machine words instead of n·m of them, a millisecond for two texts of 1,000
characters. Common beginnings and ends are cut away first, which is exact. What is still longer than `MAX_CHARACTERS`
is compared in words instead of characters, and beyond `MAX_WORDS` only that many words are aligned and the rest
counts as different unless the texts are equal: a bound on the time of one pair, and never a claim of equality.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Final, TypeVar

MAX_CHARACTERS: Final = 2_000
MAX_WORDS: Final = 2_000
MAX_TEXT: Final = 200_000  # characters; what is beyond is not looked at and counts as different
_ALMOST: Final = math.nextafter(1.0, 0.0)
_WORD: Final = re.compile(r"\w+|[^\w\s]")


def edit_similarity(one: str, other: str, batch: int = 1) -> float:
    """1 - distance / length of the longer, in [0, 1] and symmetric; 1 only for equal texts.

    The distance is Levenshtein's (insert, delete, substitute; each costs 1) over characters, or over words for long texts.
    `batch`: how many texts are compared in one go. They share the time of one, which grows with the square of the length, so
    what counts as long is shorter by its root.
    """
    if one == other:
        return 1.0
    most_characters, most_words = (max(100, most // math.isqrt(batch)) for most in (MAX_CHARACTERS, MAX_WORDS))
    longer = max(len(one), len(other))
    left, right = _without_common_ends(one, other)
    if min(len(left), len(right)) == 0:
        return _below_one(1 - max(len(left), len(right)) / longer)
    if max(len(left), len(right)) <= most_characters:
        return _below_one(1 - edit_distance(left, right) / longer)
    words, others = _WORD.findall(one[:MAX_TEXT]), _WORD.findall(other[:MAX_TEXT])
    most = max(len(words), len(others))
    if most == 0:
        return 0.0  # thousands of blanks that differ
    first, second = _without_common_ends(words, others)
    uncounted = max(len(first), len(second)) - most_words
    distance = edit_distance(first[:most_words], second[:most_words])
    seen = min(1.0, MAX_TEXT / longer)
    return _below_one(seen * (1 - min(most, distance + max(uncounted, 0)) / most))


def edit_distance(one: Sequence[Hashable], other: Sequence[Hashable]) -> int:
    """Levenshtein distance of two sequences. Time: len(longer) steps on integers of len(shorter) bits."""
    if len(one) > len(other):
        one, other = other, one
    size = len(one)
    if size == 0:
        return len(other)
    places: dict[Hashable, int] = {}  # for each symbol, the bits of the positions in `one` where it stands
    bit = 1
    for symbol in one:
        places[symbol] = places.get(symbol, 0) | bit
        bit <<= 1
    mask = bit - 1
    last = bit >> 1
    # Vertical differences of the dynamic programming table's current column: +1 where `up` has a bit, -1 where `down`
    # has.
    up, down = mask, 0
    distance = size
    for symbol in other:
        equal = places.get(symbol, 0)
        diagonal = (((equal & up) + up) ^ up) | equal | down
        right_up = down | (~(diagonal | up) & mask)
        right_down = diagonal & up
        if right_up & last:
            distance += 1
        elif right_down & last:
            distance -= 1
        right_up = (right_up << 1) | 1  # the table's first row grows by one in each column
        right_down <<= 1
        up = (right_down | ~(diagonal | right_up)) & mask
        down = right_up & diagonal & mask
    return distance


def token_f1(one: str, other: str) -> float:
    """Harmonic mean of precision and recall over the bags of words, as SQuAD scores answers (Rajpurkar et al. 2016).

    Words are runs of word characters and single signs, without regard to case. In [0, 1] and symmetric; two texts
    without a word agree.
    """
    words, others = Counter(_WORD.findall(one[:MAX_TEXT].lower())), Counter(_WORD.findall(other[:MAX_TEXT].lower()))
    total = words.total() + others.total()
    if total == 0:
        return 1.0
    return 2 * (words & others).total() / total


_Text = TypeVar("_Text", str, list[str])


def _without_common_ends(one: _Text, other: _Text) -> tuple[_Text, _Text]:
    """Both without the beginning and the end that they share; their distance is the same."""
    shorter = min(len(one), len(other))
    start = _shared(shorter, lambda n: one[:n] == other[:n])
    rest = shorter - start
    end = _shared(rest, lambda n: one[len(one) - n :] == other[len(other) - n :])
    return one[start : len(one) - end], other[start : len(other) - end]


def _shared(most: int, same: Callable[[int], bool]) -> int:
    """The largest n up to `most` for which `same(n)`, which holds from 0 up to some n: a search by halving over fast
    comparisons.
    """
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        if same(middle):
            low = middle
        else:
            high = middle - 1
    return low


def _below_one(similarity: float) -> float:
    """Keeps 1 for equal texts, even where words are equal and blanks are not, or where rounding would give it."""
    return min(max(similarity, 0.0), _ALMOST)
