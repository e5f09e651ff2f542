"""Evidence broken down by a property of the request: a country header, a segment in the body.

A model that is well on the whole may be bad for some. Each configured property keeps its first `MAX_VALUES` values and puts
the rest together, so that a property that turns out to be an id costs no memory. The more slices are looked at, the worse the
worst one looks by chance alone: a slice is flagged only by e-BH over all of them, which keeps the expected share of false
flags at alpha under any dependence, however often it is looked at (Wang & Ramdas 2022). Tested is "in this slice at least the
floor's share of pairs agree"; beside it stands whether green there is worse than blue's own noise, where noise pairs tell.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from models.predictions import encoding, json_document, json_pointer
from models.predictions.prediction import Unreadable
from shadow.intervals import rate_intervals
from shadow.multiplicity import e_bh
from shadow.observation import Observation
from shadow.sequential import bernoulli_log_e_above, bernoulli_log_e_below

MAX_VALUES: Final = 50
MAX_SHOWN: Final = 20
OTHER: Final = "(other)"
MISSING: Final = "(missing)"
_VALUE_LENGTH: Final = 64
_MAX_BODY: Final = 1 << 20  # a request's body is parsed only for its slices

# One slice's counts, by position.
AGREED, DIFFERED, GREEN_FAILED, BLUE_FAILED, WORSE, BETTER = range(6)

Document = dict[str, Any]


class Slices:
    """Counts of each value of each property. `rules` are `header:NAME` and `json:/pointer` (into the request's body)."""

    __slots__ = ("_by_header", "_by_pointer", "counts", "rules")

    def __init__(self, rules: tuple[str, ...]) -> None:
        self.rules = rules
        self._by_header = [(rule, rule.removeprefix("header:").lower()) for rule in rules if rule.startswith("header:")]
        self._by_pointer = [(rule, rule.removeprefix("json:")) for rule in rules if rule.startswith("json:")]
        self.counts: dict[str, dict[str, list[int]]] = {rule: {} for rule in rules}

    def rows(self, observation: Observation) -> list[list[int]]:
        """The counts that an observation belongs to, one list for each property; add to them. Never raises."""
        if not self.rules:
            return []
        rows = [self._row(rule, observation.request_headers.get(name)) for rule, name in self._by_header]
        if self._by_pointer:
            document = _request_document(observation)
            rows += [self._row(rule, _value_at(document, pointer)) for rule, pointer in self._by_pointer]
        return rows

    def _row(self, rule: str, value: str | None) -> list[int]:
        values = self.counts[rule]
        value = MISSING if value is None else value
        row = values.get(value)
        if row is None:
            value = value[:_VALUE_LENGTH].encode("utf-8", "backslashreplace").decode("utf-8")
            # MAX_VALUES of them, and what did not find a place.
            value = value if value in values or len(values.keys() - {OTHER}) < MAX_VALUES else OTHER
            row = values.setdefault(value, [0] * 6)
        return row

    def snapshot(self, alpha: float, floor: float) -> list[Document]:
        """The worst slices first, at most `MAX_SHOWN`: those flagged, then those with the strongest evidence."""
        named = [(rule, value, row) for rule, values in self.counts.items() for value, row in values.items()]
        if not named:
            return []
        table = np.array([row for _, _, row in named], dtype=np.float64)
        below = np.asarray(bernoulli_log_e_below(table[:, AGREED], table[:, DIFFERED], floor))
        worse = np.asarray(bernoulli_log_e_above(table[:, WORSE], table[:, BETTER], 0.5))
        flagged, worse_flagged = e_bh(below, alpha), e_bh(worse, alpha)
        rates = table[:, AGREED] / np.maximum(table[:, AGREED] + table[:, DIFFERED], 1.0)
        order = np.lexsort((rates, -np.maximum(below, worse), ~(flagged | worse_flagged)))[:MAX_SHOWN]
        around = rate_intervals([(int(table[i, AGREED]), int(table[i, DIFFERED])) for i in order], alpha)
        found = []
        for index, ci in zip(order, around, strict=True):
            rule, value, row = named[index]
            n = row[AGREED] + row[DIFFERED]
            against = {"log_e": float(worse[index]), "flagged": bool(worse_flagged[index])}
            found.append(
                {
                    "by": rule,
                    "value": value,
                    "n": n,
                    "agreed": row[AGREED],
                    "rate": row[AGREED] / n if n else None,
                    "ci": ci,
                    "floor": floor,
                    "log_e": float(below[index]),
                    "flagged": bool(flagged[index]),
                    "green_failed": row[GREEN_FAILED],
                    "blue_failed": row[BLUE_FAILED],
                    "against_noise": {"worse": row[WORSE], "better": row[BETTER], **against},
                }
            )
        return found

    @property
    def total(self) -> int:
        """How many slices there are."""
        return sum(len(values) for values in self.counts.values())

    def to_dict(self) -> Document:
        """For the state, as JSON values."""
        return {rule: {value: list(row) for value, row in values.items()} for rule, values in self.counts.items()}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any], rules: tuple[str, ...]) -> Slices:
        """The inverse of `to_dict`; a property that is no longer configured is forgotten, a new one begins empty."""
        made = cls(rules)
        for rule in rules:
            made.counts[rule] = {value: [int(count) for count in row] for value, row in state.get(rule, {}).items()}
        return made


def _request_document(observation: Observation) -> Any:
    """The request's body as JSON; None when it is none, or too long to be parsed for this."""
    body = observation.request_body
    if not body or len(body) > _MAX_BODY:
        return None
    try:
        if coding := observation.request_headers.get("content-encoding"):
            body = encoding.decode(body, coding, _MAX_BODY)
        return json_document.load(body)
    except Unreadable:
        return None


def _value_at(document: Any, pointer: str) -> str | None:
    try:
        value = json_pointer.get(document, pointer)
    except KeyError:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) and abs(value) >= 1 << 63:
        return None
    return str(value) if isinstance(value, (str, int, float)) else None
