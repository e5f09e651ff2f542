"""How the report looks, and the few lines of script that draw its figures: both go into the file itself.

Light and dark follow the reader's system. Plotly bakes colours into a figure, so the script sets those of text and grid from
the page's own when it draws, and again when the reader's system changes. Nothing is loaded from anywhere.
"""

from __future__ import annotations

from typing import Final

STYLE: Final = """
:root { color-scheme: light dark; --page: #f6f7f9; --card: #ffffff; --text: #1f2328; --quiet: #5d6570; --line: #dfe3e8;
  --blue: #2f6fc9; --green: #198754; --warning: #b35900; --bad: #c4322b; --code: #f0f2f5; --grid: rgba(110, 118, 129, 0.22); }
@media (prefers-color-scheme: dark) { :root { --page: #0e1116; --card: #171b22; --text: #e4e8ee; --quiet: #9aa4b0;
  --line: #2b313a; --blue: #6ea8fe; --green: #4cc38a; --warning: #f0a35e; --bad: #ff7b72; --code: #20262e;
  --grid: rgba(150, 160, 172, 0.24); } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 28px 20px 60px; }
header { display: flex; flex-wrap: wrap; align-items: baseline; gap: 6px 18px; margin-bottom: 18px; }
h1 { font-size: 26px; margin: 0; letter-spacing: -0.01em; }
h2 { font-size: 18px; margin: 36px 0 12px; } h3 { font-size: 16px; margin: 0; }
.quiet { color: var(--quiet); }
.blue { color: var(--blue); } .green { color: var(--green); } .warning { color: var(--warning); } .bad { color: var(--bad); }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 16px 20px; }
.verdict { border-left: 6px solid var(--quiet); margin-bottom: 16px; }
.verdict.promote { border-left-color: var(--green); } .verdict.rollback { border-left-color: var(--bad); }
.verdict h2 { margin: 0 0 4px; font-size: 20px; } .verdict ul { margin: 6px 0 0; padding-left: 20px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(190px, 1fr)); gap: 12px; margin-bottom: 16px; }
.tile .number { font-size: 22px; font-weight: 650; white-space: nowrap; font-variant-numeric: tabular-nums; }
.tile .name { font-weight: 600; } .tile .range { color: var(--quiet); font-size: 13px; }
.words ul { margin: 0; padding-left: 20px; } .words li { margin: 3px 0; }
.figures { display: grid; grid-auto-flow: dense; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 14px; }
.figures .card { padding: 8px 10px 12px; min-width: 0; } .figures .wide { grid-column: 1 / -1; }
.figures p { margin: 2px 12px 0; font-size: 13px; color: var(--quiet); }
@media (max-width: 820px) { .figures { grid-template-columns: minmax(0, 1fr); } }
.scroll { overflow-x: auto; padding: 4px 0; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
th, td { text-align: left; padding: 7px 14px 7px 20px; border-bottom: 1px solid var(--line); vertical-align: top; }
tr:last-child td { border-bottom: 0; }
th { font-weight: 600; color: var(--quiet); font-size: 13px; white-space: nowrap; }
td.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; } th.n { text-align: right; }
td.when { white-space: nowrap; font-variant-numeric: tabular-nums; }
td.how { color: var(--quiet); font-size: 13px; min-width: 260px; }
details summary { cursor: pointer; color: var(--blue); }
pre { background: var(--code); border-radius: 6px; padding: 10px 12px; margin: 6px 0; overflow-x: auto; max-height: 220px;
  white-space: pre-wrap; overflow-wrap: anywhere; font: 12px/1.45 ui-monospace, SFMono-Regular, Menlo, monospace; }
code { font: 12.5px ui-monospace, SFMono-Regular, Menlo, monospace; overflow-wrap: anywhere; }
.move { margin-bottom: 14px; } .move p { margin: 4px 0; } .move .scroll { padding: 4px 0; } .move details { margin-top: 4px; }
.card + .card.scroll { margin-top: 14px; } .origin { padding: 6px 20px; margin: 0; }
footer { margin-top: 40px; font-size: 13px; color: var(--quiet); }
@media print { body { background: none; } .card { break-inside: avoid; } details > pre { max-height: none; } }
"""

SCRIPT: Final = """
const css = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
function draw() {
  for (const place of document.querySelectorAll("[data-figure]")) {
    const figure = JSON.parse(document.getElementById(place.dataset.figure).textContent);
    figure.layout.font.color = css("--text");
    for (const [key, axis] of Object.entries(figure.layout))
      if (/^[xy]axis/.test(key)) axis.gridcolor = css("--grid");
    for (const trace of figure.data)
      if (trace.type === "heatmap") trace.textfont = { color: css("--text") };
    Plotly.react(place, figure.data, figure.layout, { responsive: true, displayModeBar: false });
  }
}
draw();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
"""
