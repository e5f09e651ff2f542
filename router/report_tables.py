"""The report's tables: every number with its n, its interval and how it was computed; the disagreements; what was left out.

Each row of the numbers names its method, so that whoever doubts one can go and recompute it; docs/statistics.md and
docs/evidence.md have the formulas and what they assume.
"""

from __future__ import annotations

import contextlib
import html
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from shadow.words import milliseconds, percent

Document = Mapping[str, Any]

MAX_DISAGREEMENTS: Final = 20
MAX_HISTORY: Final = 20
_MAX_BODY: Final = 2_000
_STATES: Final = {"pass": "green", "fail": "bad"}

AGREEMENT: Final = "share of pairs in which both say the same; exact Bernoulli confidence sequence"
NOISE: Final = "the same, blue's first answer against its second"
BEYOND: Final = (
    "green differs from blue's first answer and blue's second does not, less the reverse; McNemar, by betting on the difference"
)
SIMILARITY: Final = "how much less similar to blue's first answer green is than blue's second; betting on a bounded mean"
ERRORS: Final = "green failed where blue served the request, less the reverse; McNemar, by betting on the difference"
UNREADABLE: Final = "green's answer could not be read where blue's could, less the reverse; McNemar"
QUANTILE: Final = "of noise pairs only; a confidence sequence of each arm's quantile at half the level, subtracted (divided)"
MEDIAN: Final = "median of green's time less blue's for the same request; order statistics around it"
OBJECTIVE: Final = "share of answers within the objective, those that did not come counted as over it; exact Bernoulli"
DISTANCE: Final = (
    "largest difference of a label's share (one against the rest), or of the distribution functions (DKW); one item a request"
)
PSI: Final = "population stability index, over labels or tenths of blue's values; for looking, it has no interval"
JS: Final = "Jensen-Shannon divergence in bits; for looking, it has no interval"
MEAN: Final = (
    "mean over pairs; empirical Bernstein where it lies in [0, 1] by definition, else asymptotic and only from 200 pairs on"
)


def key_numbers(evidence: Document) -> str:
    """The table of all numbers."""
    rows: list[str] = []

    def add(name: str, n: Any, estimate: Any, ci: Any, how: str, shown: Any = percent) -> None:
        if n:
            rows.append(_row(name, f"{n:,}", _shown(estimate, shown), _interval(ci, shown), how))

    agreement, noise, against = evidence["agreement"], evidence["noise"], evidence.get("against_noise") or {}
    add("Agreement of green with blue", agreement["n"], agreement["rate"], agreement["ci"], AGREEMENT)
    add("Agreement of blue with itself", noise["n"], noise["rate"], noise["ci"], NOISE)
    if against.get("n"):
        add("Disagreement beyond noise", against["n"], *_both(against["difference"]), BEYOND, _points)
        if against.get("similarity"):
            lost = against["similarity"]
            add("Similarity lost beyond noise", lost["n"], lost["lost"], lost["ci"], SIMILARITY, _plain)
    errors, unreadable = evidence["errors"], evidence.get("unreadable") or {}
    if errors.get("n"):
        add("Failures beyond blue's", errors["n"], *_both(errors["difference"]), ERRORS, _points)
    if unreadable.get("n"):
        add("Unreadable beyond blue's", unreadable["n"], *_both(unreadable["difference"]), UNREADABLE, _points)
    _add_latency(add, evidence.get("latency") or {})
    drift = evidence.get("drift") or {}
    for name, channel in (drift.get("channels") or {}).items():
        add(f"Drift of {name}: distance", channel["n"], *_both(channel["distance"]), DISTANCE)
        add(f"Drift of {name}: PSI", channel["n"], channel["psi"], None, PSI, _plain)
        add(f"Drift of {name}: Jensen-Shannon", channel["n"], channel["js"], None, JS, _plain)
    numbers = evidence.get("numbers") or {}
    add("Mean difference of numbers", numbers.get("n"), numbers.get("mean"), numbers.get("ci"), MEAN, _plain)
    measures = {**{k: v for k, v in (evidence.get("text") or {}).items() if k != "n"}, **(evidence.get("measures") or {})}
    for name, measure in measures.items():
        add(name.replace("_", " ").capitalize(), measure["n"], measure["mean"], measure["ci"], MEAN, _plain)
    head = "<tr><th>What</th><th class=n>n</th><th class=n>Seen</th><th class=n>Interval</th><th>How it was computed</th></tr>"
    return f"<table>{head}{''.join(rows)}</table>" if rows else "<p>There is nothing yet.</p>"


def _add_latency(add: Any, latency: Document) -> None:
    paired = latency.get("paired") or {"n": 0}
    if paired["n"]:
        median = paired["median"]
        add("Latency difference, same request", median["n"], median["difference_ms"], median["ci"], MEDIAN, milliseconds)
        for name in ("p50", "p95", "p99"):
            add(f"Latency {name}, green less blue", paired["n"], *_both(paired["difference_ms"][name]), QUANTILE, milliseconds)
            add(f"Latency {name}, green over blue", paired["n"], *_both(paired["ratio"][name]), QUANTILE, _plain)
    objective = latency.get("objective")
    if objective and objective["n"]:
        for colour in ("green", "blue"):
            side = objective[colour]
            name = f"{colour.capitalize()} within {milliseconds(objective['latency_ms'])}"
            add(name, objective["n"], side["rate"], side["ci"], OBJECTIVE)
    pace = (latency.get("streams") or {}).get("tokens_per_second") or {"n": 0}
    if pace["n"]:
        add("Tokens per second, green over blue (p50)", pace["n"], *_both(pace["ratio"]["p50"]), QUANTILE, _plain)


def disagreements(pairs: Sequence[Document]) -> str:
    """The newest pairs that do not agree, with the request and both answers folded away under each."""
    differing = [pair for pair in pairs if not pair["agree"]][:MAX_DISAGREEMENTS]
    if not differing:
        return '<p class="quiet">No pair that disagrees is kept.</p>'
    rows = []
    for pair in differing:
        content = pair["content"]
        times = " / ".join(_time(content[colour].get("total_ms")) for colour in ("blue", "green"))
        parts = [("Request", content["request"]), ("Blue", content["blue"]), ("Green", content["green"])]
        if content.get("again"):
            parts.append(("Blue, second answer", content["again"]))
        shown = "".join(f"<strong>{name}</strong> {_told(part)}<pre>{_body(part)}</pre>" for name, part in parts)
        rows.append(
            f"<tr><td class=when>{_moment(pair['when'])}</td><td>{_text(str(pair['disagreement'] or 'differs'))}"
            f"<details><summary>{_text(str(content.get('method', '')))} {_text(str(content.get('path', ''))[:120])}</summary>"
            f"{shown}</details></td><td class=n>{times}</td><td><code>{_text(str(pair['request_id']))}</code></td></tr>"
        )
    head = "<tr><th>When (UTC)</th><th>What differs</th><th class=n>Blue / green</th><th>Request id</th></tr>"
    return f'<div class="card scroll"><table>{head}{"".join(rows)}</table></div>'


def dropped(evidence: Document) -> str:
    """Everything that was sampled and not compared: by reason, and what could not be read by side."""
    rows = [
        f"<tr><td>{_text(reason)}</td><td class=n>{count:,}</td></tr>"
        for reason, count in sorted((evidence.get("dropped_by") or {}).items(), key=lambda item: -item[1])
    ]
    known = sum((evidence.get("dropped_by") or {}).values())
    if evidence["dropped"] > known:
        rows.append(f"<tr><td>lost before the shadow</td><td class=n>{evidence['dropped'] - known:,}</td></tr>")
    for colour in ("blue", "green"):
        for reason, count in ((evidence.get("unreadable") or {}).get(colour) or {}).items():
            rows.append(f"<tr><td>of these, {colour}'s answer unreadable: {_text(reason)}</td><td class=n>{count:,}</td></tr>")
    if evidence.get("compared_in_part"):
        part = f"{evidence['compared_in_part']:,}"
        rows.append(f"<tr><td>compared, but only on what was kept of a long answer</td><td class=n>{part}</td></tr>")
    if not rows:
        return "<p>Every exchange that was sampled was compared.</p>"
    return f"<table><tr><th>Reason</th><th class=n>Exchanges</th></tr>{''.join(rows)}</table>"


def gates(found: Iterable[Document]) -> str:
    """The gates of a verdict, where there are any: what each says, out of how many, and in its words what it still lacks."""
    rows = []
    for gate in found:
        state = str(gate["state"])
        rows.append(
            f'<tr><td>{_text(str(gate["name"]))}</td><td class="{_STATES.get(state, "quiet")}">{_text(state)}</td>'
            f"<td class=n>{gate.get('n') or 0:,}</td><td>{_text(str(gate.get('detail') or ''))}</td></tr>"
        )
    head = "<tr><th>Gate</th><th>State</th><th class=n>n</th><th>In words</th></tr>"
    return f"<table>{head}{''.join(rows)}</table>" if rows else ""


def history_table(history: Sequence[Document]) -> str:
    """The newest changes, newest first."""
    rows = [
        f"<tr><td class=when>{_moment(entry['when'])}</td><td>{_text(str(entry.get('action', '')))}</td>"
        f"<td>{_text(str(entry.get('who', '')))}</td><td>{_text(str(entry.get('why', '')))}</td></tr>"
        for entry in list(history)[-MAX_HISTORY:][::-1]
    ]
    return f"<table><tr><th>When (UTC)</th><th>What</th><th>Who</th><th>Why</th></tr>{''.join(rows)}</table>"


def _row(name: str, n: str, estimate: str, interval: str, how: str) -> str:
    return (
        f"<tr><td>{_text(name)}</td><td class=n>{n}</td><td class=n>{_text(estimate)}</td><td class=n>{_text(interval)}</td>"
        f'<td class="how">{_text(how)}</td></tr>'
    )


def _both(part: Document) -> tuple[Any, Any]:
    return part["estimate"], part["ci"]


def _shown(value: Any, shown: Any) -> str:
    return "-" if value is None else str(shown(value))


def _interval(ci: Sequence[float | None] | None, shown: Any) -> str:
    if ci is None:
        return "-"
    low, high = ci
    if low is None and high is None:
        return "no bound yet"
    return f"{'…' if low is None else shown(low)} to {'…' if high is None else shown(high)}"


def _told(part: Document) -> str:
    """Status, failure and time of an answer, or nothing for a request."""
    said = [str(part["status"])] if part.get("status") else []
    if part.get("failure"):
        said.append(str(part["failure"]))
    if part.get("total_ms") is not None:
        said.append(milliseconds(part["total_ms"]))
    return _text(", ".join(said))


def _body(part: Document) -> str:
    body = part.get("body") or {}
    if "withheld" in body:
        return _text(f"withheld: {body['withheld']}")
    text = body.get("text")
    if text is None:
        return _text(f"{body.get('bytes', 0)} bytes, base64: {str(body.get('base64', ''))[:_MAX_BODY]}")
    with contextlib.suppress(ValueError, RecursionError):
        text = json.dumps(json.loads(text), ensure_ascii=False)
    cut = " …" if len(text) > _MAX_BODY or body.get("cut") else ""
    return _text(text[:_MAX_BODY] + cut) or "(empty)"


def _time(value: float | None) -> str:
    return "-" if value is None else milliseconds(value)


def _points(share: float) -> str:
    return f"{100 * share:+.3f} points"


def _plain(value: float) -> str:
    return f"{value:.4g}"


def _moment(when: float) -> str:
    return f"{datetime.fromtimestamp(when, UTC):%m-%d %H:%M:%S}"


def _text(text: str) -> str:
    return html.escape(text)
