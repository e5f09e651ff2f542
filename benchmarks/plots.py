"""One small SVG per row: a horizontal bar per proxy at its median, a whisker from its lowest to its highest round.

Written by hand as text: the figures are a few rectangles each, and a plotting library would be one more thing to install.
Colours follow the reader's light or dark setting.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from benchmarks.peers import ROUTER
from benchmarks.result import Row, Series, number

WIDTH, LABEL, VALUE = 720, 190, 110
ROOM = WIDTH - LABEL - VALUE
CUT = 10  # bars of more than so many times the smallest are cut
BAR, GAP, TOP = 20, 8, 34

_STYLE = """
    .ground { fill: #ffffff } text { fill: #1f2328; font: 13px system-ui, sans-serif } .title { font-weight: 600 }
    .unit { fill: #59636e } .bar { fill: #8c959f } .ours { fill: #0969da } .whisker { stroke: #1f2328; stroke-width: 1.5 }
    @media (prefers-color-scheme: dark) {
        .ground { fill: #0d1117 } text { fill: #e6edf3 } .unit { fill: #9198a1 } .bar { fill: #6e7681 } .ours { fill: #4493f8 }
        .whisker { stroke: #e6edf3 }
    }
"""


def bars(row: Row) -> str:
    """The row as an SVG document. A negative median (noise about zero) has no bar, only its number."""
    scale = ROOM / full_scale(row.series)
    lines = []
    for place, series in enumerate(row.series):
        lines += _bar(series, TOP + place * (BAR + GAP), scale)
    height = TOP + len(row.series) * (BAR + GAP) + 4
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" role="img">',
            f"<title>{escape(row.title)}</title>",
            f"<style>{_STYLE}</style>",
            f'<rect class="ground" width="{WIDTH}" height="{height}"/>',
            f'<text class="title" x="8" y="20">{escape(row.title)}<tspan class="unit" dx="8">{escape(row.unit)}</tspan></text>',
            *lines,
            "</svg>\n",
        ]
    )


def full_scale(series: Sequence[Series]) -> float:
    """The value at which a bar is full: the largest sample of those that are not more than ten times the smallest median.

    A bar beyond it is cut and marked, so that one proxy that is far off does not flatten the others into one line.
    """
    smallest = min((one.median for one in series if one.median > 0), default=0.0)
    return max((max(one.samples) for one in series if one.median <= CUT * smallest), default=0.0) or 1.0


def _bar(series: Series, y: float, scale: float) -> list[str]:
    width = min(ROOM, max(0.0, series.median * scale))
    low, high = (LABEL + min(ROOM, max(0.0, value) * scale) for value in (min(series.samples), max(series.samples)))
    middle = y + BAR / 2
    kind = "ours" if series.name == ROUTER else "bar"
    lines = [
        f'<text x="{LABEL - 8}" y="{middle + 4.5:.1f}" text-anchor="end">{escape(series.name)}</text>',
        f'<rect class="{kind}" x="{LABEL}" y="{y}" width="{width:.1f}" height="{BAR}" rx="2"/>',
    ]
    if series.median * scale > ROOM * 1.001:
        cut = LABEL + ROOM * 0.9
        lines.append(f'<path class="ground" d="M{cut:.1f} {y}h8l-6 {BAR}h-8z"/>')
    elif high - low >= 1:
        ends = f"M{low:.1f} {middle - 4}v8M{low:.1f} {middle}H{high:.1f}M{high:.1f} {middle - 4}v8"
        lines.append(f'<path class="whisker" d="{ends}" fill="none"/>')
    at = max(LABEL + width, high) + 8
    lines.append(f'<text x="{at:.1f}" y="{middle + 4.5:.1f}">{number(series.median)}</text>')
    return lines
