"""`GET /v1/history`: who changed what, when and why, oldest first."""

from __future__ import annotations

from fastapi import APIRouter, Query

from router.control.plans import Control
from router.control.problems import Json

SETTLE_SECONDS = 0.2


def history_routes(control: Control) -> APIRouter:
    """`/v1/history`."""
    routes = APIRouter(tags=["history"])

    @routes.get("/v1/history")
    def history(
        after: int = Query(0, ge=0, lt=2**63, description="Only entries with a greater id."),
        limit: int | None = Query(None, ge=1, lt=2**31, description="At most so many, the oldest."),
        last: int | None = Query(None, ge=1, lt=2**31, description="The newest so many instead; still oldest first."),
    ) -> Json:
        """Every change of the plan, with the plans before and after it, and what else happened."""
        control.history.settle(SETTLE_SECONDS)  # a switch answers before its own entry is written
        return Json({"history": control.store.history(after, limit, last)})

    return routes
