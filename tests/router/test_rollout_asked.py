"""What a policy asks for, in words."""

from __future__ import annotations

import json

import pytest

from router.rollout.asked import asked, asked_line
from router.rollout.policy import Policy
from router.rollout.policy_settings import GatesSettings, parse_policy

EVERY = {
    "agreement": {"min": 0.98, "not_worse_than_noise": True, "margin": 0.02},
    "errors": {"max_increase": 0.003},
    "latency": {"quantile": 0.99, "max_ratio": 1.5},
    "objective": {"latency_ms": 200, "min": 0.995},
    "drift": {"max_distance": 0.1},
    "accuracy": {"min_difference": -0.005},
    "reward": {"min_difference": -0.01},
    "slices": {"min": 0.9},
    "python": "mine:gate",
}


def test_what_holds_where_nothing_is_named_is_written_out() -> None:
    found = asked(Policy())
    assert found == asked(parse_policy({}))
    assert found["default"] is True
    assert set(found["gates"]) == {"agreement", "errors"}
    assert (found["gates"]["agreement"]["min"], found["gates"]["errors"]["max_increase"]) == (0.98, 0.005)
    assert asked_line(found) == (
        "asked for by the default gates, at alpha 0.05: at least 500 pairs; green answers like blue on at least 98 % of them; "
        "green fails at most 0.5 points more often than blue"
    )


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("agreement", ["on at least 98 % of them", "it differs from blue at most 2 points more often than blue from itself"]),
        ("errors", ["green fails at most 0.3 points more often than blue"]),
        ("latency", ["green's p99 is at most 1.5 times blue's"]),
        ("objective", ["green answers within 200 ms at least 99.5 % of the time"]),
        ("drift", ["the distribution of predictions is at most 0.1 away from blue's"]),
        ("accuracy", ["green's share of right answers less blue's is at least -0.5 points"]),
        ("reward", ["green's mean reward less blue's is at least -0.01"]),
        ("slices", ["on at least 90 % of the pairs of every slice"]),
        ("python", ["mine:gate says so"]),
    ],
)
def test_each_gate_says_what_it_asks_for(name: str, words: list[str]) -> None:
    found = asked(parse_policy({"shadow": {"min_pairs": 1200}, "gates": {name: EVERY[name]}}))
    assert found["default"] is False
    assert found["words"][0] == "at least 1,200 pairs"
    assert len(found["words"]) == 1 + len(words)
    for phrase, part in zip(found["words"][1:], words, strict=True):
        assert part in phrase
    assert "default" not in asked_line(found)


def test_no_gate_is_left_without_words() -> None:
    assert set(EVERY) == set(GatesSettings.model_fields)
    found = asked(parse_policy({"gates": EVERY}))
    assert set(found["gates"]) == set(EVERY)
    json.dumps(found, allow_nan=False)
