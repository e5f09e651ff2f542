"""What the soak does to a router, and which lost requests that excuses.

Plans change all the time, servers are killed and started again, workers are killed. A lost request is excused in two cases only,
and both are looked up, not guessed: its connection was one of those that a killed worker held (the kernel's tables say which, read
while the worker is stopped, just before it dies), or its answer had already begun when the server that was sending it was killed.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

from benchmarks.processes import ROOT, Child, python, start, stat_fields
from benchmarks.soaking.wire import Cut, Wire, call

SCRIPT = ROOT / "soaking" / "server.py"


@dataclass(frozen=True, slots=True)
class Lost:
    """A request without a whole answer. Times are the loop's; `server` had begun to answer it."""

    kind: str
    identity: str
    port: int
    opened: float
    began: float
    failed: float
    server: str | None
    why: str


@dataclass(frozen=True, slots=True)
class WorkerKill:
    """When a worker was killed, and the clients' ports of the connections that it held."""

    at: float
    slot: int
    ports: frozenset[int]


@dataclass(frozen=True, slots=True)
class ServerKill:
    """When a server was killed."""

    at: float
    name: str


def excuse(lost: Lost, workers: Iterable[WorkerKill], servers: Iterable[ServerKill]) -> str | None:
    """Why a lost request is nobody's fault: "worker", "server", or None when it is the router's."""
    if any(lost.opened <= kill.at <= lost.failed and lost.port in kill.ports for kill in workers):
        return "worker"
    if lost.server and any(lost.began <= kill.at <= lost.failed and kill.name == lost.server for kill in servers):
        return "server"
    return None


@dataclass
class ModelServer:
    """One server of an arm, which can be killed and started again on its port."""

    name: str
    port: int
    directory: Path
    child: Child | None = None

    async def start(self) -> None:
        """Start it and wait until it takes connections."""
        colour = self.name.split("-")[0]
        command = python(SCRIPT, "--port", str(self.port), "--colour", colour, "--name", self.name)
        self.child = start(self.name, command, directory=self.directory)
        for _ in range(600):
            self.child.check_alive()
            try:
                (await Wire.open(self.port)).closes()
            except Cut:
                await asyncio.sleep(0.05)
            else:
                return
        raise Cut(f"{self.name} does not start")

    def kill(self) -> None:
        """SIGKILL."""
        assert self.child is not None
        self.child.process.kill()
        self.child.process.wait()
        self.child.ended = True
        self.child = None


@dataclass
class Troubles:
    """Everything that is done to the router while clients ask. `stop` leaves it in peace until the next `start`."""

    port: int
    control: int
    servers: list[ModelServer]
    every_server_s: float
    every_worker_s: float
    worker_kills: list[WorkerKill] = field(default_factory=list)
    server_kills: list[ServerKill] = field(default_factory=list)
    changes: Counter[str] = field(default_factory=Counter)
    recalled: int = 0
    failures: list[str] = field(default_factory=list)
    only_blue: int | None = None
    _number: int = 0
    _stopped: asyncio.Event = field(default_factory=asyncio.Event)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def start(self) -> None:
        """Begin."""
        self._stopped.clear()
        loop = asyncio.get_running_loop()
        for trouble in (self._change_plans, self._kill_servers, self._kill_workers):
            self._tasks.append(loop.create_task(trouble()))

    async def stop(self) -> None:
        """Finish what has begun; every server runs again."""
        self._stopped.set()
        tasks, self._tasks = self._tasks, []
        await asyncio.gather(*tasks)

    async def _pause(self, seconds: float) -> bool:
        """Wait, and say whether to go on."""
        try:
            async with asyncio.timeout(seconds):
                await self._stopped.wait()
        except TimeoutError:
            return True
        return False

    async def _change_plans(self) -> None:
        while await self._pause(random.uniform(0.05, 0.6)):
            what = random.choice(("switch blue", "switch green", "split", "split", "shadow"))
            name, _, colour = what.partition(" ")
            body: dict[str, object] = {
                "switch": {"to": colour, "reason": "soak"},
                "split": {"green_percent": random.choice((1, 5, 10, 25, 50, 75))},
                "shadow": {"percent": random.choice((0, 25, 50, 100))},
            }[name]
            self._number += 1
            if name != "shadow":
                self.only_blue = None
            try:
                status, answer = await call(self.control, "POST", f"/v1/{name}", body)
            except Cut as cut:
                self.failures.append(f"{name} {body}: {cut}")
                continue
            self.changes[name] += 1
            if status != 200:
                self.failures.append(f"{name} {body}: {status} {answer}")
            elif what == "switch blue":
                self.only_blue = self._number
                self.recalled += answer["recalled"]

    async def _kill_servers(self) -> None:
        while await self._pause(self.every_server_s * random.uniform(0.5, 1.5)):
            server = random.choice(self.servers)
            self.server_kills.append(ServerKill(monotonic(), server.name))
            server.kill()
            await self._pause(random.uniform(0.2, 3.0))
            await server.start()  # only then may another one die, so that every arm keeps one

    async def _kill_workers(self) -> None:
        """Every worker but the first, which lives through it all so that its memory can be looked at."""
        while await self._pause(self.every_worker_s * random.uniform(0.7, 1.3)):
            _, status = await call(self.control, "GET", "/v1/status")
            victims = [worker for worker in status["workers"] if worker["slot"] > 0]
            if victims:
                victim = random.choice(victims)
                self.worker_kills.append(self._kill_worker(victim["pid"], victim["slot"]))

    def _kill_worker(self, pid: int, slot: int) -> WorkerKill:
        os.kill(pid, signal.SIGSTOP)
        while (state := stat_fields(pid)) and state[0] not in "TZ":
            pass
        ports = held_ports(pid, self.port)
        at = monotonic()
        os.kill(pid, signal.SIGKILL)
        return WorkerKill(at, slot, ports)


def held_ports(pid: int, local: int) -> frozenset[int]:
    """The remote ports of a process's connections at a local port of 127.0.0.1, from /proc (proc_net_tcp)."""
    inodes = set()
    for entry in os.scandir(f"/proc/{pid}/fd"):
        target = os.readlink(entry.path)
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    ports = []
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        words = line.split()
        listening = words[3] == "0A"
        if words[9] in inodes and not listening and int(words[1].split(":")[1], 16) == local:
            ports.append(int(words[2].split(":")[1], 16))
    return frozenset(ports)
