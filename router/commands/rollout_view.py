"""A rollout as a person sees it: the steps, each gate with its interval closing in on the threshold, and what is missing.

Every function takes a document of the control API and gives something that rich prints. A gate's picture is cut around its
threshold, four times as wide as the room it leaves, so that the same picture serves a rate of 0.98 and a ratio of 1.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from router.commands.tables import VERDICT_STYLE
from router.rollout.asked import asked_line

_STATE_STYLE: Final = {"pass": "green", "fail": "bold red", "undecided": "yellow"}
_ROLLOUT_STYLE: Final = {"done": "bold green", "rolled_back": "bold red", "aborted": "bold red", "paused": "bold yellow"}
_WIDTH: Final = 28
_RATES: Final = ("agreement", "objective", "slices")
_POINTS: Final = ("errors", "errors_live", "noise", "readable", "accuracy")


def rollout(document: Mapping[str, Any]) -> Group:
    """`GET /v1/rollout`."""
    state = document["state"]
    if state == "idle":
        return Group("there has been no rollout; `bluegreen rollout start` begins one")
    style = _ROLLOUT_STYLE.get(state, "bold")
    title = Text.assemble(
        (f"rollout {document['number']}", "bold"),
        f" of release {document['release']}",
        f", attempt {document['attempt']}" if document["attempt"] > 1 else "",
        ": ",
        (state.replace("_", " "), style),
        f", green has {document['green_percent']:g} %",
        _left(document),
    )
    parts: list[Any] = [title, _ladder(document)]
    if document["gates"]:
        parts += [_gates(document["gates"]), Text.assemble("verdict: ", _verdict(document["verdict"]))]
        parts += [Text(f"  - {reason}") for reason in document["reasons"]]
    if state in (*_ROLLOUT_STYLE, "paused"):
        parts.append(Text(document["reason"], style=style))
    return Group(*parts)


def line(document: Mapping[str, Any]) -> str:
    """The same in one line, for a log."""
    state = str(document["state"]).replace("_", " ")
    if "number" not in document:
        return state
    if document["state"] in _ROLLOUT_STYLE:
        return f"rollout {document['number']}: {state}, green has {document['green_percent']:g} %: {document['reason']}"
    waiting = sum(gate["state"] != "pass" for gate in document["gates"])
    step = f"step {document['step']} of {len(document['steps'])}, " if document["step"] else ""
    gates = f"{waiting} of {len(document['gates'])} gates undecided" if waiting else "all gates pass"
    return f"rollout {document['number']}: {state}, {step}green has {document['green_percent']:g} %, {gates}"


def forecast(document: Mapping[str, Any]) -> Group:
    """`POST /v1/rollout/forecast`."""
    table = Table(box=SIMPLE_HEAD)
    table.add_column("stage")
    for name in ("green", "likely", "at most (9 of 10)"):
        table.add_column(name, justify="right")
    table.add_column("waits for")
    for stage in document["stages"]:
        share = f"{stage['green_percent']:g} %"
        table.add_row(stage["name"], share, duration(stage["median"]), duration(stage["p90"]), escape(stage["waits_for"]))
    table.add_section()
    table.add_row("all", "", duration(document["median"]), duration(document["p90"]), "")
    made, rates = document["from"], document["from"]["rates"]
    paces = [f"{rates[what]:.3g} {what}/s" for what in ("requests", "pairs") if rates[what] is not None]
    deadline = document["policy"]["deadline"]
    lines: list[Any] = [
        table,
        f"{document['arrives']:.0%} of the simulated rollouts are done within the deadline of {duration(deadline)}, "
        "if green is as it has shown itself so far",
        escape(asked_line(document["asked"])),
        f"from {made['pairs']:,} pairs so far, {', '.join(paces) or 'no traffic'}, attempt {made['attempt']} at this release",
    ]
    return Group(*lines, *(f"note: {escape(note)}" for note in document["notes"]))


def duration(seconds: float | None) -> str:
    """Seconds as a person says them; a dash for what cannot be said."""
    if seconds is None:
        return "-"
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 or seconds == 0 else f"{seconds:.1f} s"
    for unit, size in (("min", 60), ("h", 3600), ("d", 86400)):
        value = seconds / size
        if value < (60 if unit == "min" else 48) or unit == "d":
            return f"{value:.0f} {unit}" if value >= 10 else f"{value:.1f} {unit}".replace(".0 ", " ")
    raise AssertionError("days take everything")


def interval(gate: Mapping[str, Any]) -> Text:
    """A gate's interval around its threshold: `├──●──┤` and the threshold `│`; empty where there is nothing to draw."""
    threshold, (low, high) = gate["threshold"], gate["ci"]
    if threshold is None or gate["estimate"] is None or (low is None and high is None):
        return Text("")
    room = 1 - threshold if gate["name"] in _RATES else threshold - 1 if gate["name"] == "latency" else abs(threshold)
    reach = max(4 * abs(room), 1e-6)
    scale = (_WIDTH - 1) / (2 * reach)

    def place(value: float | None, missing: int) -> int:
        return missing if value is None else min(max(round((value - threshold + reach) * scale), 0), _WIDTH - 1)

    left, right = place(low, 0), place(high, _WIDTH - 1)
    cells = [" "] * _WIDTH
    cells[left : right + 1] = ["─"] * (right - left + 1)
    cells[left], cells[right] = "├", "┤"
    middle = place(threshold, 0)
    cells[middle] = "┃"
    cells[place(gate["estimate"], 0)] = "●"
    text = Text("".join(cells), style=_STATE_STYLE.get(gate["state"], ""))
    text.stylize("bold white", middle, middle + 1)
    return text


def _gates(gates: list[Mapping[str, Any]]) -> Table:
    table = Table(box=SIMPLE_HEAD)
    table.add_column("gate")
    table.add_column("")
    table.add_column("seen", justify="right")
    table.add_column("asked", justify="right")
    table.add_column(f"{'interval':<{_WIDTH}}")
    table.add_column("n", justify="right")
    table.add_column("still needs")
    for gate in gates:
        table.add_row(
            gate["name"].replace("_", " "),
            Text(gate["state"], style=_STATE_STYLE.get(gate["state"], "")),
            _number(gate["name"], gate["estimate"]),
            _number(gate["name"], gate["threshold"]),
            interval(gate),
            f"{gate['n']:,}",
            _needs(gate),
        )
    return table


def _needs(gate: Mapping[str, Any]) -> str:
    if gate["state"] != "undecided" or not gate["more"]:
        return ""
    seconds = f" (~{duration(gate['seconds'])})" if gate.get("seconds") is not None else ""
    return f"about {gate['more']:,} more {gate['of']}{seconds}"


def _number(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    if name in ("pairs", "traffic"):
        return f"{value:,.0f}"
    if name in _RATES:
        return f"{100 * value:.2f} %"
    return f"{100 * value:+.2f} pt" if name in _POINTS else f"{value:.3g}"


def _ladder(document: Mapping[str, Any]) -> Text:
    """The steps, with the present one marked."""
    text = Text("shadow", style="bold reverse" if document["step"] == 0 else "green")
    for index, step in enumerate(document["steps"], start=1):
        text.append(" ─ ")
        style = "green" if index < document["step"] or document["state"] == "done" else "dim"
        text.append(f" {step:g} % ", style="bold reverse" if index == document["step"] else style)
    return text


def _left(document: Mapping[str, Any]) -> str:
    if not document.get("hold_left"):
        return ""
    return f", {duration(document['hold_left'])} to go at least"


def _verdict(verdict: str) -> tuple[str, str]:
    return verdict, VERDICT_STYLE.get(verdict, "")
