"""What a rollout's records must be like whatever happened to it. Pure: moves and history in, complaints in words out.

The table of states says what may follow what; beyond that, steps are taken in the policy's order, each once, and each forward move
stands in the plans' history exactly once with the share that the policy names. Nothing is ever looked up in the controller's memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from router.rollout.policy import Policy
from router.rollout.rollout import Move
from router.rollout.states import FINAL, TABLE, Event, State
from router.rollout.verdict import FAIL, PASS, PROMOTE

FORWARD = (Event.STEP, Event.FILL)


def broken_moves(moves: Sequence[Move], policy: Policy) -> list[str]:
    """What is wrong with the moves of one rollout that has ended, oldest first."""
    found: list[str] = []
    state, step, paused_from = State.IDLE, -1, State.SHADOWING
    for n, move in enumerate(moves):
        here = f"move {n + 1} ({move.event})"
        if n == 0:
            if move.event is not Event.START:
                found.append(f"{here}: the first is no start")
        elif move.from_state is not state:
            found.append(f"{here}: from {move.from_state}, but the one before led to {state}")
        if (move.from_state, move.event) not in TABLE:
            found.append(f"{here}: not allowed from {move.from_state}")
        elif move.to_state is not (TABLE[move.from_state, move.event] or paused_from):
            found.append(f"{here}: leads to {move.to_state}")
        if move.event in FORWARD:
            step += 1
        if move.step != step:
            found.append(f"{here}: at step {move.step + 1} after step {step + 1}")
        if move.event in FORWARD and 0 <= move.step < len(policy.steps) and move.green_percent != policy.steps[move.step]:
            found.append(f"{here}: green has {move.green_percent:g} % and not the step's {policy.steps[move.step]:g} %")
        if move.to_state in (State.ROLLED_BACK, State.ABORTED) and move.green_percent != 0:
            found.append(f"{here}: green keeps {move.green_percent:g} %")
        if move.to_state is State.PAUSED and move.from_state is not State.PAUSED:
            paused_from = move.from_state
        state = move.to_state
    if state not in FINAL:
        found.append(f"it has not ended: {state}")
    if state is State.DONE and step != len(policy.steps) - 1:
        found.append(f"it is done after step {step + 1} of {len(policy.steps)}")
    return found


def unearned(moves: Sequence[Move]) -> list[str]:
    """Forward moves that their own evidence did not earn, and moves after one at which a gate had failed."""
    found: list[str] = []
    failed_at = None
    for n, move in enumerate(moves):
        gates = (move.verdict or {}).get("gates", ())
        if failed_at is not None:
            found.append(f"move {n + 1} ({move.event}) follows move {failed_at}, at which a gate had failed")
        if any(gate["state"] == FAIL for gate in gates):
            failed_at = n + 1
        if move.event in (*FORWARD, Event.FINISH):
            short = [gate["name"] for gate in gates if gate["state"] != PASS]
            if (move.verdict or {}).get("verdict") != PROMOTE or short:
                found.append(f"move {n + 1} ({move.event}) was made with {', '.join(short) or 'no verdict'} not passed")
    return found


def broken_history(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """What is wrong with the history's plans, oldest first: a revision that is missing, twice, or follows another plan."""
    plans = [entry for entry in entries if entry["kind"] == "plan"]
    found: list[str] = []
    for n, entry in enumerate(plans):
        if entry["revision"] != n + 1:
            found.append(f"revision {entry['revision']} stands where {n + 1} belongs")
            break
        if n and entry["old"] != plans[n - 1]["new"]:
            found.append(f"revision {entry['revision']} does not follow the plan of revision {n}")
    return found


def unlike_history(number: int, moves: Sequence[Move], policy: Policy, entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Where a rollout's forward moves and the plans that the history has of it differ."""
    wanted = [
        (f"rollout {number}: step {m.step + 1} of {len(policy.steps)}", m.green_percent, m.revision)
        for m in moves
        if m.event in FORWARD
    ]
    made = [
        (entry["action"], entry["new"]["split"]["green_percent"], entry["revision"])
        for entry in entries
        if entry["kind"] == "plan" and entry["action"].startswith(f"rollout {number}: step ")
    ]
    return [] if made == wanted else [f"the plans of its steps are {made}, its moves {wanted}"]
