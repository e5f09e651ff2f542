"""The states of a rollout, what may follow what, and what is due now. Pure; the controller does what is said here.

The table is the whole of the rules: an event that has no entry for a state is not allowed in it. What is done about the plan
at each event is the controller's business (router/rollout/moves.py).

    idle ---> shadowing ---> stepping ---> baking ---> done
                  |              |            |
                  +--------------+------------+----> rolled_back, aborted
                  +--------------+------------+----> paused ---> where it was, rolled_back, aborted
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from router.rollout.policy import Policy
from router.rollout.verdict import HOLD, PROMOTE, ROLLBACK, Verdict


class State(StrEnum):
    """Where a rollout is."""

    IDLE = "idle"  # there never was one
    SHADOWING = "shadowing"  # evidence is gathered, no user sees green
    STEPPING = "stepping"  # green has part of the traffic
    BAKING = "baking"  # green has all of it
    DONE = "done"
    PAUSED = "paused"
    ROLLED_BACK = "rolled_back"
    ABORTED = "aborted"


class Event(StrEnum):
    """What may happen to a rollout."""

    START = "start"
    STEP = "step"  # everything passes: to the first or the next step below 100 %
    FILL = "fill"  # everything passes: green gets all traffic
    FINISH = "finish"  # everything passes at 100 %, for long enough
    FAIL = "fail"  # a gate has failed
    TRIP = "trip"  # the fast breaker
    EXPIRE = "expire"  # the deadline
    HAND = "hand"  # somebody changed the plan by hand
    PAUSE = "pause"
    RESUME = "resume"
    ABORT = "abort"


ACTIVE: Final = (State.SHADOWING, State.STEPPING, State.BAKING)
FINAL: Final = (State.IDLE, State.DONE, State.ROLLED_BACK, State.ABORTED)

# (state, event) -> next state; None: the state in which it was paused.
TABLE: Final[dict[tuple[State, Event], State | None]] = {
    **{(state, Event.START): State.SHADOWING for state in FINAL},
    (State.SHADOWING, Event.STEP): State.STEPPING,
    (State.STEPPING, Event.STEP): State.STEPPING,
    (State.SHADOWING, Event.FILL): State.BAKING,
    (State.STEPPING, Event.FILL): State.BAKING,
    (State.BAKING, Event.FINISH): State.DONE,
    **{(state, Event.FAIL): State.ROLLED_BACK for state in ACTIVE},
    **{(state, Event.TRIP): State.ROLLED_BACK for state in (*ACTIVE, State.PAUSED)},
    **{(state, Event.EXPIRE): State.PAUSED for state in ACTIVE},
    **{(state, Event.HAND): State.PAUSED for state in (*ACTIVE, State.PAUSED)},
    **{(state, Event.PAUSE): State.PAUSED for state in ACTIVE},
    (State.PAUSED, Event.RESUME): None,
    **{(state, Event.ABORT): State.ABORTED for state in (*ACTIVE, State.PAUSED)},
}

_ASKED: Final = {
    Event.START: "started",
    Event.PAUSE: "paused",
    Event.RESUME: "resumed",
    Event.ABORT: "aborted",
}


def allowed(state: State, event: Event) -> bool:
    """Whether an event may happen in a state."""
    return (state, event) in TABLE


def refusal(state: State, event: Event) -> str:
    """Why somebody's action is not allowed, and what to do instead."""
    if event is Event.START:
        return f"a rollout is {state} already; `bluegreen rollout abort` ends it"
    if event is Event.PAUSE and state is State.PAUSED:
        return "the rollout is paused already; `bluegreen rollout resume` goes on"
    words = "there has been no rollout" if state is State.IDLE else f"the rollout is {state}"
    hint = "; `bluegreen rollout start` begins one" if state in FINAL else ""
    return f"{words}, so it cannot be {_ASKED.get(event, event)}{hint}"


def due(
    state: State, policy: Policy, *, step: int, verdict: Verdict, in_state: float, running: float
) -> tuple[Event, str] | None:
    """What is to happen now by itself, and why in words; None: nothing.

    `step` counts from 0, -1 before the first; `in_state` are the seconds in the present state and step, `running` those since
    the start or the last resumption, which the deadline counts.
    """
    if state not in ACTIVE:
        return None
    if verdict.verdict == ROLLBACK:
        why = "; ".join(verdict.reasons)
        return (Event.FAIL, why) if policy.on_fail == "rollback" else (Event.PAUSE, f"a gate failed: {why}")
    if verdict.verdict == PROMOTE:
        if state is State.BAKING:
            return (Event.FINISH, "; ".join(verdict.reasons)) if in_state >= policy.bake else None
        if state is State.SHADOWING or in_state >= policy.hold:
            event = Event.FILL if policy.steps[step + 1] >= 100.0 else Event.STEP
            return event, "; ".join(verdict.reasons)
    if running >= policy.deadline:
        missing = "; ".join(verdict.reasons) if verdict.verdict == HOLD else "the time in this step"
        return Event.EXPIRE, f"the deadline of {policy.deadline:g} s has passed; missing: {missing}"
    return None
