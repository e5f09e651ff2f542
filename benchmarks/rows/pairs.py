"""How many pairs the shadow process compares per second of one core."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from benchmarks.load import shown, wrk, wrk_command
from benchmarks.measure import peak_resident_bytes
from benchmarks.peers import ROUTER
from benchmarks.result import Collected, Row, bound_check

if TYPE_CHECKING:
    from benchmarks.setting import Setting


def pairs(setting: Setting) -> Row:
    """Pairs compared per CPU second of the shadow process, under more load than it can take."""
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
            peak = max(peak_resident_bytes(pid) for pid in running.parts()["shadow"])
        compared = after[0] - before[0]
        details = {
            "compared": float(compared),
            "dropped and counted": float(after[1] - before[1]),
            "offered": float(result.requests),
            "shadow CPU s": spent,
            "elapsed s": elapsed,
            "shadow peak MiB": peak / 2**20,
        }
        collected.add(ROUTER, compared / spent, **details)
        setting.say(f"pairs {round_ + 1}: {compared / spent:.0f} per CPU second, {compared} of {result.requests} offered")
    row = Row(
        "pairs",
        "Pairs compared by the shadow per second of one core, small JSON",
        "All traffic to blue, all of it sampled, under wrk with 32 connections, which is more than the shadow can take: it "
        "drops and counts the rest. The value is pairs compared (request sent to green, both answers read and compared, "
        "evidence kept) over the CPU time of the shadow process, including what it had queued when the load ended.",
        "pairs/s of one core",
        collected.series(),
        commands=(shown(wrk_command("PORT", setting.cores, setting.seconds(6))),),
    )
    ours = row.get(ROUTER)
    return row.checked(
        bound_check("pairs per second of one core", ours.median, "/s", 3000, 8000, least=True),
        bound_check("most memory of the shadow process", ours.details["shadow peak MiB"], "MiB", 500, None),
    )
