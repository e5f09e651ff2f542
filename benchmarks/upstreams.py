"""The model servers behind every proxy: two fast ones as one nginx, and one for streams, uploads and answers that hang.

All of them run on the load core.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from benchmarks import configs
from benchmarks.peers import PROBE, binary, run_as
from benchmarks.processes import ROOT, Cores, free_port, fresh_directory, get, pinned, python, start, wait_until_answers

BULK_BYTES = 1 << 20
_COUNTS = re.compile(rb"\n\s*(\d+) (\d+) (\d+)")


@dataclass(frozen=True, slots=True)
class Counts:
    """Connections and requests that the two fast servers have had so far."""

    connections: int
    requests: int

    def since(self, earlier: Counts) -> Counts:
        """What came between two calls, less the earlier question itself (on a connection of its own)."""
        return Counts(self.connections - earlier.connections - 1, self.requests - earlier.requests - 1)


@dataclass(frozen=True, slots=True)
class Upstreams:
    """Where the servers listen. `slow` hangs for 5 s unless it is asked for events or given an upload."""

    blue: int
    green: int
    slow: int

    def counts(self) -> Counts:
        """What the two fast servers have counted."""
        match = _COUNTS.search(get(self.blue, "/counts")[1])
        assert match is not None, "stub_status always prints three numbers"
        return Counts(int(match[1]), int(match[3]))


@contextmanager
def serving(cores: Cores) -> Iterator[Upstreams]:
    """Run the model servers for as long as the context lasts. Raises BenchError."""
    slow = free_port()
    odd = pinned([cores.load], python(ROOT / "upstream_slow.py", "--port", str(slow), "--hang", "5"))
    with (
        fast_servers("upstreams", cores) as (blue, green),
        start("upstream-slow", odd, directory=fresh_directory("slow")) as other,
    ):
        wait_until_answers(other, slow, PROBE)
        yield Upstreams(blue, green, slow)


@contextmanager
def fast_servers(name: str, cores: Cores, nice: int = 0) -> Iterator[tuple[int, int]]:
    """Run one nginx that is a blue and a green server: their ports. Raises BenchError."""
    directory = fresh_directory(name)
    directory.chmod(0o755)
    bulk = directory / "large.bin"
    bulk.write_bytes(b"0123456789abcdef" * (BULK_BYTES // 16))
    blue, green = free_port(), free_port()
    config = directory / "nginx.conf"
    config.write_text(configs.upstreams(blue, green, bulk, directory, run_as()))
    command = pinned(
        [cores.load], ["nice", "-n", str(nice), binary("nginx"), "-e", "stderr", "-p", str(directory), "-c", str(config)]
    )
    with start(name, command, directory=directory) as server:
        wait_until_answers(server, blue, "/")
        yield blue, green
