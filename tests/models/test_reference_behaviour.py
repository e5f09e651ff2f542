from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.reference.behaviour import WELL, Behaviour, Fault, FaultSource, perturb

CLASSES = (0, 1, 2, 5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"delay_ms": -1}, "delay_ms must be a number of milliseconds from 0, not -1"),
        ({"delay_jitter_ms": math.inf}, "delay_jitter_ms must be"),
        ({"delay_ms": math.nan}, "delay_ms must be"),
        ({"error_rate": 1.1}, r"error_rate must be a share from 0 to 1, not 1\.1"),
        ({"noise_rate": math.nan}, "noise_rate must be"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Behaviour(**settings)


def draws(behaviour: Behaviour, n: int) -> list[Fault]:
    source = FaultSource(behaviour)
    return [source.draw() for _ in range(n)]


def test_a_server_without_fault_has_none() -> None:
    assert set(draws(WELL, 1000)) == {Fault(0.0, False, None)}


def test_rates_and_delays_are_as_set() -> None:
    faults = draws(Behaviour(20, 10, error_rate=0.2, noise_rate=0.05, seed=1), 20_000)
    # Five standard deviations of a binomial share.
    assert sum(f.fails for f in faults) / 20_000 == pytest.approx(0.2, abs=5 * math.sqrt(0.2 * 0.8 / 20_000))
    noisy = sum(f.noise_seed is not None for f in faults)
    assert noisy / 20_000 == pytest.approx(0.05, abs=5 * math.sqrt(0.05 * 0.95 / 20_000))
    delays = [f.delay_s for f in faults]
    assert 0.020 <= min(delays) < 0.0202
    assert 0.0298 < max(delays) < 0.030


def test_rates_of_one_always_strike() -> None:
    assert all(f.fails and f.noise_seed is not None for f in draws(Behaviour(error_rate=1, noise_rate=1), 1000))


def test_a_seed_repeats_the_faults_and_no_seed_does_not() -> None:
    seeded = Behaviour(delay_jitter_ms=5, noise_rate=0.5, seed=7)
    assert draws(seeded, 100) == draws(seeded, 100)
    assert draws(replace(seeded, seed=None), 100) != draws(replace(seeded, seed=None), 100)


def test_changing_one_setting_leaves_the_draws_of_the_others() -> None:
    plain = draws(Behaviour(noise_rate=0.3, seed=3), 200)
    failing = draws(Behaviour(noise_rate=0.3, error_rate=0.5, seed=3), 200)
    assert [f.noise_seed for f in plain] == [f.noise_seed for f in failing]


labels = st.lists(st.sampled_from(CLASSES), min_size=1, max_size=20).map(np.array)


@given(labels, st.integers(0, 2**63 - 1))
def test_a_noisy_label_is_always_another_one_of_the_classes(right: np.ndarray, seed: int) -> None:
    wrong = perturb({"predict": right}, CLASSES, seed)["predict"]
    assert wrong.shape == right.shape
    assert wrong.dtype == right.dtype
    assert not (wrong == right).any()
    assert set(wrong.tolist()) <= set(CLASSES)
    assert np.array_equal(wrong, perturb({"predict": right}, CLASSES, seed)["predict"])


@given(labels, st.integers(0, 2**63 - 1))
def test_noisy_probabilities_fit_the_noisy_label(right: np.ndarray, seed: int) -> None:
    generator = np.random.default_rng(0)
    proba = generator.dirichlet(np.ones(4), len(right))
    top = np.searchsorted(CLASSES, right)
    at_top = proba.argmax(axis=1)
    rows = np.arange(len(right))
    proba[rows, top], proba[rows, at_top] = proba[rows, at_top], proba[rows, top]
    moved = perturb({"predict": right, "predict_proba": proba}, CLASSES, seed)
    assert np.array_equal(np.array(CLASSES)[moved["predict_proba"].argmax(axis=1)], moved["predict"])
    assert np.array_equal(np.sort(moved["predict_proba"], axis=1), np.sort(proba, axis=1))
    alone = perturb({"predict_proba": proba}, CLASSES, seed)["predict_proba"]
    assert np.array_equal(alone, moved["predict_proba"])


def test_every_other_label_is_equally_likely() -> None:
    wrong = perturb({"predict": np.full(30_000, 2)}, CLASSES, 0)["predict"]
    counts = Counter(wrong.tolist())
    assert counts.keys() == {0, 1, 5}
    assert all(abs(count - 10_000) < 5 * math.sqrt(30_000 * 2 / 9) for count in counts.values())


def test_noisy_numbers_are_off_by_up_to_a_tenth_each_by_its_own() -> None:
    right = np.full(1000, 50.0)
    wrong = perturb({"predict": right}, (), 5)["predict"]
    assert np.all(np.abs(wrong / right - 1) <= 0.1)
    assert np.abs(wrong / right - 1).max() > 0.09
    assert all(a != b for a, b in pairwise(wrong.tolist()))
