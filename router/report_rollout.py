"""`bluegreen report --rollout N`: the promotion record of one rollout, as a page that can be kept with the release.

It tells what the record holds and nothing else: the policy, every move with the verdict and the evidence it was made on, who,
when and why, and the record's place in the chain of hashes, with whether that chain is whole. A record may come from another
version or from a store that somebody has changed; so whatever is in it is text, and a part that is missing is left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from router.report_page import card, escaped, figure_cards, items, moment, page, section, tile, write_page
from router.report_tables import key_numbers
from router.rollout.asked import asked
from router.rollout.policy import policy_from_dict
from router.rollout.records import chained
from shadow.words import count as counted

Document = Mapping[str, Any]

OUTCOMES: Final = {
    "done": ("promote", "Green has all traffic"),
    "rolled_back": ("rollback", "Green was taken back"),
    "aborted": ("hold", "The rollout was ended by hand"),
}
CAPTIONS: Final = {
    "share": "Each dot is a move. Orange: it paused; red: green was taken back.",
    "gates": "A dot is what was seen, a band where the truth may lie, dashed what was asked for. Green: it passed; red: it "
    "failed; grey: not decided.",
}
_EVENTS: Final = {
    "start": "Started",
    "step": "Next step",
    "fill": "All traffic to green",
    "finish": "Done",
    "fail": "Taken back: a gate failed",
    "trip": "Taken back by the breaker",
    "expire": "Paused at its deadline",
    "hand": "Paused: somebody changed the plan",
    "pause": "Paused",
    "resume": "Resumed",
    "abort": "Aborted",
}
_STATES: Final = {"pass": "green", "fail": "bad"}
_SHARES: Final = ("agreement", "objective", "slices")
_DIFFERENCES: Final = ("errors", "errors_live", "noise", "readable", "accuracy")
_COUNTS: Final = ("pairs", "traffic")


def write_rollout(path: Path | str, record: Document, chain: Document) -> None:
    """Write the page into `path`, whole or not at all.

    `record` is the document of `GET /v1/rollouts/N`; `chain` says of all records together `{whole, records, trouble}`. Raises
    OSError when the file cannot be written.
    """
    write_page(Path(path), render_rollout(record, chain))


def render_rollout(record: Document, chain: Document) -> str:
    """The page's HTML; arguments as in `write_rollout`."""
    document = record["document"]
    blue, green = (_arm_name(document, colour) for colour in ("blue", "green"))
    body = "".join(
        (
            f'<header><h1>Rollout {int(record["number"])}: <span class="green">{escaped(green)}</span> against '
            f'<span class="blue">{escaped(blue)}</span></h1><span class="quiet">release {_said(document, "release")}, '
            f"attempt {_said(document, 'attempt')}; ended {_when(document.get('ended'))}</span></header>",
            _outcome(document),
            _tiles(document, record, chain),
            _pictures(document),
            section("What was asked for", _policy(document)),
            section("What happened, move by move", "".join(_move(n, m) for n, m in enumerate(document.get("moves") or (), 1))),
            section("Where this comes from", _origin(record, chain)),
            "<footer>Each interval holds the truth at all times together with the probability that its gate asks for, however "
            "often it was looked at. Written by bluegreen from the promotion record; nothing in it was measured anew.</footer>",
        )
    )
    return page(f"Rollout {record['number']}: {green} against {blue}", body)


def chain_words(record: Document, chain: Document) -> str:
    """Whether the record and its chain are what they were, in a sentence."""
    own = record["hash"] == chained(str(record["previous"]), record["document"])
    if not own:
        return "This record is not what it was when it was written: its content does not match its hash."
    if not chain["whole"]:
        return f"This record's content matches its hash, but the chain is broken: {chain['trouble']}."
    number = chain["records"]
    records = "It is the only promotion record" if number == 1 else f"The chain of {number:,} promotion records is whole"
    return f"{records}, and this record's content matches its hash."


def _arm_name(document: Document, colour: str) -> str:
    arm = (document.get("arms") or {}).get(colour) or {}
    return str(arm.get("name") or colour)


def _outcome(document: Document) -> str:
    outcome = str(document.get("outcome"))
    kind, words = OUTCOMES.get(outcome, ("hold", outcome.replace("_", " ")))
    if outcome == "done" and (document.get("policy") or {}).get("promote"):
        words = "Green was promoted: it is blue now"
    return (
        f'<section class="card verdict {kind}"><h2>{escaped(words)}</h2><ul>{items([document.get("reason")])}</ul>'
        f'<p class="quiet">begun by {_said(document, "who")} at {_when(document.get("began"))}</p></section>'
    )


def _tiles(document: Document, record: Document, chain: Document) -> str:
    moves = document.get("moves") or ()
    steps = (document.get("policy") or {}).get("steps") or ()
    furthest = max((float(move["green_percent"]) for move in moves), default=0.0)
    reached = max((int(move["step"]) + 1 for move in moves), default=0)
    took = (document.get("ended") or 0.0) - (document.get("began") or 0.0)
    pairs = next((m["evidence"].get("pairs") for m in reversed(moves) if m.get("evidence")), None)
    good = chain["whole"] and record["hash"] == chained(str(record["previous"]), document)
    tiles = [
        tile("Outcome", str(document.get("outcome")).replace("_", " "), f"attempt {document.get('attempt')} at this release"),
        tile("Most users on green", f"{furthest:g} %", f"step {reached} of {len(steps)}"),
        tile("It took", _duration(took), counted(len(moves), "move")),
        tile("Chain of records", "whole" if good else "broken", f"hash {str(record['hash'])[:12]}…"),
    ]
    if pairs is not None:
        tiles.insert(3, tile("Pairs compared", f"{pairs:,}", "when it ended"))
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _pictures(document: Document) -> str:
    from shadow.rollout_figures import gates_by_move, measured, share_of_green

    if not document.get("moves"):
        return ""
    figures = {"share": share_of_green(document)}
    if measured(document):
        figures["gates"] = gates_by_move(document)
    return figure_cards(figures, CAPTIONS, frozenset(figures))


def _policy(document: Document) -> str:
    policy = document.get("policy") or {}
    words = ""
    with suppress(KeyError, TypeError, ValueError):  # the policy of another version: its values are below all the same
        found = asked(policy_from_dict(policy))
        words = f"<ul>{items(found['words'])}</ul>" + (
            '<p class="quiet">The file named no gates, or just those that hold then.</p>' if found["default"] else ""
        )
    rows = "".join(
        f"<tr><td>{escaped(str(key).replace('_', ' '))}</td><td><code>{escaped(_plain(value))}</code></td></tr>"
        for key, value in policy.items()
        if key != "gates"
    )
    return card("words", words) + card(
        "scroll", f"<table><tr><th>Policy</th><th>Value (times in seconds)</th></tr>{rows}</table>"
    )


def _move(number: int, move: Document) -> str:
    verdict = move.get("verdict") or {}
    title = _EVENTS.get(str(move["event"]), str(move["event"]))
    parts = [
        f"<h3>{number}. {escaped(title)}: green {float(move['green_percent']):g} %</h3>",
        f'<p class="quiet">{_when(move["at"])}, by {escaped(str(move["who"]))}: {escaped(str(move["from"]))} → '
        f"{escaped(str(move['to']))}, plan revision {escaped(str(move['revision']))}</p>",
        f"<p>{escaped(str(move['why']))}</p>",
    ]
    if verdict:
        parts.append(
            f"<p>Verdict: <strong>{escaped(str(verdict.get('verdict')))}</strong></p>{_gates(verdict.get('gates') or ())}"
        )
    parts.append(_live(move.get("live")))
    evidence = move.get("evidence")
    if evidence:
        if evidence.get("summary"):
            parts.append(_folded("The evidence in words", f"<ul>{items(evidence['summary'])}</ul>"))
        with suppress(KeyError, TypeError):  # evidence without what every table needs: it is below all the same
            parts.append(_folded("The evidence in numbers", f'<div class="scroll">{key_numbers(evidence)}</div>'))
        text = json.dumps(evidence, indent=1, ensure_ascii=False)
        parts.append(_folded("All of it, as it was recorded", f"<pre>{escaped(text)}</pre>"))
    return card("move", "".join(parts))


def _gates(found: Sequence[Document]) -> str:
    if not found:
        return ""
    rows = []
    for gate in found:
        name, state = str(gate["name"]), str(gate["state"])
        rows.append(
            f'<tr><td>{escaped(name.replace("_", " "))}</td><td class="{_STATES.get(state, "quiet")}">{escaped(state)}</td>'
            f"<td class=n>{_number(name, gate.get('estimate'))}</td><td class=n>{_interval(name, gate.get('ci'))}</td>"
            f"<td class=n>{_number(name, gate.get('threshold'))}</td><td class=n>{gate.get('n') or 0:,}</td>"
            f'<td class="how">{escaped(str(gate.get("detail") or ""))}</td></tr>'
        )
    heads = ("Gate", "State", "Seen", "Interval", "Asked", "n", "In words")
    head = "".join(f"<th{' class=n' if name in ('Seen', 'Interval', 'Asked', 'n') else ''}>{name}</th>" for name in heads)
    return f'<div class="scroll"><table><tr>{head}</tr>{"".join(rows)}</table></div>'


def _live(live: Document | None) -> str:
    if not live:
        return ""
    with suppress(KeyError, TypeError, ValueError):
        sides = [
            f"{colour} {live[f'{colour}_requests']:,} requests, {live[f'{colour}_errors']:,} failed"
            for colour in ("green", "blue")
        ]
        return f'<p class="quiet">With users in the step before: {escaped("; ".join(sides))}.</p>'
    return ""


def _origin(record: Document, chain: Document) -> str:
    document = record["document"]
    arms = "".join(
        f'<tr><td><span class="{colour}">{colour}</span></td><td>{escaped(_arm_name(document, colour))}</td>'
        f"<td><code>{escaped(_servers(document, colour))}</code></td></tr>"
        for colour in ("blue", "green")
    )
    versions = ", ".join(f"{name} {value}" for name, value in (document.get("versions") or {}).items())
    facts = {
        "Hash of this record": record["hash"],
        "Hash of the one before": record["previous"],
        "Written": _when(record.get("at")),
        "Format": document.get("format"),
        "Decided by": versions,
    }
    rows = "".join(f"<tr><td>{name}</td><td><code>{escaped(str(value))}</code></td></tr>" for name, value in facts.items())
    good = chain["whole"] and record["hash"] == chained(str(record["previous"]), document)
    how = (
        "A hash is the SHA-256 of the one before it, a line end, and the document with sorted keys, no spaces and ASCII only. "
        "`bluegreen history --verify` checks the chain; the newest hash, kept elsewhere, shows that nobody wrote a new one."
    )
    return card("scroll", f"<table><tr><th>Arm</th><th>Model</th><th>Servers</th></tr>{arms}</table>") + card(
        "scroll",
        f'<p class="{"green" if good else "bad"} origin">{escaped(chain_words(record, chain))}</p><table>{rows}</table>'
        f'<p class="quiet origin">{escaped(how)}</p>',
    )


def _servers(document: Document, colour: str) -> str:
    arm = (document.get("arms") or {}).get(colour) or {}
    return ", ".join(map(str, arm.get("servers") or ())) or "-"


def _folded(title: str, inner: str) -> str:
    return f"<details><summary>{escaped(title)}</summary>{inner}</details>"


def _said(document: Document, key: str) -> str:
    return escaped(str(document.get(key)))


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _number(name: str, value: float | None) -> str:
    """A gate's value in its own unit."""
    if value is None:
        return "-"
    if name in _COUNTS:
        return f"{value:,.0f}"
    if name in _SHARES:
        return f"{100 * value:.4g} %"
    return f"{100 * value:+.3g} points" if name in _DIFFERENCES else f"{value:.4g}"


def _interval(name: str, ci: Sequence[float | None] | None) -> str:
    low, high = ci or (None, None)
    if low is None and high is None:
        return "-"
    return " to ".join("…" if end is None else _number(name, end) for end in (low, high))


def _duration(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


def _when(seconds: Any) -> str:
    return moment(seconds) if isinstance(seconds, int | float) else "?"
