"""Run the load generators on the load core and read what they say: wrk for throughput, our own clients for the rest."""

from __future__ import annotations

import array
import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from benchmarks.peers import binary
from benchmarks.processes import ROOT, WORK, BenchError, Cores, pinned, python, run

CLIENTS = ROOT / "clients"
_tags = count(1)


@dataclass(frozen=True, slots=True)
class WrkResult:
    """What one run of wrk counted. `errors` are answers other than 2xx and 3xx, and socket errors."""

    requests: int
    seconds: float
    received_bytes: int
    errors: int

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds


def parse_wrk(output: str) -> WrkResult:
    """The line that our Lua scripts print at the end of a run. Raises BenchError when it is not there."""
    for line in output.splitlines():
        if line.startswith("RESULT "):
            got = json.loads(line.removeprefix("RESULT "))
            errors = got["status_errors"] + got["socket_errors"]
            return WrkResult(got["requests"], got["duration_us"] / 1e6, got["bytes"], errors)
    raise BenchError(f"wrk printed no result: {output[-500:]!r}")


def wrk(port: int, cores: Cores, seconds: float, *, connections: int = 32, bulk: str = "") -> WrkResult:
    """Run wrk against a port: small infer requests, or `bulk` "upload" or "large". Raises BenchError when requests fail."""
    command = wrk_command(port, cores, seconds, connections=connections, bulk=bulk)
    result = parse_wrk(run("wrk", command, seconds + 30))
    if result.requests == 0 or result.errors > result.requests // 1000:
        raise BenchError(f"wrk had {result.errors} errors in {result.requests} requests against port {port}")
    return result


def wrk_command(port: int | str, cores: Cores, seconds: float, *, connections: int = 32, bulk: str = "") -> list[str]:
    """The command of wrk."""
    script, argument = ("bulk.lua", bulk) if bulk else ("requests.lua", f"r{next(_tags)}t")
    command = [
        binary("wrk"),
        "-t1",
        f"-c{connections}",
        f"-d{max(1, round(seconds))}s",
        "--timeout",
        "10s",
        "-s",
        str(CLIENTS / script),
        f"http://127.0.0.1:{port}/",
        "--",
        argument,
    ]
    return pinned([cores.load], command)


def pace(
    port: int,
    cores: Cores,
    rate: float,
    seconds: float,
    *,
    warmup: float = 1.0,
    connections: int = 64,
    log: Path | None = None,
) -> dict[str, Any]:
    """The fixed-rate client: its report, times in microseconds. Raises BenchError."""
    return client(pace_command(port, cores, rate, seconds, warmup=warmup, connections=connections, log=log), seconds + warmup)


def pace_command(
    port: int | str,
    cores: Cores,
    rate: float,
    seconds: float,
    *,
    warmup: float = 1.0,
    connections: int = 64,
    log: Path | None = None,
) -> list[str]:
    """The command of the fixed-rate client."""
    arguments = [f"--port={port}", f"--rate={rate:g}", f"--seconds={seconds:g}", f"--warmup={warmup:g}"]
    arguments += [f"--connections={connections}", f"--tag=p{next(_tags)}x"]
    return pinned([cores.load], python(CLIENTS / "pacer.py", *arguments, *([f"--log={log}"] if log else [])))


def streams_command(port: int | str, cores: Cores, seconds: float, *, streams: int = 20, every_ms: int = 20) -> list[str]:
    """The command of the reader of event streams."""
    arguments = [
        f"--port={port}",
        f"--streams={streams}",
        f"--count={int(seconds * 1000 / every_ms)}",
        f"--every-ms={every_ms}",
    ]
    return pinned([cores.load], python(CLIENTS / "streams.py", *arguments))


def idle_command(port: int | str, cores: Cores, connections: int) -> list[str]:
    """The command of the client that holds idle connections."""
    return pinned([cores.load], python(CLIENTS / "idle.py", f"--port={port}", f"--connections={connections}"))


def frames_command(tap: Path | str, cores: Cores, release: int, revision: int, rate: float, seconds: float) -> list[str]:
    """The command of the sender of frames to a shadow's tap, which gives way to clients and servers on the load core."""
    arguments = [f"--tap={tap}", f"--release={release}", f"--revision={revision}", f"--rate={rate:g}", f"--seconds={seconds:g}"]
    return pinned([cores.load], ["nice", "-n", "19", *python(CLIENTS / "frames.py", *arguments)])


def client(command: list[str], seconds: float) -> dict[str, Any]:
    """Run one of our clients to its end; its report. Raises BenchError."""
    report: dict[str, Any] = json.loads(run(Path(command[5]).stem, command, seconds + 30))
    return report


def shown(command: list[str]) -> str:
    """A command as the document prints it: relative to the repository, whoever's interpreter it was."""
    words = ["python" if word == sys.executable else word.removeprefix(f"{ROOT.parent}/") for word in command]
    return shlex.join(words)


def read_log(path: Path) -> list[tuple[float, float, int]]:
    """The fixed-rate client's log: (seconds sent, seconds answered, 1 blue or 2 green) of each answered request."""
    values = array.array("d")
    values.frombytes(path.read_bytes())
    return [(values[i], values[i + 1], int(values[i + 2])) for i in range(0, len(values), 3)]


@contextmanager
def held_open(port: int, cores: Cores, connections: int) -> Iterator[None]:
    """Hold idle kept-alive connections, each of which has had one answer, while the context lasts. Raises BenchError."""
    command = idle_command(port, cores, connections)
    log = WORK / "idle.log"
    with log.open("wb") as errors:
        client = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, cwd=WORK)
    assert client.stdin is not None
    assert client.stdout is not None
    try:
        line = client.stdout.readline()
        if line.split() != [b"ready", str(connections).encode()]:
            raise BenchError(f"{connections} idle connections could not be opened: {log.read_text()[-500:]}")
        yield
    finally:
        client.stdin.close()
        try:
            client.wait(10)
        except subprocess.TimeoutExpired:
            client.kill()
            client.wait()
        client.stdout.close()
