"""A whole router for end-to-end tests: `bluegreen serve` on free ports, in front of two servers that say who they are.

The servers are real HTTP servers in this process (asyncio, a thread of their own) that answer every POST with their colour and
what was asked, so that a client can tell a right answer from a wrong one.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import yaml


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody has, each another one.

    They lie below the range from which the kernel takes those of outgoing connections and of port 0, so that none of these sits
    on a port between now and the moment when somebody listens there.
    """
    ports: list[int] = []
    with contextlib.ExitStack() as held:
        for port in random.SystemRandom().sample(range(12000, 30000), 1000):
            sock = held.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                sock.bind(("127.0.0.1", port))
                ports.append(port)
            if len(ports) == count:
                return ports
    raise AssertionError("no free port")


def free_port() -> int:
    return free_ports(1)[0]


class ColourServers:
    """Blue's and green's servers. `url(colour)`; `delay[colour]` in seconds may be set while they run.

    A colour in `holding` answers nobody, until it is taken out again.
    """

    def __init__(self, colours: tuple[str, ...] = ("blue", "green")) -> None:
        self.delay = dict.fromkeys(colours, 0.0)
        self.holding: set[str] = set()
        self._ports: dict[str, int] = {}
        self._loop = asyncio.new_event_loop()
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(colours, ready), daemon=True)
        self._thread.start()
        assert ready.wait(30)

    def url(self, colour: str) -> str:
        return f"http://127.0.0.1:{self._ports[colour]}"

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)

    def _run(self, colours: tuple[str, ...], ready: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)

        async def start() -> None:
            for colour in colours:
                server = await asyncio.start_server(lambda r, w, c=colour: self._serve(c, r, w), "127.0.0.1", 0, backlog=512)
                self._ports[colour] = server.sockets[0].getsockname()[1]
            ready.set()

        keep = self._loop.create_task(start())
        self._loop.run_forever()
        keep.cancel()

    async def _serve(self, colour: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    (int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0
                )
                body = await reader.readexactly(length)
                if self.delay[colour]:
                    await asyncio.sleep(self.delay[colour])
                while colour in self.holding:
                    await asyncio.sleep(0.005)
                asked = json.loads(body) if body else {}
                text = json.dumps({"outputs": [{"name": "predict", "shape": [1], "datatype": "BYTES", "data": ["same"]}],
                                   "colour": colour, "asked": asked.get("id")}).encode()  # fmt: skip
                writer.write(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text)
                )
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, ValueError):
            pass
        finally:
            writer.close()


class Deployment:
    """`bluegreen serve` as a child process, and its two ports. It gives servers more time to connect than by default: whether
    one is there shall not depend on how busy the machine is.
    """

    def __init__(self, folder: Path, blue: str, green: str | None, **settings: Any) -> None:
        self.folder = folder
        self.port, self.control_port = free_ports(2)
        self.config = folder / "bluegreen.yaml"
        document: dict[str, Any] = {
            "listen": f"127.0.0.1:{self.port}",
            "control": f"127.0.0.1:{self.control_port}",
            "state": str(folder / "state"),
            "workers": 2,
            "blue": {"name": "v1", "servers": [blue]},
            **({"green": {"name": "v2", "servers": [green]}} if green else {}),
            **settings,
            "timeouts": {"connect": "20s", **settings.get("timeouts", {})},
            "health": {"timeout": "20s", **settings.get("health", {})},
        }
        self.config.write_text(yaml.safe_dump(document))
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        return (self.folder / "router.log").read_text(errors="replace")

    def start(self, *options: str) -> None:
        with (self.folder / "router.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "router.cli", "serve", str(self.config), *options],
                stdout=log,
                stderr=log,
                process_group=0,
            )
        try:
            self.wait_until(
                lambda: self.get("/readyz")[0] == 200 and self.ask("ready", path="/-/readyz", method="GET")[0] == 200
            )
            self.wait_until(lambda: self.get("/v1/status")[1]["shadow"]["running"])
        except BaseException:
            if self.process.poll() is None:
                self.kill_all()
            raise

    def wait_until(self, true: Any, seconds: float = 60.0, *, nap: float = 0.02) -> None:
        deadline = time.monotonic() + seconds
        while True:
            try:
                if true():
                    return
            except (OSError, http.client.HTTPException, KeyError):
                pass
            assert time.monotonic() < deadline, f"not within {seconds} s; log:\n{self.log[-3000:]}"
            assert self.process is None or self.process.poll() is None, f"the router ended:\n{self.log[-3000:]}"
            time.sleep(nap)

    def stop(self) -> int:
        if self.process is None:
            return 0
        self.process.terminate()
        try:
            status = self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.kill_all()
            raise
        self.process = None
        return status

    def children(self, module: str) -> list[int]:
        """PIDs of this router's processes of a module, such as router.run_worker."""
        assert self.process is not None
        out = subprocess.run(
            ["ps", "-o", "pid=,args=", "--ppid", str(self.process.pid)], capture_output=True, text=True, check=False
        )
        return [int(line.split()[0]) for line in out.stdout.splitlines() if module in line]

    def kill_all(self) -> None:
        """SIGKILL to the supervisor and every child."""
        assert self.process is not None
        pids = [self.process.pid, *self.children("router.run_")]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):  # a child ends by itself when its parent has ended
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        self.process = None
        for pid in pids[1:]:
            while _runs(pid):
                time.sleep(0.01)

    # --- the control API ---

    def get(self, path: str) -> tuple[int, Any]:
        return self.call("GET", path)

    def post(self, path: str, body: Any) -> tuple[int, Any]:
        return self.call("POST", path, body)

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.control_port, timeout=30)
        try:
            text = None if body is None else json.dumps(body)
            connection.request(method, path, text, {"content-type": "application/json", **headers})
            answer = connection.getresponse()
            content = answer.read()
            try:
                return answer.status, json.loads(content)
            except ValueError:
                return answer.status, content
        finally:
            connection.close()

    # --- the data port ---

    def ask(self, what: str, *, path: str = "/v2/models/m/infer", method: str = "POST", **headers: str) -> tuple[int, Any, Any]:
        """One request on a connection of its own: status, headers, JSON or bytes."""
        client = Client(self.port)
        try:
            return client.ask(what, path=path, method=method, **headers)
        finally:
            client.close()


class Client:
    """A client with one kept-alive connection; it opens another when the router has said `Connection: close`."""

    def __init__(self, port: int, timeout: float = 60.0) -> None:
        self._port = port
        self._timeout = timeout
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)

    def ask(self, what: str, *, path: str = "/v2/models/m/infer", method: str = "POST", **headers: str) -> tuple[int, Any, Any]:
        body = json.dumps({"id": what}) if method == "POST" else None
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self._connection.request(method, path, body, {"content-type": "application/json", **named})
        answer = self._connection.getresponse()
        content = answer.read()
        try:
            return answer.status, answer.headers, json.loads(content)
        except ValueError:
            return answer.status, answer.headers, content

    def close(self) -> None:
        self._connection.close()


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
