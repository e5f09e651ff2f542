"""The plan: everything the data plane obeys, and the only ways it may change.

A plan is immutable. Each transition is a pure function from one plan to the next; control writes what comes out, and nothing
else ever makes a plan. The revision grows by one with each write. The release counts the comparisons of one green with one
blue: a new green, or a promotion, starts the next one with empty evidence.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from models.arm import Arm, ArmError, Colour, parse_arm
from router.errors import PlanError, Refused
from router.split import BUCKETS, green_buckets

_KEY = re.compile(
    r"(?:header:[!#$%&'*+\-.^_`|~0-9A-Za-z]+|cookie:[!#$%&'*+\-.^_`|~0-9A-Za-z]+|query:[A-Za-z0-9._~\[\]-]+|json:(?:/[^/\x00-\x1f]*)+)"
)


@dataclass(frozen=True, slots=True)
class Split:
    """Which share of live traffic green gets, and by what users are told apart (`key` None: by chance, per request)."""

    green_percent: float = 0.0
    key: str | None = None
    salt: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; a whole percentage is an integer."""
        return {"green_percent": _plain(self.green_percent), "key": self.key, "salt": self.salt}


@dataclass(frozen=True, slots=True)
class ShadowShare:
    """Which share of exchanges is mirrored to the other arm, which share of those to blue again, and how many at once."""

    percent: float = 0.0
    noise_percent: float = 0.0
    max_in_flight: int = 64

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "percent": _plain(self.percent),
            "noise_percent": _plain(self.noise_percent),
            "max_in_flight": self.max_in_flight,
        }


@dataclass(frozen=True, slots=True)
class Change:
    """Who made a plan, when (seconds since the epoch), by which call, and why."""

    who: str = ""
    when: float = 0.0
    action: str = ""
    why: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"who": self.who, "when": self.when, "action": self.action, "why": self.why}


@dataclass(frozen=True, slots=True)
class Plan:
    """What the workers obey from one revision to the next."""

    revision: int
    release: int
    blue: Arm
    green: Arm | None
    split: Split = Split()
    shadow: ShadowShare = ShadowShare()
    change: Change = Change()

    def arm(self, colour: Colour) -> Arm | None:
        """The arm of a colour."""
        return self.blue if colour is Colour.BLUE else self.green

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain JSON values."""
        return {
            "revision": self.revision,
            "release": self.release,
            "blue": self.blue.to_dict(),
            "green": self.green.to_dict() if self.green else None,
            "split": self.split.to_dict(),
            "shadow": self.shadow.to_dict(),
            "change": self.change.to_dict(),
        }

    def to_json(self) -> bytes:
        """The plan as it is kept in the plan page."""
        return json.dumps(self.to_dict(), separators=(",", ":")).encode()


def parse_plan(value: object, parse_arm: Callable[[object, str], Arm] = parse_arm) -> Plan:
    """Check plain JSON values and make a Plan of them; what is left out gets its default. Raises PlanError."""
    if not isinstance(value, Mapping):
        raise PlanError("a plan is a JSON object with blue, green, split and shadow")
    _no_unknown(value, ("revision", "release", "blue", "green", "split", "shadow", "change"), "plan")
    if "blue" not in value:
        raise PlanError("blue: is missing; a plan needs at least blue with a name and servers")
    try:
        blue = parse_arm(value["blue"], "blue")
        green = parse_arm(value["green"], "green") if value.get("green") is not None else None
    except ArmError as error:
        raise PlanError(str(error)) from None
    change = value.get("change") or {}
    if not isinstance(change, Mapping):
        raise PlanError("change: must be an object with who, when, action and why")
    plan = Plan(
        revision=_count(value.get("revision", 0), "revision"),
        release=_count(value.get("release", 1), "release"),
        blue=blue,
        green=green,
        split=_parse_split(value.get("split") or {}),
        shadow=_parse_shadow(value.get("shadow") or {}),
        change=Change(
            str(change.get("who", "")), float(change.get("when", 0)), str(change.get("action", "")), str(change.get("why", ""))
        ),
    )
    if plan.green is None and plan.split.green_percent > 0:
        raise PlanError("split.green_percent: is above 0, but the plan has no green to send traffic to")
    return plan


def read_plan(text: bytes) -> Plan:
    """A plan from the bytes `Plan.to_json` made. Raises PlanError."""
    try:
        return parse_plan(json.loads(text), _arm_as_before)
    except (ValueError, TypeError, AttributeError) as error:
        raise PlanError(f"the stored plan cannot be read: {error}") from None


def _arm_as_before(value: object, what: str) -> Arm:
    """Most plans differ from the one before in their split alone, and each worker reads them in the midst of a switch."""
    return _arm(json.dumps(value), what)


@lru_cache(maxsize=16)
def _arm(text: str, what: str) -> Arm:
    return parse_arm(json.loads(text), what)


# --- transitions: each returns the next plan with the same revision; `written` gives it its own ---------------------------


def switched(plan: Plan, to: Colour) -> Plan:
    """All live traffic to one colour."""
    if to is Colour.GREEN and plan.green is None:
        raise Refused("there is no green to switch to; name its servers first with `bluegreen candidate URL`")
    return replace(plan, split=replace(plan.split, green_percent=100.0 if to is Colour.GREEN else 0.0))


def split_at(plan: Plan, green_percent: object) -> Plan:
    """Green's share of live traffic in percent, in steps of 0.01."""
    share = percent(green_percent, "green_percent", step=True)
    if share > 0 and plan.green is None:
        raise Refused("there is no green to send traffic to; name its servers first with `bluegreen candidate URL`")
    return replace(plan, split=replace(plan.split, green_percent=share))


def shadowed_at(plan: Plan, share: object) -> Plan:
    """The percentage of exchanges that are mirrored."""
    return replace(plan, shadow=replace(plan.shadow, percent=percent(share, "percent")))


def with_candidate(plan: Plan, green: Arm) -> Plan:
    """A new green. No user may meet a model that nothing is known about: the split goes to 0 and a release begins."""
    return replace(plan, green=green, release=plan.release + 1, split=replace(plan.split, green_percent=0.0))


def promoted(plan: Plan) -> Plan:
    """Green's servers become blue's and take all traffic; the old blue waits in the green slot, so a switch can go back."""
    if plan.green is None:
        raise Refused("there is no green to promote; name its servers first with `bluegreen candidate URL`")
    return replace(
        plan, blue=plan.green, green=plan.blue, release=plan.release + 1, split=replace(plan.split, green_percent=0.0)
    )


def replaced(plan: Plan, new: Plan) -> Plan:
    """A whole new plan in place of the present one; other servers on either side begin a release."""
    same = new.blue == plan.blue and new.green == plan.green
    return replace(new, revision=plan.revision, release=plan.release if same else plan.release + 1)


def written(plan: Plan, previous: Plan | None, change: Change) -> Plan:
    """The plan as it will be written: with the next revision and the record of who changed it."""
    return replace(plan, revision=(previous.revision if previous else 0) + 1, change=change)


# --- checks ---------------------------------------------------------------------------------------------------------------


def percent(value: object, what: str, *, step: bool = False) -> float:
    """A percentage from 0 to 100, with `step` a multiple of 0.01. Raises PlanError that names `what`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 100:
        raise PlanError(f"{what}: must be a number from 0 to 100, got {repr(value)[:40]}")
    if step and abs(value * 100 - round(value * 100)) > 1e-6:
        raise PlanError(f"{what}: must be a multiple of 0.01, got {value!r}")
    return round(float(value), 6)


def check_key(key: object) -> str | None:
    """A split key's source as written in the configuration. Raises PlanError."""
    if key is None:
        return None
    if not isinstance(key, str) or len(key) > 200 or not _KEY.fullmatch(key):
        raise PlanError(
            f"split.key: must be header:NAME, cookie:NAME, query:NAME or json:/pointer, or be left out (got {key!r})"
        )
    return key


def _parse_split(value: object) -> Split:
    if not isinstance(value, Mapping):
        raise PlanError("split: must be an object with green_percent, key and salt")
    _no_unknown(value, ("green_percent", "key", "salt"), "split")
    salt = value.get("salt", "")
    if not isinstance(salt, str) or len(salt.encode()) > 64:
        raise PlanError("split.salt: must be text of at most 64 bytes (it keys the hash)")
    share = percent(value.get("green_percent", 0), "split.green_percent", step=True)
    return Split(share, check_key(value.get("key")), salt)


def _parse_shadow(value: object) -> ShadowShare:
    if not isinstance(value, Mapping):
        raise PlanError("shadow: must be an object with percent, noise_percent and max_in_flight")
    _no_unknown(value, ("percent", "noise_percent", "max_in_flight"), "shadow")
    in_flight = value.get("max_in_flight", 64)
    if isinstance(in_flight, bool) or not isinstance(in_flight, int) or not 1 <= in_flight <= 4096:
        raise PlanError(f"shadow.max_in_flight: must be a whole number from 1 to 4096, got {in_flight!r}")
    return ShadowShare(
        percent(value.get("percent", 0), "shadow.percent"),
        percent(value.get("noise_percent", 0), "shadow.noise_percent"),
        in_flight,
    )


def _no_unknown(value: Mapping[Any, Any], known: tuple[str, ...], what: str) -> None:
    for key in value:
        if key not in known:
            raise PlanError(f"{what}: unknown key {key!r}; known are {', '.join(known)}")


def _count(value: object, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        raise PlanError(f"{what}: must be a whole number, got {value!r}")
    return value


def _plain(value: float) -> float | int:
    return int(value) if value == int(value) else value


__all__ = [
    "BUCKETS",
    "Change",
    "Plan",
    "ShadowShare",
    "Split",
    "check_key",
    "green_buckets",
    "parse_plan",
    "percent",
    "promoted",
    "read_plan",
    "replaced",
    "shadowed_at",
    "split_at",
    "switched",
    "with_candidate",
    "written",
]
