"""The evidence in plain sentences, for a reader who has not read the manual.

A pure function of the snapshot. Each sentence says what was seen, out of how many, and how far the truth may lie from it; what
is not known is said to be not known. Nothing here passes a verdict: that is the gates' to do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

Document = Mapping[str, Any]


def summary(evidence: Document, alpha: float) -> list[str]:
    """The sentences, the most important first."""
    if not evidence["received"]:
        return ["No exchange has been mirrored yet: nothing can be said about green."]
    sure = f"{100 * (1 - alpha):g} %"
    return [
        *_agreement(evidence, sure),
        *_noise(evidence),
        *_errors(evidence, sure),
        *_latency(evidence["latency"], sure),
        *_drift(evidence["drift"]),
        *_numbers(evidence),
        *_slices(evidence["slices"]),
        *_left_out(evidence),
    ]


def percent(share: float) -> str:
    """A share in per cent, with so many digits that it is not rounded to 0 or 100 by mistake."""
    value = 100 * share
    for digits in (1, 2, 3, 4):
        text = f"{value:.{digits}f}"
        if (float(text) not in (0.0, 100.0)) or value in (0.0, 100.0):
            return f"{_trimmed(text)} %"
    return f"{value:.6g} %"


def count(number: int, one: str, many: str | None = None) -> str:
    """A number with its noun: `1 pair`, `1,204 pairs`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def milliseconds(value: float) -> str:
    """A time with as many digits as matter."""
    size = abs(value)
    return f"{value:.0f} ms" if size >= 100 else f"{value:.1f} ms" if size >= 1 else f"{value:.2f} ms"


def _agreement(evidence: Document, sure: str) -> list[str]:
    agreement = evidence["agreement"]
    if not agreement["n"]:
        return ["No pair could be compared yet."]
    low, high = agreement["ci"]
    words = (
        f"Green answers like blue in {percent(agreement['rate'])} of {count(agreement['n'], 'pair')}; "
        f"with {sure} confidence the true share lies between {percent(low)} and {percent(high)}."
    )
    floor = agreement.get("floor")
    if floor is not None:
        where = "above" if low > floor else "below" if high < floor else None
        words += f" That is {where} the {percent(floor)} asked for." if where else f" Asked for are {percent(floor)}."
    return [words]


def _noise(evidence: Document) -> list[str]:
    against = evidence["against_noise"]
    if not against["n"]:
        return ["How much blue differs from itself is not known: no request was sent to it twice."]
    itself = percent(1 - evidence["noise"]["rate"])
    seen = f"Blue itself answers differently the second time in {itself} of {count(against['n'], 'pair')}"
    if against["worse_than_noise"]:
        return [f"{seen}; green differs more often than that, which chance does not explain."]
    if against["no_worse_than_noise"]:
        return [f"{seen}; green differs no more often than that, to within {100 * against['margin']:g} points."]
    more = against["more"]
    about = f" (about {count(more, 'more noise pair')} would tell)" if more else ""
    return [f"{seen}; whether green differs more often than that cannot be said yet{about}."]


def _errors(evidence: Document, sure: str) -> list[str]:
    errors = evidence["errors"]
    green, blue = errors["green_only"], errors["blue_only"]
    found = []
    if green or blue:
        words = (
            f"Green failed on {count(green, 'request')} that blue answered ({percent(errors['rate'])}), "
            f"blue on {blue:,} that green answered"
        )
        if errors["worse"]:
            found.append(f"{words}: green fails more often than blue.")
        else:
            low, high = errors["difference"]["ci"]
            found.append(f"{words}; with {sure} confidence green fails {_points(low)} to {_points(high)} more often.")
    else:
        upper = errors["ci"][1]
        found.append(
            "Green answered every request that blue answered; "
            f"with {sure} confidence it fails on at most {percent(upper)} of them."
        )
    unreadable = evidence["unreadable"]
    if unreadable["green_only"]:
        worse = ", more often than blue's" if unreadable["worse"] else ""
        found.append(f"Green's answer could not be read {count(unreadable['green_only'], 'time')} where blue's could{worse}.")
    return found


def _latency(latency: Document, sure: str) -> list[str]:
    paired = latency["paired"]
    if not paired["n"]:
        live, mirrored = latency["live"]["blue"], latency["mirrored"]["green"]
        if live["p50"] is None or mirrored["p50"] is None:
            return ["Nothing is known about latency yet."]
        return [
            f"Blue's live answers take {milliseconds(live['p50'])} (median), green's mirrored ones "
            f"{milliseconds(mirrored['p50'])}; the two were measured in different places and are not comparable. "
            "Noise pairs (shadow.noise_percent) would make them so."
        ]
    p50 = paired["difference_ms"]["p50"]["estimate"]
    median = paired["median"]
    low, high = median["ci"]
    word = "slower" if p50 > 0 else "faster"
    words = (
        f"Green's median answer takes {milliseconds(paired['green']['p50'])}, blue's {milliseconds(paired['blue']['p50'])} "
        f"({count(paired['n'], 'noise pair')})"
    )
    if low is not None and high is not None:
        words += (
            f"; on the same request green is {milliseconds(abs(median['difference_ms']))} {word} in the median, between "
            f"{milliseconds(low)} and {milliseconds(high)} with {sure} confidence"
        )
    found = [f"{words}."]
    p99 = paired["difference_ms"]["p99"]
    if p99["estimate"] is not None:
        if None in p99["ci"]:
            found.append(
                f"The 99th percentile differs by {milliseconds(p99['estimate'])} so far; its interval needs more pairs."
            )
        else:
            low, high = p99["ci"]
            found.append(
                f"The 99th percentile differs by {milliseconds(p99['estimate'])}, between {milliseconds(low)} and "
                f"{milliseconds(high)}."
            )
    objective = latency["objective"]
    if objective and objective["n"]:
        found.append(
            f"Within {milliseconds(objective['latency_ms'])} are {percent(objective['green']['rate'])} of green's answers and "
            f"{percent(objective['blue']['rate'])} of blue's."
        )
    return found


def _drift(drift: Document) -> list[str]:
    if not drift["of"]:
        return []
    what = {"labels": "labels", "values": "values", "confidence": "confidences", "length": "text lengths"}[drift["of"]]
    if not drift["decided"]:
        high = drift["distance"]["ci"][1]
        return [f"Green's {what} are distributed like blue's as far as can be seen (distance at most {percent(high)})."]
    moved = drift.get("most_moved")
    which = f", most of all {moved!r}" if moved is not None else ""
    return [f"Green's {what} are distributed otherwise than blue's{which} (distance {percent(drift['distance']['estimate'])})."]


def _numbers(evidence: Document) -> list[str]:
    numbers = evidence["numbers"]
    if not numbers["n"]:
        return []
    low, high = numbers["ci"]
    words = f"Green's numbers are {_signed(numbers['mean'])} than blue's on average"
    return [f"{words} (between {low:+.4g} and {high:+.4g})." if low is not None and high is not None else f"{words}."]


def _slices(slices: list[Document]) -> list[str]:
    flagged = [entry for entry in slices if entry["flagged"]]
    if not flagged:
        return []
    named = ", ".join(f"{entry['by']} = {entry['value']} ({percent(entry['rate'])})" for entry in flagged[:3])
    more = f" and {len(flagged) - 3} more" if len(flagged) > 3 else ""
    return [f"Green agrees less than {percent(flagged[0]['floor'])} on {count(len(flagged), 'slice')}: {named}{more}."]


def _left_out(evidence: Document) -> list[str]:
    found = []
    if evidence["dropped"]:
        reasons = sorted(evidence["dropped_by"].items(), key=lambda item: -item[1])
        shown = ", ".join(f"{reason} {number:,}" for reason, number in reasons[:4])
        share = evidence["dropped"] / evidence["received"]
        found.append(
            f"Not compared: {evidence['dropped']:,} of {count(evidence['received'], 'exchange')} ({percent(share)}): {shown}."
        )
    custom = evidence["custom"]
    if custom and custom["failures"]:
        found.append(f"Your own comparison failed {count(custom['failures'], 'time')}; the last time: {custom['last']}.")
    if evidence["internal_failures"]["n"]:
        found.append(
            f"{count(evidence['internal_failures']['n'], 'pair')} could not be counted because of a fault in this program."
        )
    return found


def _points(share: float) -> str:
    return f"{_trimmed(f'{100 * share:.3f}')} points"


def _signed(value: float) -> str:
    if value == 0 or not math.isfinite(value):
        return "no larger or smaller"
    return f"{abs(value):.4g} {'larger' if value > 0 else 'smaller'}"


def _trimmed(text: str) -> str:
    return text.rstrip("0").rstrip(".") if "." in text else text
