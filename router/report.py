"""`bluegreen report FILE.html`: one file for the meeting in which it is decided whether green is promoted.

The file holds everything: text, tables, figures, and the script that draws them (Plotly's, out of its wheel), so that it can be
mailed and opened years later, without a network; a content security policy in it forbids one. It says what the verdict would
be, what was seen, how sure that is, what was left out, and how each number came about. Whatever came from traffic or from other
people is escaped: it is text, never markup.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from time import time
from typing import Any, Final

from router.report_page import card, escaped, figure_cards, items, moment, page, section, tile, write_page
from router.report_tables import disagreements, dropped, gates, history_table, key_numbers
from router.rollout.asked import asked_line
from shadow.words import milliseconds, percent

Document = Mapping[str, Any]

VERDICTS: Final = {
    "promote": "Green may be promoted",
    "rollback": "Green should be taken back",
    "hold": "Hold: not decided yet",
}
# What a figure shows, under it.
CAPTIONS: Final = {
    "agreement": "A dot is what was seen, a band where the truth may lie. Green is as good as a second blue when its band and "
    "blue's own lie together.",
    "confusion": "Every item of every answer: rows are what blue said, columns what green said. Coloured is where they differ.",
    "differences": "Green's numbers less blue's for the same item. The line is the mean, the band its interval.",
    "latency_curves": "Of pairs whose two twins were sent from one place in random order. To the right: the slowest answers.",
    "latency_differences": "To the right of 0 green is slower. Dotted: not yet enough pairs for a bound on that side.",
    "drift": "The shares in which both arms give their predictions, one item of each request.",
    "slices": "Orange: fewer pairs agree than asked for, or than blue's own noise explains, and looking at so many slices does "
    "not explain it.",
    "left_out": "Exchanges that were sampled and for which there is no comparison.",
}
_WIDE: Final = frozenset({"agreement", "confusion", "slices"})


def write_report(
    path: Path | str,
    evidence: Document,
    status: Document | None = None,
    history: Sequence[Document] = (),
    pairs: Sequence[Document] = (),
    *,
    now: float | None = None,
) -> None:
    """Write the report into `path`, whole or not at all.

    `evidence` is the document of `GET /v1/evidence`, `status` that of `GET /v1/status`, `history` and `pairs` the lists in
    `GET /v1/history` and `GET /v1/pairs`; `now` in seconds since the epoch. Raises OSError when the file cannot be written.
    """
    write_page(Path(path), render_report(evidence, status, history, pairs, now=now))


def render_report(
    evidence: Document,
    status: Document | None = None,
    history: Sequence[Document] = (),
    pairs: Sequence[Document] = (),
    *,
    now: float | None = None,
) -> str:
    """The report's HTML; arguments as in `write_report`."""
    when = time() if now is None else now
    title = f"{arm_name(evidence, 'green')} against {arm_name(evidence, 'blue')}"
    body = "".join(
        (
            _header(evidence, when),
            _verdict(evidence),
            _tiles(evidence),
            card("words", f"<ul>{items(evidence.get('summary') or ())}</ul>"),
            _figures(evidence),
            section("The numbers, and how each was computed", card("scroll", key_numbers(evidence))),
            section("Disagreements", disagreements(pairs)),
            section("What was not compared", card("scroll", dropped(evidence))),
            section("History", card("scroll", history_table(history))) if history else "",
            _footer(evidence, status),
        )
    )
    return page(title, body)


def arm_name(evidence: Document, colour: str) -> str:
    """The name of an arm in a release; its colour where it has none."""
    arm = (evidence.get("arms") or {}).get(colour)
    return str(arm["name"]) if arm and arm.get("name") else colour


def _header(evidence: Document, when: float) -> str:
    blue, green = escaped(arm_name(evidence, "blue")), escaped(arm_name(evidence, "green"))
    as_of = evidence.get("as_of")
    seen = "" if as_of is None else f", evidence of {moment(as_of)}"
    return (
        f'<header><h1><span class="green">{green}</span> against <span class="blue">{blue}</span></h1>'
        f'<span class="quiet">release {evidence.get("release", "?")}; written {moment(when)}{seen}</span></header>'
    )


def _verdict(evidence: Document) -> str:
    verdict = evidence.get("verdict") or {}
    kind = verdict.get("verdict", "hold")
    reasons = items(verdict.get("reasons") or ["nothing has judged this evidence"])
    table = gates(verdict.get("gates") or ())
    held = f'<p class="quiet">{escaped(asked_line(verdict["asked"]))}.</p>' if verdict.get("asked") else ""
    words = VERDICTS.get(kind, str(kind))
    return (
        f'<section class="card verdict {escaped(str(kind))}"><h2>{escaped(words)}</h2><ul>{reasons}</ul>{held}{table}</section>'
    )


def _tiles(evidence: Document) -> str:
    agreement, against, errors = evidence["agreement"], evidence.get("against_noise"), evidence["errors"]
    tiles = [tile("Pairs compared", f"{evidence['pairs']:,}", f"{evidence['dropped']:,} not compared")]
    if agreement["n"]:
        tiles.append(tile("Agreement", percent(agreement["rate"]), _range(agreement["ci"], percent)))
    if against and against["n"]:
        difference = against["difference"]
        tiles.append(tile("Disagreement beyond noise", _points(difference["estimate"]), _range(difference["ci"], _points)))
    if errors.get("n"):
        difference = errors["difference"]
        tiles.append(tile("Failures beyond blue's", _points(difference["estimate"]), _range(difference["ci"], _points)))
    paired = (evidence.get("latency") or {}).get("paired")
    if paired and paired["n"]:
        median = paired["median"]
        tiles.append(tile("Median latency difference", _plus(median["difference_ms"]), _range(median["ci"], _plus)))
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _figures(evidence: Document) -> str:
    from shadow.figures import figures

    if not evidence["pairs"] and not evidence.get("dropped_by"):
        return ""
    return figure_cards(figures(evidence), CAPTIONS, _WIDE)


def _footer(evidence: Document, status: Document | None) -> str:
    live = ""
    if status:
        split, shadow = status.get("split") or {}, status.get("shadow") or {}
        live = (
            f"When this was written green had {split.get('green_percent', 0):g} % of live traffic; "
            f"{shadow.get('percent', 0):g} % of exchanges were mirrored, {shadow.get('noise_percent', 0):g} % of them to blue "
            "a second time. "
        )
    alpha = evidence.get("alpha", 0.05)
    return (
        f"<footer>{escaped(live)}Each interval here holds the truth at all times together with probability "
        f"{100 * (1 - alpha):g} %, however often it was looked at. Written by bluegreen.</footer>"
    )


def _range(ci: Sequence[float | None], shown: Any) -> str:
    low, high = ("?" if end is None else shown(end) for end in ci)
    return f"between {low} and {high}"


def _points(share: float) -> str:
    return f"{100 * share:+.{1 if abs(share) >= 0.1 else 2}f} points"


def _plus(value: float) -> str:
    return ("+" if value > 0 else "") + milliseconds(value)
