"""Tail latency at a fixed rate: what a proxy adds, and whether a hanging green behind the mirror moves blue's."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

from benchmarks.load import pace, pace_command, shown
from benchmarks.peers import NGINX, ROUTER
from benchmarks.result import Check, Collected, Row, number, paired

if TYPE_CHECKING:
    from benchmarks.peers import Running
    from benchmarks.setting import Setting

RATE = 2000
DIRECT = "direct"


def added(setting: Setting) -> Row:
    """p99 at 2,000 requests/s less the p99 of the same client straight to the upstream, in the same round."""
    collected = Collected()
    names = [DIRECT, *setting.proxies()]
    direct: dict[str, Any] = {}
    for number_, name in ((n, p) for n in range(setting.rounds) for p in _turned(names, n)):
        if name == DIRECT:
            direct = pace(setting.upstreams.blue, setting.cores, RATE, setting.seconds(4))
            report = direct
        else:
            with setting.start(name) as running:
                report = pace(running.port, setting.cores, RATE, setting.seconds(4))
        times = report["us"]
        base = direct["us"]
        extra = times["p99"] if name == DIRECT else times["p99"] - base["p99"]
        details = {"p50 µs": times["p50"], "p99 µs": times["p99"], "p99.9 µs": times["p999"]}
        share = 100 * report["green"] / max(1, report["blue"] + report["green"])
        details |= {"green %": share, "errors": float(report["errors"] + report["unanswered"])}
        collected.add(name, extra, **details)
        setting.say(f"p99 {number_ + 1}/{setting.rounds} {name}: {times['p99']:.0f} µs ({extra:+.0f})")
    row = Row(
        "p99",
        f"p99 at a fixed {RATE:,} requests/s, added over direct",
        "An open-loop client sends at the fixed rate over 64 connections whatever comes back and times each answer from "
        "the moment its request was due. The entry `direct` is the p99 of that client straight to the upstream, in µs; "
        "every other entry is the proxy's p99 less the direct one of the same round.",
        "µs added at p99",
        collected.series(),
        commands=(shown(pace_command("PORT", setting.cores, RATE, setting.seconds(4))),),
    )
    if not setting.with_router:
        return row
    more = statistics.median(paired(row.get(ROUTER), row.get(NGINX), subtract=True))
    check = Check("bluegreen less nginx", "≤ +300 µs", "≤ 0 µs", f"{number(more)} µs", more <= 300, more <= 0)
    return row.checked(check)


def _turned(names: list[str], number_: int) -> list[str]:
    """Direct first, since the others are measured against it, then the rest in another order each round."""
    rest = names[1:]
    turn = number_ % len(rest)
    return [names[0], *rest[turn:], *rest[:turn]]


def hanging_green(setting: Setting) -> Row:
    """p99 of blue while each mirrored request hangs for 5 s at green, over the p99 without mirroring."""
    collected = Collected()
    for number_, name in setting.interleaved(setting.names([NGINX, "envoy"])):
        if name == ROUTER:
            off, on = _router_pair(setting, number_)
        elif number_ > 0:
            continue  # the peers are here for contrast: one round of each
        else:
            off, on = (_peer_once(setting, name, mirror) for mirror in (False, True))
        ratio = on["us"]["p99"] / off["us"]["p99"]
        lost = float(on["errors"] + on["unanswered"])
        collected.add(name, ratio, **{"p99 µs without": off["us"]["p99"], "p99 µs with": on["us"]["p99"], "errors": lost})
        setting.say(f"hang {number_ + 1}/{setting.rounds} {name}: {off['us']['p99']:.0f} -> {on['us']['p99']:.0f} µs")
    row = Row(
        "hang",
        "p99 of blue while green hangs on each mirrored request",
        f"All traffic goes to blue at {RATE:,} requests/s, and every request is mirrored to a green that answers after 5 s. "
        "The value is blue's p99 with that mirror on over the p99 with it off: for the router the same process, switched "
        "by `POST /v1/shadow`, which one comes first changing each round; for nginx and Envoy two starts, one round.",
        "× p99 without mirror",
        collected.series(),
        commands=(shown(pace_command("PORT", setting.cores, RATE, setting.seconds(6))),),
    )
    if not setting.with_router:
        return row
    ratio = row.get(ROUTER).median
    return row.checked(Check("bluegreen, with / without", "≤ 1.1 ×", "1.0 ×", f"{ratio:.2f} ×", ratio <= 1.1, ratio <= 1.02))


def _router_pair(setting: Setting, number_: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """(report without, report with) from one router."""
    reports: dict[int, dict[str, Any]] = {}
    with setting.start(ROUTER, green=setting.upstreams.slow, green_percent=0, mirror=True) as running:
        pace(running.port, setting.cores, RATE, 1)
        for percent in (0, 100) if number_ % 2 == 0 else (100, 0):
            running.call("POST", "/v1/shadow", {"percent": percent})
            reports[percent] = _hung_pace(setting, running)
    return reports[0], reports[100]


def _peer_once(setting: Setting, name: str, mirror: bool) -> dict[str, Any]:
    with setting.start(name, green=setting.upstreams.slow, green_percent=0, mirror=mirror) as running:
        return _hung_pace(setting, running, min(3.0, setting.seconds(6)))


def _hung_pace(setting: Setting, running: Running, seconds: float | None = None) -> dict[str, Any]:
    return pace(running.port, setting.cores, RATE, seconds or setting.seconds(6))
