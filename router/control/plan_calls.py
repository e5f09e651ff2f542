"""The calls that read and change the plan.

Each change is one of `router.plan`'s transitions, applied by `Control`; here is only what a call's body means. All but
`switch` answer with the whole new plan, so that a client sees what it did.
"""

from __future__ import annotations

import json
import re
from typing import Any

from fastapi import APIRouter, Request

from models.arm import Arm, ArmError, Colour, parse_address, parse_arm
from router.control.auth import who
from router.control.bodies import CandidateBody, PromoteBody, ShadowBody, SplitBody, SwitchBody
from router.control.plans import Control
from router.control.problems import Json, Problem
from router.errors import PlanConflict, PlanError
from router.plan import Plan, parse_plan, promoted, replaced, shadowed_at, split_at, with_candidate

_ETAG = re.compile(r'(W/)?"([^"]*)"')


def plan_routes(control: Control) -> APIRouter:
    """`/v1/plan`, `/v1/switch`, `/v1/split`, `/v1/shadow`, `/v1/arms/green`, `/v1/promote`."""
    routes = APIRouter(tags=["plan"])

    @routes.get("/v1/plan")
    def get_plan() -> Json:
        """The plan that holds, with its revision as ETag."""
        plan = control.plan()
        return Json(plan.to_dict(), headers={"etag": f'"{plan.revision}"'})

    @routes.put("/v1/plan")
    def put_plan(request: Request, body: dict[str, Any], reason: str = "") -> Json:
        """Replace the whole plan. Needs `If-Match` with the ETag that was read (428), and it must still hold (412).

        `revision`, `release` and `change` in the body are the router's to set and are ignored.
        """
        wanted = request.headers.get("if-match")
        if wanted is None:
            text = "send If-Match with the ETag of the plan that this one replaces, as GET /v1/plan gives it"
            return Problem(428, text, request_id=request.headers.get("x-request-id"))
        new = _read_plan(body)
        expect = _expected(wanted, control.plan().revision)
        return _answer(
            control.change(
                lambda plan: replaced(plan, new), who=who(request), action="plan", why=_reason(reason), expect=expect
            )
        )

    @routes.post("/v1/switch")
    def switch(request: Request, body: SwitchBody) -> Json:
        """All live traffic to one colour. Answers when that holds on every worker, with how many requests were recalled."""
        done = control.switch(Colour(body.to), who=who(request), why=body.reason)
        return Json({"revision": done.plan.revision, "recalled": done.recalled, "holds": done.holds})

    @routes.post("/v1/split")
    def split(request: Request, body: SplitBody) -> Json:
        """Green's share of live traffic in percent, in steps of 0.01."""
        action = f"split {body.green_percent:g}"
        plan = control.change(lambda plan: split_at(plan, body.green_percent), who=who(request), action=action, why=body.reason)
        return _answer(plan)

    @routes.post("/v1/shadow")
    def shadow(request: Request, body: ShadowBody) -> Json:
        """The percentage of exchanges that are mirrored to the other arm."""
        action = f"shadow {body.percent:g}"
        plan = control.change(lambda plan: shadowed_at(plan, body.percent), who=who(request), action=action, why=body.reason)
        return _answer(plan)

    @routes.put("/v1/arms/green")
    def candidate(request: Request, body: CandidateBody) -> Json:
        """A new green. It gets no live traffic yet, and a release begins with empty evidence."""
        green = _candidate(body)
        action = f"candidate {green.name}"
        plan = control.change(lambda plan: with_candidate(plan, green), who=who(request), action=action, why=body.reason)
        return _answer(plan)

    @routes.post("/v1/promote")
    def promote(request: Request, body: PromoteBody | None = None) -> Json:
        """Green's servers become blue's and take all traffic; the old blue's stay in the green slot."""
        why = body.reason if body else ""
        return _answer(control.change(promoted, who=who(request), action="promote", why=why))

    return routes


def _answer(plan: Plan) -> Json:
    return Json(plan.to_dict(), headers={"etag": f'"{plan.revision}"'})


def _read_plan(body: dict[str, Any]) -> Plan:
    content = {key: value for key, value in body.items() if key not in ("revision", "release", "change")}
    try:
        json.dumps(content, ensure_ascii=False, allow_nan=False).encode()
        return parse_plan(content)
    except (ValueError, OverflowError):
        raise PlanError(
            "the plan holds a number or a text that JSON cannot carry (infinite, or half a surrogate pair)"
        ) from None


def _candidate(body: CandidateBody) -> Arm:
    fields = body.model_dump(exclude_none=True, exclude={"reason"})
    if body.name is None:
        fields["name"] = _name_from(body.servers)
    try:
        return parse_arm(fields, "green")
    except ArmError as error:
        raise PlanError(str(error)) from None


def _name_from(servers: object) -> str:
    """A name for an arm that was given none: where its first server is. What is wrong with the servers is said elsewhere."""
    try:
        address = parse_address(servers[0]) if isinstance(servers, list) and servers and isinstance(servers[0], str) else None
    except ArmError:
        address = None
    where = (address.path or address.authority) if address else ""
    return re.sub(r"[^A-Za-z0-9._:/@+-]+", "-", where.replace("[", "").replace("]", "")).lstrip("._:/@+-")[:100] or "green"


def _expected(wanted: str, present: int) -> int:
    """The revision that an `If-Match` allows (RFC 9110, 13.1.1: any of the listed tags, compared strongly)."""
    tags = [tag for weak, tag in _ETAG.findall(wanted) if not weak]
    if wanted.strip() == "*" or str(present) in tags:
        return present
    raise PlanConflict(f'If-Match is {wanted}, but the plan that holds has the ETag "{present}"; read it again, then change it')


def _reason(text: str) -> str:
    if len(text) > 1000:
        raise PlanError("reason: at most 1000 characters")
    return text
