import copy

import pytest

from shadow.words import count, milliseconds, percent, summary


@pytest.mark.parametrize(
    ("share", "words"),
    [(0, "0 %"), (1, "100 %"), (0.5, "50 %"), (0.987, "98.7 %"), (0.9999, "99.99 %"), (0.0004, "0.04 %"), (0.99999999, "100 %"),
     (0.123456, "12.3 %"), (1e-9, "1e-07 %")],
)  # fmt: skip
def test_shares_are_not_rounded_to_certainty(share, words):
    if share == 0.99999999:
        assert percent(share) == "100 %" or percent(share).startswith("99.99")
    else:
        assert percent(share) == words


def test_numbers_come_with_their_nouns():
    assert count(1, "pair") == "1 pair"
    assert count(1204, "pair") == "1,204 pairs"
    assert [milliseconds(value) for value in (0.123, 4.56, -20.0, 250.4)] == ["0.12 ms", "4.6 ms", "-20.0 ms", "250 ms"]


@pytest.fixture
def seen(wire, evidence_of):
    """A snapshot with everything in it."""
    here = {"x-country": "de"}
    pairs = [wire.see(wire.labels(1), wire.labels(1, ms=12.0), wire.labels(1), headers=here) for _ in range(300)]
    pairs += [wire.see(wire.labels(1), wire.labels(2, ms=12.0), wire.labels(1), headers=here) for _ in range(60)]
    pairs += [wire.see(wire.labels(1), wire.failed("timeout"), wire.labels(1)) for _ in range(20)]
    pairs += [wire.see(wire.labels(1), wire.answer(b"<html>")) for _ in range(3)]
    pairs += [wire.see(wire.numbers(1.5), wire.numbers(1.75)) for _ in range(250)]
    return evidence_of(*pairs, slices=("header:x-country",), floor=0.98, objective_ms=11.0).snapshot(0.0)


def test_everything_that_was_found_is_said(seen):
    text = "\n".join(seen["summary"])
    for words in (
        "Green answers like blue in 49.2 % of 610 pairs",
        "below the 98 % asked for",
        "green differs more often than that, which chance does not explain",
        "Green failed on 20 requests that blue answered",
        "green fails more often than blue",
        "could not be read 3 times",
        "green is 2.0 ms slower in the median",
        "Within 11.0 ms are 0 % of green's answers and 100 % of blue's",
        "labels are distributed otherwise",
        "0.25 larger",
        "on 2 slices",
        "Not compared: 23 of 633 exchanges",
        "green failed 20, unreadable 3",
    ):
        assert words in text, (words, text)


@pytest.mark.parametrize(
    "section", ["agreement", "against_noise", "errors", "latency", "drift", "numbers", "slices", "dropped"]
)
def test_each_sentence_hangs_on_its_section(seen, section):
    """Taken away what a sentence tells, it is gone: none is said from habit."""
    emptied = copy.deepcopy(seen)
    nothing = {
        "agreement": {"n": 0},
        "against_noise": {"n": 0},
        "errors": {**seen["errors"], "green_only": 0, "blue_only": 0},
        "latency": {"paired": {"n": 0}, "live": {"blue": {"p50": None}}, "mirrored": {"green": {"p50": None}}},
        "drift": {"of": None},
        "numbers": {"n": 0},
        "slices": [],
        "dropped": 0,
    }
    emptied[section] = nothing[section]
    before, after = set(seen["summary"]), set(summary(emptied, 0.05))
    assert before - after
    assert len(before - after) <= 3


def test_an_undecided_comparison_with_noise_says_how_much_is_missing(wire, evidence_of):
    pairs = [wire.see(wire.labels(1), wire.labels(1), wire.labels(1)) for _ in range(60)]
    found = evidence_of(*pairs).snapshot(0.0)
    (sentence,) = [sentence for sentence in found["summary"] if "the second time" in sentence]
    assert "cannot be said yet" in sentence
    assert f"about {found['against_noise']['more']:,} more noise pairs" in sentence
    assert "no request was sent to it twice" in "\n".join(evidence_of(wire.see(wire.labels(1))).snapshot(0.0)["summary"])


def test_a_better_green_is_called_so_within_the_margin(wire, evidence_of):
    pairs = [wire.see(wire.labels(1), wire.labels(1), wire.labels(2 if i % 5 == 0 else 1)) for i in range(400)]
    text = "\n".join(evidence_of(*pairs).snapshot(0.0)["summary"])
    assert "no more often than that, to within 1 points" in text
