"""`GET /v1/evidence` and `GET /v1/pairs`: what the shadow found, with what never reached it.

The shadow knows what it compared and what it dropped; only the workers know what they could not even hand over. Both together
make `dropped`, so that no sampled exchange disappears from the account. The judgement is made elsewhere and passed in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fastapi import APIRouter, Query

from router.control.plans import Control
from router.control.problems import Json
from router.counters import release_counts
from router.errors import Refused

Judge = Callable[[Mapping[str, Any]], Mapping[str, Any]]

EMPTY_RATE: dict[str, Any] = {"n": 0, "rate": None, "ci": [0.0, 1.0]}


def no_judgement(evidence: Mapping[str, Any]) -> dict[str, Any]:
    """The verdict while there is nothing to judge by: hold."""
    return {"verdict": "hold", "reasons": ["no evidence yet" if not evidence["pairs"] else "no gates are set"]}


def evidence_routes(control: Control, judge: Judge) -> APIRouter:
    """`/v1/evidence` and `/v1/pairs`."""
    routes = APIRouter(tags=["evidence"])

    @routes.get("/v1/evidence")
    def evidence(release: int | None = Query(None, ge=0, description="Another release than the present one.")) -> Json:
        """What pairs and counters say so far about a release, and the verdict."""
        return Json(evidence_document(control, judge, release))

    @routes.get("/v1/pairs")
    def pairs(
        disagreeing: bool = Query(False, description="Only pairs that disagree."),
        limit: int = Query(20, ge=1, le=1000),
        release: int | None = Query(None, ge=0, description="Another release than the present one."),
    ) -> Json:
        """Recorded pairs, newest first."""
        number = control.plan().release if release is None else release
        return Json({"release": number, "pairs": control.store.pairs(number, disagreeing=disagreeing, limit=limit)})

    return routes


def evidence_document(control: Control, judge: Judge, release: int | None = None) -> dict[str, Any]:
    """The evidence about a release (left out: the present one). Raises Refused for one that has not begun, Unavailable."""
    plan = control.plan()
    number = plan.release if release is None else release
    if not 0 < number <= plan.release:
        raise Refused(f"there is no release {number} yet; the present one is {plan.release}")
    stored = control.store.evidence(number)
    snapshot, as_of = stored if stored is not None else ({}, None)
    sampled, lost = release_counts(control.workers.pages().values(), number)
    document: dict[str, Any] = {
        "pairs": 0,
        "agreement": EMPTY_RATE,
        "noise": EMPTY_RATE,
        "latency": {},
        "errors": {},
        **snapshot,
        "release": number,
        "arms": _arms(control, number),
        "sampled": sampled,
        "dropped": int(snapshot.get("dropped", 0)) + lost,
        "as_of": as_of,
    }
    document["verdict"] = dict(judge(document))
    return document


def _arms(control: Control, release: int) -> dict[str, Any]:
    """Which models the release compares."""
    plan = control.plan()
    if release == plan.release:
        green = {"name": plan.green.name, "servers": list(plan.green.servers)} if plan.green else None
        return {"blue": {"name": plan.blue.name, "servers": list(plan.blue.servers)}, "green": green}
    found = next((row for row in control.store.releases() if row["release"] == release), None)
    return {"blue": found["blue"], "green": found["green"]} if found else {"blue": None, "green": None}
