"""A lane: one whole router (`bluegreen serve`), its two model servers, and users on demand. Rollouts go through it one by one.

Each rollout gets a fresh release (`PUT /v1/arms/green`), so evidence and attempts begin anew while the processes are the same;
that is what makes dozens of rollouts affordable. The harness opens the router's state directory beside it, for reading only: the
plan page, the counter pages and the store are what the control process itself decides by.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.peers import tell_apart
from benchmarks.processes import ROOT, BenchError, Child, free_port, python, run, start
from benchmarks.soaking.wire import Cut, call
from router.page import PlanPage
from router.plan import Plan, read_plan
from router.rollout.rollout import Rollout
from router.rollout.states import FINAL
from router.state import StateDir
from router.store.rollouts import RolloutStore
from router.store.store import Store
from router.workers import Workers

SERVER = ROOT / "rolling" / "server.py"
PACER = ROOT / "clients" / "pacer.py"
FOREVER_S = 7200  # of a pacer that is ended when it has done its part
PATIENCE_S = 60.0


class Lane:
    """The processes of a lane, and the calls that rollouts need. Made by `open_lane`."""

    def __init__(self, name: str, directory: Path, router: Child, ports: Mapping[str, int]) -> None:
        self.name = name
        self.directory = directory
        self.router = router
        self.ports = ports
        self.state = StateDir(directory / "state")
        self.store = Store(self.state.store)
        self.rollouts = RolloutStore(self.store)
        self.page = PlanPage(self.state.plan_page)
        self.workers = Workers(self.state)
        self._candidates = 0

    # --- what the router is asked -------------------------------------------------------------------------------------

    async def ask(self, method: str, path: str, body: Any = None) -> Any:
        """A call of the control API that must succeed. Raises BenchError; Cut while there is no control process."""
        status, document = await call(self.ports["control"], method, path, body)
        if status != 200:
            raise BenchError(f"{self.name}: {method} {path} {body}: {status} {document}")
        return document

    async def candidate(self) -> None:
        """A green about which nothing is known yet, with all users on blue."""
        self._candidates += 1
        servers = [f"http://127.0.0.1:{self.ports['green']}"]
        await self.ask("POST", "/v1/switch", {"to": "blue", "reason": "before the next candidate"})
        await self.ask("PUT", "/v1/arms/green", {"name": f"v2-{self._candidates}", "servers": servers})

    async def rollout(self, policy: Mapping[str, Any]) -> int:
        """Start a rollout; its number."""
        return int((await self.ask("POST", "/v1/rollout", {"action": "start", "policy": policy}))["number"])

    async def behave(self, colour: str, how: Mapping[str, Any]) -> None:
        """Have a colour's server answer like this from now on (benchmarks/rolling/server.py)."""
        status, told = await call(self.ports[colour], "POST", "/behave", dict(how))
        if status != 200:
            raise BenchError(f"{colour}'s server: {told}")

    async def counted(self, colour: str) -> dict[str, Any]:
        """What a colour's server counted since it was told how to behave."""
        found: dict[str, Any] = (await call(self.ports[colour], "GET", "/behave"))[1]
        return found

    # --- what is seen from outside ------------------------------------------------------------------------------------

    def plan(self) -> Plan:
        """The plan in the page, as a worker reads it."""
        return read_plan(self.page.read()[1])

    def newest(self) -> Rollout:
        """The newest rollout in the store."""
        found = self.rollouts.newest()
        if found is None:
            raise BenchError(f"{self.name}: there is no rollout in the store")
        return found

    async def until_ended(self, number: int, seconds: float, look: Any = None) -> Rollout:
        """The rollout once it has ended or paused; `look` is called ten times a second meanwhile. Raises BenchError."""
        for _ in range(int(seconds * 10)):
            self.router.check_alive()
            if look is not None:
                look()
            found = self.newest()
            if found.number == number and (found.state in FINAL or found.paused_from is not None):
                return found
            await asyncio.sleep(0.1)
        raise BenchError(f"{self.name}: rollout {number} has no end after {seconds:g} s; it is {self.newest().state}")

    def control_pid(self) -> int | None:
        """The control process's PID; None while the supervisor has not started it again."""
        return next(iter(tell_apart(self.router.pid, [])["control"]), None)

    def verify(self) -> str:
        """`bluegreen history --verify`, as an operator would; what it says. Raises BenchError when the chain is broken."""
        address = f"http://127.0.0.1:{self.ports['control']}"
        command = [sys.executable, "-P", "-m", "router.cli", "history", "--verify", "--control", address]
        return run("history --verify", command, PATIENCE_S).strip()

    # --- users --------------------------------------------------------------------------------------------------------

    def pacer(self, rate: float, seconds: float, connections: int = 64) -> Child:
        """A client that sends at a fixed rate whatever comes back; its log is its report."""
        arguments = [f"--port={self.ports['listen']}", f"--rate={rate:g}", f"--seconds={seconds:g}", "--warmup=0"]
        command = python(PACER, *arguments, f"--connections={connections}")
        return start("pacer", command, directory=self.directory)

    @contextmanager
    def users(self, rate: float) -> Iterator[Child]:
        """Users at a fixed rate while the context lasts."""
        with self.pacer(rate, FOREVER_S) as child:
            yield child

    def close(self) -> None:
        """Let go of the router's files."""
        self.store.close()
        self.page.close()


@asynccontextmanager
async def open_lane(name: str, directory: Path, **settings: Any) -> AsyncIterator[Lane]:
    """Start a lane's processes; they end with the context. Raises BenchError when they do not start."""
    folder = directory / name
    folder.mkdir(parents=True)
    ports = {what: free_port() for what in ("listen", "control", "blue", "green")}
    config = {
        "listen": f"127.0.0.1:{ports['listen']}",
        "control": f"127.0.0.1:{ports['control']}",
        "state": str(folder / "state"),
        "workers": 1,
        "blue": {"name": "v1", "servers": [f"http://127.0.0.1:{ports['blue']}"]},
        **settings,
    }
    file = folder / "bluegreen.yml"
    file.write_text(json.dumps(config, indent=1))
    servers = python(SERVER, "--blue", str(ports["blue"]), "--green", str(ports["green"]))
    command = [sys.executable, "-P", "-m", "router.cli", "serve", str(file)]
    with start("servers", servers, directory=folder), start("router", command, directory=folder, grace_s=20.0) as router:
        await until(lambda: _serves(router, ports), PATIENCE_S, f"{name} does not start; its log is {router.log}")
        lane = Lane(name, folder, router, ports)
        try:
            yield lane
        finally:
            lane.close()


async def until(true: Any, seconds: float, what: str) -> None:
    """Wait until an awaitable answer is yes. Raises BenchError with `what` when it is not in time."""
    for _ in range(int(seconds * 20)):
        if await true():
            return
        await asyncio.sleep(0.05)
    raise BenchError(what)


async def _serves(router: Child, ports: Mapping[str, int]) -> bool:
    router.check_alive()
    try:
        for port in (ports["blue"], ports["green"]):
            await call(port, "GET", "/behave")
        ready, _ = await call(ports["control"], "GET", "/readyz")
        _, status = await call(ports["control"], "GET", "/v1/status")
    except (Cut, ValueError):
        return False
    return ready == 200 and bool(status["workers"]) and bool(status["shadow"]["running"])
