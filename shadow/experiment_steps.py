"""What happened in each step of a ramp, for a person to look at: counts, means and quantiles of both arms.

Nothing here decides. Within one step both arms saw the same world, so their rates stand beside each other honestly; sums over
steps do not, and are therefore given for counts alone. A step is one plan revision. Latencies go into bins that are 5 % wide.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

MAX_STEPS: Final = 64
_LOG_BIN: Final = math.log(1.05)
_ARMS: Final = ("blue", "green")
_COUNTS: Final = ("requests", "units", "errors", "labels", "right", "rewards")


@dataclass(slots=True)
class ArmStep:
    """One arm in one step; `bins` counts latencies (ms) by the 5 % bin that holds them."""

    requests: int = 0
    units: int = 0
    errors: int = 0
    labels: int = 0
    right: int = 0
    rewards: int = 0
    reward_total: float = 0.0
    bins: Counter[int] = field(default_factory=Counter)

    def quantile(self, level: float) -> float | None:
        """A quantile of the latency in ms, right to 2.5 %; None before any."""
        left = level * self.bins.total()
        for place in sorted(self.bins):
            left -= self.bins[place]
            if left <= 0:
                return math.exp((place + 0.5) * _LOG_BIN)
        return None

    def snapshot(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "requests": self.requests,
            "units": self.units,
            "errors": self.errors,
            "error_rate": self.errors / self.requests if self.requests else None,
            "latency_ms": {f"p{round(100 * level)}": self.quantile(level) for level in (0.5, 0.95, 0.99)},
            "labels": self.labels,
            "accuracy": self.right / self.labels if self.labels else None,
            "rewards": self.rewards,
            "reward": self.reward_total / self.rewards if self.rewards else None,
        }

    def to_dict(self) -> dict[str, Any]:
        """For a state."""
        counts = {name: getattr(self, name) for name in _COUNTS}
        return {**counts, "reward_total": self.reward_total, "bins": [list(item) for item in self.bins.items()]}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> ArmStep:
        """The inverse of `to_dict`."""
        made = cls()
        for name in _COUNTS:
            setattr(made, name, int(state[name]))
        made.reward_total = float(state["reward_total"])
        made.bins = Counter({int(place): int(count) for place, count in state["bins"]})
        return made


@dataclass(slots=True)
class Step:
    """One plan revision: green's share, when its first and last exchange came (seconds since the epoch), and both arms."""

    share: float
    first: float
    last: float
    arms: tuple[ArmStep, ArmStep] = field(default_factory=lambda: (ArmStep(), ArmStep()))


class Steps:
    """The newest `MAX_STEPS` steps; of older ones only the sums of their counts are left."""

    __slots__ = ("_gone", "_steps")

    def __init__(self) -> None:
        self._steps: dict[int, Step] = {}
        self._gone = {name: [0, 0] for name in _COUNTS}

    def expose(
        self, revision: int, share: float, green: bool, *, error: bool, latency_ms: float, at: float, new_unit: bool
    ) -> None:
        """An exchange."""
        step = self._steps.get(revision)
        if step is None:
            step = self._steps[revision] = Step(share, at, at)
        step.first, step.last = min(step.first, at), max(step.last, at)
        arm = step.arms[green]
        arm.requests += 1
        arm.units += new_unit
        arm.errors += error
        if not error and latency_ms > 0:
            arm.bins[math.floor(math.log(latency_ms) / _LOG_BIN)] += 1
        if len(self._steps) > MAX_STEPS:  # last, since it may be this one: a late exchange of an old revision
            self._drop(min(self._steps))

    def label(self, revision: int, green: bool, right: bool) -> None:
        """A labelled answer. Of a step that is gone it is let go."""
        if (step := self._steps.get(revision)) is not None:
            step.arms[green].labels += 1
            step.arms[green].right += right

    def reward(self, revision: int, green: bool, reward: float) -> None:
        """A reward."""
        if (step := self._steps.get(revision)) is not None:
            step.arms[green].rewards += 1
            step.arms[green].reward_total += reward

    def totals(self, name: str) -> dict[str, int]:
        """A count summed over all steps, by arm."""
        return {
            colour: self._gone[name][green] + sum(getattr(step.arms[green], name) for step in self._steps.values())
            for green, colour in enumerate(_ARMS)
        }

    def snapshot(self) -> list[dict[str, Any]]:
        """Every step, oldest first, as JSON values."""
        return [
            {
                "revision": revision,
                "green_percent": round(100 * step.share, 4),
                "first": step.first,
                "last": step.last,
                **{colour: arm.snapshot() for colour, arm in zip(_ARMS, step.arms, strict=True)},
            }
            for revision, step in sorted(self._steps.items())
        ]

    def to_dict(self) -> dict[str, Any]:
        """For a state."""
        rows = [
            [revision, step.share, step.first, step.last, *(arm.to_dict() for arm in step.arms)]
            for revision, step in self._steps.items()
        ]
        return {"gone": self._gone, "steps": rows}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Steps:
        """The inverse of `to_dict`."""
        made = cls()
        made._gone = {name: [int(count) for count in state["gone"][name]] for name in _COUNTS}
        for revision, share, first, last, blue, green in state["steps"]:
            arms = ArmStep.from_dict(blue), ArmStep.from_dict(green)
            made._steps[int(revision)] = Step(float(share), float(first), float(last), arms)
        return made

    def _drop(self, revision: int) -> None:
        step = self._steps.pop(revision)
        for name, sums in self._gone.items():
            for green in (0, 1):
                sums[green] += getattr(step.arms[green], name)
