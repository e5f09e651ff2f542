"""`/healthz` (this process lives) and `/readyz` (the plan can be read, and a worker beats), for whoever restarts things."""

from __future__ import annotations

from fastapi import APIRouter

from router.control.plans import Control
from router.control.problems import Json
from router.errors import Unavailable


def probe_routes(control: Control) -> APIRouter:
    """The two probes, which need no token."""
    routes = APIRouter(tags=["probes"])

    @routes.get("/healthz")
    def healthz() -> Json:
        """The control process answers."""
        return Json({"status": "ok"})

    @routes.get("/readyz")
    def readyz() -> Json:
        """The plan can be read and at least one worker has beaten within the last 5 s; else 503."""
        plan, living = control.plan(), control.workers.alive()
        if not living:
            raise Unavailable("no worker is running")
        return Json({"status": "ready", "revision": plan.revision, "workers": len(living)})

    return routes
