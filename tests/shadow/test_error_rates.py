"""A short run, with a fixed seed, of the simulation whose full tables are in docs/statistics.md."""

import math

import numpy as np
import pytest

from benchmarks.simulate import ask, measure, render, write
from benchmarks.simulated_errors import CONTROLS, METHODS
from benchmarks.simulated_power import QUESTIONS
from shadow.sequential import bernoulli_log_e_above, log_threshold

RUNS, LENGTH = 120, 500


def named(rows):
    return pytest.mark.parametrize("row", rows, ids=[f"{row[0]}: {row[1]}" for row in rows])


@named(METHODS)
def test_a_method_is_rarely_wrong_when_nothing_is(row):
    wrong = row[2](np.random.default_rng(20), RUNS, LENGTH)
    assert wrong.shape == (RUNS,)
    # 6 expected at most; 14 or more of 120 has probability 0.003 at a true rate of .05
    assert wrong.sum() < 14


@named([row for row in CONTROLS if "ramp" not in row[1]])
def test_a_negative_control_fails(row):
    _, _, experiment, least = row
    wrong = experiment(np.random.default_rng(21), RUNS, 2000)
    assert wrong.mean() > 0.8 * least
    assert wrong.sum() >= 12


def test_looking_repeatedly_inflates_the_error_as_armitage_found():
    rng = np.random.default_rng(22)
    looks = np.arange(1, 101)
    z = np.abs(np.cumsum(rng.standard_normal((20_000, 100)), axis=1)) / np.sqrt(looks)
    ever = np.maximum.accumulate(z > 1.959964, axis=1).mean(axis=0)
    expected = {1: 0.050, 2: 0.083, 5: 0.142, 10: 0.193, 20: 0.248, 50: 0.320, 100: 0.374}
    for k, rate in expected.items():
        assert ever[k - 1] == pytest.approx(rate, abs=0.012)


def test_agreement_is_decided_by_the_published_number_of_pairs():
    rng = np.random.default_rng(23)
    s = np.cumsum(rng.random((400, 2500)) < 0.995, axis=1)
    n = np.arange(1, 2501)
    taken = np.argmax(bernoulli_log_e_above(s, n - s, 0.98) >= log_threshold(0.05), axis=1) + 1
    assert np.median(taken) == pytest.approx(340, abs=60)
    assert np.median(taken) <= 400
    assert np.quantile(taken, 0.9) == pytest.approx(780, abs=150)


@pytest.mark.parametrize("question", [q for q in QUESTIONS if q.most is not None], ids=lambda q: f"{q.question} {q.stream}")
def test_power_demands_are_met(question):
    needed = ask(question, 60, [24])
    assert needed.median <= 1.15 * question.most


def test_tables_go_between_the_markers_and_nowhere_else(tmp_path):
    manual = tmp_path / "statistics.md"
    manual.write_text("before\n<!-- sim:begin -->\nold\n<!-- sim:end -->\nafter\n", encoding="utf-8")
    rate = measure("a method", "a stream", lambda rng, runs, t: rng.random(runs) < 0.5, 40, [1])
    assert rate.low < rate.rate < rate.high
    write(render([rate], [rate], [(QUESTIONS[0], ask(QUESTIONS[0], 20, [1]))], seed=1), manual)
    text = manual.read_text(encoding="utf-8")
    assert text.startswith("before\n<!-- sim:begin -->\nRuns of 2,000")
    assert text.endswith("<!-- sim:end -->\nafter\n")
    assert "old" not in text
    assert "| a method | a stream | 40 |" in text
    manual.write_text("no markers", encoding="utf-8")
    with pytest.raises(ValueError, match="put the two markers"):
        write("tables", manual)


def test_a_method_that_is_never_wrong_gets_an_honest_interval():
    rate = measure("never", "a stream", lambda rng, runs, t: np.zeros(runs, dtype=bool), 100, [1])
    assert (rate.rate, rate.low) == (0.0, 0.0)
    assert rate.high == pytest.approx(1 - 0.025 ** (1 / 100))
    assert math.isclose(measure("mean", "s", lambda rng, runs, t: np.full(runs, 0.02), 50, [1]).rate, 0.02)
