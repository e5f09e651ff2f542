import pytest

from models.predictions.prediction import DEFAULT_OPTIONS, Reason, Unreadable
from shadow.answers import Blame, blame, is_client_retry, read

IN_BAND = {"error": {"message": "out of memory"}}


def reading(wire, outcome):
    return read(wire.see(outcome), outcome, DEFAULT_OPTIONS)


def outcomes(wire):
    return {
        "serves": wire.labels(1),
        "serves rubbish": wire.answer(b"<html>"),
        "says 404": wire.answer({"detail": "no such model"}, status=404),
        "says 304": wire.answer(b"", status=304),
        "says 503": wire.answer(b"busy", status=503),
        "errs inside": wire.answer(IN_BAND),
        "refuses": wire.failed("connect"),
        "is too slow": wire.failed("timeout"),
        "breaks off": wire.failed("broken"),
        "is too long": wire.failed("too large"),
    }


SERVING = {"serves", "serves rubbish"}
REFUSING = {"says 404", "says 304"}
FAILING = {"says 503", "errs inside", "refuses", "is too slow", "breaks off"}


@pytest.mark.parametrize("what", sorted(SERVING | REFUSING | FAILING))
def test_an_arm_serves_refuses_or_fails(wire, what):
    found = reading(wire, outcomes(wire)[what])
    assert (found.served, found.failed) == (what in SERVING, what in FAILING)
    assert bool(found.trouble) == (what not in SERVING)


@pytest.mark.parametrize("blue", sorted(SERVING | REFUSING | FAILING))
@pytest.mark.parametrize("green", sorted(SERVING | REFUSING | FAILING))
def test_an_arm_is_blamed_only_for_what_the_other_one_served(wire, blue, green):
    found = blame(reading(wire, outcomes(wire)[blue]), reading(wire, outcomes(wire)[green]))
    if blue in SERVING:
        assert found is (Blame.NOBODY if green in SERVING else Blame.GREEN)
    elif green in SERVING:
        assert found is Blame.BLUE
    else:
        assert found is (Blame.REFUSED if {blue, green} <= REFUSING else Blame.BOTH)


def test_an_answer_that_is_over_the_mirrors_bound_is_nobodys_fault(wire):
    long = wire.answer(b"{", failure="too large")
    found = reading(wire, long)
    assert not found.failed
    assert isinstance(found.answer, Unreadable)
    assert found.answer.reason is Reason.TOO_LARGE
    assert blame(reading(wire, wire.labels(1)), found) is Blame.NOBODY


def test_trouble_says_what_happened(wire):
    assert reading(wire, wire.failed("timeout")).trouble == "timeout"
    assert reading(wire, wire.answer(b"", status=503)).trouble == "503"
    assert "out of memory" in reading(wire, wire.answer(IN_BAND)).trouble


@pytest.mark.parametrize(
    ("value", "retry"), [(None, False), ("0", False), ("", False), (" 0 ", False), ("1", True), ("2", True)]
)
def test_clients_mark_their_retries(wire, value, retry):
    headers = {} if value is None else {"x-stainless-retry-count": value}
    assert is_client_retry(wire.see(wire.labels(1), headers=headers)) is retry
