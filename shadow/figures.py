"""The evidence as pictures: one Plotly figure for each question, from the document of `GET /v1/evidence`.

In a notebook: `from shadow.figures import agreement; agreement(evidence)`. The report and the notebook draw the same figures.
Backgrounds are transparent and the colours are chosen to be read on white and on near-black alike; whoever shows them sets the
colour of text and grid (`TEXT`, `GRID` are for a light page). Every figure shows intervals where there are any: a picture that
leaves them out looks like knowledge. Names that came from traffic are escaped, because Plotly reads tags in its text.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any, Final

import plotly.graph_objects as go

BLUE: Final = "#3b7dd8"
GREEN: Final = "#22a06b"
WARNING: Final = "#d9730d"
BAD: Final = "#d1453b"
NEUTRAL: Final = "#8a8f98"
TEXT: Final = "#24292f"
GRID: Final = "rgba(128, 128, 128, 0.22)"
_FONT: Final = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"
_MAX_NAMES: Final = 30
_NAME_LENGTH: Final = 24

Document = Mapping[str, Any]


def agreement(evidence: Document) -> go.Figure:
    """How often green answers like blue, beside how often blue answers like itself; each with its interval."""
    found, against = evidence["agreement"], evidence.get("against_noise") or {}
    noise = evidence["noise"]
    rows = []
    if found["n"]:
        rows.append((f"green like blue<br>({found['n']:,} pairs)", found["rate"], found["ci"], GREEN))
    if noise["n"]:
        if against.get("green_rate") is not None:
            rows.append((f"green like blue<br>({noise['n']:,} noise pairs)", against["green_rate"], against["green_ci"], GREEN))
        rows.append((f"blue like itself<br>({noise['n']:,} noise pairs)", noise["rate"], noise["ci"], BLUE))
    figure = new_figure("Agreement", height=90 + 62 * max(len(rows), 1))
    _intervals(figure, rows[::-1])
    floor = found.get("floor")
    if floor is not None:
        figure.add_vline(x=floor, line={"color": WARNING, "dash": "dash", "width": 1.5})
        figure.add_annotation(
            x=floor,
            y=1.0,
            yref="paper",
            yanchor="bottom",
            text=f"asked for {floor:.4g}",
            showarrow=False,
            font={"color": WARNING},
        )
    lowest = min([ci[0] for _, _, ci, _ in rows] + ([floor] if floor is not None else []), default=0.0)
    figure.update_xaxes(
        range=[max(-0.02, lowest - 0.15 * (1.0 - lowest) - 0.001), 1.0 + 0.04 * (1.0 - lowest)], tickformat=".2~%"
    )
    return figure


def confusion(evidence: Document) -> go.Figure:
    """Blue's decisions against green's: what they agree on in grey, what they do not in colour."""
    section = evidence["confusion"]
    names, counts = _names(section["labels"]), section["counts"]
    size = len(names)
    agreeing = [[counts[i][j] if i == j else None for j in range(size)] for i in range(size)]
    differing = [[counts[i][j] if i != j and counts[i][j] else None for j in range(size)] for i in range(size)]
    figure = new_figure("Decisions of blue and green", height=max(300, min(640, 150 + 34 * size)))
    written = size <= _MAX_NAMES
    for table, scale in ((agreeing, _fading(NEUTRAL, 0.18, 0.5)), (differing, _fading(WARNING, 0.3, 1.0))):
        figure.add_heatmap(
            z=table,
            x=names,
            y=names,
            colorscale=scale,
            zmin=0,
            showscale=False,
            xgap=1,
            ygap=1,
            texttemplate="%{z}" if written else None,
            textfont={"color": TEXT},
            hovertemplate="blue %{y}, green %{x}: %{z} items<extra></extra>",
        )
    figure.update_xaxes(title="green said", type="category", showgrid=False, constrain="domain")
    figure.update_yaxes(title="blue said", type="category", autorange="reversed", showgrid=False)
    return figure


def differences(evidence: Document) -> go.Figure:
    """How green's numbers differ from blue's: the histogram of green - blue, and the mean with its interval."""
    section = evidence["numbers"]
    bins = section["histogram"] or {"edges": [0.0, 0.0], "counts": [0], "below": 0, "above": 0}
    edges, counts = bins["edges"], bins["counts"]
    figure = new_figure("Differences of numbers, green less blue", height=300)
    figure.add_bar(
        x=[0.5 * (low + high) for low, high in pairwise(edges)],
        y=counts,
        width=[high - low for low, high in pairwise(edges)],
        marker={"color": GREEN, "opacity": 0.75},
        hovertemplate="%{x:.4g}: %{y}<extra></extra>",
    )
    figure.add_vline(x=0, line={"color": NEUTRAL, "width": 1})
    mean = section.get("mean")
    if mean is not None:
        low, high = section["ci"]
        figure.add_vline(x=mean, line={"color": WARNING, "width": 1.5})
        if low is not None and high is not None:
            figure.add_vrect(x0=low, x1=high, fillcolor=WARNING, opacity=0.18, line_width=0)
    outside = bins["below"] + bins["above"]
    figure.update_xaxes(title="green - blue" + (f" ({outside:,} further out)" if outside else ""))
    figure.update_yaxes(title="numbers")
    return figure


def latency_curves(evidence: Document) -> go.Figure:
    """Latency of both arms by quantile, from pairs that were measured alike; the axis spreads out the slow end."""
    curve = evidence["latency"]["paired"]["curve"]
    figure = new_figure("Latency by quantile", height=340)
    kept = [i for i, level in enumerate(curve["levels"]) if curve["blue"][i] is not None]
    for name, colour in (("blue", BLUE), ("green", GREEN)):
        figure.add_scatter(
            x=[1.0 / (1.0 - curve["levels"][i]) for i in kept],
            y=[curve[name][i] for i in kept],
            name=name,
            mode="lines+markers",
            line={"color": colour, "width": 2.5},
            marker={"size": 5},
            customdata=[100 * curve["levels"][i] for i in kept],
            hovertemplate=f"{name} p%{{customdata:.4g}}: %{{y:.2f}} ms<extra></extra>",
        )
    shown = (0.5, 0.8, 0.9, 0.95, 0.99, 0.999)
    figure.update_xaxes(
        type="log",
        tickvals=[1.0 / (1.0 - level) for level in shown],
        ticktext=[f"p{100 * level:g}" for level in shown],
        title="share of answers that were faster",
    )
    figure.update_yaxes(title="milliseconds", type="log", dtick="D2", minor={"showgrid": False})
    return figure


def latency_differences(evidence: Document) -> go.Figure:
    """Difference of the arms' quantiles, and the median difference on the same request, with their intervals.

    The axis is as wide as the sharper ones need; a p99 that is known to within seconds only runs out of the picture.
    """
    paired = evidence["latency"]["paired"]
    found = [("same request, median", paired["median"]["difference_ms"], paired["median"]["ci"])]
    for name in ("p50", "p95", "p99"):
        entry = paired["difference_ms"][name]
        found.append((f"difference of {name}", entry["estimate"], entry["ci"]))
    rows = [(f"{name}<br>{_milliseconds(estimate)} ({_span(ci)})", estimate, ci, GREEN) for name, estimate, ci in found]
    figure = new_figure("Latency, green less blue", height=90 + 62 * len(rows))
    known = [abs(estimate) for _, estimate, _ in found if estimate is not None]
    known += [abs(end) for _, _, ci in found[:3] for end in ci if end is not None]
    reach = 1.25 * max(known, default=1.0) or 1.0
    _intervals(figure, rows[::-1], reach)
    figure.add_vline(x=0, line={"color": NEUTRAL, "width": 1})
    figure.update_xaxes(title="milliseconds", range=[-reach, reach])
    return figure


def drift(evidence: Document) -> go.Figure:
    """Shares of blue's and green's predictions, by label, or by tenths of blue's values."""
    section = evidence["drift"]
    channel = section["channels"][section["of"]]
    shares = channel["shares"]
    order = range(len(shares["names"]))
    if len(order) > _MAX_NAMES:
        order = sorted(order, key=lambda i: -max(shares["blue"][i], shares["green"][i]))[:_MAX_NAMES]  # type: ignore[assignment]
    figure = new_figure({"labels": "Shares of labels"}.get(section["of"], f"Distribution of {section['of']}"), height=300)
    for name, colour in (("blue", BLUE), ("green", GREEN)):
        figure.add_bar(
            x=_names([shares["names"][i] for i in order]),
            y=[shares[name][i] for i in order],
            name=name,
            marker={"color": colour},
            hovertemplate=f"{name}, %{{x}}: %{{y:.3%}}<extra></extra>",
        )
    figure.update_layout(barmode="group", bargap=0.25)
    figure.update_xaxes(type="category")
    figure.update_yaxes(tickformat=".0%", rangemode="tozero")
    return figure


def slices(evidence: Document) -> go.Figure:
    """Agreement in the worst slices with intervals; those that are flagged (e-BH) in another colour."""
    entries = [entry for entry in evidence["slices"] if entry["n"]][:12]
    rows = [
        (
            f"{_name(entry['by'].partition(':')[2])} = {_name(entry['value'])}<br>({entry['n']:,} pairs)",
            entry["rate"],
            entry["ci"],
            WARNING if entry["flagged"] or entry["against_noise"]["flagged"] else GREEN,
        )
        for entry in entries
    ]
    figure = new_figure("Agreement by slice, the worst first", height=100 + 46 * max(len(rows), 1))
    _intervals(figure, rows[::-1])
    if entries:
        figure.add_vline(x=entries[0]["floor"], line={"color": WARNING, "dash": "dash", "width": 1.5})
    figure.update_xaxes(tickformat=".1~%")
    return figure


def left_out(evidence: Document) -> go.Figure:
    """What was sampled and not compared, by reason."""
    reasons = sorted(evidence["dropped_by"].items(), key=lambda item: item[1])[-12:]
    figure = new_figure("Not compared", height=110 + 32 * max(len(reasons), 1))
    figure.add_bar(
        x=[count for _, count in reasons],
        y=[_name(reason) for reason, _ in reasons],
        orientation="h",
        marker={"color": NEUTRAL},
        text=[f"{count:,}" for _, count in reasons],
        textposition="auto",
        hovertemplate="%{y}: %{x}<extra></extra>",
    )
    figure.update_xaxes(title="exchanges")
    return figure


def figures(evidence: Document) -> dict[str, go.Figure]:
    """Every figure that has something to show, by name, in the order in which to read them."""
    drawn: dict[str, tuple[bool, Callable[[Document], go.Figure]]] = {
        "agreement": (bool(evidence["agreement"]["n"]), agreement),
        "confusion": (bool(_part(evidence, "confusion", "n")), confusion),
        "differences": (bool(_part(evidence, "numbers", "histogram")), differences),
        "latency_curves": (bool(_part(evidence, "latency", "paired", "n")), latency_curves),
        "latency_differences": (bool(_part(evidence, "latency", "paired", "n")), latency_differences),
        "drift": (bool(_part(evidence, "drift", "of")), drift),
        "slices": (any(entry["n"] for entry in evidence.get("slices") or ()), slices),
        "left_out": (bool(evidence.get("dropped_by")), left_out),
    }
    return {name: draw(evidence) for name, (shown, draw) in drawn.items() if shown}


def new_figure(title: str, height: int) -> go.Figure:
    """An empty figure in the look that all of them share; `height` in pixels."""
    figure = go.Figure()
    figure.update_layout(
        title={"text": title, "x": 0.0, "xref": "container", "xanchor": "left", "font": {"size": 16}, "pad": {"l": 12}},
        height=height,
        margin={"l": 20, "r": 24, "t": 56, "b": 20},
        paper_bgcolor="rgba(0, 0, 0, 0)",
        plot_bgcolor="rgba(0, 0, 0, 0)",
        font={"family": _FONT, "size": 13, "color": TEXT},
        legend={"orientation": "h", "x": 1.0, "xanchor": "right", "y": 1.0, "yanchor": "bottom"},
        hoverlabel={"font": {"family": _FONT}},
        showlegend=None,
    )
    figure.update_xaxes(gridcolor=GRID, zeroline=False, automargin=True)
    figure.update_yaxes(
        gridcolor=GRID, zeroline=False, automargin=True, ticks="outside", ticklen=8, tickcolor="rgba(0, 0, 0, 0)"
    )
    return figure


def _intervals(figure: go.Figure, rows: list[tuple[str, Any, Any, str]], reach: float | None = None) -> None:
    """One row for each (name, estimate, [low, high], colour). An end that is not known yet runs out of the picture, dashed."""
    for name, estimate, (low, high), colour in rows:
        far = reach if reach is not None else 1.0
        ends = (-far if low is None else low, far if high is None else high)
        figure.add_scatter(
            x=list(ends),
            y=[name, name],
            mode="lines",
            line={"color": colour, "width": 7 if low is not None and high is not None else 3,
                  "dash": "solid" if low is not None and high is not None else "dot"},
            opacity=0.35,
            showlegend=False,
            hoverinfo="skip",
        )  # fmt: skip
        figure.add_scatter(
            x=[estimate],
            y=[name],
            mode="markers",
            marker={"color": colour, "size": 11, "line": {"color": "rgba(255, 255, 255, 0.8)", "width": 1}},
            showlegend=False,
            hovertemplate=f"%{{x:.5g}}<br>{_end(low)} to {_end(high)}<extra></extra>",
        )
    figure.update_yaxes(type="category", showgrid=False)


def _end(value: float | None) -> str:
    return "no bound yet" if value is None else f"{value:.5g}"


def _milliseconds(value: float | None) -> str:
    return "not known yet" if value is None else f"{value:+.3g} ms"


def _span(ci: list[float | None]) -> str:
    low, high = ci
    if low is None and high is None:
        return "no bound yet"
    return f"{'…' if low is None else f'{low:.3g}'} to {'…' if high is None else f'{high:.3g}'}"


def _fading(colour: str, least: float, most: float) -> list[list[Any]]:
    """A scale from little of a colour to much of it."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return [[0.0, f"rgba({red}, {green}, {blue}, {least})"], [1.0, f"rgba({red}, {green}, {blue}, {most})"]]


def _names(names: list[str]) -> list[str]:
    """Names as an axis shows them: escaped, long ones cut, all different."""
    shown: list[str] = []
    for name in names:
        text = _name(name)
        while text in shown:
            text += " "
        shown.append(text)
    return shown


def _name(name: str) -> str:
    return html.escape(name if len(name) <= _NAME_LENGTH else name[: _NAME_LENGTH - 1] + "…")


def _part(document: Document, *keys: str) -> Any:
    value: Any = document
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value
