from __future__ import annotations

import json
import random
from typing import Any

import pytest

from router.rollout.forecast import Outlook, _binomial, forecast, forecast_document
from router.rollout.gates import judge
from router.rollout.policy import Policy
from router.rollout.policy_settings import parse_policy
from router.rollout.rates import PerSecond, Rates
from router.rollout.verdict import NO_TRAFFIC

POLICY = parse_policy(
    {
        "steps": [10, 50, 100],
        "hold": 60,
        "bake": 120,
        "gates": {"agreement": {"min": 0.98}, "errors": {"max_increase": 0.01}},
    }
)


def outlook(agreed: int, differed: int = 0, *, rates: PerSecond, policy: Policy = POLICY, **more: Any) -> Outlook:
    n = agreed + differed
    evidence = {"as_of": 0.0, "pairs": n, "agreement": {"n": n, "agreed": agreed}, "errors": {"n": n}, **more}
    return Outlook(evidence, judge(evidence, NO_TRAFFIC, policy, 0.0), rates)


def test_what_passes_already_costs_only_the_holds() -> None:
    found = forecast(outlook(5000, rates=PerSecond(1000.0, 1000.0)), POLICY)
    assert [(stage.name, stage.green_percent) for stage in found.stages] == [
        ("shadow", 0.0), ("step", 10.0), ("step", 50.0), ("bake", 100.0),
    ]  # fmt: skip
    assert [stage.median for stage in found.stages] == [0.0, 60.0, 60.0, 120.0]
    assert found.median == 240.0
    assert found.arrives == 1.0


def test_twice_the_traffic_is_half_the_waiting() -> None:
    slow, fast = (forecast(outlook(100, rates=PerSecond(rate, rate)), POLICY) for rate in (1.0, 2.0))
    assert slow.stages[0].median is not None
    assert fast.stages[0].median == pytest.approx(slow.stages[0].median / 2)
    assert slow.stages[1].median is not None
    assert slow.stages[1].waits_for == "errors with users"
    assert fast.stages[1].median == pytest.approx(slow.stages[1].median / 2)


def test_the_waiting_is_about_what_the_methods_need() -> None:
    """Agreement .995 against .98: a median of 340 pairs (shadow.sequential); here some hundred more are due."""
    found = forecast(outlook(199, 1, rates=PerSecond(1.0, 1.0)), POLICY)
    assert found.stages[0].median is not None
    assert 300 <= found.stages[0].median <= 1500


def test_a_green_that_differs_too_often_does_not_arrive() -> None:
    found = forecast(outlook(900, 100, rates=PerSecond(100.0, 100.0)), POLICY)
    assert found.arrives == 0.0
    assert found.median is None
    assert "agreement would take green back at once" in found.notes[-1]


def test_without_traffic_nothing_can_be_reckoned() -> None:
    found = forecast(outlook(5000, rates=PerSecond()), POLICY)
    assert found.stages[1].median is None
    assert found.arrives == 0.0
    assert "no live traffic" in found.notes[0]


def test_what_it_cannot_foresee_is_said() -> None:
    policy = parse_policy({"gates": {"accuracy": {}, "reward": {}, "drift": {}}})
    found = forecast(outlook(500, rates=PerSecond(9.0, 9.0), policy=policy), policy)
    assert any("accuracy, reward" in note for note in found.notes)
    assert any("drift cannot be foreseen" in note for note in found.notes)


def test_a_document_is_json() -> None:
    document = forecast_document(outlook(10, rates=PerSecond(None, None)), POLICY)
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert document["from"]["pairs"] == 10


@pytest.mark.parametrize(("n", "p"), [(1, 0.5), (50, 0.02), (1000, 0.001), (1000, 0.3), (1000, 0.999), (10**6, 0.4), (7, 0.0)])
def test_binomial_draws(n: int, p: float) -> None:
    chance = random.Random(5)
    drawn = [_binomial(chance, n, p) for _ in range(2000)]
    assert all(0 <= hits <= n for hits in drawn)
    assert sum(drawn) / 2000 == pytest.approx(n * p, abs=4 * (n * p * (1 - p) / 2000) ** 0.5 + 1e-9)


# --- how fast things come -----------------------------------------------------------------------------------------------------


def test_rates_are_those_of_the_last_minute() -> None:
    rates = Rates()
    assert rates.now == PerSecond()
    for second in range(100):
        rates.sample(10 * second, second, float(second))
    assert rates.now == PerSecond(10.0, 1.0)
    for second in range(100, 200):
        rates.sample(1000 + 30 * (second - 100), 100, float(second))
    assert rates.now.requests == pytest.approx(30.0)
    assert rates.now.pairs == 0.0


def test_counts_that_begin_anew_spoil_no_rate() -> None:
    rates = Rates()
    for second in range(10):
        rates.sample(10 * second, second, float(second))
    for second in range(10, 20):
        rates.sample(5 * (second - 10), 0, float(second))
    assert rates.now.requests == 5.0


def test_which_rate_a_gate_waits_for() -> None:
    rates = PerSecond(100.0, 50.0)
    assert rates.of("pairs", share=0.1, noise=0.2) == 50.0
    assert rates.of("noise pairs", share=0.1, noise=0.2) == 10.0
    assert rates.of("requests of green", share=0.1, noise=0.2) == 10.0
    assert rates.of("labels", share=0.1, noise=0.2) is None
    assert PerSecond().of("pairs", share=0.1, noise=0.2) is None
