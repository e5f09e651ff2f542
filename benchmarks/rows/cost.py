"""CPU time per request: small JSON over 32 connections, plain and with every request mirrored."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.load import pace, pace_command, shown, wrk, wrk_command
from benchmarks.peers import NGINX, PEERS, ROUTER
from benchmarks.result import Collected, Row, bound_check, ratio_check

if TYPE_CHECKING:
    from benchmarks.peers import Running
    from benchmarks.setting import Setting

WARM_UP_S = 1
EMPTY = "nginx, empty mirror answers"
FIRST = "bluegreen, shadow first"


def cost(setting: Setting) -> Row:
    """CPU µs per request of every proxy with the 90/10 split; for the router that of all its processes together."""
    collected = Collected()
    names = setting.names(list(PEERS))
    for number, name in setting.interleaved(names):
        with setting.start(name) as running:
            wrk(running.port, setting.cores, WARM_UP_S)
            counted = setting.upstreams.counts()
            before = running.cpu()
            result = wrk(running.port, setting.cores, setting.seconds(4))
            each = _per_request(before, running.cpu(), result.requests)
            counted = setting.upstreams.counts().since(counted)
        details = {"requests/s": result.rate, "new upstream connections": float(counted.connections)}
        if name == ROUTER:
            details |= {"worker alone µs": each["worker"], "other processes µs": sum(each.values()) - each["worker"]}
        collected.add(name, sum(each.values()), **details)
        setting.say(f"cost {number + 1}/{setting.rounds} {name}: {sum(each.values()):.1f} µs at {result.rate:.0f}/s")
    row = Row(
        "cost",
        "CPU per request, small JSON, 32 connections",
        "CPU time (user and system) of all processes of the proxy divided by the requests answered, under wrk with 32 "
        "connections. Request body about 300 bytes, answer about 200, both Open Inference Protocol v2; every request has "
        "another user id. For the router that is worker, control, shadow (idle here) and supervisor together.",
        "µs/request",
        collected.series(),
        commands=(shown(wrk_command("PORT", setting.cores, setting.seconds(4))),),
    )
    if not setting.with_router:
        return row
    return row.checked(
        ratio_check(row, ROUTER, NGINX, "bluegreen / nginx", 1.3, 1.0),
        ratio_check(row, ROUTER, "envoy", "bluegreen / Envoy", 0.6, None),
        ratio_check(row, ROUTER, "naive", "bluegreen / naive proxy", 0.1, None),
    )


def mirror(setting: Setting) -> Row:
    """CPU µs per request with all requests mirrored; for the router that of its worker, the shadow process beside it."""
    collected = Collected()
    names = [*setting.mirroring(), EMPTY, *([FIRST] if setting.with_router else [])]
    for number, name in setting.interleaved(names):
        with _start(setting, name) as running:
            wrk(running.port, setting.cores, WARM_UP_S)
            if name == FIRST:
                running.settle()  # else some of what is mirrored below belongs to the warm-up
            counted = setting.upstreams.counts()
            pairs = running.pairs()
            before = running.cpu()
            result = wrk(running.port, setting.cores, setting.seconds(4))
            spent = _per_request(before, running.cpu(), result.requests)
            if name == FIRST:
                running.settle()
                spent |= {"shadow": _per_request(before, running.cpu(), result.requests)["shadow"]}
            later = running.pairs()
            counted = setting.upstreams.counts().since(counted)
        mirrored = (counted.requests - result.requests) / result.requests
        details = {
            "requests/s": result.rate,
            "mirrored %": 100 * mirrored,
            "new upstream connections": float(counted.connections),
        }
        if name in (ROUTER, FIRST):
            details |= {
                "shadow µs": spent["shadow"],
                "compared pairs": later[0] - pairs[0],
                "dropped and counted": later[1] - pairs[1],
            }
        value = spent["worker"] if name in (ROUTER, FIRST) else sum(spent.values())
        collected.add(name, value, **details)
        setting.say(f"mirror {number + 1}/{setting.rounds} {name}: {value:.1f} µs, {100 * mirrored:.0f} % mirrored")
    row = Row(
        "mirror",
        "CPU per request with 100 % mirroring, 32 connections",
        "As above, and every request is offered to the mirror. For the router: CPU of the worker, which hands each "
        "finished exchange to the shadow process; what that process spends to send the copy, to read both answers and to "
        "compare their predictions is in its own column. wrk offers more than one core can mirror, and clients go first: the "
        "router's shadow drops and counts what it cannot take (its share is shown). In the entry with the shadow first the "
        "priorities are the other way round: the worker gets what the shadow leaves (nice 19), so that everything is mirrored, and "
        "fewer requests are served. The peers mirror inside the proxy, all of it, and throw the answer away unread. nginx closes the "
        "upstream connection of each mirrored request, since it does not read the answer's body; another entry shows "
        "nginx with a mirror that answers 204, where it can keep them.",
        "µs/request",
        collected.series(),
        commands=(shown(wrk_command("PORT", setting.cores, setting.seconds(4))),),
    )
    if not setting.with_router:
        return row
    mirrored = row.get(FIRST).details["mirrored %"]
    return row.checked(
        ratio_check(row, ROUTER, NGINX, "bluegreen worker / nginx mirror", 0.6, 0.45),
        ratio_check(row, FIRST, NGINX, "the same, shadow first", 0.6, 0.45),
        bound_check("shadow first: mirrored", mirrored, "%", 99, None, least=True),
    )


def mirror_paced(setting: Setting) -> Row:
    """The same at a fixed rate low enough that the shadow compares every exchange."""
    rate = 1000
    collected = Collected()
    names = [*setting.mirroring(), EMPTY]
    for number, name in setting.interleaved(names, min(setting.rounds, 3)):
        with _start(setting, name) as running:
            pace(running.port, setting.cores, rate, 1)
            running.settle()
            counted = setting.upstreams.counts()
            pairs = running.pairs()
            before = running.cpu()
            report = pace(running.port, setting.cores, rate, setting.seconds(4), warmup=0)
            requests = report["requests"]
            spent = _per_request(before, running.cpu(), requests)
            running.settle()
            after = _per_request(before, running.cpu(), requests)
            later = running.pairs()
            counted = setting.upstreams.counts().since(counted)
        details = {"mirrored %": 100 * (counted.requests - requests) / requests}
        if name == ROUTER:
            details |= {"shadow µs": after["shadow"], "compared %": 100 * (later[0] - pairs[0]) / requests}
        value = spent["worker"] if name == ROUTER else sum(spent.values())
        collected.add(name, value, **details)
        setting.say(f"mirror_paced {number + 1} {name}: {value:.1f} µs, {details['mirrored %']:.0f} % mirrored")
    row = Row(
        "mirror_paced",
        f"CPU per request with 100 % mirroring, fixed {rate:,} requests/s",
        "As above at a fixed rate, so that each proxy mirrors everything. At a low rate every request costs more than "
        "under full load, for every proxy: each wakes up for a single request.",
        "µs/request",
        collected.series(),
        commands=(shown(pace_command("PORT", setting.cores, rate, setting.seconds(4), warmup=0)),),
    )
    return (
        row.checked(ratio_check(row, ROUTER, NGINX, "bluegreen worker / nginx mirror, nothing dropped", 0.6, 0.45))
        if setting.with_router
        else row
    )


def _start(setting: Setting, name: str) -> Running:
    peer = {EMPTY: NGINX, FIRST: ROUTER}.get(name, name)
    return setting.start(peer, mirror=True, empty_mirror=name == EMPTY, shadow_first=name == FIRST)


def _per_request(before: dict[str, float], after: dict[str, float], requests: int) -> dict[str, float]:
    """CPU µs per request between two readings, by role."""
    return {role: (seconds - before[role]) / requests * 1e6 for role, seconds in after.items()}
