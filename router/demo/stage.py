"""What the demo runs on: its directory, its processes and their ports; all of it gone when the demo ends.

Children are started in process groups of their own, so that Ctrl-C reaches the demo alone and it can end them in order, and
with the parent-death signal, so that nothing stays behind when the demo itself is killed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
import yaml

from router.process import die_with_parent

READY_SECONDS = 60.0


class StageError(Exception):
    """Something that the demo needs did not start; the message says what and what it said."""


class Stage:
    """The demo's files and processes. Use as a context manager."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="bluegreen-demo-"))
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        # A second Ctrl-C while this runs would leave processes behind.
        with contextlib.suppress(ValueError):  # not the main thread: there is no handler to change
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        for name in ("router", *[n for n in self._processes if n != "router"]):
            self.stop(name)
        shutil.rmtree(self.path, ignore_errors=True)

    def start(self, name: str, module: str, *arguments: str) -> None:
        """Start `python -P -m module arguments` under a name; its output goes to NAME.log."""
        environment = {k: v for k, v in os.environ.items() if k not in ("BLUEGREEN_TOKEN", "BLUEGREEN_CONTROL")}
        with (self.path / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [sys.executable, "-P", "-m", module, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                process_group=0,
                preexec_fn=die_with_parent,  # noqa: PLW1509  no thread runs yet when children are started
            )

    def stop(self, name: str) -> None:
        """End a process gently, and if that does not help, not gently."""
        process = self._processes.pop(name, None)
        if process is None:
            return
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def kill(self, name: str) -> None:
        """End a process as a crash would: at once (SIGKILL)."""
        process = self._processes.pop(name)
        process.kill()
        process.wait()

    def wait_until(self, name: str, ready: Callable[[], bool]) -> None:
        """Wait until a process is ready. Raises StageError with the end of its log when it ends or takes too long."""
        deadline = time.monotonic() + READY_SECONDS
        while not ready():
            process = self._processes[name]
            if process.poll() is not None or time.monotonic() > deadline:
                log = (self.path / f"{name}.log").read_text(errors="replace").strip().splitlines()
                state = "ended" if process.poll() is not None else f"was not ready within {READY_SECONDS:g} s"
                raise StageError(f"{name} {state}: {' | '.join(log[-3:]) or 'it said nothing'}")
            time.sleep(0.05)

    # --- what the demo starts ---

    def serve_model(self, name: str, model: Path, port: int) -> str:
        """Start a model server; returns its URL at once (`wait_for_model` waits)."""
        arguments = ("serve", str(model), "--port", str(port), "--name", "digits", "--version", name)
        self.start(name, "models.reference.commands", *arguments)
        return f"http://127.0.0.1:{port}"

    def wait_for_model(self, name: str, url: str) -> None:
        """Wait until a model server answers its readiness probe."""
        self.wait_until(name, lambda: _answers(f"{url}/v2/health/ready"))

    def serve_router(self, settings: dict[str, object]) -> None:
        """Write a configuration file and start `bluegreen serve` on it."""
        config = self.path / "bluegreen.yaml"
        config.write_text(yaml.safe_dump(settings, sort_keys=False))
        self.start("router", "router.cli", "serve", str(config))

    def wait_for_router(self, listen: str, control: str) -> None:
        """Wait until the router can reach blue and control answers."""
        self.wait_until("router", lambda: _answers(f"http://{listen}/-/readyz") and _answers(f"http://{control}/readyz"))


def free_ports(*wanted: int) -> list[int]:
    """These ports, or another free one for each that is taken."""
    held, ports = [], []
    for port in wanted:
        sock = socket.socket()
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                sock.bind(("127.0.0.1", 0))
            ports.append(sock.getsockname()[1])
        finally:
            held.append(sock)  # kept until all are chosen, so that none is chosen twice
    for sock in held:
        sock.close()
    return ports


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2.0, trust_env=False).is_success
    except httpx.HTTPError:
        return False
