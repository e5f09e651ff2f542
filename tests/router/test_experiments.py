"""The analysis of a release, fed from a real log."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from router import experiments
from router.experiments import Analysis, Fold
from router.store.exposures import FELL_BACK, KEYED, ExposureLog, ExposureRow, FeedbackRow
from router.store.store import Store
from shadow.experiment import Experiment

LATER = 1e12


@pytest.fixture
def log(tmp_path: Path) -> Iterator[ExposureLog]:
    store = Store(tmp_path / "s.sqlite")
    yield ExposureLog(store)
    store.close()


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No waiting: everything is told as soon as it is known."""
    for name in ("FEEDBACK_LAG_SECONDS", "SECTIONS_SECONDS"):
        monkeypatch.setattr(experiments, name, 0.0)


def exposure(n: int, *, release: int = 1, share: float = 0.5, arm: str | None = None, flags: int = KEYED) -> ExposureRow:
    arm = arm or ("green" if n % 2 else "blue")
    words = ("1", None) if arm == "blue" or flags & FELL_BACK else (None, "1")
    return ExposureRow(f"r{n}", release, release, share, f"{n:016x}", arm, flags, 200, n % 10 == 0, 5.0, 1000.0, None, *words)


def label(n: int, words: str = "1") -> FeedbackRow:
    return FeedbackRow(n + 1, f"r{n}", None, 0.0, words, None)


def reward(n: int, amount: float) -> FeedbackRow:
    return FeedbackRow(n + 1, f"r{n}", None, 0.0, None, amount)


def filled(log: ExposureLog, count: int, **more: object) -> None:
    log.add([exposure(n, **more) for n in range(count)], [], 1000.0)  # type: ignore[arg-type]


def caught_up(analysis: Analysis) -> dict[str, dict[str, object]]:
    for _ in range(200):
        if analysis.step():
            return analysis.sections()
    raise AssertionError("the analysis did not come to an end")


def test_everything_in_the_log_is_folded_once(log: ExposureLog) -> None:
    filled(log, 2500)
    log.join([label(n) for n in range(100)] + [reward(n, 0.5) for n in range(100, 150)], 1000.0)
    analysis = Analysis(log, 0.05)
    analysis.begin(1)
    found = caught_up(analysis)
    assert found["experiment"]["exposures"] == {"blue": 1250, "green": 1250}
    assert (found["feedback"]["labels"], found["feedback"]["rewards"]) == (100, 50)
    assert not analysis.step()
    log.add([exposure(9000)], [], 1000.0)
    assert caught_up(analysis)["experiment"]["exposures"] == {"blue": 1251, "green": 1250}


def test_of_several_releases_each_sees_its_own(log: ExposureLog) -> None:
    filled(log, 1200)
    log.add([exposure(n, release=2) for n in range(2000, 2010)], [], 1000.0)
    log.add([exposure(n, share=0.0) for n in range(3000, 3100)], [], 1000.0)
    log.join([label(1), label(2001)], 1000.0)
    analysis = Analysis(log, 0.05)
    for release, requests in ((1, 1200), (2, 10), (1, 1200)):
        analysis.begin(release)
        found = caught_up(analysis)
        assert sum(found["experiment"]["exposures"].values()) == requests  # type: ignore[attr-defined]
        assert found["feedback"]["labels"] == 1


def test_a_long_stretch_of_other_rows_is_passed_over(log: ExposureLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router.store.exposures._SCAN", 1500)
    filled(log, 5000, share=0.0)
    log.add([exposure(9000)], [], 1000.0)
    analysis = Analysis(log, 0.05)
    analysis.begin(1)
    assert caught_up(analysis)["experiment"]["exposures"] == {"blue": 1, "green": 0}


def test_after_a_restart_it_goes_on_from_what_was_saved(log: ExposureLog) -> None:
    filled(log, 1500)
    log.join([label(n) for n in range(30)], 1000.0)
    analysis = Analysis(log, 0.05)
    analysis.begin(1)
    before = caught_up(analysis)
    analysis.save()
    log.prune(before=LATER, rows=100, pending_before=0.0)
    assert log.first_exposure() == 0
    again = Analysis(log, 0.05)
    again.begin(1)
    assert caught_up(again) == before


def test_other_bounds_of_rewards_begin_anew(log: ExposureLog) -> None:
    filled(log, 20)
    log.join([reward(1, 3.0)], 1000.0)
    analysis = Analysis(log, 0.05)
    analysis.begin(1)
    assert caught_up(analysis)["feedback"]["reward"]["clipped"] == 1  # type: ignore[index]
    analysis.save()
    wider = Analysis(log, 0.05, (0.0, 5.0))
    wider.begin(1)
    told = caught_up(wider)["feedback"]["reward"]
    assert (told["clipped"], told["bounds"]) == (0, [0.0, 5.0])  # type: ignore[index]


def test_a_correction_is_counted_in_place_of_what_it_corrects(log: ExposureLog) -> None:
    log.add([exposure(n) for n in range(50)], [(f"r{n}", "1", "2", None) for n in range(50)], 1000.0)
    log.join([label(n, "1") for n in range(50)], 1000.0)
    analysis = Analysis(log, 0.05)
    analysis.begin(1)
    assert caught_up(analysis)["feedback"]["accuracy"]["blue_only_right"] == 50  # type: ignore[index]
    log.join([label(n, "2") for n in range(20)], 1000.0)
    found = caught_up(analysis)["feedback"]
    assert (found["accuracy"]["blue_only_right"], found["accuracy"]["green_only_right"]) == (30, 20)  # type: ignore[index]
    assert (found["labels"], found["corrections"], found["uncounted_corrections"]) == (50, 20, 0)


def test_a_correction_of_what_has_left_the_log_stays_uncounted(log: ExposureLog) -> None:
    filled(log, 50)
    log.join([label(n, "1") for n in range(50)], 1000.0)
    analysis = Analysis(log, 0.05)
    analysis.begin(1)
    before = caught_up(analysis)["feedback"]
    log.prune(before=0.0, rows=30, pending_before=0.0)
    log.join([label(40, "2")], 1000.0)
    found = caught_up(analysis)["feedback"]
    assert found == {**before, "uncounted_corrections": 1}


def test_what_a_client_was_told_is_what_a_label_is_held_against(log: ExposureLog) -> None:
    """Green was meant, blue answered: the label is about blue's answer and counts for green."""
    log.add([exposure(1, arm="green", flags=KEYED | FELL_BACK)], [], 1000.0)
    log.join([label(1, "1")], 1000.0)
    fold = Fold(1, Experiment())
    fold.advance(log, LATER)
    accuracy = fold.experiment.accuracy
    assert accuracy.n == 1
    assert fold.experiment.steps.snapshot()[0]["green"]["accuracy"] == 1.0


def test_feedback_waits_until_the_other_arm_has_answered(log: ExposureLog) -> None:
    log.add([exposure(1)], [], 1000.0)
    log.join([label(1)], 5000.0)
    fold = Fold(1, Experiment())
    fold.advance(log, 4999.0)
    assert fold.experiment.labels == 0
    fold.advance(log, 5000.0)
    assert fold.experiment.labels == 1
