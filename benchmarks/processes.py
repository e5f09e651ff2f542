"""Start and end the processes of a benchmark, each pinned to one core, each known by its pid.

Every child dies with the harness (the kernel sends SIGTERM when its parent ends), is ended by pid, and leaves its output in
`benchmarks/.work`. Ports come from below the kernel's ephemeral range, so that no outgoing connection of a load generator
can sit on a port between the moment it is chosen and the moment it is bound.
"""

from __future__ import annotations

import ctypes
import http.client
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).resolve().parent
WORK = ROOT / ".work"

PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)


class BenchError(Exception):
    """The benchmark cannot go on; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Cores:
    """Which core the proxy under test runs on, and which one carries load generator and upstreams."""

    proxy: int
    load: int

    @property
    def shared(self) -> bool:
        """True when there is only one core for everything."""
        return self.proxy == self.load


def choose_cores() -> Cores:
    """The first two cores this process may use; the same one twice when there is only one."""
    allowed = sorted(os.sched_getaffinity(0))
    return Cores(allowed[0], allowed[min(1, len(allowed) - 1)])


def pinned(cores: Sequence[int], command: Sequence[str]) -> list[str]:
    """The command, run by taskset on these cores. taskset replaces itself, so the pid is the command's own."""
    return ["taskset", "-c", ",".join(map(str, cores)), *command]


def python(script: Path, *arguments: str) -> list[str]:
    """A command that runs one of our scripts by this interpreter, whatever PYTHONPATH says."""
    return [sys.executable, "-P", str(script), *arguments]


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on now."""
    for _ in range(200):
        port = random.randrange(12000, 30000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise BenchError("no free port found between 12000 and 30000 on 127.0.0.1")


def fresh_directory(name: str) -> Path:
    """An empty directory below `benchmarks/.work`."""
    path = WORK / name
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path


def _die_with_parent() -> None:
    _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


@dataclass
class Child:
    """A started process with the file that its output goes to. A context manager that ends it and all it started."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    grace_s: float = 10.0
    ended: bool = field(default=False, init=False)

    @property
    def pid(self) -> int:
        """The process id."""
        return self.process.pid

    def pids(self) -> list[int]:
        """The process and all that descend from it, by pid."""
        return [self.pid, *(pid for pid, _ in descendants(self.pid))]

    def check_alive(self) -> None:
        """Raise BenchError with the end of its log when it has ended by itself."""
        if self.process.poll() is not None:
            raise BenchError(f"{self.name} ended with status {self.process.returncode}; its log ends:\n{tail(self.log)}")

    def end(self) -> None:
        """SIGTERM, and SIGKILL for whatever is left after the grace time."""
        if self.ended:
            return
        self.ended = True
        family = descendants(self.pid)
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(self.grace_s)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        left = _still_there(family, 2.0)
        for pid, _ in left:
            os.kill(pid, signal.SIGKILL)
        _still_there(left, 2.0)

    def __enter__(self) -> Child:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.end()


def start(
    name: str,
    command: Sequence[str],
    *,
    directory: Path | None = None,
    environment: Mapping[str, str] | None = None,
    grace_s: float = 10.0,
) -> Child:
    """Start a command whose output goes to a file in `benchmarks/.work`. Raises BenchError when it cannot be run at all."""
    WORK.mkdir(exist_ok=True)
    log = (directory or WORK) / f"{name}.log"
    with log.open("wb") as out:
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=directory or WORK,
                env={**os.environ, **(environment or {})},
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - the harness has one thread
            )
        except OSError as error:
            raise BenchError(f"{name} cannot be started: {error}") from None
    return Child(name, process, log, grace_s)


def run(name: str, command: Sequence[str], timeout_s: float) -> str:
    """Run a command to its end and return what it wrote. Raises BenchError when it fails or takes longer."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
            preexec_fn=_die_with_parent,
            cwd=WORK,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BenchError(f"{name}: {error}") from None
    if done.returncode != 0:
        raise BenchError(f"{name} ended with status {done.returncode}: {(done.stderr or done.stdout).strip()[-800:]}")
    return done.stdout


def wait_until_answers(child: Child, port: int, path: str, timeout_s: float = 30.0) -> None:
    """Return once a GET of the path is answered 200. Raises BenchError when the child ends or the time is over."""
    deadline = time.monotonic() + timeout_s
    while True:
        child.check_alive()
        try:
            status, _ = get(port, path)
            if status == 200:  # Traefik says 404 until its routes are read
                return
        except (OSError, http.client.HTTPException):
            pass
        if time.monotonic() > deadline:
            raise BenchError(
                f"{child.name} did not answer on port {port} within {timeout_s:g} s; its log ends:\n{tail(child.log)}"
            )
        time.sleep(0.05)


def get(port: int, path: str, timeout_s: float = 5.0) -> tuple[int, bytes]:
    """One GET on 127.0.0.1: status and body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def tail(log: Path, lines: int = 12) -> str:
    """The last lines of a log file."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def descendants(pid: int) -> list[tuple[int, str]]:
    """All living descendants of a process, as (pid, start time), parents first."""
    parents: dict[int, list[tuple[int, str]]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := stat_fields(int(entry.name))):
            parents.setdefault(int(fields[1]), []).append((int(entry.name), fields[19]))
    found: list[tuple[int, str]] = []
    frontier = [pid]
    while frontier:
        children = parents.get(frontier.pop(), [])
        found += children
        frontier += [child for child, _ in children]
    return found


def stat_fields(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third (state) on, proc(5); empty when the process has ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return []
    return text[text.rindex(")") + 2 :].split()


def _still_there(family: list[tuple[int, str]], within_s: float) -> list[tuple[int, str]]:
    """Which of these (pid, start time) still run after at most so many seconds; a pid given to another is not one of them."""
    deadline = time.monotonic() + within_s
    while (left := [(pid, started) for pid, started in family if _start_time(pid) == started]) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left


def _start_time(pid: int) -> str | None:
    fields = stat_fields(pid)
    return fields[19] if fields and fields[0] != "Z" else None
