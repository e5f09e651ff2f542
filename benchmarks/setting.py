"""What every row is given: cores, upstreams, how long and how often to measure, and how to start each proxy in the same way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from benchmarks.configs import Wanted
from benchmarks.peers import PEERS, ROUTER, Running, start_router
from benchmarks.processes import Cores
from benchmarks.upstreams import Upstreams


@dataclass(frozen=True, slots=True)
class Setting:
    """One run's circumstances. `scale` shortens every measurement alike (1.0 is the full length)."""

    cores: Cores
    upstreams: Upstreams
    rounds: int
    scale: float
    with_router: bool
    quick: bool
    say: Callable[[str], None]

    def seconds(self, full: float) -> float:
        """A measurement's length: whole seconds, at least one."""
        return float(max(1, round(full * self.scale)))

    def names(self, peers: Sequence[str]) -> list[str]:
        """The router, when it takes part, and these peers."""
        return [ROUTER, *peers] if self.with_router else list(peers)

    def proxies(self) -> list[str]:
        """The router and every peer but the naive one; a quick run keeps to nginx, HAProxy and Envoy."""
        return self.names([name for name in PEERS if name not in (("naive", "traefik", "caddy") if self.quick else ("naive",))])

    def mirroring(self) -> list[str]:
        """The router and every peer that mirrors by itself; a quick run leaves Traefik out."""
        return self.names([name for name, peer in PEERS.items() if peer.mirrors and not (self.quick and name == "traefik")])

    def interleaved(self, names: Sequence[str], rounds: int | None = None) -> Iterator[tuple[int, str]]:
        """(round, name), each round in another order, so that no proxy always comes first or after the same one."""
        for number in range(rounds or self.rounds):
            turn = number % len(names)
            for name in [*names[turn:], *names[:turn]]:
                yield number, name

    def start(
        self,
        name: str,
        *,
        blue: int | None = None,
        green: int | None = None,
        green_percent: int = 10,
        mirror: bool = False,
        empty_mirror: bool = False,
        prediction_log: bool = False,
        shadow_first: bool = False,
    ) -> Running:
        """Start a peer or the router over the fast upstreams, or over those named. Raises BenchError."""
        blue, green = blue or self.upstreams.blue, green or self.upstreams.green
        wanted = Wanted(0, blue, green, green_percent, mirror, empty_mirror, prediction_log, shadow_first)
        if name == ROUTER:
            return start_router(wanted, self.cores, shadow_percent=100 if mirror else 0)
        return PEERS[name].start(wanted, self.cores)
