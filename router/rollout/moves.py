"""What each event means for a rollout and for the plan. Pure: the next row, the change of the plan, and the name it goes by.

That name stands in the plan itself (`change.action`) and is like no other change's, so a controller that finds a plan can tell
which of its moves made it: after `kill -9` between the write of the plan and that of the store, the plan is what says how far
the rollout came (the controller's `_finish_intent`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from models.arm import Colour
from router.plan import Plan, promoted, split_at, switched
from router.rollout.live_counts import Counts
from router.rollout.rollout import Intent, Rollout
from router.rollout.states import FINAL, TABLE, Event, State

# Events whose plan is written before anything else is: they take users off green and wait for nothing, not even the store.
URGENT: Final = (Event.FAIL, Event.TRIP, Event.ABORT)
_PREFIX: Final = "rollout "


@dataclass(frozen=True, slots=True)
class Step:
    """What an event leads to: the row as it will be (with the present revision), and the change of the plan, if any."""

    event: Event
    rollout: Rollout
    change: Callable[[Plan], Plan] | None
    action: str


def next_step(rollout: Rollout, event: Event, plan: Plan, *, why: str, now: float, counts: Counts) -> Step:
    """What an event that the table allows leads to. `counts` are the live counts now."""
    state = TABLE[rollout.state, event] or rollout.paused_from or State.SHADOWING
    new = replace(rollout, state=state, reason=why, entered=now, revision=plan.revision, intent=None)
    action = action_of(rollout.number, event, rollout.step + 1, len(rollout.policy.steps))
    change: Callable[[Plan], Plan] | None = None
    if event in (Event.STEP, Event.FILL):
        new = replace(new, step=rollout.step + 1)
        share = expected_percent(new)
        new = replace(new, green_percent=share, base=counts, settled=False)
        change = _splitting(share)
    elif event is Event.RESUME:
        share = expected_percent(new)
        new = replace(new, green_percent=share, base=counts, settled=False, clock=now, paused_from=None, by_hand=False)
        change = _splitting(share) if plan.split.green_percent != share else None
    elif event in (Event.PAUSE, Event.EXPIRE, Event.HAND):
        came_from = rollout.paused_from if rollout.state is State.PAUSED else rollout.state
        by_hand = rollout.by_hand or event is Event.HAND
        new = replace(new, paused_from=came_from, green_percent=plan.split.green_percent, by_hand=by_hand)
    elif event is Event.FINISH:
        change = _finishing(rollout) if rollout.policy.promote or _raised(rollout, plan) else None
        new = replace(new, green_percent=0.0 if rollout.policy.promote else 100.0)
    elif event is Event.ABORT and rollout.by_hand:
        # Whoever changed the plan by hand has the traffic where they want it.
        new = replace(new, green_percent=plan.split.green_percent)
    elif event in URGENT:
        change = _back(rollout) if plan.split.green_percent > 0 or _raised(rollout, plan) else None
        new = replace(new, green_percent=0.0)
    if state in FINAL:
        new = replace(new, ended=now, paused_from=None)
    return Step(event, new, change, action)


def expected_percent(rollout: Rollout) -> float:
    """Green's share in the rollout's present step."""
    return rollout.policy.steps[rollout.step] if rollout.step >= 0 else 0.0


def starting(rollout: Rollout, plan: Plan) -> tuple[Callable[[Plan], Plan] | None, tuple[float, float] | None]:
    """The change that a start makes, and what the shadow's percentages were before it; (None, None) when nothing is missing."""
    stage, shadow = rollout.policy.shadow, plan.shadow
    share = shadow.percent or stage.percent
    noise = shadow.noise_percent
    if rollout.policy.gates.need_noise_pairs and noise == 0:
        noise = stage.noise_percent
    if (share, noise) == (shadow.percent, shadow.noise_percent):
        return None, None
    return (
        lambda present: replace(present, shadow=replace(present.shadow, percent=share, noise_percent=noise)),
        (shadow.percent, shadow.noise_percent),
    )


def backing(rollout: Rollout) -> Callable[[Plan], Plan]:
    """The change that takes all users off green, for whoever must not wait for anything else."""
    return _back(rollout)


def action_of(number: int, event: Event, step: int = 0, steps: int = 0) -> str:
    """The name of a move in the history. `step` counts from 0."""
    words = {
        Event.START: "started",
        Event.STEP: f"step {step + 1} of {steps}",
        Event.FILL: f"step {step + 1} of {steps}",
        Event.FINISH: "done",
        Event.FAIL: "rolled back",
        Event.TRIP: "rolled back by the breaker",
        Event.EXPIRE: "paused at its deadline",
        Event.HAND: "paused by another change",
        Event.PAUSE: "paused",
        Event.RESUME: "resumed",
        Event.ABORT: "aborted",
    }
    return f"{_PREFIX}{number}: {words[event]}"


def is_own(action: str) -> bool:
    """Whether a change of the plan was some rollout's."""
    return action.startswith(_PREFIX)


def urgent_event(number: int, action: str) -> Event | None:
    """Which urgent move of this rollout a change of the plan was; None: none."""
    return next((event for event in URGENT if action == action_of(number, event)), None)


def intended(step: Step, plan: Plan, *, who: str, why: str) -> Intent:
    """What is written down before the plan is."""
    new = step.rollout
    return Intent(step.event, new.state, new.step, plan.revision + 1, step.action, who, why)


def start_intent(who: str) -> Intent:
    """What a start still owes: to have mirrored what the rollout needs. It is made good whenever it is found."""
    return Intent(Event.START, State.SHADOWING, -1, 0, "start", who, "")


def _splitting(share: float) -> Callable[[Plan], Plan]:
    return lambda plan: split_at(plan, share)


def _raised(rollout: Rollout, plan: Plan) -> bool:
    """Whether the shadow still has the percentages that the start gave it."""
    if rollout.shadow_before is None:
        return False
    stage, (percent, noise) = rollout.policy.shadow, rollout.shadow_before
    given = (percent or stage.percent, noise or (stage.noise_percent if rollout.policy.gates.need_noise_pairs else noise))
    return (plan.shadow.percent, plan.shadow.noise_percent) == given


def _unshadowed(rollout: Rollout, plan: Plan) -> Plan:
    """The shadow's percentages as the start found them, unless somebody has changed them since."""
    if not _raised(rollout, plan):
        return plan
    assert rollout.shadow_before is not None
    percent, noise = rollout.shadow_before
    return replace(plan, shadow=replace(plan.shadow, percent=percent, noise_percent=noise))


def _back(rollout: Rollout) -> Callable[[Plan], Plan]:
    return lambda plan: _unshadowed(rollout, switched(plan, Colour.BLUE))


def _finishing(rollout: Rollout) -> Callable[[Plan], Plan]:
    if rollout.policy.promote:
        return lambda plan: promoted(_unshadowed(rollout, plan))
    return lambda plan: _unshadowed(rollout, plan)
