"""How fast a switch is, and whether it holds: the router alone, with four workers under load."""

from __future__ import annotations

import random
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.configs import Wanted
from benchmarks.load import pace_command, read_log, shown
from benchmarks.measure import quantile
from benchmarks.peers import ROUTER, ControlCalls, start_router
from benchmarks.processes import WORK, BenchError
from benchmarks.result import Check, Collected, Row, bound_check, number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.setting import Setting

RATE = 2000
WORKERS = 4
BLUE, GREEN = 1, 2


@dataclass(frozen=True, slots=True)
class Switch:
    """One call: which colour it asked for, and the monotonic seconds when it was sent and when it returned."""

    colour: int
    sent: float
    returned: float


@dataclass(frozen=True, slots=True)
class Held:
    """What the client's log says about the switches.

    `last_old_s`: how long after a call was sent the last request was sent that the old colour still answered, seconds.
    """

    checked: int
    wrong: int
    last_old_s: float


def held(switches: Sequence[Switch], log: Sequence[tuple[float, float, int]]) -> Held:
    """Hold each answered request against the switches.

    A request that was sent after a switch returned and answered before the next one was sent must have the switch's colour.
    What is under way while a switch runs may have either.
    """
    checked = wrong = 0
    last_old = 0.0
    ordered = sorted(log)
    position = 0
    for switch, after in zip(switches, [*switches[1:], Switch(0, float("inf"), float("inf"))], strict=True):
        while position < len(ordered) and ordered[position][0] < switch.sent:
            position += 1
        for sent, answered, colour in ordered[position:]:
            if sent >= after.sent:
                break
            if colour != switch.colour and answered < after.sent:
                last_old = max(last_old, sent - switch.sent)
                wrong += sent > switch.returned
            checked += sent > switch.returned and answered < after.sent
    return Held(checked, wrong, last_old)


def switching(setting: Setting) -> Row:
    """p99 of the switch call, and requests of the old colour that were sent after it had returned."""
    collected = Collected()
    calls = 300 if setting.scale >= 1 else 30
    seconds = calls * 0.03 + 2
    log = WORK / "switch.log.bin"
    wrong = 0
    for round_ in range(min(setting.rounds, 3)):
        wanted = Wanted(0, setting.upstreams.blue, setting.upstreams.green, 0)
        with start_router(wanted, setting.cores, workers=WORKERS, spread=True) as running:
            command = pace_command(running.port, setting.cores, RATE, seconds, warmup=0, log=log)
            client = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=WORK)
            try:
                time.sleep(0.8)
                switches = _switch(ControlCalls(running.control), calls)
                _, errors = client.communicate(timeout=seconds + 30)
            finally:
                if client.poll() is None:
                    client.kill()
                    client.wait()
            if client.returncode != 0:
                raise BenchError(f"the fixed-rate client failed: {errors.decode()[-500:]}")
        times = [switch.returned - switch.sent for switch in switches]
        found = held(switches, read_log(log))
        wrong += found.wrong
        details = {
            "p50 ms": quantile(times, 0.5) * 1e3,
            "switches": float(len(times)),
            "last request of the old colour sent after ms": found.last_old_s * 1e3,
            "requests checked": float(found.checked),
            "old colour after return": float(found.wrong),
        }
        collected.add(ROUTER, quantile(times, 0.99) * 1e3, **details)
        setting.say(f"switch {round_ + 1}: p99 {quantile(times, 0.99) * 1e3:.2f} ms, {found.wrong} wrong of {found.checked}")
    row = Row(
        "switch",
        f"Switching back and forth, {WORKERS} workers under load",
        f"`POST /v1/switch` alternates the colour at random moments about 30 ms apart while a client sends {RATE:,} "
        "requests/s over 64 connections. A request that is sent after a switch has returned, and answered before the next "
        "one is sent, must be answered by the new colour. No process of the router is pinned here.",
        "ms, p99 of the call",
        collected.series(),
        commands=(shown(pace_command("PORT", setting.cores, RATE, seconds, warmup=0)),),
    )
    ours = row.get(ROUTER)
    return row.checked(
        Check("requests of the old colour after return, all rounds", "0", "0", number(wrong), wrong == 0, wrong == 0),
        bound_check("the call, p99", ours.median, "ms", 10, 2),
    )


def _switch(control: ControlCalls, calls: int) -> list[Switch]:
    made = []
    for call in range(calls):
        colour = GREEN if call % 2 == 0 else BLUE
        sent = time.monotonic()
        control.call("POST", "/v1/switch", {"to": "green" if colour == GREEN else "blue", "reason": "benchmark"})
        made.append(Switch(colour, sent, time.monotonic()))
        time.sleep(random.uniform(0.01, 0.03))
    return made
