"""The machine a run was made on, in words, and the programs it needs, installed where that is possible."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.peers import PEERS, ROUTER, binary, router_version
from benchmarks.processes import BenchError, Cores

# Program -> Debian package.
PROGRAMS = {"nginx": "nginx", "haproxy": "haproxy", "wrk": "wrk", "taskset": "util-linux"}
OPEN_FILES = 20_000


def ensure_programs(say: Callable[[str], None]) -> None:
    """Install with apt-get what is missing, when root; else say what to install. Raises BenchError."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    missing = [package for program, package in PROGRAMS.items() if not shutil.which(program, path=path)]
    if missing:
        command = ["apt-get", "install", "-y", "--no-install-recommends", *missing]
        if os.geteuid() != 0 or not shutil.which("apt-get"):
            raise BenchError(f"needed and not installed: {' '.join(missing)}. Install with: sudo {' '.join(command)}")
        say(f"installing {' '.join(missing)} with apt-get (Debian also enables nginx and haproxy as services)")
        for step in (["apt-get", "update"], command):
            done = subprocess.run(
                step, check=False, capture_output=True, text=True, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
            )
            if done.returncode != 0:
                raise BenchError(f"{' '.join(step)} failed: {done.stderr.strip()[-500:]}")
    for name in ("envoy", "traefik", "caddy"):
        binary(name)


def raise_open_files() -> None:
    """Allow this process and its children enough open files for the idle connections. Raises BenchError."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(hard, OPEN_FILES) if os.geteuid() == 0 else hard
    if wanted < OPEN_FILES:
        raise BenchError(
            f"{OPEN_FILES} open files are needed and {hard} are allowed: run `ulimit -Hn {OPEN_FILES}` as root first"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))


def describe(cores: Cores) -> dict[str, str]:
    """CPU, cores, memory, kernel, distribution and interpreter, each in a few words."""
    model = _field(Path("/proc/cpuinfo"), "model name", ":")
    total = int(_field(Path("/proc/meminfo"), "MemTotal", ":").split()[0])
    distribution = _field(Path("/etc/os-release"), "PRETTY_NAME", "=").strip('"')
    where = f"core {cores.proxy} for the proxy, core {cores.load} for load generator and upstreams"
    return {
        "CPU": f"{model}, {os.cpu_count()} cores visible",
        "cores used": f"core {cores.proxy} for everything: only one is available" if cores.shared else where,
        "memory": f"{total / 2**20:.1f} GiB",
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "distribution": distribution,
        "Python": f"{platform.python_implementation()} {sys.version.split()[0]}, {_optimised()}",
        "bluegreen": _run("bluegreen", "--version"),
    }


def _optimised() -> str:
    """Whether this interpreter was built with profile-guided optimisation, which makes it about a fifth faster."""
    arguments = sysconfig.get_config_var("CONFIG_ARGS") or ""
    return f"built {'with' if '--enable-optimizations' in arguments else 'without'} profile-guided optimisation"


def _run(name: str, *arguments: str) -> str:
    return subprocess.run([binary(name), *arguments], capture_output=True, text=True, check=True).stdout.strip()


def versions(with_router: bool) -> dict[str, str]:
    """The version of every program in the comparison, as it tells it itself."""
    found = {ROUTER: router_version()} if with_router else {}
    found |= {name: peer.version() for name, peer in PEERS.items()}
    done = subprocess.run([binary("wrk"), "-v"], capture_output=True, text=True, check=False)
    return found | {"wrk": (done.stdout + done.stderr).splitlines()[0].split("[")[0].strip()}


def busy_share(seconds: float) -> float:
    """Share of all cores' time that something else than idling took, over so many seconds."""
    before = _cpu_line()
    time.sleep(seconds)
    spent = [b - a for a, b in zip(before, _cpu_line(), strict=True)]
    return 1 - (spent[3] + spent[4]) / max(1, sum(spent))  # idle and waiting for disks


def _cpu_line() -> list[int]:
    return [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]


def stolen_seconds() -> float:
    """CPU seconds that the hypervisor has taken from this machine since it started (proc(5), /proc/stat steal)."""
    return _cpu_line()[7] / os.sysconf("SC_CLK_TCK")


def _field(file: Path, name: str, separator: str) -> str:
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return "unknown"
    for line in lines:
        key, found, value = line.partition(separator)
        if found and key.strip() == name:
            return value.strip()
    return "unknown"
