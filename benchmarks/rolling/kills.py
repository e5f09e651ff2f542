"""`kill -9` of the control process at random moments of rollouts, under traffic, while the supervisor starts it again and again.

Two things run in each lane and know nothing of each other: one drives rollouts from start to end (every third with a green that
fails at the 50 % step), asking again when nobody answers; the other kills. Most kills come at a moment drawn at random from the time
since the process was started, so some hit it while it is still coming up; a further quarter is aimed: it waits until the plan page
changes and strikes within the next 10 ms, where the plan has been written and the store, perhaps, not yet.

What is held against it: after each restart the state that control tells and the share of green in the plan belong together; at
the end every rollout's moves follow the policy's steps, each once, the history has each of them once and every revision, and
`bluegreen history --verify` finds the chain whole.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.processes import BenchError, stat_fields
from benchmarks.rolling.lane import PATIENCE_S, Lane, until
from benchmarks.rolling.paths import broken_history, broken_moves, unlike_history
from benchmarks.rolling.worlds import ALIKE, QUICK, QUICK_RATE, QUICK_WORSE
from benchmarks.soaking.wire import Cut, call
from router.errors import RouterError
from router.rollout.states import State

LONGEST_LIFE_S = 8.0  # a process that lived 5 s is restarted at once, others after a back-off that grows
AIMED_WITHIN_S = 0.01
WORSE_EVERY = 3

BETWEEN = "between two moves"
INTENDED = "a move written down, its plan not yet written"
PLANNED = "the plan written, the move not yet in the store"
STARTING = "before the new process had taken over"


@dataclass
class Killed:
    """What became of all lanes. `complaints` is one line for each thing that must not be."""

    random: int = 0
    aimed: int = 0
    moments: Counter[str] = field(default_factory=Counter)
    states: Counter[str] = field(default_factory=Counter)
    restarts_checked: int = 0
    up_s: list[float] = field(default_factory=list)
    ended: Counter[str] = field(default_factory=Counter)
    moves: int = 0
    revisions: int = 0
    verified: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


class Killing:
    """One lane's kills and rollouts."""

    def __init__(self, lane: Lane, kills: Sequence[bool], found: Killed) -> None:
        """`kills`: one for each, True for an aimed one."""
        self._lane = lane
        self._kills = kills
        self._found = found
        self._over = False
        self._first = lane.control_pid()
        self._worse: dict[int, bool] = {}

    async def run(self) -> None:
        """All kills, while rollouts go on; then everything is checked."""
        lane = self._lane
        await lane.behave("blue", ALIKE)
        with lane.users(QUICK_RATE):
            async with asyncio.TaskGroup() as group:
                group.create_task(self._drive())
                group.create_task(self._kill())
        await self._check()

    # --- rollouts -----------------------------------------------------------------------------------------------------

    async def _drive(self) -> None:
        n = 0
        while not self._over:
            worse = n % WORSE_EVERY == WORSE_EVERY - 1
            await self._lane.behave("green", QUICK_WORSE if worse else ALIKE)
            await self._again(self._lane.candidate)
            number = await self._started()
            self._worse[number] = worse
            ended = await self._lane.until_ended(number, 10 * PATIENCE_S)
            self._found.ended[f"{'worse' if worse else 'good'} green: {ended.state}"] += 1
            # A good green that is taken back is an error that alpha allows; everything else is none.
            if ended.state is not State.ROLLED_BACK and (worse or ended.state is not State.DONE):
                self._complain(f"rollout {number} of a {'worse' if worse else 'good'} green is {ended.state}: {ended.reason}")
                if ended.state is State.PAUSED:
                    await self._again(lambda: self._lane.ask("POST", "/v1/rollout", {"action": "abort"}))
            n += 1

    async def _started(self) -> int:
        """Start a rollout, whatever happens to whoever is asked; its number. A start that was made but not told is found."""
        newest = self._lane.rollouts.newest()
        before = newest.number if newest is not None else 0
        while True:
            try:
                _, told = await call(
                    self._lane.ports["control"], "POST", "/v1/rollout", {"action": "start", "policy": QUICK}
                )  # fmt: skip
            except (Cut, ValueError):
                await asyncio.sleep(0.05)
                told = {}
            found = self._lane.rollouts.newest()
            if found is not None and found.number == before + 1:
                return found.number
            if told.get("status") in (409, 422):
                raise BenchError(f"the next rollout is refused: {told['detail']}")

    async def _again(self, ask: Any) -> None:
        """Ask until somebody answers."""
        for _ in range(int(PATIENCE_S * 20)):
            try:
                await ask()
            except (Cut, ValueError):
                await asyncio.sleep(0.05)
            else:
                return
        raise BenchError(f"{self._lane.name}: control does not come back; its log is {self._lane.router.log}")

    # --- kills --------------------------------------------------------------------------------------------------------

    async def _kill(self) -> None:
        known = None
        for n, aimed in enumerate(self._kills):
            pid, since = await self._next(known)
            told = True
            if aimed:
                await self._answers(pid, since)
                await self._change()
                await asyncio.sleep(random.uniform(0.0, AIMED_WITHIN_S))
            else:
                told = await self._life(pid, since + random.uniform(0.0, LONGEST_LIFE_S), since)
            found = self._strike(pid)
            moment = found if told else STARTING
            self._found.aimed += aimed
            self._found.random += not aimed
            self._found.moments[moment] += 1
            print(f"{self._lane.name}: kill {n + 1}/{len(self._kills)}{' (aimed)' if aimed else ''}: {moment}", flush=True)
            known = pid
        pid, since = await self._next(known)
        await self._answers(pid, since)
        self._over = True

    async def _next(self, known: int | None) -> tuple[int, float]:
        """The control process after the one that was killed, and when it was seen."""
        for _ in range(int(PATIENCE_S * 100)):
            pid = self._lane.control_pid()
            if pid is not None and pid != known:
                return pid, time.monotonic()
            await asyncio.sleep(0.01)
        raise BenchError(f"{self._lane.name}: control is not started again; the log is {self._lane.router.log}")

    async def _life(self, pid: int, until_then: float, since: float) -> bool:
        """Let it live until then, and look at what it says as soon as it says something; whether it did."""
        told = False
        while (left := until_then - time.monotonic()) > 0:
            told = told or await self._told(pid, since)
            await asyncio.sleep(min(left, 0.05))
        return told

    async def _answers(self, pid: int, since: float) -> None:
        await until(lambda: self._told(pid, since), PATIENCE_S, f"{self._lane.name}: control does not answer")

    async def _told(self, pid: int, since: float) -> bool:
        """Whether it answers; its first answer is held against the plan."""
        try:
            async with asyncio.timeout(0.3):  # nothing may keep a kill from its moment
                _, document = await call(self._lane.ports["control"], "GET", "/v1/rollout")
        except (Cut, ValueError, TimeoutError):
            return False
        if pid == self._first:
            return True
        self._found.restarts_checked += 1
        self._found.up_s.append(time.monotonic() - since)
        for _ in range(3):
            if disagreement(document) is None:
                return True
            # A document that was put together while a move was under way is no disagreement; one that stays is.
            await asyncio.sleep(0.2)
            _, document = await call(self._lane.ports["control"], "GET", "/v1/rollout")
        if trouble := disagreement(document):
            self._complain(f"after a restart (pid {pid}): {trouble}")
        return True

    async def _change(self) -> None:
        """Until the plan page changes."""
        page = self._lane.page
        revision = page.revision
        for _ in range(int(PATIENCE_S * 1000)):
            if page.revision != revision:
                return
            await asyncio.sleep(0.001)

    def _strike(self, pid: int) -> str:
        """SIGKILL; where that found the rollout, from what it left in store and plan."""
        os.kill(pid, signal.SIGKILL)
        while (state := stat_fields(pid)) and state[0] != "Z":
            pass
        rollout, plan = self._lane.rollouts.newest(), self._lane.plan()
        if rollout is None:
            return BETWEEN
        self._found.states[rollout.state] += 1
        if rollout.ended is None and plan.revision > rollout.revision:
            return PLANNED
        return INTENDED if rollout.intent is not None else BETWEEN

    # --- afterwards ---------------------------------------------------------------------------------------------------

    async def _check(self) -> None:
        lane, found = self._lane, self._found
        entries = (await lane.ask("GET", "/v1/history"))["history"]
        for line in broken_history(entries):
            self._complain(line)
        revisions = [entry for entry in entries if entry["kind"] == "plan"]
        if len(revisions) != lane.plan().revision:
            self._complain(f"the plan is at revision {lane.plan().revision}, the history has {len(revisions)}")
        found.revisions += len(revisions)
        for number in self._worse:
            moves = lane.rollouts.moves(number)
            record = lane.rollouts.record(number)
            found.moves += len(moves)
            policy = lane.newest().policy
            lines = [*broken_moves(moves, policy), *unlike_history(number, moves, policy, entries)]
            if record is None or [m["event"] for m in record["document"]["moves"]] != [move.event for move in moves]:
                lines.append("its promotion record does not tell its moves")
            for line in lines:
                self._complain(f"rollout {number}: {line}")
        try:
            found.verified.append(lane.verify())
        except (BenchError, RouterError) as error:
            self._complain(str(error))

    def _complain(self, line: str) -> None:
        self._found.complaints.append(f"{self._lane.name}: {line}")
        print(f"  ! {self._lane.name}: {line}", flush=True)


def disagreement(document: Mapping[str, Any]) -> str | None:
    """How the state and the share of green in one answer of `GET /v1/rollout` do not belong together; None: they do."""
    state, share = document["state"], document["green_percent"]
    if state == State.IDLE or state in (State.SHADOWING, State.ROLLED_BACK, State.ABORTED):
        expected = 0
    elif state in (State.STEPPING, State.BAKING):
        expected = document["steps"][document["step"] - 1]
    elif state == State.DONE:
        return None if share in (0, 100) else f"done, and green has {share:g} %"  # 0: the next candidate has come
    else:
        return f"the rollout is {state}"
    return (
        None if share == expected else f"{state} at step {document['step']}, and green has {share:g} % and not {expected:g} %"
    )


async def kills(lanes: Sequence[Lane], count: int) -> Killed:
    """`count` random kills and a quarter as many aimed ones, spread over the lanes."""
    found = Killed()
    wanted = [False] * count + [True] * (count // 4)
    random.shuffle(wanted)
    async with asyncio.TaskGroup() as group:
        for n, lane in enumerate(lanes):
            group.create_task(Killing(lane, wanted[n :: len(lanes)], found).run())
    return found
