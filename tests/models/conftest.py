"""Reference models, trained once for the whole run, and reference servers on real sockets."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

import models


@pytest.fixture(scope="session")
def reference_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with every version of every data set."""
    from models.reference.train import train

    directory = tmp_path_factory.mktemp("reference") / "models"
    train(directory)
    return directory


@pytest.fixture(scope="session")
def reference_url(reference_models: Path) -> Iterator[str]:
    """A server, in a thread of this process, with digits (blue, then green), breast-cancer and diabetes."""
    from models.reference.serve import build_app

    names = ("digits-blue", "digits-green", "breast-cancer-blue", "diabetes-blue")
    with serving(build_app([reference_models / f"{name}.skops" for name in names])) as url:
        yield url


@pytest.fixture(scope="session")
def reference_client(reference_url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=reference_url, timeout=30) as client:
        yield client


@pytest.fixture
def serve_reference_app() -> Callable[[Any], contextlib.AbstractContextManager[str]]:
    """Runs an application behind uvicorn on an ephemeral port while a `with` lasts."""
    return serving


@contextlib.contextmanager
def serving(app: Any) -> Iterator[str]:
    import uvicorn

    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off", ws="none"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(timeout=60)
        listener.close()
        assert not thread.is_alive()


@dataclass
class ServerProcess:
    """`bluegreen model serve` in a process of its own, up and listening."""

    process: subprocess.Popen[str]
    url: str


@pytest.fixture
def start_reference_server() -> Iterator[Callable[..., ServerProcess]]:
    """Starts server processes on ephemeral ports and ends them with the test."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str | Path) -> ServerProcess:
        command = [
            sys.executable,
            "-P",
            "-m",
            "models.reference.commands",
            "serve",
            *map(str, arguments),
            "--port",
            "0",
        ]
        assert models.__file__
        environment = os.environ | {"PYTHONPATH": str(Path(models.__file__).parents[1])}
        process = subprocess.Popen(
            command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=1
        )
        started.append(process)
        assert process.stdout
        line = process.stdout.readline()
        assert " on http://" in line, (line, process.stderr and process.stderr.read())
        return ServerProcess(process, line.split()[-1])

    yield start
    for process in started:
        if process.poll() is None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=30)
        if process.poll() is None:
            process.kill()
            process.wait()
        for stream in (process.stdout, process.stderr):
            if stream:
                stream.close()
