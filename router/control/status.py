"""`GET /v1/status`: what holds, who is well, and what was counted, in one document.

Put together from the plan page and the counter pages alone; so it is there while the store is not.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from fastapi import APIRouter

from models.arm import Arm, Colour
from router import counters
from router.control.plans import Control
from router.control.problems import Json
from router.counters import COLOUR_BASE, ArmCounts, CounterPage, sum_arm
from router.plan import Plan
from router.proxy.tap import short_path

BREAKER_WORDS = ("closed", "open", "half-open")
COLOURS = {Colour.BLUE: 0, Colour.GREEN: 1}


def status_routes(control: Control, tap: Path, rollout: Callable[[], Mapping[str, Any]]) -> APIRouter:
    """`/v1/status`. `rollout` gives the present state of the rollout, `tap` is the shadow's socket."""
    routes = APIRouter(tags=["status"])

    @routes.get("/v1/status")
    def status() -> Json:
        """Plan, servers' health, workers and counts."""
        pages, living = control.workers.pages(), control.workers.living_pages()
        return Json(status_document(control.plan(), pages, living, shadow_running=is_listening(tap), rollout=rollout()))

    return routes


def status_document(
    plan: Plan,
    pages: Mapping[int, CounterPage],
    living: Mapping[int, CounterPage],
    *,
    shadow_running: bool,
    rollout: Mapping[str, Any],
) -> dict[str, Any]:
    """The status: counts are summed over all `pages`, what is now so over the `living` workers' alone."""
    return {
        "revision": plan.revision,
        "release": plan.release,
        "blue": _arm(plan.blue, living, Colour.BLUE),
        "green": _arm(plan.green, living, Colour.GREEN) if plan.green else None,
        "split": plan.split.to_dict(),
        "shadow": {**plan.shadow.to_dict(), "running": shadow_running},
        "rollout": dict(rollout),
        "workers": [_worker(slot, page) for slot, page in living.items()],
        "connections": sum(page.words[counters.CONNECTIONS] for page in living.values()),
        "recalled": sum(page.words[counters.RECALLED] for page in pages.values()),
        "arms": {colour.value: _counts(pages, living, colour) for colour in Colour},
        "own_answers": {status: count for status, count in own_answers(pages).items() if count},
        "change": plan.change.to_dict(),
    }


def healthy_servers(arm: Arm, living: Mapping[int, CounterPage], colour: Colour) -> list[bool]:
    """For each of an arm's servers whether every living worker has it in use."""
    down = 0
    for page in living.values():
        down |= page.words[COLOUR_BASE[COLOURS[colour]] + counters.DOWN]
    return [not down >> index & 1 for index in range(len(arm.servers))]


def arm_word(pages: Mapping[int, CounterPage], colour: Colour, word: int) -> int:
    """One of an arm's words (router/counters.py), summed over pages."""
    position = COLOUR_BASE[COLOURS[colour]] + word
    return sum(page.words[position] for page in pages.values())


def breaker(living: Mapping[int, CounterPage], colour: Colour) -> int:
    """The worst state of an arm's breaker on any living worker: 0 closed, 2 half-open, 1 open (router/counters.py)."""
    states = [page.words[COLOUR_BASE[COLOURS[colour]] + counters.BREAKER] for page in living.values()]
    return 1 if 1 in states else max(states, default=0)


def own_answers(pages: Mapping[int, CounterPage]) -> dict[str, int]:
    """How many answers the router made itself, by status."""
    return {
        str(status): sum(page.words[counters.OWN_BASE + index] for page in pages.values())
        for index, status in enumerate(counters.OWN_STATUSES)
    }


def is_listening(path: Path) -> bool:
    """Whether somebody accepts connections on a Unix socket."""
    with closing(socket.socket(socket.AF_UNIX)) as probe, short_path(path) as name:
        probe.settimeout(0.2)
        return probe.connect_ex(name) == 0


def _arm(arm: Arm, living: Mapping[int, CounterPage], colour: Colour) -> dict[str, Any]:
    healthy = healthy_servers(arm, living, colour)
    servers = [{"url": url, "healthy": well} for url, well in zip(arm.servers, healthy, strict=True)]
    return {"name": arm.name, "servers": servers}


def _worker(slot: int, page: CounterPage) -> dict[str, Any]:
    words = page.words
    return {
        "slot": slot,
        "pid": words[counters.PID],
        "revision": words[counters.REVISION],
        "requests": sum(sum(words[base + 1 : base + 5]) for base in COLOUR_BASE),
        "connections": words[counters.CONNECTIONS],
        "draining": bool(words[counters.DRAINING]),
    }


def _counts(pages: Mapping[int, CounterPage], living: Mapping[int, CounterPage], colour: Colour) -> dict[str, Any]:
    counts = sum_arm(pages.values(), COLOURS[colour])
    return {
        "requests": counts.requests,
        "errors": counts.errors,
        "fallbacks": counts.fallbacks,
        "latency_ms": latency_ms(counts),
        "retries": counts.retries,
        "skipped": counts.skipped,
        "in_flight": arm_word(living, colour, counters.IN_FLIGHT),
        "queued": arm_word(living, colour, counters.QUEUED),
        "breaker": BREAKER_WORDS[breaker(living, colour)],
    }


def latency_ms(counts: ArmCounts) -> dict[str, float | None]:
    """Quantiles of an arm's latencies in milliseconds; None while nothing was counted."""
    return {f"p{round(level * 100)}": counts.quantile(level) for level in (0.5, 0.95, 0.99)}
