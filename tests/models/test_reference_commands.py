from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from typer.testing import CliRunner

import models
from models.reference.artifact import load
from models.reference.commands import app
from models.reference.train import traffic

ROWS = traffic("digits")[0]
runner = CliRunner()


def ask(row: list[float]) -> dict[str, Any]:
    return {"inputs": [{"name": "x", "shape": [1, 64], "datatype": "FP64", "data": row}]}


# train


def test_train_prints_one_json_document_and_nothing_else(tmp_path: Path) -> None:
    arguments = ["train", "--out", str(tmp_path), "--dataset", "breast-cancer", "--dataset", "diabetes", "--json"]
    result = runner.invoke(app, arguments)
    assert (result.exit_code, result.stderr) == (0, "")
    document = json.loads(result.stdout)
    assert document["directory"] == str(tmp_path)
    assert [(m["name"], m["version"]) for m in document["models"]][:2] == [
        ("breast-cancer", "blue"),
        ("breast-cancer", "green"),
    ]
    assert len(document["models"]) == 7
    for model in document["models"]:
        loaded = load(Path(model["path"]))
        assert loaded.card.score == model["score"]
        assert json.loads(Path(model["card_path"]).read_text())["sha256"] == model["sha256"]


def test_train_prints_a_table_for_people(tmp_path: Path) -> None:
    result = runner.invoke(app, ["train", "--out", str(tmp_path), "--dataset", "diabetes"])
    assert result.exit_code == 0
    assert all(word in result.stdout for word in ("diabetes-green-third.skops", "r2 0.", "ridge"))


def test_train_that_cannot_write_says_so_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = runner.invoke(app, ["train", "--out", str(tmp_path / "file"), "--dataset", "diabetes"])
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("bluegreen model: cannot write ")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["train"],
        ["train", "--out", "x", "--dataset", "iris"],
        ["serve"],
        ["serve", "m.skops", "--port", "70000"],
        ["serve", "m.skops", "--error-rate", "1.5"],
        ["serve", "m.skops", "--noise-rate", "nan"],
        ["serve", "m.skops", "--delay-ms", "-1"],
        ["serve", "m.skops", "--delay-ms", "inf"],
        ["serve", "m.skops", "n.skops", "--name", "one"],
    ],
)
def test_wrong_usage_is_2(arguments: list[str]) -> None:
    assert runner.invoke(app, arguments).exit_code == 2


# serve, as far as it fails before it serves


def test_a_port_that_is_taken_is_one_clear_line(reference_models: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = runner.invoke(app, ["serve", str(reference_models / "digits-blue.skops"), "--port", str(port)])
    assert (result.exit_code, result.stdout) == (1, "")
    advice = "choose another with --port, or --port 0 for any free one"
    assert result.stderr == f"bluegreen model: 127.0.0.1 port {port} is taken; {advice}\n"


def test_an_address_of_another_machine(reference_models: Path) -> None:
    # 192.0.2.0/24 is for documentation (RFC 5737): no machine has such an address.
    arguments = ["serve", str(reference_models / "digits-blue.skops"), "--host", "192.0.2.1", "--port", "0"]
    result = runner.invoke(app, arguments)
    assert result.exit_code == 1
    assert result.stderr.startswith("bluegreen model: cannot listen on 192.0.2.1 port 0: ")
    assert result.stderr.count("\n") == 1


def test_a_model_that_is_missing_or_no_model(tmp_path: Path) -> None:
    result = runner.invoke(app, ["serve", str(tmp_path / "none.skops"), "--port", "0"])
    assert result.exit_code == 1
    assert "none.json does not exist; write it with: bluegreen model train --out DIR" in result.stderr
    assert result.stderr.count("\n") == 1


# serve, for real


def test_a_server_from_start_to_interrupt(reference_models: Path, start_reference_server: Callable[..., Any]) -> None:
    server = start_reference_server(reference_models / "digits-blue.skops", "--name", "iris-v1", "--version", "3")
    with httpx.Client(base_url=server.url, timeout=30) as client:
        assert client.get("/v2/health/ready").json() == {"ready": True}
        expected = load(reference_models / "digits-blue.skops").answer(np.array(ROWS[:20]), "predict").tolist()
        answers = [client.post("/v2/models/iris-v1/infer", json=ask(row)).json() for row in ROWS[:20]]
    assert [answer["outputs"][0]["data"][0] for answer in answers] == expected
    assert {(answer["model_name"], answer["model_version"]) for answer in answers} == {("iris-v1", "3")}
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(timeout=60) == 0
    assert server.process.stdout.read() == ""
    assert server.process.stderr.read() == ""


def test_a_request_under_way_is_answered_before_the_end(
    reference_models: Path, start_reference_server: Callable[..., Any]
) -> None:
    server = start_reference_server(reference_models / "digits-blue.skops", "--delay-ms", "600", "--seed", "1")
    host, port = server.url.removeprefix("http://").split(":")
    body = json.dumps(ask(ROWS[0])).encode()
    with socket.create_connection((host, int(port)), timeout=60) as client:
        head = f"POST /v2/models/digits/infer HTTP/1.1\r\nhost: {host}\r\ncontent-length: {len(body)}\r\n"
        # The interim answer shows that the server has begun to read the request: it is under way by any account.
        client.sendall(f"{head}expect: 100-continue\r\n\r\n".encode())
        assert client.recv(100).startswith(b"HTTP/1.1 100")
        client.sendall(body)
        threading.Event().wait(0.2)
        server.process.terminate()
        answer = b""
        while received := client.recv(65536):
            answer += received
    assert answer.startswith(b"HTTP/1.1 200")
    assert b'"model_name":"digits"' in answer
    assert server.process.wait(timeout=60) == 0


def test_the_commands_load_nothing_heavy() -> None:
    assert models.__file__
    program = (
        f"import sys; sys.path.insert(0, {str(Path(models.__file__).parents[1])!r}); import models.reference.commands; "
        "print(*sorted({name.split('.')[0] for name in sys.modules} & "
        "{'numpy', 'scipy', 'sklearn', 'skops', 'fastapi', 'uvicorn', 'pydantic'}))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == ""
