"""Server-sent events: how much later each one arrives because of the proxy."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

from benchmarks.load import client, shown, streams_command
from benchmarks.peers import NGINX, ROUTER
from benchmarks.processes import BenchError
from benchmarks.result import Check, Collected, Row, number, paired

if TYPE_CHECKING:
    from benchmarks.setting import Setting

DIRECT = "direct"


def events(setting: Setting) -> Row:
    """p99 delay per event less that of the same streams read straight from the server, in the same round."""
    collected = Collected()
    names = setting.proxies()
    slow = setting.upstreams.slow
    for round_ in range(min(setting.rounds, 3)):
        direct = _read(setting, slow)
        collected.add(DIRECT, direct["us"]["p99"], **{"p50 µs": direct["us"]["p50"]})
        turn = round_ % len(names)
        for name in [*names[turn:], *names[:turn]]:
            with setting.start(name, blue=slow, green=slow) as running:
                report = _read(setting, running.port)
            extra = report["us"]["p99"] - direct["us"]["p99"]
            collected.add(name, extra, **{"p50 µs": report["us"]["p50"], "p99 µs": report["us"]["p99"]})
            setting.say(f"events {round_ + 1} {name}: p99 {report['us']['p99']:.0f} µs ({extra:+.0f})")
    row = Row(
        "events",
        "Server-sent events: added delay per event, p99",
        "Twenty streams of 50 events/s each. Every event carries the monotonic clock of its writing, and the client "
        "subtracts. `direct` is the p99 without a proxy; every other entry is what the proxy adds to it. nginx runs with "
        "`proxy_buffering off` here.",
        "µs added at p99",
        collected.series(),
        commands=(shown(streams_command("PORT", setting.cores, setting.seconds(4))),),
    )
    if not setting.with_router:
        return row
    ours = row.get(ROUTER)
    less = statistics.median(paired(ours, row.get(NGINX), subtract=True))
    value = f"{number(ours.median)} µs (nginx {number(row.get(NGINX).median)} µs)"
    return row.checked(Check("bluegreen", "≤ 1,000 µs", "≤ nginx", value, ours.median <= 1000, less <= 0))


def _read(setting: Setting, port: int) -> dict[str, Any]:
    seconds = setting.seconds(4)
    report = client(streams_command(port, setting.cores, seconds), seconds)
    if report["events"] != report["expected"]:
        raise BenchError(f"{report['events']} of {report['expected']} events arrived whole through port {port}")
    return report
