"""What the rollouts are tried on: how blue and the greens behave, and by which policy they are judged.

Margins are wide and holds short so that a rollout takes seconds: what is tried is whether the machinery decides rightly and never
further than its evidence, which does not depend on the size of the margin. Blue itself is not perfect, or "no worse than blue" would
be an easy thing to show: it differs from itself, fails, and takes a time that varies.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

RATE = 400.0  # users' requests per second at each router
STEPS = (10, 25, 50, 100)

# Both arms where they are alike: 1 % of the predictions and 0.5 % of the answers are wrong at random; about 8 ms.
ALIKE: dict[str, Any] = {"wrong": 0.01, "errors": 0.005, "latency_ms": 8.0, "sigma": 0.25}

POLICY: dict[str, Any] = {
    "shadow": {"min_pairs": 300, "percent": 50, "noise_percent": 60},
    "steps": list(STEPS),
    "hold": "500ms",
    "bake": "500ms",
    "deadline": "2m",
    "gates": {
        "agreement": {"not_worse_than_noise": True, "margin": 0.03},
        "errors": {"max_increase": 0.05},
        "latency": {"quantile": 0.5, "max_ratio": 1.4},
    },
}

# For rollouts that shall only move: a few seconds each, so that a kill finds one in every state.
QUICK: dict[str, Any] = {
    "shadow": {"min_pairs": 100, "percent": 50},
    "steps": list(STEPS),
    "hold": "400ms",
    "bake": "400ms",
    "deadline": "10m",
    "gates": {"agreement": {"min": 0.9}, "errors": {"max_increase": 0.1}},
}

QUICK_RATE = 300.0
QUICK_WORSE: dict[str, Any] = {**ALIKE, "capacity": 100}  # fails a third of its 150 requests per second at the 50 % step

# To 50 % at once, and there it stays until the burst comes.
BURST: dict[str, Any] = {
    "shadow": {"min_pairs": 50, "percent": 5},
    "steps": [50, 100],
    "hold": "1h",
    "gates": {"agreement": {"min": 0.5}, "errors": {"max_increase": 0.2}},
}


@dataclass(frozen=True, slots=True)
class Green:
    """A kind of green: how it behaves, and what of it lies beyond the policy's margin (None: nothing)."""

    name: str
    how: Mapping[str, Any]
    margin: str


GREENS_WORSE = (
    Green("wrong predictions", {**ALIKE, "wrong": 0.12}, "12 % of the predictions wrong (blue 1 %; allowed 3 points)"),
    Green("errors everywhere", {**ALIKE, "errors": 0.15}, "15 % errors (blue 0.5 %; allowed 5 points)"),
    Green("slow", {**ALIKE, "latency_ms": 14.4}, "1.8 times blue's median time (allowed 1.4)"),
    Green("errors with users only", {**ALIKE, "live_errors": 0.25}, "25 % of the users' requests fail, no mirrored one does"),
    Green("room for 60 users/s", {**ALIKE, "capacity": 60}, f"fails what is beyond: of {RATE:.0f}/s, 40 % at the 25 % step"),
    Green("room for 150 users/s", {**ALIKE, "capacity": 150}, f"fails what is beyond: of {RATE:.0f}/s, 25 % at the 50 % step"),
)
