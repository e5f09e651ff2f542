"""How many pairs the shadow process compares per second of one core, and what becomes of it and of clients when it gets ten times that."""

from __future__ import annotations

import json
import statistics
import subprocess
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from benchmarks.load import frames_command, pace, pace_command, read_log, shown, wrk, wrk_command
from benchmarks.measure import peak_resident_bytes, quantile, waited_seconds
from benchmarks.peers import ROUTER
from benchmarks.processes import WORK, BenchError
from benchmarks.result import Check, Collected, Row, bound_check
from benchmarks.upstreams import fast_servers
from router.state import StateDir

if TYPE_CHECKING:
    from benchmarks.peers import Running
    from benchmarks.setting import Setting

RATE = 1000  # requests per second to the data plane while the shadow gets too much
TIMES = 10.0
MOST = 60_000.0  # frames per second: what one sender can do
TURNS = 3  # of clients with the shadow off and with it overloaded, one after the other, in each round
WINDOW_SECONDS = 0.25


@dataclass(slots=True)
class Clients:
    """What clients and the worker had, with the shadow off or overloaded. `p99` in µs of each window, `waited` of the worker
    for its core in µs per request, of each turn.
    """

    p99: list[float] = field(default_factory=list)
    waited: list[float] = field(default_factory=list)


@dataclass(slots=True)
class Overload:
    """Ten times the load, in one round, per second; `unaccounted`: exchanges handed over that are neither compared nor dropped."""

    off: Clients = field(default_factory=Clients)
    on: Clients = field(default_factory=Clients)
    offered: float = 0.0
    compared: float = 0.0
    unaccounted: float = 0.0


def pairs(setting: Setting) -> Row:
    """Pairs compared per CPU second of the shadow process, under more load than it can take, and ten times that."""
    collected = Collected()
    overloads: list[Overload] = []
    # Green's server has a process of its own and gives way, as one on another machine would.
    with fast_servers("green", setting.cores, nice=10) as (_, green):
        for round_ in range(min(setting.rounds, 3)):
            with setting.start(ROUTER, green=green, green_percent=0, mirror=True, prediction_log=True) as running:
                logged, _, _ = _compared(setting, running)
            with setting.start(ROUTER, green=green, green_percent=0, mirror=True) as running:
                per_second, compared, details = _compared(setting, running)
                over = _overloaded(setting, running, min(TIMES * per_second, MOST), round_)
                peak = max(peak_resident_bytes(pid) for pid in running.parts()["shadow"])
            overloads.append(over)
            off, on = statistics.median(over.off.p99), statistics.median(over.on.p99)
            collected.add(
                ROUTER,
                per_second,
                **details,
                **{
                    "pairs/s with the prediction log": logged,
                    "overload, offered/s": over.offered,
                    "overload, compared/s": over.compared,
                    "overload, unaccounted": over.unaccounted,
                    "p99 µs, shadow off": off,
                    "p99 µs, overloaded": on,
                    "worker's wait µs/request, shadow off": statistics.median(over.off.waited),
                    "worker's wait µs/request, overloaded": statistics.median(over.on.waited),
                    "shadow peak MiB": peak / 2**20,
                },
            )
            setting.say(
                f"pairs {round_ + 1}: {per_second:.0f} per CPU second, {compared} pairs; with the prediction log {logged:.0f}"
            )
            setting.say(f"  at {over.offered:.0f}/s: {over.compared:.0f}/s compared, p99 {off:.0f} -> {on:.0f} µs")
    row = Row(
        "pairs",
        "Pairs compared by the shadow per second of one core, small JSON",
        "All traffic to blue, all of it sampled, under wrk with 32 connections, which is more than the shadow can take: it "
        "drops and counts the rest. The value is pairs compared (request sent to green, both answers read and compared, "
        "evidence kept) over the CPU time of the shadow process, including what it had queued when the load ended; the "
        "prediction log, which keeps a row for each exchange so that feedback can be joined to it later, is off, and the same with "
        "it on stands beside. Then "
        f"{RATE:,} requests/s go to the data plane with the shadow off, and again with all of them sampled while another "
        "sender hands the shadow ten times the exchanges per second that it just compared per CPU second, in "
        f"turns, {TURNS} in each round, worker and shadow on one core: clients' p99 from sending to answer (the median over windows of "
        f"{WINDOW_SECONDS:g} s, since what a hypervisor takes comes in bursts; the ratio is of all rounds together), how long the "
        "worker was ready to run and had to wait for its core, and whether each exchange that was handed over is in the end "
        "either compared or counted as dropped.",
        "pairs/s of one core",
        collected.series(),
        commands=(
            shown(wrk_command("PORT", setting.cores, setting.seconds(6))),
            shown(pace_command("PORT", setting.cores, RATE, setting.seconds(4))),
            shown(frames_command("STATE/run/tap.sock", setting.cores, 1, 1, 30_000, setting.seconds(4) + 3)),
        ),
    )
    ours = row.get(ROUTER)
    lost = sum(over.unaccounted for over in overloads)
    off = statistics.median(p99 for over in overloads for p99 in over.off.p99)
    ratio = statistics.median(p99 for over in overloads for p99 in over.on.p99) / off
    return row.checked(
        bound_check("pairs per second of one core", ours.median, "/s", 3000, 8000, least=True),
        bound_check("most memory of the shadow process, overloaded", ours.details["shadow peak MiB"], "MiB", 500, None),
        bound_check("exchanges neither compared nor counted as dropped", lost, "exchanges", 0, None),
        Check("clients' p99, shadow overloaded / off", "≤ 1.1 ×", "1.0 ×", f"{ratio:.2f} ×", ratio <= 1.1, ratio <= 1.02),
    )


def _compared(setting: Setting, running: Running) -> tuple[float, int, dict[str, float]]:
    """(pairs per CPU second, pairs, what else was counted) under wrk."""
    wrk(running.port, setting.cores, 1)
    running.settle()
    before, started, cpu = running.pairs(), time.monotonic(), running.cpu()["shadow"]
    result = wrk(running.port, setting.cores, setting.seconds(6))
    running.settle()
    after, elapsed = running.pairs(), time.monotonic() - started
    spent = running.cpu()["shadow"] - cpu
    compared = after[0] - before[0]
    details = {
        "compared": float(compared),
        "dropped and counted": float(after[1] - before[1]),
        "offered": float(result.requests),
        "shadow CPU s": spent,
        "elapsed s": elapsed,
    }
    return compared / spent, compared, details


def _overloaded(setting: Setting, running: Running, rate: float, round_: int) -> Overload:
    """Clients with the shadow off and with `rate` exchanges per second handed to it, in turns."""
    over = Overload()
    for turn in range(TURNS):
        for on in (False, True) if (round_ + turn) % 2 == 0 else (True, False):
            running.call("POST", "/v1/shadow", {"percent": 100 if on else 0})
            if on:
                _with_frames(setting, running, over, rate)
            else:
                _clients(setting, running, over.off)
    return over


def _clients(setting: Setting, running: Running, found: Clients) -> None:
    """The fixed-rate client against the data plane."""
    seconds = setting.seconds(4)
    log = running.child.log.parent / "clients.log"
    workers = running.parts()["worker"]
    waited = waited_seconds(workers)
    report = pace(running.port, setting.cores, RATE, seconds, log=log)
    found.waited.append((waited_seconds(workers) - waited) / (report["blue"] + report["green"]) * 1e6)
    windows: dict[int, list[float]] = {}
    times = read_log(log)
    began = times[0][0] + 1.0  # its warm-up
    for sent, answered, _ in times:
        if sent >= began:
            windows.setdefault(int((sent - began) / WINDOW_SECONDS), []).append((answered - sent) * 1e6)
    found.p99 += [quantile(window, 0.99) for window in windows.values() if len(window) >= RATE * WINDOW_SECONDS / 2]


def _with_frames(setting: Setting, running: Running, over: Overload, rate: float) -> None:
    """The same clients while the shadow gets too much; what came of it is added to `over`."""
    before, plan = running.call("GET", "/v1/evidence"), running.call("GET", "/v1/plan")
    tap = StateDir(running.child.log.parent / "state").tap
    seconds = setting.seconds(4) + 3
    command = frames_command(tap, setting.cores, int(before["release"]), int(plan["revision"]), rate, seconds)
    began = time.monotonic()
    sender = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=WORK)
    try:
        time.sleep(1.0)  # it makes its frames first
        _clients(setting, running, over.on)
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
    over.unaccounted += abs(handed - ended)
    over.offered = sent["offered"] / sent["seconds"]
    over.compared = (after["pairs"] - before["pairs"]) / (time.monotonic() - began)
