"""What a request costs a worker's own code: the protocol objects in a loop, with transports that only take bytes.

    python -P benchmarks/hot_path.py [--requests N]

Run with the interpreter whose installation is to be measured: that of .venv has the sources, that of .venv-compiled (made by
`make bench`) the compiled data plane. The request is the one of the bench, its user and sequence different each time; green
has a tenth of the users, and each exchange is handed over for the prediction log, which the bench leaves off. The kernel and uvloop,
which cost more than all of this, are left out; so is what the cold caches of a process that alternates with them add.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import tempfile
import time
from pathlib import Path
from typing import Any

from models import http1
from models.familiar import Familiar
from models.http1 import parse_request
from models.upstream import Upstream
from router.counters import CounterPage
from router.page import PlanPage
from router.plan import parse_plan
from router.proxy.downstream import Downstream
from router.proxy.gateway import Gateway
from router.proxy.options import ProxyOptions
from router.proxy.tap import Tap

BODY = b'{"id":"bench","inputs":[{"name":"input-0","shape":[1,24],"datatype":"FP64","data":[' + b"1.0625," * 23 + b"2.5]}]}"
HEAD = (
    b"POST /v2/models/iris/infer HTTP/1.1\r\nhost: 127.0.0.1:8080\r\nuser-agent: bench/1\r\naccept: application/json\r\n"
    b"content-type: application/json\r\nx-user-id: u%d\r\nx-sequence: %d\r\ncontent-length: %d\r\n\r\n"
)
ANSWER = (
    b"HTTP/1.1 200 OK\r\nServer: model\r\nDate: Mon, 01 Jan 2024 00:00:00 GMT\r\nContent-Type: application/json\r\n"
    b"Content-Length: 60\r\nConnection: keep-alive\r\n\r\n" + b"x" * 60
)


class Sink:
    """A transport that forgets what it is given."""

    def write(self, data: bytes) -> None:
        """Nothing."""

    def is_closing(self) -> bool:
        """Never."""
        return False

    def get_extra_info(self, name: str) -> Any:
        """A client on loopback."""
        return ("127.0.0.1", 1) if name == "peername" else None

    def get_write_buffer_size(self) -> int:
        """Always empty."""
        return 0


def gateway_in(folder: Path, loop: asyncio.AbstractEventLoop) -> Gateway:
    """A worker's gateway with a 90/10 split by user and a shadow that listens."""
    page = PlanPage(folder / "plan.page", writable=True)
    arms = {name: {"name": name, "servers": [f"http://127.0.0.1:{port}"]} for name, port in (("blue", 1), ("green", 2))}
    split = {"green_percent": 10, "key": "header:x-user-id", "salt": "s"}
    page.write(1, parse_plan({"revision": 1, "release": 1, **arms, "split": split}).to_json())
    tap = Tap(folder / "tap.sock", 1 << 30, loop)
    tap.connection_made(Sink())  # type: ignore[arg-type]  # as much of a transport as is asked for
    return Gateway(page, CounterPage(folder / "counters", writable=True), ProxyOptions(), tap, loop)


def spent(requests: list[bytes], each: Any) -> float:
    """CPU µs for each request; the best of five runs over all of them, since only a disturbance can add to it."""
    best = float("inf")
    for _ in range(5):
        began = time.process_time()
        for data in requests:
            each(data)
        best = min(best, time.process_time() - began)
    return best / len(requests) * 1e6


async def measure(count: int) -> None:
    """Print the whole and its head."""
    requests = [HEAD % (number * 7919, number, len(BODY)) + BODY for number in range(count)]
    with tempfile.TemporaryDirectory() as folder:
        gateway = gateway_in(Path(folder), asyncio.get_running_loop())
        routing = gateway.obey_plan()
        for target in (routing.blue, routing.green):
            assert target is not None
            upstream = Upstream(target.pool.servers[0])
            upstream.connection_made(Sink())  # type: ignore[arg-type]
            target.pool.servers[0].idle.append(upstream)
        downstream = Downstream(gateway, b"http")
        downstream.connection_made(Sink())  # type: ignore[arg-type]
        blue, green = (target.pool.servers[0].idle[0] for target in (routing.blue, routing.green) if target)

        def one(data: bytes) -> None:
            downstream.data_received(data)
            (blue if blue.receiver is not None else green).data_received(ANSWER)

        whole = spent(requests, one)
        assert gateway.total_requests() == 5 * count
    familiar = Familiar()
    print(f"models.http1 is {http1.__file__}")
    print(f"{whole:6.2f} µs  a request and its answer")
    print(f"{spent(requests, lambda data: parse_request(data, 32768, 100)):6.2f} µs  of it a head read anew")
    print(
        f"{spent(requests, lambda data: familiar.parse(data, 32768, 100)):6.2f} µs  or a head that begins like the one before"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="CPU of a worker's own code for each request.")
    parser.add_argument("--requests", type=int, default=20_000)
    gc.freeze()
    asyncio.run(measure(parser.parse_args().requests))
