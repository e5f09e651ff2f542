"""What the evidence says about real models over real sockets, held against what is computed offline from the same rows.

Two reference servers, a router that mirrors everything and sends everything to blue a second time, and one client that asks for
each of some hundred held-out digits once. Green is first a worse model that is 20 ms slower, then one that is as fast as blue.
"""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import deployment
import numpy as np
import pytest

DELAY_MS = 20.0
IN_FLIGHT = 8
WAITING = 4 * IN_FLIGHT  # as the shadow has it
ROWS = 440


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from models.reference.train import train

    directory = tmp_path_factory.mktemp("digits")
    train(directory, ["digits"])
    return directory


@pytest.fixture(scope="module")
def urls(directory: Path) -> Iterator[dict[str, str]]:
    """Servers of blue, of a worse green with a delay, and of a good green without one."""
    greens = {"slow": ("green-third", ["--delay-ms", str(DELAY_MS)]), "fast": ("green", [])}
    processes, found = [], {}
    ports = iter(deployment.free_ports(3))
    for name, (version, options) in {"blue": ("blue", []), **greens}.items():
        port = next(ports)
        model = directory / f"digits-{version}.skops"
        command = [sys.executable, "-P", "-m", "models.reference.commands", "serve", str(model), "--port", str(port)]
        processes.append(subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        found[name] = f"http://127.0.0.1:{port}"
    yield found
    for process in processes:
        process.terminate()
    for process in processes:
        process.wait(60)


@pytest.fixture
def router(urls: dict[str, str], tmp_path: Path) -> Iterator[Any]:
    shadow = {"percent": 100, "noise_percent": 100, "max_in_flight": IN_FLIGHT, "nice": 0}
    router = deployment.Deployment(tmp_path, urls["blue"], urls["slow"], shadow=shadow, workers=1)
    router.start()
    for url in urls.values():
        router.wait_until(lambda url=url: is_ready(url), 60)
    yield router
    if router.process is not None:
        router.stop()


def is_ready(url: str) -> bool:
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=5)
    try:
        connection.request("GET", "/v2/health/ready")
        return connection.getresponse().status == 200
    finally:
        connection.close()


def offline(directory: Path, version: str, rows: list[list[float]]) -> list[int]:
    """The labels that a model gives, computed without any server."""
    from models.reference.artifact import load

    labels: list[int] = load(directory / f"digits-{version}.skops").answer(np.array(rows), "predict").tolist()
    return labels


def ask_for_all(router: Any, rows: list[list[float]], expected: list[int]) -> None:
    """Every row once, never more at a time than the shadow keeps, so that nothing is dropped; the client gets blue's answers."""
    connection = http.client.HTTPConnection("127.0.0.1", router.port, timeout=60)
    seen: list[int] = []
    for row in rows:
        if len(seen) % WAITING == 0:
            wait_for(router, len(seen))
        body = {"inputs": [{"name": "x", "shape": [1, 64], "datatype": "FP64", "data": row}]}
        connection.request("POST", "/v2/models/digits/infer", json.dumps(body), {"content-type": "application/json"})
        seen.append(json.loads(connection.getresponse().read())["outputs"][0]["data"][0])
    connection.close()
    assert seen == expected


def wait_for(router: Any, pairs: int) -> None:
    router.wait_until(lambda: sum(router.get("/v1/evidence")[1][key] for key in ("pairs", "dropped")) >= pairs, 60)


def compared(router: Any, pairs: int) -> dict[str, Any]:
    """The evidence once all are compared; what seemed lost while a process got no processor has come by then."""
    router.wait_until(lambda: router.get("/v1/evidence")[1]["pairs"] >= pairs, 60)
    router.wait_until(lambda: not router.get("/v1/evidence")[1]["dropped_by"], 60)
    evidence: dict[str, Any] = router.get("/v1/evidence")[1]
    assert evidence["internal_failures"]["n"] == 0
    assert (evidence["pairs"], evidence["received"]) == (pairs, pairs)
    return evidence


def assert_confusion(evidence: dict[str, Any], blue: list[int], green: list[int]) -> None:
    """The table is the one computed offline, count by count."""
    table = np.zeros((10, 10), dtype=int)
    np.add.at(table, (blue, green), 1)
    assert evidence["confusion"]["labels"] == [str(label) for label in range(10)]
    assert evidence["confusion"]["counts"] == table.tolist()
    agreement = evidence["agreement"]
    truth = float(np.mean(np.array(blue) == np.array(green)))
    assert agreement["rate"] == pytest.approx(truth)
    assert agreement["ci"][0] <= truth <= agreement["ci"][1]


def assert_difference(evidence: dict[str, Any], truth_ms: float) -> None:
    """The interval of the p50's difference holds the truth, to within the spread of the loop that measured it."""
    paired = evidence["latency"]["paired"]
    low, high = paired["difference_ms"]["p50"]["ci"]
    spread = paired["blue"]["p95"] - paired["blue"]["p50"]
    assert low - spread <= truth_ms <= high + spread


def test_evidence_is_what_can_be_computed_offline(router: Any, urls: dict[str, str], directory: Path) -> None:
    from models.reference.train import traffic

    rows = traffic("digits")[0][:ROWS]
    blue = offline(directory, "blue", rows)

    worse = offline(directory, "green-third", rows)
    ask_for_all(router, rows, blue)
    evidence = compared(router, len(rows))
    assert_confusion(evidence, blue, worse)
    assert evidence["noise"] == {"n": len(rows), "agreed": len(rows), "rate": 1.0, "ci": evidence["noise"]["ci"], "unusable": 0}
    differing = sum(ours != theirs for ours, theirs in zip(blue, worse, strict=True))
    assert (evidence["against_noise"]["worse"], evidence["against_noise"]["better"]) == (differing, 0)
    assert evidence["against_noise"]["worse_than_noise"]
    assert_difference(evidence, DELAY_MS)
    assert evidence["latency"]["paired"]["median"]["decided"] == "green is slower"
    kept = router.get("/v1/pairs?disagreeing=true&limit=1000")[1]["pairs"]
    assert len(kept) == differing

    good = offline(directory, "green", rows)
    assert router.call("PUT", "/v1/arms/green", {"name": "fast", "servers": [urls["fast"]]})[0] == 200
    assert router.post("/v1/shadow", {"percent": 100})[0] == 200
    ask_for_all(router, rows, blue)
    evidence = compared(router, len(rows))
    assert_confusion(evidence, blue, good)
    assert_difference(evidence, 0.0)
