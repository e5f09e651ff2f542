"""The analysis of split traffic and feedback in plain sentences, like `shadow.words` for the mirrored pairs.

Pure: takes the two sections and says what was seen, out of how many, and how far the truth may lie from it. A mismatch of the
sample ratio comes first, because nothing that follows it can be believed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from shadow.words import count, percent

Document = Mapping[str, Any]


def words(sections: Document, alpha: float) -> list[str]:
    """The sentences, the most important first; none before anything was seen."""
    experiment, feedback = sections["experiment"], sections["feedback"]
    sure = f"{100 * (1 - alpha):g} %"
    return [*_ratio(experiment), *_errors(experiment, sure), *_latency(experiment, sure), *_feedback(feedback, sure)]


def _ratio(experiment: Document) -> list[str]:
    ratio = experiment["sample_ratio"]
    if not ratio["n"]:
        return []
    units = count(ratio["n"], "unit")
    if ratio["mismatch"]:
        return [
            f"Sample ratio mismatch: in plan revision {ratio['revision']} green got {percent(ratio['green'])} of the units, "
            f"but the plan says {percent(ratio['expected'])}, and chance does not explain that. "
            "Exchanges are lost or misrouted; "
            "do not believe the comparison of users before that is found."
        ]
    return [f"The split gives green the share that the plan says, as far as {units} can tell."]


def _errors(experiment: Document, sure: str) -> list[str]:
    errors = experiment["errors"]
    if not errors["n"]:
        return []
    low, high = errors["difference"]["ci"]
    units, failures = count(errors["n"], "observation"), count(errors["events"]["n"], "failure")
    were = "was" if errors["events"]["n"] == 1 else "were"
    told = f"With users, {failures} {were} seen{_step(experiment, 'errors', 'requests')}. "
    told += "Green fails more often than blue: " if errors["worse"] else "Green's rate of failures less blue's is "
    return [f"{told}{_range((low, high))} ({sure}, by {units})."]


def _latency(experiment: Document, sure: str) -> list[str]:
    latency = experiment["latency"]
    if not latency["n"] or latency["ratio"]["estimate"] is None:
        return []
    low, high = latency["ratio"]["ci"]
    return [
        f"With users green takes {latency['ratio']['estimate']:.3g} times as long as blue (geometric mean; {sure}: "
        f"{low:.3g} to {high:.3g}), by {count(latency['n'], 'answer')}."
    ]


def _feedback(feedback: Document, sure: str) -> list[str]:
    told = []
    accuracy, reward = feedback["accuracy"], feedback["reward"]
    if accuracy["n"]:
        rate, difference = accuracy["rate"], accuracy["difference"]
        told.append(
            f"By {count(accuracy['n'], 'label')} of mirrored requests green is right in {percent(rate['green'])} and blue in "
            f"{percent(rate['blue'])}: a difference of {_signed(difference['estimate'])} ({sure}: {_range(difference['ci'])})."
        )
    split = accuracy["split"]
    if split["n"]:
        told.append(
            f"By the labels of {count(split['n'], 'unit')} that met one arm alone green is right more often than blue by "
            f"{_range(split['difference']['ci'])} ({sure})."
        )
    if reward["n"]:
        difference = reward["difference"]
        clipped = f"; {reward['clipped']:,} lay outside the declared bounds and were cut" if reward["clipped"] else ""
        low, high = difference["ci"]
        told.append(
            f"By the rewards of {count(reward['n'], 'unit')} green earns {difference['estimate']:+.4g} against blue "
            f"({sure}: {low:+.4g} to {high:+.4g}){clipped}."
        )
    return told


def _step(experiment: Document, what: str, of: str) -> str:
    """The counts of both arms in the newest step."""
    if not experiment["steps"]:
        return ""
    step = experiment["steps"][-1]
    sides = [f"{step[arm][what]:,} of {arm}'s {step[arm][of]:,}" for arm in ("green", "blue")]
    return f", in the present step (green {step['green_percent']:g} %) {' and '.join(sides)} requests"


def _signed(difference: float) -> str:
    return f"{100 * difference:+.3g} points"


def _range(ci: Sequence[float]) -> str:
    return f"{_signed(ci[0])} to {_signed(ci[1])}"
