from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from control_process import ControlProcess, Follower, new_state, until


def test_kill_and_start_again_keep_plan_and_history(tmp_path: Path) -> None:
    state, _ = new_state(tmp_path)
    process = ControlProcess(state)
    with process.client() as api:
        for percent in (1, 2, 3):
            api.post("/v1/split", json={"green_percent": percent})
        until(lambda: api.get("/v1/history").json()["history"][-1]["revision"] == 4)
        before = api.get("/v1/plan").json(), api.get("/v1/history").json()
    process.kill()
    process.start()
    with process.client() as api:
        assert (api.get("/v1/plan").json(), api.get("/v1/history").json()) == before
        assert api.post("/v1/split", json={"green_percent": 4}).json()["revision"] == 5
    assert process.end() == 0


def test_sigterm_ends_it_in_time_with_clients_that_hold_on(tmp_path: Path) -> None:
    """An idle kept-alive connection, a request half sent, and a switch that waits for a worker which sleeps."""
    state, _ = new_state(tmp_path)
    process = ControlProcess(state)
    sleeper = Follower(state, 0, delay=30)
    idle, half, waiting = (socket.create_connection(("127.0.0.1", process.port)) for _ in range(3))
    idle.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert b" 200 " in idle.recv(4096)
    half.sendall(b"POST /v1/switch HTTP/1.1\r\nHost: localhost\r\nContent-Le")
    body = b'{"to":"green"}'
    waiting.sendall(
        b"POST /v1/switch HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
        % (len(body), body)
    )
    until(lambda: process.plan().revision == 2)
    process.process.send_signal(signal.SIGTERM)
    assert process.process.wait(15) == 0  # they would hold on for ever
    for connection in (idle, half, waiting):
        connection.close()
    process.listener.close()
    sleeper.stop()


@pytest.mark.parametrize("damage", ["settings", "page", "store", "token"])
def test_what_keeps_it_from_starting_is_said_in_one_line(tmp_path: Path, damage: str) -> None:
    state, _ = new_state(tmp_path)
    environment = {}
    if damage == "settings":
        state.settings_json.unlink()
    elif damage == "page":
        state.plan_page.write_bytes(b"nonsense")
    elif damage == "store":
        state.store.write_text("nonsense " * 1000)
    else:
        environment = {"BLUEGREEN_TOKEN": "short"}
    with pytest.raises(AssertionError) as caught:
        ControlProcess(state, environment=environment)
    lines = [line for line in str(caught.value).splitlines() if "control cannot start: " in line]
    assert len(lines) == 1
    assert "Traceback" not in str(caught.value)


def test_what_takes_long_to_import_waits_until_it_is_used() -> None:
    """Control is to be back soon after it was killed: the statistics and the sender of webhooks are half a second of its start."""
    code = "import sys, router.run_control; print(*sorted({'numpy', 'scipy', 'httpx'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == ""
