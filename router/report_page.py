"""The page that every report is: one file that holds its text, its figures and the script that draws them.

A content security policy in it forbids any network. Figures are data that the script draws; whatever stands in them cannot end
the element that carries them. Files are written whole or not at all.
"""

from __future__ import annotations

import html
import json
import os
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from router.report_style import SCRIPT, STYLE


def page(title: str, body: str) -> str:
    """A whole page around the markup of its body; the title is text."""
    from plotly.offline import get_plotlyjs

    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; script-src 'unsafe-inline'; "
        "style-src 'unsafe-inline'; img-src data: blob:\">\n"
        f"<title>{escaped(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>{body}</main>\n"
        f"<script>{get_plotlyjs()}</script>\n<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


def write_page(path: Path, text: str) -> None:
    """Write a page whole or not at all. Raises OSError when the file cannot be written."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        fresh.write_text(text, encoding="utf-8", errors="backslashreplace")
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


def figure_cards(figures: Mapping[str, Any], captions: Mapping[str, str], wide: frozenset[str]) -> str:
    """Plotly figures by name, each on a card with its caption; those in `wide` take the whole width."""
    cards = []
    for name, figure in figures.items():
        # "<" must not end the script that carries the figure.
        data = json.dumps(json.loads(figure.to_json()), separators=(",", ":")).replace("<", "\\u003c")
        cards.append(
            f'<figure class="card{" wide" if name in wide else ""}" style="margin:0">'
            f'<div data-figure="figure-{name}" role="img" aria-label="{escaped(captions[name])}"></div>'
            f'<p>{escaped(captions[name])}</p><script type="application/json" id="figure-{name}">{data}</script></figure>'
        )
    none = "<noscript><p>The figures need JavaScript; their numbers are in the tables below.</p></noscript>"
    return f'{none}<h2>Pictures</h2><div class="figures">{"".join(cards)}</div>'


def tile(name: str, number: str, beside: str) -> str:
    """A number that is seen first, with its name above and what belongs to it below; all text."""
    return (
        f'<div class="card tile"><div class="name">{escaped(name)}</div><div class="number">{escaped(number)}</div>'
        f'<div class="range">{escaped(beside)}</div></div>'
    )


def card(kind: str, inner: str) -> str:
    """Markup on a card."""
    return f'<div class="card {kind}">{inner}</div>'


def section(title: str, inner: str) -> str:
    """Markup under a heading."""
    return f"<h2>{escaped(title)}</h2>{inner}"


def items(sentences: Iterable[object]) -> str:
    """Sentences as the items of a list."""
    return "".join(f"<li>{escaped(str(sentence))}</li>" for sentence in sentences)


def moment(seconds: float) -> str:
    """A time of the epoch as a reader anywhere understands it."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"


def escaped(text: str) -> str:
    """Text as markup that shows it."""
    return html.escape(text)
