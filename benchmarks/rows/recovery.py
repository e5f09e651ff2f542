"""How long the router is without one of its processes after `kill -9`: the router alone, two workers under load."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from benchmarks.configs import Wanted
from benchmarks.load import shown, wrk_command
from benchmarks.peers import ControlCalls, Running, start_router, tell_apart
from benchmarks.processes import WORK, BenchError, get
from benchmarks.result import Collected, Row, bound_check

if TYPE_CHECKING:
    from benchmarks.setting import Setting

WORKERS = 2
CONNECTIONS = 8
PATIENCE_S = 20.0


def recovery(setting: Setting) -> Row:
    """Seconds from the kill of control, shadow or a worker until the router says that it runs again."""
    collected = Collected()
    wanted = Wanted(0, setting.upstreams.blue, setting.upstreams.green, 10)
    with start_router(wanted, setting.cores, workers=WORKERS, shadow_percent=10, spread=True) as running:
        for turn in range(min(setting.rounds, 3)):
            for role in ("control", "shadow", "worker"):
                command = wrk_command(running.port, setting.cores, PATIENCE_S, connections=CONNECTIONS)
                load = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=WORK)
                try:
                    time.sleep(1.0)
                    seconds = _killed(running, role)
                finally:
                    load.kill()
                    load.wait()
                collected.add(role, seconds)
                setting.say(f"recovery {turn + 1} {role}: {seconds:.2f} s")
                # What died is started again at once; what dies again soon waits longer, and that is not measured here.
                time.sleep(6.0)
    row = Row(
        "recovery",
        "kill -9 of one process under load",
        f"Two workers under wrk with {CONNECTIONS} connections at full speed. One process of the router is killed; the time ends "
        "when `GET /v1/status` is answered and names all workers and a running shadow again, each killed process replaced by a "
        "new one. The plan stays in force all the while, and requests at other workers go on. No process of the router is "
        "pinned here, but the load shares their two cores.",
        "s, until all is back",
        collected.series(),
        commands=(shown(wrk_command("PORT", setting.cores, PATIENCE_S, connections=CONNECTIONS)),),
    )
    slowest = max(sample for series in row.series for sample in series.samples)
    return row.checked(bound_check("the slowest of all, s", slowest, "s", 2, None))


def _killed(running: Running, role: str) -> float:
    """Kill one process of a role; the seconds until another has its place. Raises BenchError."""
    before = _processes(running)
    victim = before[role][0]
    began = time.monotonic()
    os.kill(victim, signal.SIGKILL)

    def back() -> bool:
        now = _processes(running)
        return all(len(now[one]) == len(before[one]) for one in before) and victim not in now[role]

    _wait(lambda: back() and _whole(running), began)
    return time.monotonic() - began


def _whole(running: Running) -> bool:
    """Whether control is ready and every process is there and answers."""
    if get(running.control, "/readyz")[0] != 200 or get(running.port, "/-/readyz")[0] != 200:
        return False
    status = ControlCalls(running.control).call("GET", "/v1/status")
    return bool(status["shadow"]["running"]) and len(status["workers"]) == WORKERS


def _processes(running: Running) -> dict[str, list[int]]:
    """The router's processes by role, as they are now; a worker is what is neither shadow nor control."""
    roles = tell_apart(running.child.pid, ())
    return {"control": roles["control"], "shadow": roles["shadow"], "worker": roles["supervisor"][1:]}


def _wait(done: Callable[[], bool], began: float) -> None:
    while True:
        try:
            if done():
                return
        except (OSError, BenchError):
            pass
        if time.monotonic() - began > PATIENCE_S:
            raise BenchError(f"what was killed was not back within {PATIENCE_S:g} s")
        time.sleep(0.01)
