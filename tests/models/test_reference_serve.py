from __future__ import annotations

import gzip
import http.client
import json
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from busy import in_time
from sklearn.linear_model import LinearRegression

from models.reference.artifact import LoadedModel, ModelFileError, load, save
from models.reference.behaviour import Behaviour
from models.reference.bodies import MAX_BODY
from models.reference.serve import build_app
from models.reference.train import traffic

ServeApp = Callable[[Any], AbstractContextManager[str]]
DIGITS, DIGITS_TRUTH = traffic("digits")
INFER = "/v2/models/digits/infer"
HUGE = json.dumps({"instances": [[1.0] * 10, [1e308] * 10]}).encode()


def flat(rows: list[list[float]]) -> list[float]:
    return [value for row in rows for value in row]


def ask(rows: list[list[float]], *outputs: str, **more: Any) -> dict[str, Any]:
    """An Open Inference Protocol request."""
    tensor = {"name": "rows", "shape": [len(rows), len(rows[0])], "datatype": "FP64", "data": flat(rows)}
    return {"inputs": [tensor], **({"outputs": [{"name": name} for name in outputs]} if outputs else {}), **more}


def offline(models: Path, stem: str, rows: list[list[float]], output: str = "predict") -> list[Any]:
    answer: list[Any] = load(models / f"{stem}.skops").answer(np.array(rows), output).tolist()
    return answer


def asking(url: str) -> httpx.Client:
    return httpx.Client(base_url=url, timeout=30)


def refused(response: httpx.Response, status: int, message: str) -> None:
    assert (response.status_code, response.headers["content-type"]) == (status, "application/json")
    assert response.json().keys() == {"error"}
    assert message in response.json()["error"]


# Open Inference Protocol v2


def test_health_and_metadata(reference_client: httpx.Client) -> None:
    assert reference_client.get("/v2/health/live").json() == {"live": True}
    assert reference_client.get("/v2/health/ready").json() == {"ready": True}
    assert reference_client.get("/v2").json().keys() == {"name", "version", "extensions"}
    for path in ("/v2/models/digits", "/v2/models/digits/versions/green"):
        metadata = reference_client.get(path).json()
        assert (metadata["name"], metadata["versions"]) == ("digits", ["blue", "green"])
        assert metadata["inputs"][0]["shape"] == [-1, 64]
    for path in ("/v2/models/diabetes/ready", "/v2/models/diabetes/versions/blue/ready"):
        assert reference_client.get(path).json() == {"name": "diabetes", "ready": True}


@pytest.mark.parametrize(("version", "path"), [("blue", ""), ("blue", "/versions/blue"), ("green", "/versions/green")])
def test_infer_answers_as_the_model_does(
    reference_client: httpx.Client, reference_models: Path, version: str, path: str
) -> None:
    rows = DIGITS[:50]
    asked = ask(rows, "predict_proba", "predict", id="req-1")
    answer = reference_client.post(f"/v2/models/digits{path}/infer", json=asked).json()
    labels, proba = (offline(reference_models, f"digits-{version}", rows, o) for o in ("predict", "predict_proba"))
    assert answer == {
        "model_name": "digits",
        "model_version": version,
        "id": "req-1",
        "parameters": {},
        "outputs": [
            {"name": "predict_proba", "shape": [50, 10], "datatype": "FP64", "data": flat(proba)},
            {"name": "predict", "shape": [50, 1], "datatype": "INT64", "data": labels},
        ],
    }


def test_labels_alone_are_the_default_and_nested_integers_are_taken(
    reference_client: httpx.Client, reference_models: Path
) -> None:
    rows = [[int(value) for value in row] for row in DIGITS[:3]]
    tensor = {"name": "x", "shape": [3, 64], "datatype": "INT32", "data": rows}
    (output,) = reference_client.post(INFER, json={"inputs": [tensor]}).json()["outputs"]
    labels = offline(reference_models, "digits-blue", DIGITS[:3])
    assert output == {"name": "predict", "shape": [3, 1], "datatype": "INT64", "data": labels}


def test_a_regression_answers_numbers(reference_client: httpx.Client, reference_models: Path) -> None:
    rows = traffic("diabetes")[0][:4]
    answer = reference_client.post("/v2/models/diabetes/infer", json=ask(rows)).json()
    values = offline(reference_models, "diabetes-blue", rows)
    assert answer["outputs"] == [{"name": "predict", "shape": [4, 1], "datatype": "FP64", "data": values}]


def test_a_request_needs_no_content_type(reference_url: str) -> None:
    connection = http.client.HTTPConnection(reference_url.removeprefix("http://"))
    connection.request("POST", INFER, json.dumps(ask(DIGITS[:1])))
    assert connection.getresponse().status == 200
    connection.close()


# V1 and MLflow


def test_v1(reference_client: httpx.Client, reference_models: Path) -> None:
    assert reference_client.get("/v1/models").json() == {"models": ["digits", "breast-cancer", "diabetes"]}
    assert reference_client.get("/v1/models/breast-cancer").json() == {"name": "breast-cancer", "ready": True}
    rows = traffic("breast-cancer")[0][:6]
    answer = reference_client.post("/v1/models/breast-cancer:predict", json={"instances": rows})
    assert answer.json() == {"predictions": offline(reference_models, "breast-cancer-blue", rows)}


def test_mlflow(reference_client: httpx.Client, reference_models: Path) -> None:
    for path in ("/ping", "/health"):
        assert reference_client.get(path).status_code == 200
    assert reference_client.get("/version").text == "blue"
    names = load(reference_models / "digits-blue.skops").card.feature_names
    rows = DIGITS[:4]
    labels = {"predictions": offline(reference_models, "digits-blue", rows)}
    for document in (
        {"dataframe_split": {"columns": list(names), "data": rows}},
        {"dataframe_records": [dict(zip(names, row, strict=True)) for row in rows]},
        {"inputs": rows},
        {"instances": rows},
    ):
        assert reference_client.post("/invocations", json=document).json() == labels
    text = "\n".join([",".join(names), *(",".join(map(str, row)) for row in rows)])
    answer = reference_client.post("/invocations", content=text, headers={"content-type": "text/csv; charset=utf-8"})
    assert answer.json() == labels
    proba = {"inputs": rows, "params": {"predict_method": "predict_proba"}}
    expected = offline(reference_models, "digits-blue", rows, "predict_proba")
    assert reference_client.post("/invocations", json=proba).json() == {"predictions": expected}


# Wrong requests


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        (INFER, b"{", "the body is not JSON"),
        (INFER, b"", "the body is empty"),
        (INFER, b'{"inputs": [{"name": "x", "shape": [1, 64]}]}', "inputs[0].datatype is missing"),
        (INFER, json.dumps(ask([[1.0] * 63])).encode(), "shape is [1, 63]; expected [n, 64]"),
        (INFER, json.dumps(ask(DIGITS[:1])).replace("0.0", "NaN", 1).encode(), "NaN is not allowed"),
        (INFER, json.dumps(ask(DIGITS[:1])).replace("FP64", "BYTES").encode(), "datatype is 'BYTES'"),
        (INFER, json.dumps(ask(DIGITS[:1], "logits")).encode(), "'logits' is not an output"),
        ("/v2/models/diabetes/infer", json.dumps(ask([[1.0] * 10], "predict_proba")).encode(), "is not an output"),
        ("/v1/models/digits:predict", b'{"instances": [[1]]}', "instances[0] has 1 numbers; the model takes 64"),
        ("/invocations", b'{"dataframe": []}', "expected exactly one of dataframe_split"),
        ("/v1/models/diabetes:predict", HUGE, "the model cannot take these rows: Input X contains infinity"),
    ],
)
def test_a_wrong_body_is_400_and_says_what_is_wrong(
    reference_client: httpx.Client, path: str, body: bytes, message: str
) -> None:
    response = reference_client.post(path, content=body, headers={"content-type": "application/json"})
    refused(response, 400, message)


@pytest.mark.parametrize(
    ("method", "path", "status", "message"),
    [
        (
            "POST",
            "/v2/models/iris/infer",
            404,
            "no model 'iris' is served here; there is digits, breast-cancer, diabetes",
        ),
        ("POST", "/v2/models/digits/versions/9/infer", 404, "model 'digits' has no version '9'; there is blue, green"),
        ("GET", "/v2/models/iris", 404, "no model 'iris'"),
        ("GET", "/v2/models/iris/ready", 404, "no model 'iris'"),
        ("GET", "/v1/models/iris", 404, "no model 'iris'"),
        ("POST", "/v1/models/iris:predict", 404, "no model 'iris'"),
        ("GET", "/v3", 404, "there is no GET /v3"),
        ("GET", INFER, 405, f"GET {INFER} is not a call of this server"),
        ("POST", "/ping", 405, "POST /ping is not a call of this server"),
    ],
)
def test_wrong_addresses(reference_client: httpx.Client, method: str, path: str, status: int, message: str) -> None:
    refused(reference_client.request(method, path, json={} if method == "POST" else None), status, message)


def test_content_that_is_not_taken(reference_client: httpx.Client) -> None:
    form = {"content-type": "application/x-www-form-urlencoded"}
    response = reference_client.post("/invocations", content=b"a=b", headers=form)
    refused(response, 415, "send application/json or text/csv")
    brotli = {"content-encoding": "br"}
    refused(reference_client.post(INFER, content=b"abc", headers=brotli), 415, "content-encoding br is not taken")
    binary = {"inference-header-content-length": "2"}
    refused(reference_client.post(INFER, content=b"{}\0", headers=binary), 415, "binary tensor extension")


# Bodies


def test_gzip_both_ways(reference_client: httpx.Client) -> None:
    asked = json.dumps(ask(DIGITS[:300], "predict", "predict_proba")).encode()
    plain = reference_client.post(INFER, content=asked, headers={"accept-encoding": "identity"})
    packed = reference_client.post(
        INFER, content=gzip.compress(asked), headers={"content-encoding": "gzip", "accept-encoding": "gzip"}
    )
    assert "content-encoding" not in plain.headers
    assert packed.headers["content-encoding"] == "gzip"
    assert plain.headers["vary"] == packed.headers["vary"] == "accept-encoding"
    assert int(packed.headers["content-length"]) < len(plain.content)
    assert packed.json() == plain.json()
    small = reference_client.post(INFER, json=ask(DIGITS[:1]), headers={"accept-encoding": "gzip"})
    assert "content-encoding" not in small.headers


def test_wrong_gzip_is_refused(reference_client: httpx.Client) -> None:
    headers = {"content-encoding": "gzip"}
    refused(reference_client.post(INFER, content=b"plain", headers=headers), 400, "not the gzip that")
    bomb = gzip.compress(bytes(MAX_BODY + 1), 1)
    refused(reference_client.post(INFER, content=bomb, headers=headers), 413, f"more than {MAX_BODY} bytes")


def test_a_body_over_the_bound_is_413_and_ends_the_connection(reference_client: httpx.Client) -> None:
    chunk = bytes(1024 * 1024)
    response = reference_client.post(INFER, content=(chunk for _ in range(MAX_BODY // len(chunk) + 1)))
    refused(response, 413, f"longer than {MAX_BODY} bytes")
    assert response.headers["connection"] == "close"


def test_a_chunked_request(reference_client: httpx.Client) -> None:
    def chunks() -> Iterator[bytes]:
        body = json.dumps(ask(DIGITS[:2])).encode()
        yield from (body[start : start + 100] for start in range(0, len(body), 100))

    assert reference_client.post(INFER, content=chunks()).json()["outputs"][0]["shape"] == [2, 1]


def test_one_connection_serves_good_and_bad_requests_alike(reference_url: str) -> None:
    connection = http.client.HTTPConnection(reference_url.removeprefix("http://"))
    good, statuses, sockets = json.dumps(ask(DIGITS[:1])), [], set()
    for path, body in ((INFER, good), (INFER, "{"), ("/v2/models/iris/infer", good), ("/nowhere", good), (INFER, good)):
        connection.request("POST", path, body)
        response = connection.getresponse()
        response.read()
        statuses.append(response.status)
        assert connection.sock is not None, "the server closed the connection"
        sockets.add(connection.sock.getsockname())
    connection.close()
    assert statuses == [200, 400, 404, 404, 200]
    assert len(sockets) == 1


def test_a_client_that_leaves_mid_request_harms_nobody(reference_client: httpx.Client, reference_url: str) -> None:
    host, port = reference_url.removeprefix("http://").split(":")
    for _ in range(5):
        with socket.create_connection((host, int(port))) as leaver:
            leaver.sendall(f"POST {INFER} HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n{{".encode())
    assert reference_client.post(INFER, json=ask(DIGITS[:1])).status_code == 200


# Names and versions


def test_a_model_under_another_name(reference_models: Path, serve_reference_app: ServeApp) -> None:
    app = build_app(reference_models / "digits-green.skops", "iris v2", "2")
    with serve_reference_app(app) as url, asking(url) as client:
        answer = client.post("/v2/models/iris%20v2/versions/2/infer", json=ask(DIGITS[:1])).json()
        assert (answer["model_name"], answer["model_version"]) == ("iris v2", "2")
        refused(client.post(INFER, json=ask(DIGITS[:1])), 404, "there is iris v2")
        assert client.get("/version").text == "2"


def test_models_that_cannot_be_served_together(reference_models: Path) -> None:
    blue, green = (reference_models / f"digits-{version}.skops" for version in ("blue", "green"))
    with pytest.raises(ModelFileError, match="two models are called digits, version blue"):
        build_app([blue, blue])
    with pytest.raises(ValueError, match="only a single model can be given another name"):
        build_app([blue, green], name="one")
    with pytest.raises(ValueError, match="there is no model to serve"):
        build_app([])


def test_an_answer_that_is_no_number_is_never_given(
    reference_models: Path, serve_reference_app: ServeApp, tmp_path: Path
) -> None:
    steep = LinearRegression().fit([[0.0], [1.0]], [0.0, 1000.0])
    card = load(reference_models / "diabetes-blue.skops").card
    save(tmp_path / "steep.skops", steep, replace(card, name="steep", n_features=1, feature_names=("x",)))
    with serve_reference_app(build_app(tmp_path / "steep.skops")) as url, asking(url) as client:
        path = "/v1/models/steep:predict"
        assert client.post(path, json={"instances": [[2.0]]}).json()["predictions"] == pytest.approx([2000.0])
        response = client.post(path, json={"instances": [[2.0], [1e307]]})
    refused(response, 400, "row 1 has numbers so large that the model's answer is not finite")


# Misbehaviour on purpose


def test_errors_on_purpose_spare_health(reference_models: Path, serve_reference_app: ServeApp) -> None:
    app = build_app(reference_models / "digits-blue.skops", behaviour=Behaviour(error_rate=0.5, seed=1))
    with serve_reference_app(app) as url, asking(url) as client:
        responses = [client.post(INFER, json=ask(DIGITS[:1])) for _ in range(60)]
        failed = [response for response in responses if response.status_code == 500]
        assert {response.status_code for response in responses} == {200, 500}
        assert 10 < len(failed) < 50
        assert all(response.json() == failed[0].json() for response in failed)
        assert "injected failure" in failed[0].json()["error"]
        assert all(client.get(path).status_code == 200 for path in ["/v2/health/ready", "/ping"] * 20)


def test_noise_changes_its_share_of_labels(reference_models: Path, serve_reference_app: ServeApp) -> None:
    right = offline(reference_models, "digits-blue", DIGITS[:200])
    app = build_app(reference_models / "digits-blue.skops", behaviour=Behaviour(noise_rate=0.2, seed=4))
    wrong = 0
    with serve_reference_app(app) as url, asking(url) as client:
        for row, label in zip(DIGITS[:200], right, strict=True):
            predict, proba = client.post(INFER, json=ask([row], "predict", "predict_proba")).json()["outputs"]
            assert proba["data"].index(max(proba["data"])) == predict["data"][0]
            assert sum(proba["data"]) == pytest.approx(1)
            wrong += predict["data"][0] != label
    assert 15 < wrong < 70  # 40 expected; the bounds are 4.4 standard deviations and more away


def test_all_rows_of_a_noisy_request_are_wrong(reference_models: Path, serve_reference_app: ServeApp) -> None:
    rows = traffic("diabetes")[0][:20]
    right = offline(reference_models, "diabetes-blue", rows)
    paths = [reference_models / "digits-blue.skops", reference_models / "diabetes-blue.skops"]
    app = build_app(paths, behaviour=Behaviour(noise_rate=1))
    with serve_reference_app(app) as url, asking(url) as client:
        labels = client.post(INFER, json=ask(DIGITS[:20])).json()["outputs"][0]["data"]
        numbers = client.post("/v1/models/diabetes:predict", json={"instances": rows}).json()["predictions"]
    assert all(a != b for a, b in zip(labels, offline(reference_models, "digits-blue", DIGITS[:20]), strict=True))
    assert all(a != b and a == pytest.approx(b, rel=0.1) for a, b in zip(numbers, right, strict=True))


def test_a_delay_holds_up_its_own_request_and_no_other(reference_models: Path, serve_reference_app: ServeApp) -> None:
    app = build_app(reference_models / "digits-blue.skops", behaviour=Behaviour(delay_ms=1000, delay_jitter_ms=50))
    with serve_reference_app(app) as url, asking(url) as client, ThreadPoolExecutor() as pool:
        client.get("/ping")

        def ask_for_health_meanwhile() -> tuple[float, list[Future[httpx.Response]]]:
            start = time.monotonic()
            delayed = [pool.submit(client.post, INFER, json=ask(DIGITS[:1])) for _ in range(3)]
            try:
                assert client.get("/v2/health/ready").status_code == 200
                assert not any(future.done() for future in delayed), "the health check waited for the delayed requests"
            except AssertionError:
                wait(delayed)
                raise
            return start, delayed

        start, delayed = in_time(0.7, ask_for_health_meanwhile)
        assert all(future.result().status_code == 200 for future in delayed)
        assert time.monotonic() - start >= 1


# A defect in the model


class Broken:
    n_features_in_ = 64

    def predict(self, rows: Any) -> Any:
        raise ZeroDivisionError


def test_a_defect_is_500_and_says_so(
    reference_models: Path, serve_reference_app: ServeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = load(reference_models / "digits-blue.skops").card
    monkeypatch.setattr("models.reference.serve.load", lambda _path: LoadedModel(card, Broken()))
    with serve_reference_app(build_app(reference_models / "digits-blue.skops")) as url, asking(url) as client:
        response = client.post(INFER, json=ask(DIGITS[:1]))
    refused(response, 500, "ZeroDivisionError in the model server; its log says more")
