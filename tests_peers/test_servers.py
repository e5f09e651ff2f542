"""Real model servers behind the router: answers byte-exact against direct ones, evidence that is right about their models."""

from __future__ import annotations

import gzip
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from deployment import free_port
from routed import ENVIRONMENTS, Pair

ROWS = 200


def models_for(server: str, folder: Path) -> list[list[float]]:
    """Blue and green in this folder, made by the server's own interpreter; returns rows that neither has seen."""
    python = ENVIRONMENTS / server / "bin" / "python"
    script = Path(__file__).with_name("make_models.py")
    subprocess.run([str(python), str(script), server, str(folder)], check=True, timeout=300)
    rows: list[list[float]] = json.loads((folder / "rows.json").read_text())
    return rows[:ROWS]


def program(server: str) -> str:
    return str(ENVIRONMENTS / server / "bin" / server)


def agreeing(answers: list[tuple[Any, Any]]) -> int:
    return sum(blue == green for blue, green in answers)


# --- MLServer ---


@pytest.fixture(scope="module")
def mlserver(
    run: Callable[..., int], route: Callable[..., Pair], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Pair, list[list[float]]]:
    folder = tmp_path_factory.mktemp("mlserver")
    rows = models_for("mlserver", folder)
    ports = []
    for colour in ("blue", "green"):
        port = free_port()
        settings = {"host": "127.0.0.1", "http_port": port, "grpc_port": free_port(), "metrics_endpoint": None}
        (folder / colour / "settings.json").write_text(json.dumps({**settings, "parallel_workers": 0}))
        command = [program("mlserver"), "start", str(folder / colour)]
        ports.append(run(command, "/v2/health/ready", folder=folder / colour, port=port))
    return route(*ports, health={"path": "/v2/health/ready"}), rows


def infer(row: list[float], identity: str) -> dict[str, Any]:
    tensor = {"name": "x", "shape": [1, len(row)], "datatype": "FP64", "data": row}
    return {"id": identity, "inputs": [tensor], "outputs": [{"name": "predict"}]}


def test_mlserver(mlserver: tuple[Pair, list[list[float]]], capsys: pytest.CaptureFixture[str]) -> None:
    pair, rows = mlserver
    path = "/v2/models/digits/infer"
    both = []
    with httpx.Client(timeout=30) as client:
        for number, row in enumerate(rows):
            request = infer(row, f"r{number}")
            routed, blue, green = (client.post(url + path, json=request) for url in (pair.router, pair.blue, pair.green))
            assert (routed.status_code, routed.content) == (200, blue.content)
            assert routed.headers["content-type"] == blue.headers["content-type"]
            both.append((blue.json()["outputs"][0]["data"], green.json()["outputs"][0]["data"]))
        zipped = gzip.compress(json.dumps(infer(rows[0], "zipped")).encode())
        fields = {"content-encoding": "gzip", "content-type": "application/json"}
        answers = [client.post(url + path, content=zipped, headers=fields) for url in (pair.router, pair.blue)]
        assert [answer.status_code for answer in answers] == [200, 200]
        assert answers[0].content == answers[1].content
        assert client.get(f"{pair.router}/v2/models/digits").json() == client.get(f"{pair.blue}/v2/models/digits").json()
        wrong = client.post(pair.router + path, json=infer(rows[0][:5], "wrong"))
        assert wrong.status_code == client.post(pair.blue + path, json=infer(rows[0][:5], "wrong")).status_code
    evidence = pair.evidence(ROWS + 2)
    with capsys.disabled():
        print(f"\nMLServer: {figures(evidence)}; offline {agreeing(both)} of {ROWS} agree")
    assert (evidence["dropped"], evidence["dropped_by"]) == (1, {"both failed": 1})  # the wrong request
    assert evidence["agreement"]["n"] == ROWS + 1
    assert round(evidence["agreement"]["rate"] * (ROWS + 1)) == agreeing(both) + (both[0][0] == both[0][1])
    assert evidence["protocols"] == {"open-inference": ROWS + 1}


# --- MLflow ---


@pytest.fixture(scope="module")
def mlflow(
    run: Callable[..., int], route: Callable[..., Pair], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Pair, list[list[float]]]:
    folder = tmp_path_factory.mktemp("mlflow")
    rows = models_for("mlflow", folder)
    command = [program("mlflow"), "models", "serve", "-p", "{port}", "-h", "127.0.0.1", "--env-manager", "local"]
    ports = [run([*command, "-m", str(folder / colour)], "/health") for colour in ("blue", "green")]
    return route(*ports, health={"path": "/health"}), rows


def test_mlflow(mlflow: tuple[Pair, list[list[float]]], capsys: pytest.CaptureFixture[str]) -> None:
    pair, rows = mlflow
    columns = [f"p{i}" for i in range(len(rows[0]))]
    both = []
    with httpx.Client(timeout=30) as client:

        def ask(content: bytes, kind: str = "application/json") -> Any:
            fields = {"content-type": kind}
            routed, blue, green = (
                client.post(f"{url}/invocations", content=content, headers=fields)
                for url in (pair.router, pair.blue, pair.green)
            )
            assert (routed.status_code, routed.content) == (blue.status_code, blue.content)
            assert routed.status_code == 200, routed.text
            both.append((blue.json()["predictions"], green.json()["predictions"]))
            return routed.json()

        forms: list[Callable[[list[float]], Any]] = [
            lambda row: {"inputs": [row]},
            lambda row: {"instances": [row]},
            lambda row: {"dataframe_split": {"columns": columns, "data": [row]}},
            lambda row: {"dataframe_records": [dict(zip(columns, row, strict=True))]},
        ]
        for number, row in enumerate(rows):
            ask(json.dumps(forms[number % 4](row)).encode())
        csv = ",".join(columns) + "\n" + "\n".join(",".join(map(str, row)) for row in rows[:10]) + "\n"
        assert len(ask(csv.encode(), "text/csv")["predictions"]) == 10
        wrong = [client.post(f"{url}/invocations", content=b"{}") for url in (pair.router, pair.blue)]
        assert wrong[0].status_code == wrong[1].status_code >= 400
    evidence = pair.evidence(ROWS + 2)
    with capsys.disabled():
        print(f"\nMLflow: {figures(evidence)}; offline {agreeing(both)} of {ROWS + 1} answers agree")
    assert (evidence["dropped"], evidence["dropped_by"]) == (1, {"both failed": 1})  # the wrong request
    assert evidence["agreement"]["n"] == ROWS + 1
    assert round(evidence["agreement"]["rate"] * (ROWS + 1)) == agreeing(both)
    assert evidence["protocols"] == {"mlflow": ROWS + 1}


def figures(evidence: dict[str, Any]) -> str:
    agreement = evidence["agreement"]
    return (
        f"{evidence['pairs']} pairs, {evidence['dropped']} dropped {evidence['dropped_by']}, protocols {evidence['protocols']}, "
        f"agreement {agreement['rate']:.4f} of {agreement['n']} [{agreement['ci'][0]:.3f}, {agreement['ci'][1]:.3f}], "
        f"blue with itself {evidence['noise']['rate']} of {evidence['noise']['n']}"
    )
