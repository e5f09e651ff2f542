"""Edit distance against the textbook's table, and the bounds that keep long texts cheap and honest."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shadow import text_similarity
from shadow.text_similarity import edit_distance, edit_similarity, token_f1

few = st.text(alphabet="abc ", max_size=12)


def by_table(one, other):
    """Wagner and Fischer 1974."""
    row = list(range(len(other) + 1))
    for i, x in enumerate(one, 1):
        left = [i]
        for j, y in enumerate(other, 1):
            left.append(min(row[j] + 1, left[-1] + 1, row[j - 1] + (x != y)))
        row = left
    return row[-1]


@pytest.mark.parametrize(
    ("one", "other", "distance"),
    [
        ("kitten", "sitting", 3),
        ("", "abc", 3),
        ("abc", "abc", 0),
        ("flaw", "lawn", 2),
        ("intention", "execution", 5),
        ("ab", "ba", 2),
    ],
)
def test_known_distances(one, other, distance):
    assert edit_distance(one, other) == edit_distance(other, one) == distance


@settings(max_examples=400, deadline=None)
@given(few, few)
def test_the_distance_is_the_tables(one, other):
    assert edit_distance(one, other) == by_table(one, other)


@settings(max_examples=50, deadline=None)
@given(st.text(alphabet="ab", min_size=60, max_size=140), st.text(alphabet="ab", min_size=60, max_size=140))
def test_beyond_one_machine_word(one, other):
    assert edit_distance(one, other) == by_table(one, other)


def test_any_symbols():
    assert edit_distance(["the", "cat", "sat"], ["the", "dog", "sat", "down"]) == 2


@settings(max_examples=200, deadline=None)
@given(few, few)
def test_similarity_is_symmetric_in_the_unit_interval_and_one_only_for_equals(one, other):
    similarity = edit_similarity(one, other)
    assert similarity == edit_similarity(other, one)
    assert 0 <= similarity <= 1
    assert (similarity == 1) == (one == other)
    assert similarity == pytest.approx(1 - by_table(one, other) / max(len(one), len(other), 1), abs=1e-12)


def test_common_ends_do_not_change_the_distance():
    start, end = "x" * 5000, "y" * 5000
    assert edit_similarity(start + "kitten" + end, start + "sitting" + end) == pytest.approx(1 - 3 / 10_007)


def test_long_texts_are_compared_in_words():
    words = [f"w{n}" for n in range(1000)]
    changed = [word if n % 10 else "other" for n, word in enumerate(words)]
    assert edit_similarity(" ".join(words), " ".join(changed)) == pytest.approx(0.9)


def test_texts_of_a_large_batch_are_long_sooner():
    words = [f"word{n}" for n in range(100)]
    changed = [word if n % 10 else "x" for n, word in enumerate(words)]
    one, other = " ".join(words), " ".join(changed)
    in_characters = edit_similarity(one, other)
    assert in_characters == 1 - by_table(one, other) / len(one)
    assert edit_similarity(one, other, batch=400) == pytest.approx(0.9) != pytest.approx(in_characters)


def test_long_texts_that_differ_only_in_blanks_are_not_equal():
    one = " ".join(["word"] * 1000)
    assert 0.99 < edit_similarity("a " + one + " b", "c  " + one + "  d") < 1
    assert edit_similarity(" " * 3000, "\t" * 3000) == 0


def test_what_is_not_looked_at_counts_as_different():
    one = "a " * 500_000
    assert edit_similarity(one + "x", "y" + one) <= 2 * text_similarity.MAX_TEXT / len(one)
    many = " ".join(f"w{n}" for n in range(20_000))
    other = " ".join(f"v{n}" for n in range(20_000))
    assert edit_similarity(many, other) == 0


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32), st.integers(2500, 6000), st.integers(0, 6000))
def test_long_texts_stay_symmetric(seed, length, other_length):
    one = "".join(chr(97 + (seed >> (n % 29)) * (n + 1) % 7) + (" " if n % 5 == 0 else "") for n in range(length))
    other = one[::-1][:other_length]
    assert edit_similarity(one, other) == edit_similarity(other, one)


@pytest.mark.parametrize(
    ("one", "other", "f1"),
    [
        ("the cat sat", "the cat sat", 1),
        ("The cat, sat", "the CAT , sat", 1),
        ("a b", "c d", 0),
        ("a a b", "a b b", 2 / 3),
        ("a", "a b c", 0.5),
        ("", "", 1),
        ("", "a", 0),
    ],
)
def test_token_f1(one, other, f1):
    assert token_f1(one, other) == token_f1(other, one) == pytest.approx(f1)
