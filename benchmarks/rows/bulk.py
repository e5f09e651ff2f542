"""Throughput of large bodies: 1 MiB up, 1 MiB down."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.load import shown, wrk, wrk_command
from benchmarks.peers import NGINX, ROUTER
from benchmarks.result import Collected, Row, ratio_check
from benchmarks.upstreams import BULK_BYTES

if TYPE_CHECKING:
    from benchmarks.setting import Setting

CONNECTIONS = 8


def upload(setting: Setting) -> Row:
    """MB/s of 1 MiB request bodies."""
    return _measure(setting, "upload", "1 MiB request bodies", "Both arms are the same server, which reads and discards.")


def download(setting: Setting) -> Row:
    """MB/s of 1 MiB answers."""
    return _measure(setting, "large", "1 MiB answers", "The upstream nginx sends a file from memory.")


def _measure(setting: Setting, kind: str, title: str, upstream: str) -> Row:
    collected = Collected()
    names = setting.proxies()
    slow = setting.upstreams.slow
    blue, green = (slow, slow) if kind == "upload" else (None, None)
    for number, name in setting.interleaved(names, min(setting.rounds, 3)):
        with setting.start(name, blue=blue, green=green) as running:
            wrk(running.port, setting.cores, 1, connections=CONNECTIONS, bulk=kind)
            before = running.cpu()
            result = wrk(running.port, setting.cores, setting.seconds(3), connections=CONNECTIONS, bulk=kind)
            spent = sum(seconds - before[role] for role, seconds in running.cpu().items())
        rate = result.rate * BULK_BYTES / 1e6
        collected.add(name, rate, **{"CPU µs/MiB": spent / result.requests * 1e6})
        setting.say(f"{kind} {number + 1} {name}: {rate:.0f} MB/s, {spent / result.requests * 1e6:.0f} µs/MiB")
    row = Row(
        kind,
        f"{title}, {CONNECTIONS} connections",
        f"{upstream} Load generator and upstream share the other core, so a proxy that moves bytes for less CPU than they "
        "do is limited by them: the CPU per MiB beside the throughput tells such proxies apart.",
        "MB/s",
        collected.series(),
        commands=(shown(wrk_command("PORT", setting.cores, setting.seconds(3), connections=CONNECTIONS, bulk=kind)),),
    )
    return (
        row.checked(ratio_check(row, ROUTER, NGINX, "bluegreen / nginx", 0.8, 1.0, least=True)) if setting.with_router else row
    )
