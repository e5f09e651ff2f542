"""From green's first 5xx to 0 % green: 2,000 requests/s offered whatever comes back, half of them to green, fallback armed.

For each burst: a fresh green, a rollout to its 50 % step, and there the server begins to fail users' requests, all of them or 60 %
by turns. The server says when it answered the first 5xx and when the last user's request reached it; the plan page, looked at
every millisecond from outside, says when green had 0 %. All are CLOCK_MONOTONIC of one machine. The client's report counts every
request that did not get a whole 200.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from dataclasses import dataclass
from typing import Any

from benchmarks.processes import BenchError, Child
from benchmarks.rolling.lane import Lane, until
from benchmarks.rolling.worlds import BURST
from router.rollout.states import State

OFFERED = 2000.0
SECONDS = 9.0  # of load around each burst
SHARES = (1.0, 0.6)  # of the users' requests that fail in a burst


@dataclass(frozen=True, slots=True)
class Burst:
    """One burst; times in milliseconds after green's first 5xx.

    `zero_ms`: the plan gives green 0 %; `last_ms`: the last user's request that reached green. `failures` of green there were;
    of the client's requests, `asked` were sent, `errors` saw anything but a whole 200 (or no answer).
    """

    share: float
    zero_ms: float
    last_ms: float
    failures: int
    reason: str
    asked: int
    errors: int
    p99_ms: float
    late_p99_ms: float
    complaints: tuple[str, ...]


async def bursts(lane: Lane, count: int) -> list[Burst]:
    """So many bursts, one after the other."""
    found = []
    await lane.behave("blue", {"latency_ms": 2.0, "sigma": 0.2})
    for n in range(count):
        found.append(one := await _burst(lane, SHARES[n % len(SHARES)]))
        line = f"burst {n + 1}/{count}, {one.share:.0%} fail: 0 % green after {one.zero_ms:.0f} ms, last request there after {one.last_ms:.0f} ms"
        print(
            f"{line}; {one.errors} of {one.asked:,} client requests saw an error",
            *one.complaints,
            sep="\n  ! " if one.complaints else "; ",
            flush=True,
        )
    return found


async def _burst(lane: Lane, share: float) -> Burst:
    await lane.candidate()
    await lane.behave("green", {"latency_ms": 2.0, "sigma": 0.2})
    client = lane.pacer(OFFERED, SECONDS)
    try:
        end = time.monotonic() + SECONDS - 2.0
        number = await lane.rollout(BURST)
        while lane.plan().split.green_percent != 50:
            if time.monotonic() > end:
                raise BenchError(f"rollout {number} does not come to 50 %: {lane.newest().reason}")
            await asyncio.sleep(0.02)
        await asyncio.sleep(random.uniform(0.8, 1.8))
        if lane.newest().state is not State.STEPPING:
            raise BenchError(f"rollout {number} was {lane.newest().state} before any burst: {lane.newest().reason}")
        await lane.behave("green", {"latency_ms": 2.0, "sigma": 0.2, "live_errors": share})
        zero = await _nothing(lane)
        ended = await lane.until_ended(number, 10.0)
        await until(lambda: _over(client), SECONDS + 5.0, "the client does not end")
        counts = await lane.counted("green")
        report = _report(client.log.read_text())
    finally:
        client.end()
    first, last = counts["first_failure"], counts["last_live"]
    if first is None or zero is None:
        raise BenchError(f"rollout {number}: the burst did not come about: {counts}")
    complaints = []
    if ended.state is not State.ROLLED_BACK or not ended.reason.startswith("fast breaker: "):
        complaints.append(f"rollout {number} is {ended.state}: {ended.reason}")
    return Burst(
        share=share,
        zero_ms=1000 * (zero - first),
        last_ms=1000 * (last - first),
        failures=counts["failed"],
        reason=ended.reason,
        asked=int(OFFERED * SECONDS),
        errors=int(report["errors"]) + int(report["unanswered"]),
        p99_ms=float(report["us"]["p99"]) / 1000,
        late_p99_ms=float(report["late_us"]["p99"]) / 1000,
        complaints=tuple(complaints),
    )


async def _nothing(lane: Lane) -> float | None:
    """When the plan gives green nothing, CLOCK_MONOTONIC seconds; None when it does not within five."""
    revision, end = lane.page.revision, time.monotonic() + 5.0
    while time.monotonic() < end:
        if lane.page.revision != revision and lane.plan().split.green_percent == 0:
            return time.monotonic()
        await asyncio.sleep(0.001)
    return None


async def _over(client: Child) -> bool:
    return client.process.poll() is not None


def _report(text: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(text)
    except ValueError:
        raise BenchError(f"the client gave no report: {text[-500:]!r}") from None
    return found
