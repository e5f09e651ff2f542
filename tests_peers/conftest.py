"""Real peers: `make test-peers` runs these with programs from their own virtual environments below .venv-peers.

Servers are started on free ports and ended by pid. Every test goes through a whole router with the shadow on.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "tests" / "router")]

from deployment import Deployment, free_port  # noqa: E402  after the path to it
from routed import Pair  # noqa: E402


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., int]]:
    """Start a server: `run(command, health)`; {port} in the command is a free port, returned once health answers 200."""
    started: list[subprocess.Popen[bytes]] = []

    def begin(command: list[str], health: str, *, seconds: float = 120.0, folder: Path | None = None, port: int = 0) -> int:
        port = port or free_port()
        log = tmp_path_factory.mktemp("server") / "log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [word.replace("{port}", str(port)) for word in command],
                stdout=out,
                stderr=out,
                cwd=folder or log.parent,
                process_group=0,  # MLflow ends its whole group when it ends
                # MLflow starts uvicorn by its name alone.
                env={**os.environ, "PATH": f"{Path(command[0]).parent}:{os.environ['PATH']}"},
            )
        started.append(process)
        deadline = time.monotonic() + seconds
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}{health}", timeout=2) as answer:
                    if answer.status == 200:
                        return port
            except (OSError, urllib.error.URLError):
                pass
            assert process.poll() is None, f"{command[0]} ended:\n{log.read_text(errors='replace')[-3000:]}"
            assert time.monotonic() < deadline, f"{command[0]} does not answer:\n{log.read_text(errors='replace')[-3000:]}"
            time.sleep(0.1)

    yield begin
    for process in started:
        process.terminate()
    for process in started:
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture(scope="session")
def route(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Pair]]:
    """Start a router over two ports: `route(blue, green, **settings)`; `arms` adds to what is said of the arms."""
    started: list[Any] = []

    def begin(blue: int, green: int, **settings: Any) -> Pair:
        urls = f"http://127.0.0.1:{blue}", f"http://127.0.0.1:{green}"
        shadow = {"percent": 100, "noise_percent": 10, **settings.pop("shadow", {})}
        arms = settings.pop("arms", {})
        deployment = Deployment(tmp_path_factory.mktemp("router"), *urls, shadow=shadow, **settings)
        config = yaml.safe_load(deployment.config.read_text())
        for colour, more in arms.items():
            config[colour].update(more)
        deployment.config.write_text(yaml.safe_dump(config))
        started.append(deployment)
        deployment.start()
        time.sleep(1.0)  # workers look for the shadow four times a second; what they answer before that is counted as dropped
        return Pair(deployment, f"http://127.0.0.1:{deployment.port}", *urls)

    yield begin
    for deployment in started:
        if deployment.process is not None and deployment.process.poll() is None:
            assert deployment.stop() == 0
            assert [line for line in deployment.log.splitlines() if " ERROR " in line or "Traceback" in line] == []
