"""The kinds of values that settings have: how each is checked, and what the JSON Schema says of it.

Every refusal says what to write instead and what was found. Rules that arms have anyway are asked of `models.arm`.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from models.arm import Arm, ArmError, parse_arm
from router.quantities import parse_duration, parse_listen, parse_size

_FIELD_NAME = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_POINTER = r"(?:/[^/\x00-\x1f]*)+"


class Group(BaseModel):
    """A section of the file: unknown keys are refused, and nothing changes once it is read."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _empty(cls, value: Any) -> Any:
        """A section whose lines are all commented out is an empty one."""
        return {} if value is None else value


ARM_SCHEMA: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["name", "servers"],
    "properties": {
        "name": {"type": "string", "description": "The version's name, as status and metrics show it."},
        "servers": {
            "type": "array",
            "items": {"type": "string"},
            "minItems": 1,
            "maxItems": 64,
            "description": "Base URLs: http://host:port, https://host:port or unix:/path/to/socket.",
        },
        "path": {
            "type": "object",
            "additionalProperties": False,
            "required": ["from", "to"],
            "properties": {"from": {"type": "string"}, "to": {"type": "string"}},
            "description": "Path prefix that is replaced on the way to this arm.",
        },
        "headers": {
            "type": "object",
            "additionalProperties": {"type": "string"},
            "description": "Headers set on every request to this arm.",
        },
        "model": {"type": "string", "description": "Replaces the `model` field of an OpenAI-style request body."},
    },
}


def _duration(value: object) -> float:
    seconds = parse_duration(value)
    if not 0.001 <= seconds <= 366 * 86400:
        raise ValueError(f"must be from 1ms to 366d, got {value!r}")
    return seconds


def _size(value: object) -> int:
    size = parse_size(value)
    if not 1 <= size <= 2**40:
        raise ValueError(f"must be from 1 byte to 1024GiB, got {value!r}")
    return size


def _listen(value: object) -> str:
    parse_listen(value)
    return str(value)


def _text(pattern: str, what: str) -> BeforeValidator:
    def check(value: object) -> str:
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            raise ValueError(f"must be {what}, got {value!r}")
        return value

    return BeforeValidator(check)


def _network(value: object) -> str:
    try:
        return str(ipaddress.ip_network(value if isinstance(value, str) else "", strict=False))
    except ValueError:
        raise ValueError(f"must be an address or network such as 10.0.0.0/8 or ::1, got {value!r}") from None


def _step(value: float) -> float:
    if abs(value * 100 - round(value * 100)) > 1e-6:
        raise ValueError(f"must be a multiple of 0.01, got {value!r}")
    return round(value, 2)


def _beside_the_file(value: Path, info: ValidationInfo) -> Path:
    folder: Path = (info.context or {}).get("folder") or Path.cwd()
    return Path(os.path.normpath(folder / value.expanduser()))


def _must_exist(value: Path) -> Path:
    if not value.is_file():
        raise ValueError(f"there is no file {value}")
    return value


def _arm(what: str) -> Callable[[object], Arm | None]:
    def check(value: object) -> Arm | None:
        if value is None and what == "green":
            return None
        if isinstance(value, Mapping) and (unknown := [str(key) for key in value if key not in ARM_SCHEMA["properties"]]):
            raise PydanticCustomError("unknown_key", "unknown key", {"key": unknown[0]})
        try:
            return parse_arm(value, what)
        except ArmError as error:
            raise ValueError(str(error)) from None

    return check


def _arm_values(arm: Arm | None) -> dict[str, Any] | None:
    return arm.to_dict() if arm else None


Flag = Annotated[bool, Field(strict=True)]
Whole = Annotated[int, Field(strict=True)]
Real = Annotated[float, Field(strict=True)]
Percent = Annotated[float, Field(strict=True, ge=0, le=100)]
SplitPercent = Annotated[Percent, AfterValidator(_step)]
Duration = Annotated[float, BeforeValidator(_duration), WithJsonSchema({"type": ["string", "number"]})]
Size = Annotated[int, BeforeValidator(_size), WithJsonSchema({"type": ["string", "integer"]})]
Listen = Annotated[str, BeforeValidator(_listen), WithJsonSchema({"type": "string"})]
FilePath = Annotated[Path, AfterValidator(_beside_the_file), WithJsonSchema({"type": "string"})]
ExistingFile = Annotated[
    Path, AfterValidator(_beside_the_file), AfterValidator(_must_exist), WithJsonSchema({"type": "string"})
]
Network = Annotated[str, BeforeValidator(_network), WithJsonSchema({"type": "string"})]
Pointer = Annotated[str, _text(_POINTER, "a JSON pointer such as /parameters/user")]
HeaderOrPointer = Annotated[
    str, _text(rf"header:{_FIELD_NAME}|json:{_POINTER}", "header:NAME or json:/pointer, such as header:x-country")
]
PythonName = Annotated[str, _text(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", '"module:function"')]
Method = Annotated[str, _text(r"[A-Z]{1,20}", "a method in capitals such as POST")]
Prefix = Annotated[str, _text(r"/[\x21\x22\x24-\x3e\x40-\x7e]*", "a path prefix that starts with /")]
BlueArm = Annotated[Arm, PlainValidator(_arm("blue")), PlainSerializer(_arm_values), WithJsonSchema(ARM_SCHEMA)]
GreenArm = Annotated[
    Arm | None,
    PlainValidator(_arm("green")),
    PlainSerializer(_arm_values),
    WithJsonSchema({"anyOf": [ARM_SCHEMA, {"type": "null"}]}),
]
