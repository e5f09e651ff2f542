"""What the control API says, as tables for people.

Every function takes a document of the API and gives something that rich prints; nothing is asked of the router here.
Colours are rich's business, and off where NO_COLOR is set or nobody watches.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from router.rollout.asked import asked_line

ARM_STYLE = {"blue": "bold blue", "green": "bold green"}
VERDICT_STYLE = {"promote": "bold green", "rollback": "bold red", "hold": "bold yellow"}


def console() -> Console:
    """Where tables go: stdout; wide enough for whole lines when that is a file or a pipe."""
    return Console(width=None if sys.stdout.isatty() else 200, highlight=False, soft_wrap=False)


def status(document: Mapping[str, Any]) -> Group:
    """`GET /v1/status`."""
    share = document["split"]["green_percent"]
    arms = _table()
    for name in ("arm", "model", "servers"):
        arms.add_column(name, overflow="fold")
    for name in ("share", "requests", "errors", "fallbacks", "p50 ms", "p95 ms", "p99 ms"):
        arms.add_column(name, justify="right")
    for colour, part in (("blue", 100 - share), ("green", share)):
        arm, counts = document[colour], document["arms"][colour]
        if arm is None:
            arms.add_row(Text(colour, style=ARM_STYLE[colour]), Text("none yet", style="dim"))
            continue
        latency = counts["latency_ms"]
        arms.add_row(
            Text(colour, style=ARM_STYLE[colour]),
            escape(arm["name"]),
            _servers(arm["servers"]),
            f"{part:g} %",
            *(f"{counts[what]:,}" for what in ("requests", "errors", "fallbacks")),
            *(milliseconds(latency[level]) for level in ("p50", "p95", "p99")),
        )
    workers = ", ".join(f"{w['pid']} (revision {w['revision']}, {w['requests']:,} requests)" for w in document["workers"])
    split, shadow = document["split"], document["shadow"]
    how = f"by {split['key']}, salt {split['salt']!r}" if split["key"] else "by chance"
    running = "" if shadow.get("running", True) else ", but its process does not run"
    return Group(
        arms,
        f"revision {document['revision']}, split {how}; shadow {shadow['percent']:g} %{running}; "
        f"rollout {document['rollout']['state']}",
        f"workers: {workers or 'none runs'}",
    )


def evidence(document: Mapping[str, Any]) -> Group:
    """`GET /v1/evidence`: rates and latencies with their intervals, what was left out and why, and the verdict."""
    table = _table()
    table.add_column("what")
    for name in ("n", "rate", "interval"):
        table.add_column(name, justify="right")
    table.add_row("green agrees with blue", *_rate(document["agreement"]))
    table.add_row("blue agrees with itself", *_rate(document["noise"]))
    errors = document.get("errors") or {}
    if errors.get("n"):
        table.add_row("green fails where blue does not", *_rate(errors))
    arms = document.get("arms") or {}
    names = " against ".join(escape(arms[colour]["name"]) for colour in ("green", "blue") if arms.get(colour))
    verdict = document["verdict"]
    lines: list[Any] = [f"release {document['release']}: {names or 'no green yet'}", table]
    paired = (document.get("latency") or {}).get("paired") or {}
    if paired.get("n"):
        lines.append(_latency(paired))
    lines.append(f"{document['pairs']:,} pairs compared, {document['dropped']:,} sampled exchanges not compared")
    for reason, count in sorted((document.get("dropped_by") or {}).items(), key=lambda item: -item[1]):
        lines.append(f"  - {count:,} {escape(str(reason))}")
    lines += [escape(str(sentence)) for sentence in document.get("summary") or ()]
    word = Text(verdict["verdict"], style=VERDICT_STYLE.get(verdict["verdict"], ""))
    lines.append(Text.assemble("verdict: ", word))
    lines += [f"  - {escape(str(reason))}" for reason in verdict["reasons"]]
    if verdict.get("asked"):
        lines.append(escape(asked_line(verdict["asked"])))
    return Group(*lines)


def _latency(paired: Mapping[str, Any]) -> Table:
    """Latencies of the noise pairs, whose two requests the shadow sent in the same way."""
    table = _table(title=f"latency of {paired['n']:,} noise pairs, ms", title_justify="left")
    table.add_column("quantile")
    for name in ("blue", "green", "green less blue", "interval"):
        table.add_column(name, justify="right")
    for level in ("p50", "p95", "p99"):
        difference = (paired.get("difference_ms") or {}).get(level) or {}
        low, high = difference.get("ci") or (None, None)
        # An open end is no number yet: there are too few pairs to bound that quantile.
        interval = "not yet known" if low is None or high is None else f"{low:+.2f} to {high:+.2f}"
        estimate = difference.get("estimate")
        table.add_row(
            level,
            milliseconds(paired["blue"].get(level)),
            milliseconds(paired["green"].get(level)),
            "-" if estimate is None else f"{estimate:+.2f}",
            interval,
        )
    return table


def history(document: Mapping[str, Any]) -> Table:
    """`GET /v1/history`."""
    table = _table()
    for name in ("when", "revision", "who", "what", "why"):
        table.add_column(name, overflow="fold")
    for entry in document["history"]:
        table.add_row(
            moment(entry["when"]),
            str(entry.get("revision") or ""),
            escape(entry["who"]),
            escape(entry["action"]),
            escape(entry["why"]),
        )
    return table


def pairs(document: Mapping[str, Any]) -> Table:
    """`GET /v1/pairs`."""
    table = _table()
    for name in ("when", "request", "agree", "difference"):
        table.add_column(name, overflow="fold")
    for pair in document["pairs"]:
        agree = Text("yes", style="green") if pair["agree"] else Text("no", style="red")
        table.add_row(moment(pair["when"]), escape(pair["request_id"]), agree, escape(pair["disagreement"] or ""))
    return table


def milliseconds(value: float | None) -> str:
    """Three significant digits; a dash for what was not measured."""
    return "-" if value is None else f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def moment(seconds: float) -> str:
    """A time of the epoch as local date and time."""
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _table(**more: Any) -> Table:
    """No lines but one under the head: eighty columns are soon full."""
    return Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0), **more)


def _servers(servers: Sequence[Mapping[str, Any]]) -> Text:
    text = Text()
    for index, server in enumerate(servers):
        text.append("\n" if index else "")
        text.append(server["url"])
        text.append("" if server["healthy"] else " down", style="bold red")
    return text


def _rate(rate: Mapping[str, Any]) -> tuple[str, str, str]:
    low, high = rate["ci"]
    return f"{rate['n']:,}", "-" if rate["rate"] is None else f"{rate['rate']:.4f}", f"{low:.4f} to {high:.4f}"
