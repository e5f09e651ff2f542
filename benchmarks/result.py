"""What a run found, as records that JSON and the rendered document are made of, and the arithmetic over rounds.

A row has one series per proxy and one sample per round. Ratios and differences between two proxies are taken round by round
(their measurements stand minutes apart at most, so a slow drift of the machine cancels) and then summarised by their median.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class Series:
    """One proxy's samples in a row's unit, one per round, and further medians by name (their unit is in the name)."""

    name: str
    samples: tuple[float, ...]
    details: Mapping[str, float] = field(default_factory=dict)

    @property
    def median(self) -> float:
        """The middle of the samples."""
        return statistics.median(self.samples)


@dataclass(frozen=True, slots=True)
class Check:
    """One target: what is measured, the value that must be reached, the one that is aimed at, and whether they were."""

    what: str
    must: str
    aim: str
    value: str
    reached: bool
    aimed: bool | None  # None where the target names no aim


@dataclass(frozen=True, slots=True)
class Row:
    """One piece of work, measured over all proxies that can do it. `failed` says why there is nothing else."""

    id: str
    title: str
    about: str
    unit: str
    series: tuple[Series, ...] = ()
    checks: tuple[Check, ...] = ()
    commands: tuple[str, ...] = ()
    failed: str = ""

    def get(self, name: str) -> Series:
        """The series of a proxy. Raises KeyError."""
        for series in self.series:
            if series.name == name:
                return series
        raise KeyError(name)

    def checked(self, *checks: Check) -> Row:
        """The row with these targets added."""
        return replace(self, checks=(*self.checks, *checks))

    def has(self, *names: str) -> bool:
        """True when all of these proxies are in the row."""
        return set(names) <= {series.name for series in self.series}


@dataclass(frozen=True, slots=True)
class Report:
    """A whole run: the machine, the versions, how it was asked for, and its rows."""

    machine: Mapping[str, str]
    versions: Mapping[str, str]
    started: str
    rounds: int
    quick: bool
    minutes: float
    rows: tuple[Row, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def report_from_dict(value: Mapping[str, Any]) -> Report:
    """The inverse of Report.to_dict after a trip through JSON. Raises KeyError or TypeError on something else."""
    rows = tuple(
        Row(
            **{
                **row,
                "series": tuple(Series(s["name"], tuple(s["samples"]), s["details"]) for s in row["series"]),
                "checks": tuple(Check(**check) for check in row["checks"]),
                "commands": tuple(row["commands"]),
            }
        )
        for row in value["rows"]
    )
    return Report(**{**value, "rows": rows})


class Collected:
    """Samples and details by proxy as they come in, round after round."""

    def __init__(self) -> None:
        self._samples: dict[str, list[float]] = {}
        self._details: dict[str, dict[str, list[float]]] = {}

    def add(self, name: str, sample: float, **details: float) -> None:
        """One round's sample of one proxy."""
        self._samples.setdefault(name, []).append(sample)
        for key, value in details.items():
            self._details.setdefault(name, {}).setdefault(key, []).append(value)

    def last(self, name: str) -> float:
        """The newest sample of a proxy. Raises KeyError."""
        return self._samples[name][-1]

    def series(self) -> tuple[Series, ...]:
        """All of it, in the order in which the proxies first came."""
        return tuple(
            Series(
                name,
                tuple(samples),
                {key: statistics.median(values) for key, values in self._details.get(name, {}).items()},
            )
            for name, samples in self._samples.items()
        )


def paired(left: Series, right: Series, *, subtract: bool = False) -> list[float]:
    """Round by round, left / right, or left - right. Rounds that only one of them has are left out."""
    pairs = zip(left.samples, right.samples, strict=False)
    return [a - b if subtract else a / b for a, b in pairs if subtract or b]


def ratio_check(row: Row, left: str, right: str, what: str, must: float, aim: float | None, *, least: bool = False) -> Check:
    """A target on left / right: at most `must` (at least, with `least`), and so for `aim`. Both must be in the row."""
    ratio = statistics.median(paired(row.get(left), row.get(right)))
    sign = "≥" if least else "≤"
    return Check(
        what,
        f"{sign} {must:g} ×",
        "" if aim is None else f"{sign} {aim:g} ×",
        f"{ratio:.2f} ×",
        ratio >= must if least else ratio <= must,
        None if aim is None else (ratio >= aim if least else ratio <= aim),
    )


def bound_check(what: str, value: float, unit: str, must: float, aim: float | None, *, least: bool = False) -> Check:
    """A target on one value: at most `must` (at least, with `least`), and so for `aim`, in `unit`."""
    sign = "≥" if least else "≤"
    return Check(
        what,
        f"{sign} {number(must)} {unit}",
        "" if aim is None else f"{sign} {number(aim)} {unit}",
        f"{number(value)} {unit}",
        value >= must if least else value <= must,
        None if aim is None else (value >= aim if least else value <= aim),
    )


def number(value: float) -> str:
    """A value with three significant digits, thousands separated."""
    magnitude = abs(value)
    if magnitude >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if magnitude >= 10 else f"{value:.2f}"


def spread(samples: Sequence[float]) -> str:
    """Lowest and highest sample; empty for a single one."""
    return f"{number(min(samples))} .. {number(max(samples))}" if len(samples) > 1 else ""
