"""Rollouts end to end with real processes, at holds of half a second. `make rollouts`, or

    python -m benchmarks.rollouts [--write] [--only aa|worse|idle|kills|burst] [--count N] [--parallel N]

`bluegreen serve`, two model servers that can be told to err, and clients at a fixed rate, all over 127.0.0.1. Five parts:

aa     40 rollouts of a green that is blue: no more rolled back than alpha allows.
worse  40 of a green that is worse, in six ways, some of which show only with users: all rolled back, none beyond the step at which
       the evidence sufficed.
idle   10 without traffic: none advances.
kills  The control process killed with SIGKILL at 100 random moments (and 25 aimed ones): nothing skipped, repeated or lost.
burst  10 bursts of 5xx at 50 % green under 2,000 requests/s: how soon green has 0 %, and what clients see of it.

`--count` replaces each part's number, `--parallel` is how many routers run side by side (two for two cores). Exit status 1 when
something is not as it must be; `--write` puts the figures, and what fell short, into docs/rollouts.md. About a quarter of an hour
in all. Ends what it started, and keeps its logs when something failed.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from time import monotonic

import uvloop

from benchmarks.machine import raise_open_files
from benchmarks.processes import BenchError
from benchmarks.rolling import report
from benchmarks.rolling.bursts import bursts
from benchmarks.rolling.kills import kills
from benchmarks.rolling.lane import Lane, open_lane
from benchmarks.rolling.report import Part
from benchmarks.rolling.trials import alike, silent, worse
from benchmarks.soaking.wire import Cut

COUNTS = {"aa": 40, "worse": 40, "idle": 10, "kills": 100, "burst": 10}
BURST_WORKERS = 2


async def _aa(lanes: Sequence[Lane], count: int) -> Part:
    return report.alike_part(await alike(lanes, count))


async def _worse(lanes: Sequence[Lane], count: int) -> Part:
    return report.worse_part(await worse(lanes, count))


async def _idle(lanes: Sequence[Lane], count: int) -> Part:
    return report.idle_part(await silent(lanes, count))


async def _kills(lanes: Sequence[Lane], count: int) -> Part:
    return report.kills_part(await kills(lanes, count))


async def _burst(lanes: Sequence[Lane], count: int) -> Part:
    return report.burst_part(await bursts(lanes[0], count))


PARTS: dict[str, Callable[[Sequence[Lane], int], Awaitable[Part]]] = {
    "aa": _aa,
    "worse": _worse,
    "idle": _idle,
    "kills": _kills,
    "burst": _burst,
}


async def measure(name: str, count: int, parallel: int, directory: Path) -> Part:
    """One part, on routers of its own. Raises BenchError or Cut when it cannot go on."""
    began = monotonic()
    lanes = 1 if name == "burst" else max(min(parallel, count), 1)
    settings = {"workers": BURST_WORKERS} if name == "burst" else {}
    print(f"--- {name}: {count}, on {lanes} router{'' if lanes == 1 else 's'}", flush=True)
    async with AsyncExitStack() as stack:
        opened = [await stack.enter_async_context(open_lane(f"{name}-{n}", directory, **settings)) for n in range(lanes)]
        part = await PARTS[name](opened, count)
    print(f"--- {name}: {monotonic() - began:.0f} s\n{part.text}\n", flush=True)
    return part


def leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    """The errors in a group, however deep."""
    return [leaf for one in group.exceptions for leaf in (leaves(one) if isinstance(one, BaseExceptionGroup) else [one])]


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, and write if asked; 0 when everything was as it must be."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.rollouts", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="put the figures into docs/rollouts.md")
    parser.add_argument("--only", choices=tuple(COUNTS), action="append", help="this part alone; may be given again")
    parser.add_argument("--count", type=int, help="so many of each part instead of its own number")
    parser.add_argument("--parallel", type=int, default=2, help="routers side by side")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="of the moments that are chosen here")
    options = parser.parse_args(arguments)
    if options.parallel < 1 or (options.count is not None and options.count < 1):
        parser.error("--count and --parallel must be at least 1")
    random.seed(options.seed)
    raise_open_files()
    directory = Path(tempfile.mkdtemp(prefix="bluegreen-rollouts-"))  # not in .work, which other benchmarks clear
    print(f"seed {options.seed}; logs in {directory}\n{report.setting()}", flush=True)
    failures: list[str] = []
    for name in options.only or COUNTS:
        broken: list[str] = []
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                part = runner.run(measure(name, options.count or COUNTS[name], options.parallel, directory))
        except* (BenchError, Cut) as group:
            broken += [str(error) for error in leaves(group)]
        if broken:
            print(f"{name} could not go on; the logs are in {directory}: {'; '.join(broken)}", file=sys.stderr)
            return 1
        failures += [f"{name}: {line}" for line in part.failures]
        if options.write:
            report.write([part])
    for failure in failures:
        print(f"FAILED: {failure}", file=sys.stderr)
    if not failures:
        shutil.rmtree(directory)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
