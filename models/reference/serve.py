"""The reference model server: one or several trained models behind FastAPI and uvicorn.

It speaks the Open Inference Protocol v2 (REST), V1 and MLflow's scoring protocol, so that a router, its comparisons
and a demonstration have a real blue and a real green to work on. A model is addressed by its name and, where the
protocol can, its version; the first one given answers where a path names no version, and MLflow's paths, which name
no model.
Predictions run on the event loop: they take well under a millisecond, less than the hand-over to a thread costs.
Wrong input is a 4xx with `{"error": ...}` that says what is wrong with it. Misbehaviour on purpose is in `behaviour`.
Left out: loading and unloading at run time, authentication, gRPC, batching. It is a reference and not a product.
"""

from __future__ import annotations

import asyncio
import errno
import signal
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import PlainTextResponse
from numpy.typing import NDArray
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from models.reference import payloads
from models.reference.artifact import LoadedModel, ModelCard, ModelFileError, load
from models.reference.behaviour import WELL, Behaviour, FaultSource, perturb
from models.reference.bodies import json_answer, read_body
from models.reference.payloads import InferRequest, RequestError

DRAIN_SECONDS = 5  # how long requests under way may take after SIGTERM


class ServeError(Exception):
    """The server cannot start. The message says why and what to do."""


class InjectedError(Exception):
    """A failure that `Behaviour.error_rate` asked for."""


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The models served, by name and version. The first is the default; so is the first version of each name."""

    models: dict[str, dict[str, LoadedModel]]

    @classmethod
    def of(cls, models: Sequence[LoadedModel]) -> Catalogue:
        """`models` in the given order.

        Raises:
            ModelFileError: two of them have the same name and version.
        """
        by_name: dict[str, dict[str, LoadedModel]] = {}
        for model in models:
            versions = by_name.setdefault(model.card.name, {})
            if model.card.version in versions:
                raise ModelFileError(
                    f"two models are called {model.card.name}, version {model.card.version}; serve one elsewhere"
                )
            versions[model.card.version] = model
        return cls(by_name)

    def default(self) -> LoadedModel:
        """The first model."""
        return next(iter(next(iter(self.models.values())).values()))

    def find(self, name: str, version: str | None = None) -> LoadedModel:
        """The model `name`, in `version` or its first one.

        Raises:
            RequestError: 404, with the names or versions that there are.
        """
        versions = self.models.get(name)
        if versions is None:
            raise RequestError(f"no model {name!r} is served here; there is {', '.join(self.models)}", 404)
        if version is None:
            return next(iter(versions.values()))
        if version not in versions:
            raise RequestError(f"model {name!r} has no version {version!r}; there is {', '.join(versions)}", 404)
        return versions[version]


@dataclass(frozen=True, slots=True)
class Inference:
    """Answers requests with the catalogue's models, and misbehaves as told."""

    catalogue: Catalogue
    faults: FaultSource

    async def answer(
        self,
        request: Request,
        find: Callable[[], LoadedModel],
        parse: Callable[[bytes, ModelCard], InferRequest],
        render: Callable[[ModelCard, InferRequest, dict[str, NDArray[Any]]], payloads.JsonObject],
    ) -> Response:
        """One inference request from its body to its answer."""
        body = await read_body(request)  # before any refusal, or the connection could not be kept alive
        fault = self.faults.draw()
        if fault.delay_s > 0:
            await asyncio.sleep(fault.delay_s)
        if fault.fails:
            raise InjectedError
        model = find()
        asked = parse(body, model.card)
        outputs = _predict(model, asked)
        if fault.noise_seed is not None:
            outputs = perturb(outputs, model.card.classes, fault.noise_seed)
        return json_answer(request, render(model.card, asked, outputs))


def build_app(
    model_path: Path | Sequence[Path],
    name: str | None = None,
    version: str | None = None,
    behaviour: Behaviour = WELL,
) -> FastAPI:
    """The application that serves the model or models at `model_path`.

    `name` and `version` replace what the card says; only a single model can be renamed. The models are loaded here,
    so an application that exists is ready.

    Raises:
        ModelFileError: a model cannot be loaded, or two have the same name and version.
        ValueError: no path, or a new name or version for several models.
    """
    paths = [model_path] if isinstance(model_path, Path) else list(model_path)
    if not paths:
        raise ValueError("there is no model to serve")
    if len(paths) > 1 and (name is not None or version is not None):
        raise ValueError("only a single model can be given another name or version")
    loaded = [load(path) for path in paths]
    if name is not None or version is not None:
        card = loaded[0].card
        if name is not None:
            card = replace(card, name=name)
        if version is not None:
            card = replace(card, version=version)
        loaded = [LoadedModel(card, loaded[0].estimator)]

    app = FastAPI(title="bluegreen reference model server", openapi_url=None)
    inference = Inference(Catalogue.of(loaded), FaultSource(behaviour))
    _add_open_inference(app, inference)
    _add_v1(app, inference)
    _add_mlflow(app, inference)
    app.add_exception_handler(RequestError, _on_request_error)
    app.add_exception_handler(InjectedError, _on_injected_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(ClientDisconnect, _on_disconnect)
    app.add_exception_handler(Exception, _on_defect)
    return app


def serve(
    model_path: Path | Sequence[Path],
    host: str = "127.0.0.1",
    port: int = 9001,
    name: str | None = None,
    version: str | None = None,
    behaviour: Behaviour = WELL,
    announce: Callable[[str], None] | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, then finish what is under way (up to `DRAIN_SECONDS`) and return.

    Port 0 takes any free one. `announce` is called once with the server's URL as soon as connections are accepted.
    Must run in the main thread.

    Raises:
        ServeError: the address is taken or cannot be listened on.
        ModelFileError, ValueError: as `build_app`.
    """
    from threadpoolctl import threadpool_limits

    with _bound(host, port) as listener:  # before the models are loaded, so that a taken port is known at once
        app = build_app(model_path, name, version, behaviour)
        # A single row is too small to share out: BLAS threads would only wake and wait for each other.
        threadpool_limits(limits=1)
        try:
            listener.listen(2048)
        except OSError as error:  # another program bound the same port after we did, and listened first
            raise _listen_error(host, port, error) from error
        # uvicorn drains on these signals and then raises them anew for whoever handled them before: end in good order
        # there.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _ignore)
        if announce is not None:
            shown = f"[{host}]" if ":" in host else host
            announce(f"http://{shown}:{listener.getsockname()[1]}")
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=DRAIN_SECONDS,
        )
        uvicorn.Server(config).run(sockets=[listener])


def _predict(model: LoadedModel, asked: InferRequest) -> dict[str, NDArray[Any]]:
    try:
        with np.errstate(over="ignore", invalid="ignore"):  # found and named below
            outputs = {name: model.answer(asked.rows, name) for name in asked.outputs}
    except ValueError as error:  # how scikit-learn refuses input; here when a step overflows and the next one notices
        raise RequestError(f"the model cannot take these rows: {str(error).partition(chr(10))[0]}") from error
    for values in outputs.values():
        wrong = ~np.isfinite(values.reshape(len(values), -1)).all(axis=1)
        if wrong.any():
            row = int(np.argmax(wrong))
            raise RequestError(f"row {row} has numbers so large that the model's answer is not finite")
    return outputs


def _add_open_inference(app: FastAPI, inference: Inference) -> None:
    find = inference.catalogue.find

    def parse(body: bytes, card: ModelCard) -> InferRequest:
        return payloads.open_inference_request(payloads.json_object(body), card)

    @app.get("/v2", response_model=None)
    async def server_metadata(request: Request) -> Response:
        return json_answer(
            request, {"name": app.title, "version": inference.catalogue.default().card.version, "extensions": []}
        )

    @app.get("/v2/health/live", response_model=None)
    async def live(request: Request) -> Response:
        return json_answer(request, {"live": True})

    @app.get("/v2/health/ready", response_model=None)
    async def ready(request: Request) -> Response:
        return json_answer(request, {"ready": True})

    @app.get("/v2/models/{model}", response_model=None)
    @app.get("/v2/models/{model}/versions/{version}", response_model=None)
    async def metadata(request: Request, model: str, version: str | None = None) -> Response:
        card = find(model, version).card
        return json_answer(request, payloads.model_metadata(card, list(inference.catalogue.models[model])))

    @app.get("/v2/models/{model}/ready", response_model=None)
    @app.get("/v2/models/{model}/versions/{version}/ready", response_model=None)
    async def model_ready(request: Request, model: str, version: str | None = None) -> Response:
        return json_answer(request, {"name": find(model, version).card.name, "ready": True})

    @app.post("/v2/models/{model}/infer", response_model=None)
    @app.post("/v2/models/{model}/versions/{version}/infer", response_model=None)
    async def infer(request: Request, model: str, version: str | None = None) -> Response:
        if "inference-header-content-length" in request.headers:
            await read_body(request)
            raise RequestError("the binary tensor extension is not spoken here; send data as JSON", 415)
        return await inference.answer(request, lambda: find(model, version), parse, payloads.open_inference_answer)


def _add_v1(app: FastAPI, inference: Inference) -> None:
    find = inference.catalogue.find

    def parse(body: bytes, card: ModelCard) -> InferRequest:
        return payloads.v1_request(payloads.json_object(body), card)

    @app.get("/v1/models", response_model=None)
    async def names(request: Request) -> Response:
        return json_answer(request, {"models": list(inference.catalogue.models)})

    @app.get("/v1/models/{model}", response_model=None)
    async def ready(request: Request, model: str) -> Response:
        return json_answer(request, {"name": find(model).card.name, "ready": True})

    @app.post("/v1/models/{model}:predict", response_model=None)
    async def predict(request: Request, model: str) -> Response:
        return await inference.answer(request, lambda: find(model), parse, _predictions)


def _add_mlflow(app: FastAPI, inference: Inference) -> None:
    @app.get("/ping", response_model=None)
    @app.get("/health", response_model=None)
    async def ping() -> Response:
        return PlainTextResponse("\n")

    @app.get("/version", response_model=None)
    async def version() -> Response:
        return PlainTextResponse(inference.catalogue.default().card.version)

    @app.post("/invocations", response_model=None)
    async def invocations(request: Request) -> Response:
        kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()

        def parse(body: bytes, card: ModelCard) -> InferRequest:
            if kind == "text/csv":
                return payloads.csv_request(body, card)
            if kind == "application/json":
                return payloads.mlflow_request(payloads.json_object(body), card)
            raise RequestError(f"content-type {kind} is not taken; send application/json or text/csv", 415)

        return await inference.answer(request, inference.catalogue.default, parse, _predictions)


def _predictions(_card: ModelCard, _asked: InferRequest, outputs: dict[str, NDArray[Any]]) -> payloads.JsonObject:
    return payloads.predictions_answer(outputs)


async def _on_request_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    answer = json_answer(request, {"error": str(error)}, error.status)
    if error.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        answer.headers["connection"] = "close"  # the rest of the body is still on its way
    return answer


async def _on_injected_error(request: Request, _error: Exception) -> Response:
    return json_answer(request, {"error": "injected failure: the server was started with an error rate"}, 500)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    what = f"{request.method} {request.url.path}"
    said = {404: f"there is no {what}", 405: f"{what} is not a call of this server; try another method"}
    answer = json_answer(request, {"error": said.get(error.status_code, str(error.detail))}, error.status_code)
    answer.headers.update(error.headers or {})
    return answer


async def _on_disconnect(request: Request, _error: Exception) -> Response:
    # Nobody reads this; it keeps a client that left from being logged as a defect of the server.
    return json_answer(request, {"error": "the client left before its request was complete"}, 400)


async def _on_defect(request: Request, error: Exception) -> Response:
    return json_answer(request, {"error": f"{type(error).__name__} in the model server; its log says more"}, 500)


def _bound(host: str, port: int) -> socket.socket:
    """A socket bound to the address, not listening yet."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise _listen_error(host, port, error) from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise _listen_error(host, port, error) from error
    return listener


def _listen_error(host: str, port: int, error: OSError) -> ServeError:
    if error.errno == errno.EADDRINUSE:
        return ServeError(f"{host} port {port} is taken; choose another with --port, or --port 0 for any free one")
    return ServeError(f"cannot listen on {host} port {port}: {error.strerror or error}")


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """Nothing is left to do: uvicorn has drained by the time this is called."""
