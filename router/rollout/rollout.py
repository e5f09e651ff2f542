"""One rollout as it is remembered: the row that says where it is, and the moves that brought it there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from router.rollout.live_counts import NO_COUNTS, Counts
from router.rollout.policy import Policy, policy_from_dict
from router.rollout.states import Event, State

CONTROLLER = "rollout"  # who changes plans, as the history has it


@dataclass(frozen=True, slots=True)
class Intent:
    """What the controller is about to do to the plan, written down before it does: the plan with this `revision` and this
    `action` is its doing, and then the rollout is in `state` at `step`.
    """

    event: Event
    state: State
    step: int
    revision: int
    action: str
    who: str
    why: str


@dataclass(frozen=True, slots=True)
class Rollout:
    """Where a rollout is. Times are seconds since the epoch.

    `step` is the index of the present step, -1 before the first. `revision` is the newest plan revision that the controller
    knows of. `entered` is when the present state and step began, `clock` when the deadline's time did. `paused_from` is where
    a resumption leads; `by_hand` says that somebody has changed the plan since it paused. `shadow_before` are the shadow's
    percentages that the start found, while it has raised them. `base` are the live counts at the present step's beginning,
    taken again once what was still in flight then is over (`settled`).
    """

    number: int
    release: int
    attempt: int
    state: State
    step: int
    green_percent: float
    revision: int
    who: str
    reason: str
    began: float
    entered: float
    clock: float
    policy: Policy
    ended: float | None = None
    paused_from: State | None = None
    by_hand: bool = False
    shadow_before: tuple[float, float] | None = None
    base: Counts = NO_COUNTS
    settled: bool = False
    intent: Intent | None = None

    def to_row(self) -> dict[str, Any]:
        """The columns of its row."""
        return {
            "number": self.number,
            "release": self.release,
            "attempt": self.attempt,
            "state": self.state.value,
            "step": self.step,
            "green_percent": self.green_percent,
            "revision": self.revision,
            "who": self.who,
            "reason": self.reason,
            "began": self.began,
            "entered": self.entered,
            "clock": self.clock,
            "ended": self.ended,
            "policy": self.policy.to_dict(),
            "paused_from": self.paused_from.value if self.paused_from else None,
            "by_hand": self.by_hand,
            "shadow_before": list(self.shadow_before) if self.shadow_before else None,
            "base": asdict(self.base),
            "settled": self.settled,
            "intent": asdict(self.intent) if self.intent else None,
        }

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Rollout:
        """The inverse of `to_row`."""
        plain = dict(row)
        intent, shadow = plain["intent"], plain["shadow_before"]
        return cls(
            **{
                **plain,
                "state": State(plain["state"]),
                "policy": policy_from_dict(plain["policy"]),
                "paused_from": State(plain["paused_from"]) if plain["paused_from"] else None,
                "shadow_before": (float(shadow[0]), float(shadow[1])) if shadow else None,
                "base": Counts(**plain["base"]),
                "intent": Intent(**{**intent, "event": Event(intent["event"]), "state": State(intent["state"])})
                if intent
                else None,
            }
        )


@dataclass(frozen=True, slots=True)
class Move:
    """One transition as it is remembered: from where to where, by whom and why, and the evidence it was made on."""

    at: float
    event: Event
    from_state: State
    to_state: State
    step: int
    green_percent: float
    revision: int
    who: str
    why: str
    verdict: Mapping[str, Any] | None = None
    evidence: Mapping[str, Any] | None = None
    live: Mapping[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "at": self.at,
            "event": self.event.value,
            "from": self.from_state.value,
            "to": self.to_state.value,
            "step": self.step,
            "green_percent": self.green_percent,
            "revision": self.revision,
            "who": self.who,
            "why": self.why,
            "verdict": self.verdict,
            "evidence": self.evidence,
            "live": self.live,
        }
