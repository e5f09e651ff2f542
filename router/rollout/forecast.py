"""What-if: how long a rollout would likely take, simulated from the evidence and the traffic of the moment.

Some hundred futures are drawn. In each, the rates behind the counts so far are drawn from their posterior (a few pairs leave
much open), then pairs and requests arrive at the present pace until every gate passes, and holds and the bake are added.
Latency, drift and slices, which no count describes, take their own forecast in every future; gates on feedback are left out,
since nobody knows when labels come. The answer is a range, not a promise: it says where the time goes, and whether the first
step is a matter of minutes or of days.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from router.rollout import live_errors
from router.rollout.asked import asked
from router.rollout.gate_case import whole
from router.rollout.live_errors import StepErrors
from router.rollout.policy import Policy
from router.rollout.rates import PerSecond
from router.rollout.verdict import PASS, Verdict
from shadow.multiplicity import attempt_alpha
from shadow.paired import paired_log_e_below
from shadow.sequential import bernoulli_log_e_above, log_threshold

FUTURES: Final = 100
_MOST: Final = 10**7  # observations after which a future counts as one that never passes
_GRID: Final = 1.12
_ON_FEEDBACK: Final = ("accuracy", "reward")
_BY_THEMSELVES: Final = ("latency", "drift", "slices", "python")


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage's likely length in seconds; None for one that most futures never end."""

    name: str
    green_percent: float
    median: float | None
    p90: float | None
    waits_for: str

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Forecast:
    """All stages; `arrives` is the share of futures that are done within the deadline."""

    stages: tuple[Stage, ...]
    median: float | None
    p90: float | None
    arrives: float
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "stages": [stage.to_dict() for stage in self.stages],
            "median": self.median,
            "p90": self.p90,
            "arrives": self.arrives,
            "notes": list(self.notes),
        }


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a forecast starts from: the evidence, a detailed verdict on it, how fast traffic and pairs come, which share of the
    pairs are noise pairs (0 to 1), and which attempt at the release it would be.
    """

    evidence: Mapping[str, Any]
    verdict: Verdict
    rates: PerSecond
    noise: float = 0.0
    attempt: int = 1


def forecast(outlook: Outlook, policy: Policy, *, futures: int = FUTURES, seed: int = 1) -> Forecast:
    """Draw so many futures; the same seed draws the same ones."""
    rates = outlook.rates
    alpha = attempt_alpha(policy.alpha, outlook.attempt)
    chance = random.Random(seed)
    shadow = [_shadow_seconds(chance, outlook, policy, alpha) for _ in range(futures)]
    live = [_green_requests(chance, outlook.evidence, policy, alpha) for _ in range(futures)]
    stages = [_stage("shadow", 0.0, [seconds for seconds, _ in shadow], _most_common([why for _, why in shadow]))]
    totals = [seconds for seconds, _ in shadow]
    for percent in policy.steps:
        if percent >= 100.0:
            lengths = [policy.bake] * futures
            stages.append(_stage("bake", percent, lengths, "the bake"))
        else:
            asked = [needed / (rates.requests * percent / 100.0) if rates.requests else math.inf for needed in live]
            lengths = [max(policy.hold, seconds) for seconds in asked]
            waits = "errors with users" if sorted(asked)[futures // 2] > policy.hold else "the hold"
            stages.append(_stage("step", percent, lengths, waits))
        totals = [total + length for total, length in zip(totals, lengths, strict=True)]
    arrives = sum(total <= policy.deadline for total in totals) / futures
    return Forecast(tuple(stages), _quantile(totals, 0.5), _quantile(totals, 0.9), arrives, tuple(_notes(outlook, policy)))


def forecast_document(outlook: Outlook, policy: Policy) -> dict[str, Any]:
    """`POST /v1/rollout/forecast`: the forecast, with what it was made from."""
    made_from = {
        "pairs": whole(outlook.evidence, "pairs"),
        "rates": outlook.rates.to_dict(),
        "noise_share": outlook.noise,
        "attempt": outlook.attempt,
    }
    found = forecast(outlook, policy).to_dict()
    return {**found, "from": made_from, "policy": policy.to_dict(), "asked": asked(policy)}


# --- one future ---------------------------------------------------------------------------------------------------------------


def _shadow_seconds(chance: random.Random, outlook: Outlook, policy: Policy, alpha: float) -> tuple[float, str]:
    """Until every gate on pairs passes, and which of them was the last."""
    evidence, rates = outlook.evidence, outlook.rates
    gates, bar = policy.gates, log_threshold(alpha)
    per_noise = (rates.pairs or 0.0) * outlook.noise
    waits = [(_seconds(max(policy.shadow.min_pairs - whole(evidence, "pairs"), 0), rates.pairs), "pairs")]
    if gates.agreement is not None and gates.agreement.min is not None:
        section = _section(evidence, "agreement")
        agreed = whole(section, "agreed")
        bad = whole(section, "n") - agreed + whole(_section(evidence, "unreadable"), "green_only")
        waits.append((_seconds(_until_rate(chance, agreed, bad, gates.agreement.min, bar), rates.pairs), "agreement"))
    if gates.agreement is not None and gates.agreement.not_worse_than_noise:
        section = _section(evidence, "against_noise")
        counts = tuple(whole(section, name) for name in ("worse", "better", "same"))
        waits.append((_seconds(_until_not_worse(chance, counts, gates.agreement.margin, bar), per_noise), "noise"))
    if gates.errors is not None:
        counts = _error_counts(evidence)
        waits.append((_seconds(_until_not_worse(chance, counts, gates.errors.max_increase, bar), rates.pairs), "errors"))
    if gates.objective is not None:
        section = _section(_section(evidence, "latency"), "objective")
        within = whole(_section(section, "green"), "within")
        needed = _until_rate(chance, within, whole(section, "n") - within, gates.objective.min, bar)
        waits.append((_seconds(needed, per_noise), "objective"))
    for gate in outlook.verdict.gates:
        if gate.name in _BY_THEMSELVES and gate.state != PASS:
            rate = per_noise if gate.of == "noise pairs" else rates.pairs
            waits.append((_seconds(gate.more, rate), gate.name))
    return max(waits)


def _green_requests(chance: random.Random, evidence: Mapping[str, Any], policy: Policy, alpha: float) -> float:
    """Requests of green until a step's live errors are shown to be within the margin. Hardly depends on the share."""
    gate = policy.gates.errors
    if gate is None:
        return 0.0
    worse, better, same = _error_counts(evidence)
    green, blue, _ = _shares(chance, (worse, better, same))
    bar = log_threshold(alpha)
    step = StepErrors(0.5, 0, 0, 0, 0)
    for more in _steps(50.0):
        step = StepErrors(
            0.5,
            step.green_requests + more,
            step.green_errors + _binomial(chance, more, green),
            step.blue_requests + more,
            step.blue_errors + _binomial(chance, more, blue),
        )
        if live_errors.log_e_not_worse(step, gate.max_increase) >= bar:
            return float(step.green_requests)
    return math.inf


def _until_rate(chance: random.Random, good: int, bad: int, floor: float, bar: float) -> float:
    """Further observations until a share is shown to lie above a floor."""
    p = chance.betavariate(good + 0.5, bad + 0.5)
    more, goods, bads = [0], [good], [bad]
    for count in _steps(max((good + bad) / 8, 8.0)):
        hits = _binomial(chance, count, p)
        more.append(more[-1] + count)
        goods.append(goods[-1] + hits)
        bads.append(bads[-1] + count - hits)
    return _first(more, [float(e) for e in bernoulli_log_e_above(goods, bads, floor)], bar)


def _until_not_worse(chance: random.Random, counts: Sequence[int], margin: float, bar: float) -> float:
    """Further pairs until green is shown to be worse by less than a margin."""
    shares = _shares(chance, counts)
    more, worse, better, same = [0], [counts[0]], [counts[1]], [counts[2]]
    for count in _steps(max(sum(counts) / 8, 8.0)):
        w = _binomial(chance, count, shares[0])
        b = _binomial(chance, count - w, shares[1] / max(1.0 - shares[0], 1e-12))
        more.append(more[-1] + count)
        worse.append(worse[-1] + w)
        better.append(better[-1] + b)
        same.append(same[-1] + count - w - b)
    return _first(more, [float(e) for e in paired_log_e_below(worse, better, same, margin)], bar)


def _steps(first: float) -> list[int]:
    """Batches that grow, up to `_MOST` in all."""
    found, size, total = [], first, 0
    while total < _MOST:
        found.append(max(round(size), 1))
        total += found[-1]
        size *= _GRID
    return found


def _first(more: Sequence[int], log_e: Sequence[float], bar: float) -> float:
    return next((float(m) for m, e in zip(more, log_e, strict=True) if e >= bar), math.inf)


def _shares(chance: random.Random, counts: Sequence[int]) -> tuple[float, float, float]:
    """Shares of (worse, better, same) from their posterior; one pair beforehand, nine tenths of it the same."""
    drawn = [chance.gammavariate(count + prior, 1.0) for count, prior in zip(counts, (0.05, 0.05, 0.9), strict=True)]
    total = sum(drawn)
    return drawn[0] / total, drawn[1] / total, drawn[2] / total


def _binomial(chance: random.Random, n: int, p: float) -> int:
    """A binomial draw: by the gaps between hits while they are few, by its normal limit when they are many."""
    if p <= 0.0 or n <= 0:
        return 0
    if p > 0.5:
        return n - _binomial(chance, n, 1.0 - p)
    mean = n * p
    if mean > 30.0:
        return min(max(round(chance.gauss(mean, math.sqrt(mean * (1.0 - p)))), 0), n)
    hits, at, log_miss = 0, 0, math.log1p(-p)
    while True:
        at += int(math.log(1.0 - chance.random()) / log_miss) + 1
        if at > n:
            return hits
        hits += 1


# --- telling ------------------------------------------------------------------------------------------------------------------


def _notes(outlook: Outlook, policy: Policy) -> list[str]:
    found = []
    if not outlook.rates.requests:
        found.append("no live traffic in the last minute: the times cannot be reckoned")
    if not whole(outlook.evidence, "pairs"):
        found.append("no pairs yet: nothing is known of green, so the range is as wide as can be")
    late = [name for name in _ON_FEEDBACK if getattr(policy.gates, name) is not None]
    if late:
        found.append(f"gates on feedback are left out ({', '.join(late)}): they wait for labels or rewards")
    found += [
        f"{gate.name} cannot be foreseen yet"
        for gate in outlook.verdict.gates
        if gate.name in _BY_THEMSELVES and gate.state != PASS and gate.more is None
    ]
    failed = [gate.name for gate in outlook.verdict.gates if gate.state == "fail"]
    if failed:
        found.append(f"as it stands, {', '.join(failed)} would take green back at once")
    return found


def _stage(name: str, percent: float, lengths: Sequence[float], waits_for: str) -> Stage:
    return Stage(name, percent, _quantile(lengths, 0.5), _quantile(lengths, 0.9), waits_for)


def _quantile(values: Sequence[float], level: float) -> float | None:
    found = sorted(values)[min(math.ceil(level * len(values)), len(values)) - 1]
    return found if math.isfinite(found) else None


def _most_common(names: Sequence[str]) -> str:
    return max(sorted(set(names)), key=list(names).count)


def _seconds(more: float | None, rate: float | None) -> float:
    if more == 0:
        return 0.0
    return more / rate if more is not None and rate else math.inf


def _error_counts(evidence: Mapping[str, Any]) -> tuple[int, int, int]:
    section = _section(evidence, "errors")
    worse, better = whole(section, "green_only"), whole(section, "blue_only")
    return worse, better, max(whole(section, "n") - worse - better, 0)


def _section(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = document.get(name)
    return found if isinstance(found, Mapping) else {}
