"""The document that a run leaves: `benchmarks/README.md`, its plots, and the numbers themselves as JSON.

It is made from a Report alone, so it can be written again from `results.json` without measuring. Where a target was missed it
says so in the same table and in the same type as where one was met.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path

from benchmarks import plots
from benchmarks.peers import NGINX, PEERS
from benchmarks.result import Check, Report, Row, Series, number, paired, report_from_dict, spread

_HOW = """\
`make bench` measures bluegreen beside nginx, HAProxy, Envoy, Traefik, Caddy and a naive FastAPI + httpx proxy, and writes this
file from what it found. `make bench ARGS=--quick` takes a few minutes and is too short to quote;
what it finds goes to `benchmarks/.work/report/`.

## How it is measured

- Every proxy runs as **one worker** (one process or thread for traffic; Go programs with `GOMAXPROCS=1`), pinned to one core by
  `taskset`. Load generator and upstreams share the other core. Everything talks over 127.0.0.1, HTTP/1.1, kept-alive on both
  sides, without an access log.
- Every proxy makes the **same 90/10 split** between the same two upstreams: by key where it can, see the table of proxies.
- **bluegreen has on what its users have**: split by key, counters, request ids, timeouts, limits, fallback armed. Its prediction
  log for late feedback, which no peer has, is off (what it costs a worker: [performance.md](../docs/performance.md)).
- Each measurement starts its proxy anew, warms it up, measures, and ends it. Rounds are **interleaved**, in another order each
  time. Values are medians over the rounds with the lowest and highest beside them. Ratios and differences are taken round by
  round, and their median is what is held against a target.
- **CPU** is user and system time from `/proc/PID/stat` of exactly the processes that were started, with their children.
- The full configuration of each proxy is in [`configs.py`](configs.py); each run leaves it as files in `benchmarks/.work/`.
- Numbers of two machines, or of two kernels, cannot be compared; the ratios of one run can.
- **Not in here**: TLS, networks with loss or distance, HTTP/2, several workers of each proxy side by side, and models that take
  time to answer (beside which every proxy here is cheap).
"""


def write(report: Report, directory: Path) -> None:
    """Write README.md, results.json and plots/ below the directory."""
    figures = directory / "plots"
    figures.mkdir(parents=True, exist_ok=True)
    for row in report.rows:
        if row.series:
            (figures / f"{row.id}.svg").write_text(plots.bars(row))
    (directory / "results.json").write_text(json.dumps(report.to_dict(), indent=1, ensure_ascii=False) + "\n")
    (directory / "README.md").write_text(document(report))


def read(file: Path) -> Report:
    """The report of an earlier run. Raises OSError, ValueError, KeyError or TypeError on something else."""
    return report_from_dict(json.loads(file.read_text()))


def document(report: Report) -> str:
    """The whole document as Markdown."""
    parts = [
        "# Benchmarks",
        "",
        "<!-- Written by `python -m benchmarks.bench`; edit benchmarks/render.py instead. -->",
        "",
        _HOW,
        "## Targets",
        "",
        *_targets(report),
        "",
        "## This run",
        "",
        *_run(report),
        "",
        "## Rows",
        "",
    ]
    for row in report.rows:
        parts += [*_row(row), ""]
    return "\n".join(parts)


def _targets(report: Report) -> list[str]:
    lines = [
        "| work | what | measured | must reach | reached | aim | reached |",
        "|---|---|---|---|---|---|---|",
    ]
    missed = 0
    for row in report.rows:
        if row.failed:
            lines.append(f"| [{row.title}](#{anchor(row.title)}) | | not measured | | **no** | | |")
            missed += 1
        for check in row.checks:
            lines.append(f"| [{row.title}](#{anchor(row.title)}) | {_check(check)} |")
            missed += not check.reached
    count = sum(len(row.checks) + bool(row.failed) for row in report.rows)
    if not count:
        return ["This run was made without the router, so nothing is held against a target."]
    summary = f"{count - missed} of {count} must-reach targets were reached in this run."
    if report.quick:
        summary += " It was a quick one, with measurements too short to quote."
    return [summary, "", *lines]


def _check(check: Check) -> str:
    def word(reached: bool | None) -> str:
        return "" if reached is None else "yes" if reached else "**no**"

    cells = (check.what, check.value, check.must, word(check.reached), check.aim, word(check.aimed))
    return " | ".join(cells)


def _run(report: Report) -> list[str]:
    lines = [
        f"Started {report.started}, took {report.minutes:.0f} minutes, {report.rounds} interleaved rounds (fewer where a "
        "row says so).",
        "",
        "| | |",
        "|---|---|",
    ]
    lines += [f"| {name} | {value} |" for name, value in report.machine.items()]
    lines += ["", "| proxy | version | what it does here, and what it does not |", "|---|---|---|"]
    for name, version in report.versions.items():
        does = PEERS[name].does if name in PEERS else _ROUTER_DOES if name == "bluegreen" else "The load generator."
        lines.append(f"| {name} | {version} | {does} |")
    return lines


_ROUTER_DOES = (
    "Split by a hash of the user id, request ids and arm in every answer, counters and latency histograms, timeouts, "
    "limits, fallback armed. Mirrors from a process of its own, which reads and compares the answers."
)


def _row(row: Row) -> list[str]:
    lines = [f"### {row.title}", "", row.about, ""]
    if row.failed:
        return [*lines, f"**Not measured:** {row.failed}"]
    lines += [f"![{row.title}](plots/{row.id}.svg)", ""]
    names = list(dict.fromkeys(name for series in row.series for name in series.details))
    against = row.has(NGINX) and "added" not in row.unit and "without" not in row.unit
    head = ["proxy", f"{row.unit}, median", "lowest .. highest", "rounds", *(["against nginx"] if against else []), *names]
    lines += [f"| {' | '.join(head)} |", "|---|" + "---:|" * (len(head) - 1)]
    for series in row.series:
        cells = [series.name, number(series.median), spread(series.samples), str(len(series.samples))]
        if against:
            cells.append(_against(series, row.get(NGINX)))
        cells += [number(series.details[name]) if name in series.details else "" for name in names]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, "", "```", *row.commands, "```"] if row.commands else lines


def _against(series: Series, nginx: Series) -> str:
    ratios = paired(series, nginx)
    if not ratios:
        return ""
    inside = f" ({spread(ratios)})" if len(ratios) > 1 and series is not nginx else ""
    return f"{statistics.median(ratios):.2f} ×{inside}"


def anchor(title: str) -> str:
    """The anchor that GitHub makes of a heading: lower case, spaces to dashes, punctuation dropped."""
    kept = "".join(char for char in title.lower() if char.isalnum() or char in " -_")
    return kept.replace(" ", "-")
