from __future__ import annotations

import pytest

from router.rollout.policy import Policy
from router.rollout.states import ACTIVE, FINAL, TABLE, Event, State, allowed, due, refusal
from router.rollout.verdict import HOLD, PROMOTE, ROLLBACK, Verdict

POLICY = Policy(steps=(10.0, 50.0, 100.0), hold=60.0, bake=120.0, deadline=1000.0)
GOOD, BAD, OPEN = Verdict(PROMOTE, ("all pass",)), Verdict(ROLLBACK, ("errors",)), Verdict(HOLD, ("pairs are missing",))


def test_final_states_are_left_by_a_start_alone() -> None:
    for state in FINAL:
        assert {event for s, event in TABLE if s is state} == {Event.START}


def test_every_state_that_is_not_final_can_be_aborted_and_no_state_but_those() -> None:
    assert {state for state in State if allowed(state, Event.ABORT)} == {*ACTIVE, State.PAUSED}


def test_users_meet_green_only_by_a_step_and_leave_by_every_failure() -> None:
    to_users = {(s, e) for (s, e), new in TABLE.items() if new in (State.STEPPING, State.BAKING)}
    assert {event for _, event in to_users} == {Event.STEP, Event.FILL}
    assert all(TABLE[state, Event.TRIP] is State.ROLLED_BACK for state in (*ACTIVE, State.PAUSED))
    assert all(TABLE[state, Event.FAIL] is State.ROLLED_BACK for state in ACTIVE)


@pytest.mark.parametrize(
    ("state", "step", "verdict", "in_state", "running", "expected"),
    [
        (State.SHADOWING, -1, OPEN, 5, 5, None),
        (State.SHADOWING, -1, GOOD, 5, 5, Event.STEP),
        (State.SHADOWING, -1, BAD, 5, 5, Event.FAIL),
        (State.SHADOWING, -1, OPEN, 1000, 1000, Event.EXPIRE),
        (State.STEPPING, 0, GOOD, 59, 59, None),
        (State.STEPPING, 0, GOOD, 60, 60, Event.STEP),
        (State.STEPPING, 1, GOOD, 60, 60, Event.FILL),
        (State.STEPPING, 1, OPEN, 600, 600, None),
        (State.STEPPING, 1, BAD, 0, 0, Event.FAIL),
        (State.STEPPING, 1, OPEN, 600, 1000, Event.EXPIRE),
        (State.BAKING, 2, GOOD, 119, 400, None),
        (State.BAKING, 2, GOOD, 120, 400, Event.FINISH),
        (State.BAKING, 2, OPEN, 500, 800, None),
        (State.BAKING, 2, BAD, 119, 400, Event.FAIL),
        (State.PAUSED, 1, GOOD, 900, 900, None),
        (State.PAUSED, 1, BAD, 900, 900, None),
        (State.DONE, 2, BAD, 900, 9000, None),
        (State.ROLLED_BACK, 2, GOOD, 900, 9000, None),
    ],
)
def test_what_is_due(
    state: State, step: int, verdict: Verdict, in_state: float, running: float, expected: Event | None
) -> None:
    found = due(state, POLICY, step=step, verdict=verdict, in_state=in_state, running=running)
    assert (found[0] if found else None) is expected
    if found:
        assert found[0] is Event.EXPIRE or allowed(state, found[0])
        assert found[1]


def test_everything_at_once_is_one_step() -> None:
    found = due(State.SHADOWING, Policy(steps=(100.0,)), step=-1, verdict=GOOD, in_state=0, running=0)
    assert found is not None
    assert found[0] is Event.FILL


def test_a_failed_gate_pauses_where_the_policy_says_so() -> None:
    found = due(State.STEPPING, Policy(on_fail="pause"), step=0, verdict=BAD, in_state=0, running=0)
    assert found == (Event.PAUSE, "a gate failed: errors")


def test_the_deadline_says_what_is_missing() -> None:
    found = due(State.STEPPING, POLICY, step=0, verdict=OPEN, in_state=0, running=1000)
    assert found is not None
    assert found[1] == "the deadline of 1000 s has passed; missing: pairs are missing"


@pytest.mark.parametrize(
    ("state", "event", "words"),
    [
        (State.IDLE, Event.PAUSE, "there has been no rollout, so it cannot be paused; `bluegreen rollout start` begins one"),
        (State.DONE, Event.ABORT, "the rollout is done, so it cannot be aborted"),
        (State.STEPPING, Event.START, "a rollout is stepping already"),
        (State.STEPPING, Event.RESUME, "the rollout is stepping, so it cannot be resumed"),
        (State.PAUSED, Event.PAUSE, "the rollout is paused already"),
    ],
)
def test_refusals_say_why_and_what_to_do(state: State, event: Event, words: str) -> None:
    assert not allowed(state, event)
    assert refusal(state, event).startswith(words)
