"""What the control API's calls take: their fields and no others.

Only the shape is checked here. What a percentage or a server may be is `router.plan`'s and `models.arm`'s to say, so numbers
come through as they are; the schema repeats their limits for readers of the OpenAPI document.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema


def _number(value: object) -> object:
    # A JSON number may have any length; one too long for a float would be an OverflowError further in.
    if isinstance(value, bool) or not isinstance(value, int | float) or not -1e300 < value < 1e300:
        raise ValueError("must be a number from 0 to 100")
    return value


Percentage = Annotated[Any, BeforeValidator(_number), WithJsonSchema({"type": "number", "minimum": 0, "maximum": 100})]
Reason = Annotated[str, Field(max_length=1000, description="Why, for the history.")]


class Body(BaseModel):
    """A JSON object without unknown fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SwitchBody(Body):
    """`POST /v1/switch`."""

    to: Literal["blue", "green"]
    reason: Reason = ""


class SplitBody(Body):
    """`POST /v1/split`."""

    green_percent: Percentage
    reason: Reason = ""


class ShadowBody(Body):
    """`POST /v1/shadow`."""

    percent: Percentage
    reason: Reason = ""


class CandidateBody(Body):
    """`PUT /v1/arms/green`. Without a name the first server's address becomes it."""

    servers: Any = Field(description="Base URLs, at least one.")
    name: Any = None
    path: Any = None
    headers: Any = None
    model: Any = None
    reason: Reason = ""


class PromoteBody(Body):
    """`POST /v1/promote`."""

    reason: Reason = ""
