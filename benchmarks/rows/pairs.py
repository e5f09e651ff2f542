"""How many pairs the shadow process compares per second of one core, and what becomes of it and of clients when it gets ten times that."""

from __future__ import annotations

import json
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.load import frames_command, pace, pace_command, shown, wrk, wrk_command
from benchmarks.measure import peak_resident_bytes
from benchmarks.peers import ROUTER
from benchmarks.processes import WORK, BenchError
from benchmarks.result import Check, Collected, Row, bound_check
from router.state import StateDir

if TYPE_CHECKING:
    from benchmarks.peers import Running
    from benchmarks.setting import Setting

RATE = 1000  # requests per second to the data plane while the shadow gets too much
TIMES = 10.0
MOST = 60_000.0  # frames per second: what one sender can do


@dataclass(frozen=True, slots=True)
class Overload:
    """One round. `unaccounted`: exchanges handed over that are neither compared nor dropped, must be 0. Times in µs."""

    offered: float
    compared: float
    unaccounted: float
    p99_off: float
    p99_on: float


def pairs(setting: Setting) -> Row:
    """Pairs compared per CPU second of the shadow process, under more load than it can take, and ten times that."""
    collected = Collected()
    for round_ in range(min(setting.rounds, 3)):
        with setting.start(ROUTER, green_percent=0, mirror=True) as running:
            wrk(running.port, setting.cores, 1)
            running.settle()
            before, started, cpu = running.pairs(), time.monotonic(), running.cpu()["shadow"]
            result = wrk(running.port, setting.cores, setting.seconds(6))
            running.settle()
            after, elapsed = running.pairs(), time.monotonic() - started
            spent = running.cpu()["shadow"] - cpu
            compared = after[0] - before[0]
            over = _overloaded(setting, running, min(TIMES * compared / spent, MOST), round_)
            peak = max(peak_resident_bytes(pid) for pid in running.parts()["shadow"])
        details = {
            "compared": float(compared),
            "dropped and counted": float(after[1] - before[1]),
            "offered": float(result.requests),
            "shadow CPU s": spent,
            "elapsed s": elapsed,
            "overload, offered/s": over.offered,
            "overload, compared/s": over.compared,
            "overload, unaccounted": over.unaccounted,
            "p99 µs, shadow off": over.p99_off,
            "p99 µs, overloaded": over.p99_on,
            "p99 ratio": over.p99_on / over.p99_off,
            "shadow peak MiB": peak / 2**20,
        }
        collected.add(ROUTER, compared / spent, **details)
        setting.say(f"pairs {round_ + 1}: {compared / spent:.0f} per CPU second, {compared} of {result.requests} offered")
        setting.say(
            f"  at {over.offered:.0f}/s: {over.compared:.0f}/s compared, p99 {over.p99_off:.0f} -> {over.p99_on:.0f} µs"
        )
    row = Row(
        "pairs",
        "Pairs compared by the shadow per second of one core, small JSON",
        "All traffic to blue, all of it sampled, under wrk with 32 connections, which is more than the shadow can take: it "
        "drops and counts the rest. The value is pairs compared (request sent to green, both answers read and compared, "
        "evidence kept) over the CPU time of the shadow process, including what it had queued when the load ended. Then "
        f"{RATE:,} requests/s go to the data plane with the shadow off, and again with all of them sampled while another "
        "sender hands the shadow ten times the exchanges per second that it just compared per CPU second: clients' p99 in both, and "
        "whether each exchange that was handed over is in the end either compared or counted as dropped.",
        "pairs/s of one core",
        collected.series(),
        commands=(
            shown(wrk_command("PORT", setting.cores, setting.seconds(6))),
            shown(pace_command("PORT", setting.cores, RATE, setting.seconds(4))),
            shown(frames_command("STATE/run/tap.sock", setting.cores, 1, 1, 30_000, setting.seconds(4) + 3)),
        ),
    )
    ours = row.get(ROUTER)
    lost, ratio = ours.details["overload, unaccounted"], ours.details["p99 ratio"]
    return row.checked(
        bound_check("pairs per second of one core", ours.median, "/s", 3000, 8000, least=True),
        bound_check("most memory of the shadow process, overloaded", ours.details["shadow peak MiB"], "MiB", 500, None),
        bound_check("exchanges neither compared nor counted as dropped", abs(lost), "exchanges", 0, None),
        Check("clients' p99, shadow overloaded / off", "≤ 1.1 ×", "1.0 ×", f"{ratio:.2f} ×", ratio <= 1.1, ratio <= 1.02),
    )


def _overloaded(setting: Setting, running: Running, rate: float, round_: int) -> Overload:
    """Clients' p99 with the shadow off and with `rate` exchanges per second handed to it, one or the other first."""
    seconds = setting.seconds(4)
    p99: dict[bool, float] = {}
    for on in (False, True) if round_ % 2 == 0 else (True, False):
        running.call("POST", "/v1/shadow", {"percent": 100 if on else 0})
        if on:
            p99[on], offered, compared, unaccounted = _pace_with_frames(setting, running, rate, seconds)
        else:
            p99[on] = pace(running.port, setting.cores, RATE, seconds)["us"]["p99"]
    return Overload(offered, compared, unaccounted, p99[False], p99[True])


def _pace_with_frames(setting: Setting, running: Running, rate: float, seconds: float) -> tuple[float, float, float, float]:
    """(clients' p99 in µs, frames offered per second, pairs compared per second, exchanges that are unaccounted for)."""
    before, plan = running.call("GET", "/v1/evidence"), running.call("GET", "/v1/plan")
    tap = StateDir(running.child.log.parent / "state").tap
    command = frames_command(tap, setting.cores, int(before["release"]), int(plan["revision"]), rate, seconds + 3)
    began = time.monotonic()
    sender = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=WORK)
    try:
        time.sleep(1.0)  # it makes its frames first
        p99 = float(pace(running.port, setting.cores, RATE, seconds)["us"]["p99"])
        out, err = sender.communicate(timeout=60)
    finally:
        sender.kill()
        sender.wait()
    if sender.returncode != 0:
        raise BenchError(f"the frames could not be sent: {err[-500:]}")
    sent = json.loads(out)
    running.settle()
    after = running.call("GET", "/v1/evidence")
    ended = sum(int(after[key]) - int(before[key]) for key in ("pairs", "dropped"))
    handed = int(after["sampled"]) - int(before["sampled"]) + int(sent["sent"])
    compared = (after["pairs"] - before["pairs"]) / (time.monotonic() - began)
    return p99, sent["offered"] / sent["seconds"], compared, float(handed - ended)
