"""Memory: of an idle connection, and of a worker after many requests."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from benchmarks.load import held_open, idle_command, shown, wrk, wrk_command
from benchmarks.measure import resident_bytes
from benchmarks.peers import ROUTER
from benchmarks.result import Collected, Row, bound_check

if TYPE_CHECKING:
    from benchmarks.setting import Setting


def idle(setting: Setting) -> Row:
    """KiB of resident memory per idle kept-alive connection."""
    connections = 5000 if setting.scale >= 1 else 1000
    collected = Collected()
    names = setting.proxies()
    for number, name in setting.interleaved(names, min(setting.rounds, 2)):
        with setting.start(name) as running:
            wrk(running.port, setting.cores, 1)
            before = running.resident()
            with held_open(running.port, setting.cores, connections):
                time.sleep(1)
                after = running.resident()
        each = (after - before) / connections / 1024
        collected.add(name, each, **{"resident before MiB": before / 2**20, "resident with MiB": after / 2**20})
        setting.say(f"idle {number + 1} {name}: {each:.2f} KiB each")
    row = Row(
        "idle",
        f"{connections:,} idle kept-alive connections: memory per connection",
        "Growth of the proxy's resident memory (VmRSS; the worker's for the router) from after a warm-up under 32 "
        "connections to while the connections stand idle, each having had one answer, divided by their number. Socket "
        "buffers are the kernel's and not in it.",
        "KiB/connection",
        collected.series(),
        commands=(shown(idle_command("PORT", setting.cores, connections)),),
    )
    return row.checked(bound_check("bluegreen", row.get(ROUTER).median, "KiB", 8, 4)) if setting.with_router else row


def growth(setting: Setting) -> Row:
    """Resident memory of a worker after many requests over that after few."""
    few, many = 10_000, 1_000_000 if setting.scale >= 1 else 50_000
    collected = Collected()
    with setting.start(ROUTER) as running:
        worker = running.parts()["worker"]
        done = 0
        while done < few:
            done += wrk(running.port, setting.cores, 1).requests
        early = resident_bytes(worker)
        first = done
        while done < many:
            done += wrk(running.port, setting.cores, 10 if setting.scale >= 1 else 1).requests
            setting.say(f"growth: {done:,} of {many:,} requests, {resident_bytes(worker) / 2**20:.1f} MiB")
        late = resident_bytes(worker)
    details = {
        "first reading after requests": float(first),
        "first MiB": early / 2**20,
        "last reading after requests": float(done),
        "last MiB": late / 2**20,
    }
    collected.add(ROUTER, late / early, **details)
    row = Row(
        "growth",
        f"Resident memory of a worker after {many:,} requests, against after {few:,}",
        "VmRSS of the one worker, read when wrk's run that passed the first count had ended, and again after the last.",
        "× of the first reading",
        collected.series(),
        commands=(shown(wrk_command("PORT", setting.cores, 10)),),
    )
    return row.checked(
        bound_check("last / first", late / early, "×", 1.05, 1.005),
        bound_check("resident memory of a worker", late / 2**20, "MiB", 60, None),
    )
