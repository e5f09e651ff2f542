"""`/v1/rollout` and `/v1/rollouts`: start, pause, resume and abort, what is going on, and what past ones left."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from fastapi import APIRouter, Path, Request
from pydantic import Field

from router.control.auth import who
from router.control.bodies import Body
from router.control.problems import Json
from router.errors import Refused, RouterError
from router.rollout.policy_settings import PolicyError, parse_policy
from router.rollout.runner import Rollouts
from router.rollout.states import Event

_EVENTS = {"pause": Event.PAUSE, "resume": Event.RESUME, "abort": Event.ABORT}


class RolloutBody(Body):
    """`POST /v1/rollout`."""

    action: Literal["start", "pause", "resume", "abort"]
    policy: Any = Field(default=None, description="With `start`: the policy; left out: the configuration file's.")


class ForecastBody(Body):
    """`POST /v1/rollout/forecast`."""

    policy: Any = Field(default=None, description="The policy; left out: the configuration file's.")


class NoSuchRollout(RouterError):
    """There is no record of that number."""

    status = 404
    title = "Not Found"


def rollout_routes(rollouts: Rollouts, now: Callable[[], float]) -> APIRouter:
    """The calls."""
    routes = APIRouter(tags=["rollout"])

    @routes.get("/v1/rollout")
    def get_rollout() -> Json:
        """The present rollout, or the last one: its state, step, gates and verdict."""
        return Json(rollouts.document())

    @routes.post("/v1/rollout")
    def post_rollout(request: Request, body: RolloutBody) -> Json:
        """Start, pause, resume or abort. 409 for what the state does not allow, 422 for a policy that is none."""
        if body.action == "start":
            policy = None if body.policy is None else parse_policy(body.policy, from_client=True)
            rollouts.controller.start(policy, who=who(request), now=now())
        else:
            if body.policy is not None:
                raise PolicyError(f"policy: belongs to `start`; {body.action} goes on with the one that was started with")
            rollouts.controller.act(_EVENTS[body.action], who=who(request), now=now())
        return Json(rollouts.document())

    @routes.post("/v1/rollout/forecast")
    def post_forecast(body: ForecastBody) -> Json:
        """How long a rollout would likely take now, step by step: simulated from the evidence and the traffic of the moment."""
        from router.rollout.forecast import forecast_document

        controller = rollouts.controller
        policy = controller.policy if body.policy is None else parse_policy(body.policy, from_client=True)
        return Json(forecast_document(rollouts.outlook(policy), policy))

    @routes.get("/v1/rollouts")
    def list_rollouts() -> Json:
        """The promotion records, oldest first, without their documents."""
        return Json({"rollouts": rollouts.store.records()})

    @routes.get("/v1/rollouts/{number}")
    def one_rollout(number: int = Path(ge=1, lt=2**63)) -> Json:
        """The promotion record that an ended rollout left, with its place in the chain."""
        record = rollouts.store.record(number)
        if record is None:
            present = rollouts.controller.rollout
            if present is not None and present.number == number:
                raise Refused(f"rollout {number} has not ended yet; GET /v1/rollout tells of it")
            raise NoSuchRollout(f"there is no rollout {number}; GET /v1/rollouts lists those that left a record")
        return Json(record)

    return routes
