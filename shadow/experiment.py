"""The analysis of split live traffic and of late feedback: what green does to users, with intervals that may be looked at
always.

One observation for each unit of randomisation (`shadow.draws`): under a sticky split a user's second request tells nothing new
about arms. Without a key every request is a unit. Nothing is pooled over the steps of a ramp in a way that a drifting base rate
could fool: each observation is judged by the probability that green had when its arm was drawn (`shadow.live`), errors by whose
they were, everything else by inverse propensity. Latency is compared as the mean of its logarithm, so the effect is a ratio,
and no outlier decides. The table of steps is for looking.

Labels of mirrored pairs need no split: both arms answered the same request, and McNemar decides. Everything is fed in the order
of the log; nothing here knows a clock or a store, and memory is bounded whatever the traffic.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from shadow.decisions import is_right, verdicts
from shadow.draws import Drawn, Draws, Question
from shadow.experiment_steps import Steps
from shadow.finite import finite
from shadow.intervals import difference_intervals
from shadow.live import ErrorEvents, RewardDifference, SampleRatio
from shadow.paired import McNemar
from shadow.sequential import log_threshold

STATE_VERSION: Final = 2
# A mismatch stops a good rollout, and a real one is gross and grows with every request: so it may ask for more certainty.
SAMPLE_RATIO_ALPHA: Final = 0.01
# Latencies are compared between these bounds, in ms, declared here; beyond them they count as the bound.
LATENCY_BOUNDS: Final = (0.1, 100_000.0)

Document = dict[str, Any]


class Experiment:
    """One release's analysis. Not safe for several threads at once."""

    def __init__(self, alpha: float = 0.05, reward_bounds: tuple[float, float] = (0.0, 1.0)) -> None:
        """Rewards lie within `reward_bounds`, declared before the first one; beyond, they are cut to the bound and counted."""
        self.alpha = alpha
        self.draws = Draws()
        self.ratio = SampleRatio()
        self.steps = Steps()
        self.without_unit = self.retries = 0
        self.events = ErrorEvents()
        self.errors = RewardDifference(alpha=alpha)
        low, high = (math.log(bound) for bound in LATENCY_BOUNDS)
        self.latency = RewardDifference(low, high, alpha)
        self.pairs = McNemar()
        self.both_right = 0
        self.labels = self.unjudged = 0
        self.accuracy = RewardDifference(alpha=alpha)
        self.rewards = 0
        self.reward = RewardDifference(*reward_bounds, alpha=alpha)

    # --- feeding ---

    def expose(self, drawn: Drawn, *, error: bool, latency_ms: float, at: float, keyed: bool, retry: bool = False) -> None:
        """An exchange under a split. `keyed`: the split goes by a key, so without a unit it was not drawn at all."""
        if retry:
            self.retries += 1
            return
        if keyed and drawn.unit is None:
            self.without_unit += 1
            return
        green = drawn.green
        counted = self.draws.new_in_revision(drawn)
        if counted:
            self.ratio.update(green, drawn.share, drawn.revision)
        self.steps.expose(drawn.revision, drawn.share, green, error=error, latency_ms=latency_ms, at=at, new_unit=counted)
        if (chance := self.draws.chance(drawn, Question.REQUEST)) is not None:
            self.errors.update(float(error), green, chance)
        if (chance := self.draws.open_chance(drawn, Question.ERROR)) is not None:
            self.events.risk(chance)
        if error:
            if (chance := self.draws.chance(drawn, Question.ERROR)) is not None:
                self.events.update(green, chance)
        elif latency_ms > 0 and (chance := self.draws.chance(drawn, Question.LATENCY)) is not None:
            self.latency.update(math.log(latency_ms), green, chance)

    def label(self, drawn: Drawn, label: str, blue: str | None, green: str | None, *, answer: str | None, keyed: bool) -> None:
        """The truth about an exchange: `blue` and `green` are what each arm decided as far as it is known, `answer` what the
        client was told, all in the words of `shadow.decisions`.
        """
        self.labels += 1
        judged = verdicts(blue, green, label)
        if judged is not None:
            ours, theirs = judged
            self.pairs.update(not theirs, not ours)
            self.both_right += ours and theirs
        right = is_right(answer, label)
        if right is None and judged is None:
            self.unjudged += 1
        if right is None or not 0.0 < drawn.share < 1.0 or (keyed and drawn.unit is None):
            return
        self.steps.label(drawn.revision, drawn.green, right)
        if (chance := self.draws.chance(drawn, Question.LABEL)) is not None:
            self.accuracy.update(float(right), drawn.green, chance)

    def earn(self, drawn: Drawn, reward: float, *, keyed: bool) -> None:
        """What an exchange was worth."""
        self.rewards += 1
        if not 0.0 < drawn.share < 1.0:
            self.reward.unsplit += 1
            return
        if keyed and drawn.unit is None:
            return
        self.steps.reward(drawn.revision, drawn.green, reward)
        if (chance := self.draws.chance(drawn, Question.REWARD)) is not None:
            self.reward.update(reward, drawn.green, chance)

    # --- telling ---

    def events_by_chance(self) -> list[list[float]]:
        """First failures by the chance that green had, for the gate on errors with users (router.rollout.live_errors):
        [chance, requests up to each unit's first failure, failures of green's units, of blue's].
        """
        events = self.events
        return [
            [chance, requests, *reversed(events.counts.get(chance, (0, 0)))]
            for chance, requests in sorted(events.at_risk.items())
        ]

    def sections(self) -> Document:
        """`experiment` and `feedback`, as JSON values without NaN or infinity (docs/experiments.md says what each key
        means).
        """
        document: Document = finite({"experiment": self._experiment(), "feedback": self._feedback()})
        return document

    def _experiment(self) -> Document:
        events, alpha = self.events, self.alpha
        by_arm = self.steps.totals("requests")
        ratio = {"estimate": events.ratio, "ci": events.interval(alpha).to_json() if events.n else [0.0, None]}
        log_e = events.log_e_above(1.0) if events.n else 0.0
        latency = _difference(self.latency, alpha)
        return {
            "units": self.steps.totals("units"),
            "units_refused": self.draws.refused,
            "contradictions": self.draws.contradictions,
            "exposures": by_arm,
            "without_unit": self.without_unit,
            "retries": self.retries,
            "sample_ratio": self._sample_ratio(),
            "errors": {
                **_difference(self.errors, alpha),
                "events": {"n": events.n, **_by_arm(events), "by_chance": self.events_by_chance()},
                "ratio": ratio,
                "log_e": log_e,
                "worse": log_e >= log_threshold(alpha),
            },
            "latency": {
                "n": latency["n"],
                "ratio": {
                    "estimate": _exp(latency["difference"]["estimate"]),
                    "ci": [_exp(end) for end in latency["difference"]["ci"]],
                },
                "log_ratio": latency,
            },
            "steps": self.steps.snapshot(),
        }

    def _sample_ratio(self) -> Document:
        ratio = self.ratio
        worst = ratio.worst()
        log_e = ratio.log_e()
        return {
            "n": ratio.n,
            "green": None if worst is None else worst[2],
            "expected": None if worst is None else worst[1],
            "revision": None if worst is None else worst[0],
            "log_e": log_e if math.isfinite(log_e) else None,
            "alpha": SAMPLE_RATIO_ALPHA,
            "mismatch": log_e >= log_threshold(SAMPLE_RATIO_ALPHA),
        }

    def _feedback(self) -> Document:
        pairs, alpha = self.pairs, self.alpha
        worse = difference_intervals([(pairs.worse, pairs.better, pairs.same)], alpha)[0]
        estimate = (pairs.better - pairs.worse) / pairs.n if pairs.n else None
        rates = {
            "blue": (self.both_right + pairs.worse) / pairs.n if pairs.n else None,
            "green": (self.both_right + pairs.better) / pairs.n if pairs.n else None,
        }
        return {
            "labels": self.labels,
            "rewards": self.rewards,
            "unjudged": self.unjudged,
            "accuracy": {
                "n": pairs.n,
                "alpha": alpha,
                "both_right": self.both_right,
                "green_only_right": pairs.better,
                "blue_only_right": pairs.worse,
                "both_wrong": pairs.same - self.both_right,
                "rate": rates,
                "difference": {"estimate": estimate, "ci": [0.0 - worse[1], 0.0 - worse[0]]},
                "log_e": pairs.log_e_above(),
                "worse": pairs.log_e_above() >= log_threshold(alpha),
                "split": _difference(self.accuracy, alpha),
            },
            "reward": {
                **_difference(self.reward, alpha),
                "bounds": [self.reward.low, self.reward.high],
                "clipped": self.reward.clipped,
                "unsplit": self.reward.unsplit,
            },
        }

    # --- state ---

    def to_dict(self) -> Document:
        """Everything, as JSON values: `from_dict` goes on exactly."""
        return {
            "version": STATE_VERSION,
            "alpha": self.alpha,
            **{name: getattr(self, name) for name in _NUMBERS},
            **{name: getattr(self, name).to_dict() for name in _PARTS},
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Experiment:
        """The inverse of `to_dict`. Raises ValueError, KeyError or TypeError for what is none."""
        if state["version"] != STATE_VERSION:
            raise ValueError(f"a state of version {state['version']!r}, not {STATE_VERSION}")
        made = cls(float(state["alpha"]))
        for name in _NUMBERS:
            setattr(made, name, int(state[name]))
        for name, part in _PARTS.items():
            setattr(made, name, part.from_dict(state[name]))
        return made


_NUMBERS: Final = ("without_unit", "retries", "both_right", "labels", "unjudged", "rewards")
_PARTS: Final[dict[str, Any]] = {
    "draws": Draws,
    "ratio": SampleRatio,
    "steps": Steps,
    "events": ErrorEvents,
    "errors": RewardDifference,
    "latency": RewardDifference,
    "pairs": McNemar,
    "accuracy": RewardDifference,
    "reward": RewardDifference,
}


def _difference(found: RewardDifference, alpha: float) -> Document:
    """A difference of means, green less blue. `scores` test any threshold d: the evidence that the difference lies above d is
    `weighted - d * weight - penalty`, that it lies below is `d * weight - weighted - penalty` (natural logarithms).
    """
    unit = found.high - found.low
    scores = found.scores
    interval = found.interval(alpha).to_json() if found.n else [-unit, unit]
    return {
        "n": found.n,
        "alpha": alpha,
        "difference": {"estimate": found.estimate, "ci": interval},
        "scores": {"weight": scores.weight / unit, "weighted": scores.weighted, "penalty": scores.penalty},
        "log_e_below": found.log_e_below(0.0) if found.n else 0.0,
        "log_e_above": found.log_e_above(0.0) if found.n else 0.0,
    }


def _by_arm(events: ErrorEvents) -> Document:
    counts = events.counts.values()
    return {
        "blue": sum(blue for blue, _ in counts),
        "green": sum(green for _, green in counts),
        "requests": sum(events.at_risk.values()),
    }


def _exp(log_ratio: float | None) -> float | None:
    return None if log_ratio is None else math.exp(log_ratio)
