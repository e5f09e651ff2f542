"""The soak: a whole router under steady load while everything around it goes wrong. `make soak`, or

    python -m benchmarks.soak --minutes 10 [--write]

`bluegreen serve` with three workers and two servers for each arm. Six kinds of clients (kept-alive, one-shot, chunked uploads,
pipelined pairs, slow readers, ones that vanish) ask several hundred times a second. Meanwhile the plan changes two or three times
a second (switch, split, shadow), servers are killed and started again, and workers are killed with SIGKILL.

Held against it: every answer carries what its request asked; no request is lost but those of a killed worker's own connections, and
those whose answer had begun when the server that was sending it was killed; after a switch to blue nobody sees green; when it is
quiet, nothing is in flight; pairs and dropped ones add up to what was sampled; memory and descriptors of the first worker (which is
never killed), the shadow, control and the supervisor are at the end what they were after warming up.

Exit status 1 when one of these fails. Nothing is written but a working folder that is removed after a good run; `--write` puts the
report into docs/soak.md.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import uvloop

from benchmarks.machine import raise_open_files
from benchmarks.measure import open_files, resident_bytes
from benchmarks.peers import tell_apart
from benchmarks.processes import BenchError, Child, free_port, fresh_directory, start, tail
from benchmarks.soaking.load import Load
from benchmarks.soaking.report import Account, Held, Outcome, render, write
from benchmarks.soaking.troubles import ModelServer, Troubles, excuse
from benchmarks.soaking.wire import Cut, call

WORKERS = 3
IDLE_S = 3.0  # upstream connections are reaped after this, so that a quiet router holds none


async def soak(seconds: float, warm_up: float, scale: float, directory: Path) -> Outcome:
    """One run. Raises BenchError or Cut when it cannot go on at all."""
    port, control = free_port(), free_port()
    servers = [ModelServer(f"{colour}-{n}", free_port(), directory) for colour in ("blue", "green") for n in (0, 1)]
    # Several kills even in a short run; in a long one not so often that nothing else ever happens.
    troubles = Troubles(port, control, servers, min(15.0, seconds / 6), min(30.0, seconds / 4))
    load = Load(port, troubles, scale)
    outcome = Outcome(seconds, warm_up)
    try:
        for server in servers:
            await server.start()
        async with _router(directory, port, control, servers) as router:
            for part in (warm_up, seconds - warm_up):
                load.start()
                troubles.start()
                await asyncio.sleep(part)
                await troubles.stop()
                await load.stop()
                await _quiet(control, outcome)
                outcome.held.append(await _held(router, control))
            _, outcome.status = await call(control, "GET", "/v1/status")
            _, outcome.evidence = await call(control, "GET", "/v1/evidence")
            outcome.account = _account(load, troubles)
            outcome.complaints = _complaints(router.log)
    finally:
        for server in servers:
            if server.child is not None:
                server.child.end()
    return outcome


@asynccontextmanager
async def _router(directory: Path, port: int, control: int, servers: list[ModelServer]) -> AsyncIterator[Child]:
    def arm(colour: str) -> dict[str, Any]:
        return {
            "name": f"soak-{colour}",
            "servers": [f"http://127.0.0.1:{s.port}" for s in servers if s.name.startswith(colour)],
        }

    config = {
        "listen": f"127.0.0.1:{port}",
        "control": f"127.0.0.1:{control}",
        "state": str(directory / "state"),
        "workers": WORKERS,
        "blue": arm("blue"),
        "green": arm("green"),
        "split": {"green_percent": 25, "key": "header:x-user-id", "salt": "soak"},
        "shadow": {"percent": 50, "noise_percent": 10},
        "health": {"interval": "500ms"},
        "timeouts": {"upstream_keep_alive": f"{IDLE_S:g}s"},
    }
    file = directory / "bluegreen.yml"
    file.write_text(json.dumps(config, indent=1))
    command = [sys.executable, "-P", "-m", "router.cli", "serve", str(file)]
    with start("router", command, directory=directory, grace_s=45.0) as child:
        await _until(lambda: _serves(port, control), 60.0, f"the router does not start; its log is {child.log}")
        yield child


async def _serves(port: int, control: int) -> bool:
    try:
        ready, _ = await call(control, "GET", "/readyz")
        _, status = await call(control, "GET", "/v1/status")
    except (Cut, ValueError):
        return False
    return ready == 200 and len(status["workers"]) == WORKERS and bool(status["shadow"]["running"])


async def _quiet(control: int, outcome: Outcome) -> None:
    """Wait until nothing is on its way any more; what still is after a while is a finding."""

    async def accounted() -> bool:
        _, evidence = await call(control, "GET", "/v1/evidence")
        outcome.unaccounted = evidence["sampled"] - evidence["pairs"] - evidence["dropped"]
        return not outcome.unaccounted

    async def idle() -> bool:
        _, status = await call(control, "GET", "/v1/status")
        gauges = [arm[name] for arm in status["arms"].values() for name in ("in_flight", "queued")]
        outcome.in_flight = sum(gauges) + status["connections"]
        return not outcome.in_flight and len(status["workers"]) == WORKERS

    for wanted, what in ((idle, "in flight"), (accounted, "not accounted for")):
        try:
            await _until(wanted, 20.0, what)
        except BenchError:
            outcome.leftovers.append(f"{what}: {outcome.in_flight if wanted is idle else outcome.unaccounted}")
    await asyncio.sleep(IDLE_S + 2.0)  # connections to servers are reaped in the meantime


async def _until(true: Any, seconds: float, what: str) -> None:
    end = monotonic() + seconds
    while not await true():
        if monotonic() > end:
            raise BenchError(what)
        await asyncio.sleep(0.1)


async def _held(router: Child, control: int) -> dict[str, Held]:
    """Memory and descriptors of the processes that live through the whole run."""
    _, status = await call(control, "GET", "/v1/status")
    pids = {worker["slot"]: worker["pid"] for worker in status["workers"]}
    roles = tell_apart(router.pid, list(pids.values()))
    named = {"worker 0": [pids[0]], "shadow": roles["shadow"], "control": roles["control"], "supervisor": [router.pid]}
    return {name: Held(resident_bytes(of), open_files(of)) for name, of in named.items()}


def _account(load: Load, troubles: Troubles) -> Account:
    excused = {"worker": 0, "server": 0}
    unexcused = []
    for lost in load.lost:
        reason = excuse(lost, troubles.worker_kills, troubles.server_kills)
        if reason is None:
            unexcused.append(f"{lost.kind} {lost.identity} on port {lost.port}: {lost.why}; begun by {lost.server}")
        else:
            excused[reason] += 1
    return Account(
        asked=dict(load.asked),
        answered=dict(load.answered),
        arms=dict(load.arms),
        vanished=load.vanished,
        wrong=load.wrong,
        lost_with_worker=excused["worker"],
        lost_with_server=excused["server"],
        lost=unexcused,
        changes=dict(troubles.changes),
        refused_changes=troubles.failures,
        recalled=troubles.recalled,
        worker_kills=len(troubles.worker_kills),
        held_by_killed=sum(len(kill.ports) for kill in troubles.worker_kills),
        server_kills=len(troubles.server_kills),
    )


def _complaints(log: Path) -> list[str]:
    """Lines of the router's log that tell of a defect."""
    marks = (" ERROR ", "Traceback", "Exception")
    return [line for line in log.read_text(errors="replace").splitlines() if any(mark in line for mark in marks)]


def main(arguments: list[str] | None = None) -> int:
    """Run it and print the report; 0 when everything held."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seconds", type=float, help="instead of minutes, for a look")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the number of clients")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="of what the clients and troubles choose")
    parser.add_argument("--write", action="store_true", help="put the report into docs/soak.md")
    options = parser.parse_args(arguments)
    seconds = options.seconds or options.minutes * 60
    random.seed(options.seed)
    raise_open_files()
    directory = fresh_directory(f"soak-{options.seed}")
    print(f"{seconds:g} s with seed {options.seed}; logs in {directory}", flush=True)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            # Two minutes of warming up, as long as the run is long enough for that.
            outcome = runner.run(soak(seconds, min(120.0, seconds / 4), options.scale, directory))
    except (BenchError, Cut) as error:
        print(f"{error}\n{tail(directory / 'router.log')}", file=sys.stderr)
        return 1
    outcome.seed = options.seed
    text = render(outcome)
    print(text)
    failures = outcome.failures()
    for failure in failures:
        print(f"FAILED: {failure}", file=sys.stderr)
    if options.write:
        write(text)
    if not failures:
        shutil.rmtree(directory)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
