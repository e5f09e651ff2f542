"""A rollout as the control API tells it. Pure: rows and verdicts in, JSON values out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from router.plan import Plan
from router.rollout.rates import PerSecond
from router.rollout.rollout import Rollout
from router.rollout.states import ACTIVE, FINAL, State
from router.rollout.verdict import HOLD, GateResult, Verdict


def rollout_document(
    rollout: Rollout | None, plan: Plan, verdict: Verdict | None, rates: PerSecond, now: float
) -> dict[str, Any]:
    """`GET /v1/rollout` (docs/rollouts.md says what each key means)."""
    share = plan.split.green_percent
    if rollout is None:
        said = Verdict(HOLD, ("there has been no rollout",))
        return {"state": State.IDLE.value, "step": 0, "green_percent": share, **said.to_dict(), "rates": rates.to_dict()}
    policy = rollout.policy
    running = rollout.state not in FINAL
    verdict = verdict if running else None
    said = verdict or Verdict(HOLD, (rollout.reason,))
    noise = plan.shadow.noise_percent / 100.0
    active = rollout.state in ACTIVE
    least = policy.bake if rollout.state is State.BAKING else policy.hold if rollout.state is State.STEPPING else 0.0
    return {
        "state": rollout.state.value,
        "number": rollout.number,
        "release": rollout.release,
        "attempt": rollout.attempt,
        "step": rollout.step + 1,
        "steps": list(policy.steps),
        "green_percent": share,
        "verdict": said.verdict,
        "reasons": list(said.reasons),
        "gates": [_gate(gate, rates, share / 100.0, noise) for gate in said.gates],
        "who": rollout.who,
        "reason": rollout.reason,
        "began": rollout.began,
        "entered": rollout.entered,
        "ended": rollout.ended,
        "hold_left": max(least - (now - rollout.entered), 0.0) if active else None,
        "deadline_left": max(policy.deadline - (now - rollout.clock), 0.0) if active else None,
        "paused_from": rollout.paused_from.value if rollout.paused_from else None,
        "by_hand": rollout.by_hand,
        "rates": rates.to_dict(),
        "policy": policy.to_dict(),
    }


def brief(document: Mapping[str, Any]) -> dict[str, Any]:
    """Of that document what a status shows."""
    if document["state"] == State.IDLE.value:
        return {"state": State.IDLE.value}
    return {
        key: document[key]
        for key in ("state", "number", "step", "steps", "green_percent", "verdict", "reason", "hold_left", "deadline_left")
    }


def _gate(gate: GateResult, rates: PerSecond, share: float, noise: float) -> dict[str, Any]:
    """A gate with how many seconds its further observations will take about."""
    rate = rates.of(gate.of, share=share, noise=noise)
    seconds = gate.more / rate if gate.more is not None and rate else None
    return {**gate.to_dict(), "seconds": seconds}
