"""`make bench`: measure the router beside other proxies in one run and write down what came out.

Usage: python -m benchmarks.bench [--quick] [--rows cost,mirror,...] [--rounds N] [--without-router] [--render] [--output DIR]

A row that cannot be measured is reported as such and the others go on; the exit status is 1 then, and also when the
surroundings are not fit to measure in. A missed target is a finding, not a failure.
"""

from __future__ import annotations

import argparse
import datetime
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from benchmarks import machine, render, upstreams
from benchmarks.processes import ROOT, WORK, BenchError, choose_cores
from benchmarks.result import Report, Row
from benchmarks.rows import bulk, cost, events, latency, memory, pairs, recovery, switching
from benchmarks.setting import Setting

ROWS: dict[str, Callable[[Setting], Row]] = {
    "cost": cost.cost,
    "mirror": cost.mirror,
    "mirror_paced": cost.mirror_paced,
    "p99": latency.added,
    "hang": latency.hanging_green,
    "upload": bulk.upload,
    "large": bulk.download,
    "events": events.events,
    "idle": memory.idle,
    "growth": memory.growth,
    "switch": switching.switching,
    "pairs": pairs.pairs,
    "recovery": recovery.recovery,
}
ROUTER_ONLY = {"growth", "switch", "pairs", "recovery"}


def say(line: str) -> None:
    """One line of progress."""
    print(f"{datetime.datetime.now():%H:%M:%S} {line}", file=sys.stderr, flush=True)


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """The command line. Exits with status 2 and one line when it is wrong."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench", description="Measure the router beside other proxies.")
    parser.add_argument("--rows", default=",".join(ROWS), help=f"which rows, of {', '.join(ROWS)}")
    parser.add_argument("--rounds", type=int, help="interleaved rounds (default 5, with --quick 1)")
    parser.add_argument("--quick", action="store_true", help="short measurements, to see that everything runs")
    parser.add_argument("--without-router", action="store_true", help="the peers alone")
    parser.add_argument("--render", action="store_true", help="write the document again from results.json, measure nothing")
    parser.add_argument("--output", type=Path, help="where the document goes (default: here for a full run, else .work/report)")
    parsed = parser.parse_args(arguments)
    parsed.rows = parsed.rows.split(",")
    unknown = [name for name in parsed.rows if name not in ROWS]
    if unknown:
        parser.error(f"there is no row {unknown[0]!r}; there are {', '.join(ROWS)}")
    if parsed.rounds is not None and parsed.rounds < 1:
        parser.error("--rounds must be at least 1")
    parsed.rounds = parsed.rounds or (1 if parsed.quick else 5)
    full = parsed.rows == list(ROWS) and not parsed.quick and not parsed.without_router
    # Part of a run must not replace the document of a whole one.
    parsed.output = parsed.output or (ROOT if full else WORK / "report")
    return parsed


def measure(parsed: argparse.Namespace) -> Report:
    """Run the rows that were asked for. Raises BenchError when nothing can be measured here."""
    machine.ensure_programs(say)
    machine.raise_open_files()
    clear_work()
    cores = choose_cores()
    described = machine.describe(cores)
    busy = machine.busy_share(2.0)
    described["busy before the run"] = f"{100 * busy:.0f} % of all cores"
    if busy > 0.1:
        say(f"this machine is {100 * busy:.0f} % busy with something else: CPU times will be somewhat off, latencies far off")
    started, stolen = time.monotonic(), machine.stolen_seconds()
    clock = f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC"
    rows = []
    with upstreams.serving(cores) as servers:
        setting = Setting(
            cores, servers, parsed.rounds, 0.25 if parsed.quick else 1.0, not parsed.without_router, parsed.quick, say
        )
        for name in parsed.rows:
            if name in ROUTER_ONLY and parsed.without_router:
                continue
            rows.append(one_row(name, setting))
    elapsed = time.monotonic() - started
    described["time taken by the hypervisor"] = f"{100 * (machine.stolen_seconds() - stolen) / elapsed:.1f} % of one core"
    return Report(
        described,
        machine.versions(not parsed.without_router),
        clock,
        parsed.rounds,
        parsed.quick,
        elapsed / 60,
        tuple(rows),
    )


def clear_work() -> None:
    """Remove what an earlier run left: configurations, logs and state directories, but not its report."""
    for path in WORK.glob("*"):
        if path.is_dir() and path.name != "report":
            shutil.rmtree(path)


def one_row(name: str, setting: Setting) -> Row:
    """A row, or what kept it from being measured."""
    try:
        return ROWS[name](setting)
    except BenchError as error:
        problem = str(error)
    except Exception as error:  # a mistake in one row must not cost what twenty minutes of others have found
        traceback.print_exc()
        problem = f"{type(error).__name__}: {error}"
    say(f"{name} could not be measured: {problem}")
    return Row(name, name, "", "", failed=problem.splitlines()[0])


def main(arguments: list[str]) -> int:
    """Run, write, and say where. The exit status."""
    parsed = parse_arguments(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that `with` blocks end what they started
    try:
        report = render.read(parsed.output / "results.json") if parsed.render else measure(parsed)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except FileNotFoundError:
        print(f"bench: there is no {parsed.output}/results.json yet: run without --render first", file=sys.stderr)
        return 1
    render.write(report, parsed.output)
    for row in report.rows:
        for check in row.checks:
            print(f"{'ok    ' if check.reached else 'MISSED'} {row.title}: {check.what} {check.value} ({check.must})")
    print(f"written: {parsed.output / 'README.md'}")
    return 1 if any(row.failed for row in report.rows) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
