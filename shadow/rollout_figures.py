"""A rollout as pictures, from the document of its promotion record (`GET /v1/rollouts/N`, its `document`).

In a notebook: `from shadow.rollout_figures import share_of_green; share_of_green(record["document"])`. Two questions: how did
green's share move, and what did each gate see at the moments at which that was decided. Colours, escaping and backgrounds are
those of `shadow.figures`.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from shadow.figures import BAD, GREEN, GRID, NEUTRAL, WARNING, new_figure

Document = Mapping[str, Any]

_STATE_COLOURS: Final = {"pass": GREEN, "fail": BAD}
_EVENT_COLOURS: Final = {"fail": BAD, "trip": BAD, "abort": BAD, "pause": WARNING, "hand": WARNING, "expire": WARNING}
_ROW: Final = 128  # pixels for one gate
_RATIOS: Final = ("latency", "reward", "drift")  # all others are shares, or differences of shares


def share_of_green(document: Document) -> go.Figure:
    """Green's share of the traffic over time, with a dot for every move: when, which, by whom."""
    moves = document["moves"]
    times = [datetime.fromtimestamp(move["at"], UTC).isoformat() for move in moves]
    figure = new_figure("Green's share of live traffic", height=280)
    figure.add_scatter(
        x=times,
        y=[move["green_percent"] for move in moves],
        mode="lines+markers",
        line={"color": GREEN, "width": 2.5, "shape": "hv"},
        fill="tozeroy",
        fillcolor="rgba(34, 160, 107, 0.12)",
        marker={"size": 9, "color": [_EVENT_COLOURS.get(move["event"], GREEN) for move in moves]},
        customdata=[[html.escape(str(move["event"])), html.escape(str(move["who"]))] for move in moves],
        hovertemplate="%{x|%H:%M:%S}: %{customdata[0]}, green %{y:.4g} %, by %{customdata[1]}<extra></extra>",
        showlegend=False,
    )
    figure.update_yaxes(range=[-4, 104], ticksuffix=" %")
    figure.update_xaxes(title="UTC")
    return figure


def gates_by_move(document: Document) -> go.Figure:
    """What each gate saw at every move that was made on a verdict: estimate, interval, and what was asked for, dashed."""
    columns = judged(document)
    names = measured(document)
    labels = [move_label(number, move) for number, move in columns]
    rows = max(len(names), 1)
    titles = [html.escape(name.replace("_", " ")) for name in names]
    figure = make_subplots(rows=rows, cols=1, shared_xaxes=True, vertical_spacing=0.32 / rows, subplot_titles=titles)
    figure.update_layout(new_figure("What the gates saw at each move", height=110 + _ROW * rows).layout)
    for row, name in enumerate(names, 1):
        found = [_gate(move, name) for _, move in columns]
        for label, gate in zip(labels, found, strict=True):
            if gate is not None and gate["estimate"] is not None:
                _add_point(figure, row, label, gate)
        figure.add_scatter(
            x=labels,
            y=[gate["threshold"] if gate is not None else None for gate in found],
            mode="lines" if len(labels) > 1 else "markers",
            line={"color": WARNING, "dash": "dash", "width": 1.5},
            marker={"color": WARNING, "symbol": "line-ew-open", "size": 40},
            hovertemplate="asked for: %{y:.5g}<extra></extra>",
            showlegend=False,
            row=row,
            col=1,
        )
    figure.update_xaxes(gridcolor=GRID, zeroline=False, automargin=True, type="category")
    figure.update_xaxes(categoryorder="array", categoryarray=labels, range=[-0.5, len(labels) - 0.5])
    figure.update_yaxes(gridcolor=GRID, zeroline=False, automargin=True, nticks=4)
    for row, name in enumerate(names, 1):
        if name not in _RATIOS:
            figure.update_yaxes(tickformat=".3~%", row=row, col=1)
    figure.update_layout(margin={"t": 84})
    return figure


def judged(document: Document) -> list[tuple[int, Document]]:
    """The moves that have a verdict with gates, with their number among all, from 1."""
    return [(n, move) for n, move in enumerate(document["moves"], 1) if (move.get("verdict") or {}).get("gates")]


def measured(document: Document) -> list[str]:
    """The gates that have measured something against a threshold at any move, but for mere counts; in the record's order."""
    names: list[str] = []
    for _, move in judged(document):
        for gate in move["verdict"]["gates"]:
            counts = gate["name"] in ("pairs", "traffic")
            if not counts and gate["estimate"] is not None and gate["threshold"] is not None and gate["name"] not in names:
                names.append(gate["name"])
    return names


def move_label(number: int, move: Document) -> str:
    """A move's name on an axis: its number, and green's share after it."""
    return f"{number}: {html.escape(str(move['event']))}<br>green {move['green_percent']:g} %"


def _gate(move: Document, name: str) -> Document | None:
    gates: Sequence[Document] = move["verdict"]["gates"]
    return next((gate for gate in gates if gate["name"] == name), None)


def _add_point(figure: go.Figure, row: int, label: str, gate: Document) -> None:
    """An estimate with its interval; an end that has no bound ends at the estimate."""
    estimate, (low, high) = gate["estimate"], gate["ci"]
    colour = _STATE_COLOURS.get(gate["state"], NEUTRAL)
    ends = [estimate if end is None else end for end in (low, high)]
    figure.add_scatter(
        x=[label, label], y=ends, mode="lines", line={"color": colour, "width": 7}, opacity=0.35, hoverinfo="skip",
        showlegend=False, row=row, col=1,
    )  # fmt: skip
    said = " to ".join("no bound" if end is None else f"{end:.5g}" for end in (low, high))
    figure.add_scatter(
        x=[label],
        y=[estimate],
        mode="markers",
        marker={"color": colour, "size": 11, "line": {"color": "rgba(255, 255, 255, 0.8)", "width": 1}},
        hovertemplate=f"{html.escape(str(gate['state']))}: %{{y:.5g}}, {said}<extra></extra>",
        showlegend=False,
        row=row,
        col=1,
    )
