"""Whole rollouts, one after the other in each lane: green like blue, green worse, and no traffic.

Beside each rollout a watch judges from outside: ten times a second it reads the same evidence and the same counters as the
controller and asks the gates itself. The first time they say that green must go back is when the evidence sufficed; no step may
begin after that, whatever the controller was doing. What the controller decided on is held against it too, from its own record.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.processes import BenchError
from benchmarks.rolling.lane import Lane
from benchmarks.rolling.paths import FORWARD, broken_moves, unearned, unlike_history
from benchmarks.rolling.worlds import ALIKE, GREENS_WORSE, POLICY, RATE, STEPS, Green
from router.rollout.examiner import live_of
from router.rollout.gates import judge
from router.rollout.live_counts import read_counts
from router.rollout.rollout import Move, Rollout
from router.rollout.states import ACTIVE, State
from router.rollout.verdict import FAIL, ROLLBACK

PATIENCE_S = 180.0


@dataclass(frozen=True, slots=True)
class Enough:
    """When evidence against green sufficed, seconds since the epoch, and by which gates."""

    at: float
    gates: tuple[str, ...]


class Watch:
    """Judges one rollout from outside the router."""

    def __init__(self, lane: Lane, number: int) -> None:
        self.enough: Enough | None = None
        self._lane = lane
        self._number = number
        self._seen: tuple[int, float | None] | None = None
        self._evidence: dict[str, Any] = {}
        self._state: dict[str, Any] | None = None

    def look(self) -> None:
        """Read what the controller reads, and ask the gates."""
        lane = self._lane
        rollout = lane.newest()
        if rollout.number != self._number or rollout.state not in ACTIVE or self.enough is not None:
            return
        plan, counts = lane.plan(), read_counts(lane.workers.pages().values())
        seen = (rollout.release, lane.rollouts.evidence_updated(rollout.release))
        if seen != self._seen:
            snapshot, as_of = lane.store.evidence(rollout.release) or ({}, None)
            self._evidence = {**snapshot, "as_of": as_of}
            self._state = lane.store.evidence_state(rollout.release)
            self._seen = seen
        if lane.newest() != rollout or plan.revision != rollout.revision:
            return  # it moved meanwhile: what was read does not belong together
        at = time.time()
        live = live_of(rollout, plan, counts, shadow_running=True)
        said = judge(
            self._evidence, live, rollout.policy, at, attempt=rollout.attempt, state=self._state, detailed=False
        )  # fmt: skip
        if said.verdict == ROLLBACK:
            self.enough = Enough(at, tuple(gate.name for gate in said.gates if gate.state == FAIL))


@dataclass(frozen=True, slots=True)
class Trial:
    """One rollout: what was tried, how it ended, and what is wrong with that (`complaints`).

    `step` counts from 1, 0 before the first. `gates` have failed at the end, `n` observations (`of` what) were there for the first
    of them. `late_s` is from when the evidence sufficed, as seen from outside, to green's end; None where nobody outside saw it.
    """

    green: str
    state: State
    step: int
    reason: str
    seconds: float
    gates: tuple[str, ...] = ()
    n: int = 0
    of: str = ""
    late_s: float | None = None
    complaints: tuple[str, ...] = ()

    @property
    def where(self) -> str:
        """The step in words."""
        return f"{STEPS[self.step - 1]} %" if self.step else "shadow"


async def trial(lane: Lane, green: Green, policy: Mapping[str, Any]) -> Trial:
    """One rollout of a fresh green, to its end; at its deadline it is aborted."""
    await lane.candidate()
    await lane.behave("green", green.how)
    number = await lane.rollout(policy)
    watch = Watch(lane, number)
    ended = await lane.until_ended(number, PATIENCE_S, watch.look)
    if ended.state is State.PAUSED:
        await lane.ask("POST", "/v1/rollout", {"action": "abort"})
    return _judged(lane, green.name, ended, watch, (await lane.ask("GET", "/v1/history"))["history"])


def _judged(lane: Lane, green: str, ended: Rollout, watch: Watch, entries: Sequence[Mapping[str, Any]]) -> Trial:
    moves = lane.rollouts.moves(ended.number)
    last = next(move for move in reversed(moves) if move.to_state is ended.state)
    failed = [gate for gate in (last.verdict or {}).get("gates", ()) if gate["state"] == FAIL]
    first: Mapping[str, Any] = failed[0] if failed else {}
    complaints = [*broken_moves(moves, ended.policy), *unearned(moves), *_beyond(moves, watch.enough)]
    complaints += unlike_history(ended.number, moves, ended.policy, entries)
    left = lane.plan().split.green_percent
    if ended.state is not State.DONE and left:
        complaints.append(f"it is {ended.state} and green has {left:g} %")
    return Trial(
        green=green,
        state=ended.state,
        step=ended.step + 1,
        reason=ended.reason,
        seconds=last.at - ended.began,
        gates=tuple(gate["name"] for gate in failed),
        n=int(first.get("n", 0)),
        of=str(first.get("of", "")),
        late_s=last.at - watch.enough.at if watch.enough is not None else None,
        complaints=tuple(f"rollout {ended.number} ({green}): {line}" for line in complaints),
    )


def _beyond(moves: Sequence[Move], enough: Enough | None) -> list[str]:
    if enough is None:
        return []
    later = [move for move in moves if move.event in FORWARD and move.at > enough.at]
    return [f"step {m.step + 1} began {m.at - enough.at:.2f} s after {enough.gates} had failed" for m in later]


# --- the three parts ------------------------------------------------------------------------------------------------------------


async def alike(lanes: Sequence[Lane], count: int) -> list[Trial]:
    """Rollouts of a green that is blue."""
    green = Green("like blue", ALIKE, "none")
    return await _all(lanes, "A/A", [green] * count)


async def worse(lanes: Sequence[Lane], count: int) -> list[Trial]:
    """Rollouts of greens that are truly worse, one kind after the other."""
    return await _all(lanes, "worse", [GREENS_WORSE[n % len(GREENS_WORSE)] for n in range(count)])


async def _all(lanes: Sequence[Lane], what: str, greens: Sequence[Green]) -> list[Trial]:
    waiting, found = list(enumerate(greens)), []

    async def work(lane: Lane) -> None:
        with lane.users(RATE):
            while waiting:
                n, green = waiting.pop(0)
                found.append(one := await trial(lane, green, POLICY))
                about = f"{one.n:,} {one.of} for {', '.join(one.gates)}" if one.gates else one.reason[:90]
                line = f"{what} {n + 1}/{len(greens)} {green.name}: {one.state} at {one.where} after {one.seconds:.1f} s"
                print(f"{line}; {about}", *one.complaints, sep="\n  ! " if one.complaints else "; ", flush=True)

    await _prepared(lanes)
    async with asyncio.TaskGroup() as group:
        for lane in lanes:
            group.create_task(work(lane))
    return found


async def silent(lanes: Sequence[Lane], count: int) -> list[Trial]:
    """Rollouts without traffic: half of them never have any, the others lose it while they are in the first step."""
    waiting, found = list(range(count)), []

    async def work(lane: Lane) -> None:
        while waiting:
            n = waiting.pop(0)
            found.append(one := await (_never(lane) if n % 2 == 0 else _no_more(lane)))
            print(f"no traffic {n + 1}/{count}, {one.green}: {one.state} at {one.where}; {one.reason[:90]}", flush=True)

    await _prepared(lanes)
    async with asyncio.TaskGroup() as group:
        for lane in lanes:
            group.create_task(work(lane))
    return found


async def _never(lane: Lane) -> Trial:
    return await trial(lane, Green("never any", ALIKE, "none"), {**POLICY, "deadline": "4s"})


async def _no_more(lane: Lane) -> Trial:
    """Traffic until the first step has begun, then none: what was shown before must not carry it on."""
    policy = {**POLICY, "hold": "4s", "stale": "2s", "deadline": "18s"}
    await lane.candidate()
    await lane.behave("green", ALIKE)
    with lane.users(RATE) as users:
        number = await lane.rollout(policy)
        watch = Watch(lane, number)
        for _ in range(int(PATIENCE_S * 10)):
            watch.look()
            if lane.newest().state is not State.SHADOWING:
                break
            await asyncio.sleep(0.1)
        users.end()
    ended = await lane.until_ended(number, PATIENCE_S, watch.look)
    if ended.state is State.PAUSED:
        await lane.ask("POST", "/v1/rollout", {"action": "abort"})
    return _judged(lane, "none from the first step on", ended, watch, (await lane.ask("GET", "/v1/history"))["history"])


async def _prepared(lanes: Sequence[Lane]) -> None:
    if not lanes:
        raise BenchError("no lane runs")
    for lane in lanes:
        await lane.behave("blue", ALIKE)
