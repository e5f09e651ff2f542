"""The control API: puts its calls together and guards them.

One module per topic gives its routes; this one knows only how they form an application. The calls are plain functions that
FastAPI runs in threads, because what they do is wait: for workers, for SQLite.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI

from router.control.auth import Guard
from router.control.dashboard.pages import dashboard_routes
from router.control.evidence import Judge, evidence_routes, no_judgement
from router.control.history import history_routes
from router.control.metrics import metrics_routes
from router.control.plan_calls import plan_routes
from router.control.plans import Control
from router.control.probes import probe_routes
from router.control.problems import add_problem_handlers
from router.control.status import status_routes
from router.version import own_version


def no_rollout() -> dict[str, Any]:
    """The state of a rollout that was never started."""
    return {"state": "idle"}


def build_app(
    control: Control,
    *,
    tap: Path,
    token: str | None,
    loopback: bool,
    judge: Judge = no_judgement,
    rollout: Callable[[], Mapping[str, Any]] = no_rollout,
    more: Iterable[APIRouter] = (),
    body_limits: Mapping[str, int] | None = None,
) -> FastAPI:
    """The application.

    `tap` is the shadow's socket (status says whether it runs); `loopback` whether the address that it will listen on is one;
    `judge` makes the verdict of an evidence document; `more` are routes of other topics, `body_limits` bytes for those of
    them that take bodies over 1 MiB.
    """
    app = FastAPI(title="bluegreen control API", version=own_version(), redoc_url=None, redirect_slashes=False)
    add_problem_handlers(app)
    app.add_middleware(Guard, token=token, loopback=loopback, body_limits=body_limits)
    for routes in (
        plan_routes(control),
        status_routes(control, tap, rollout),
        evidence_routes(control, judge),
        history_routes(control),
        metrics_routes(control),
        probe_routes(control),
        dashboard_routes(),
        *more,
    ):
        app.include_router(routes)
    return app
