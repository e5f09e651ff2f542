"""How often the statistics are wrong, and how soon they are right: a simulation that rewrites its table in the manual.

`python -m benchmarks.simulate` draws 10,000 experiments of 2,000 observations for every decision method in which the
hypothesis under test is true, looks after every observation, and counts how often it was rejected: at most 5 % at alpha
.05. Beside them stand methods that must fail, and how many observations the good ones need when something is wrong.
Exit status 1 when a demand is missed. `--write` puts the tables into docs/statistics.md. One core, about six minutes;
`--runs 500` is a look.
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy
from scipy.special import betaincinv

from benchmarks.simulated_errors import ALPHA, CONTROLS, METHODS, Experiment
from benchmarks.simulated_power import QUESTIONS, Power

OBSERVATIONS = 2_000
CHUNK = 500  # experiments drawn at a time: a few dozen megabytes
# Users are walked through one by one, as the shadow process does, so these are drawn less often.
RUNS_PER_UNIT = 2_000
MANUAL = Path(__file__).resolve().parent.parent / "docs" / "statistics.md"
BEGIN, END = "<!-- sim:begin -->", "<!-- sim:end -->"


@dataclass(frozen=True, slots=True)
class Rate:
    """How often a method was wrong, with the 95 % Clopper-Pearson interval of that share."""

    method: str
    stream: str
    runs: int
    rate: float
    low: float
    high: float


def measure(method: str, stream: str, experiment: Experiment, runs: int, seed: list[int]) -> Rate:
    """Runs one experiment `runs` times. A mean that is not a count of yes or no gets a normal interval."""
    parts = []
    for chunk in range(-(-runs // CHUNK)):
        size = min(CHUNK, runs - chunk * CHUNK)
        parts.append(experiment(np.random.default_rng([*seed, chunk]), size, OBSERVATIONS))
    outcome = np.concatenate(parts)
    rate = float(outcome.mean())
    if outcome.dtype == np.bool_:
        wrong = int(outcome.sum())
        low = float(betaincinv(wrong, runs - wrong + 1, 0.025)) if wrong else 0.0
        high = float(betaincinv(wrong + 1, runs - wrong, 0.975)) if wrong < runs else 1.0
    else:
        spread = 1.96 * float(outcome.std()) / math.sqrt(runs)
        low, high = rate - spread, rate + spread
    return Rate(method, stream, runs, rate, low, high)


@dataclass(frozen=True, slots=True)
class Needed:
    """How many observations a decision took: median and 90th percentile (inf: not within the stream), share decided."""

    median: float
    ninety: float
    decided: float


def ask(question: Power, runs: int, seed: list[int]) -> Needed:
    """Draws one power question."""
    taken = question.draw(np.random.default_rng(seed), runs)
    median, ninety = (float(np.quantile(taken, p, method="higher")) for p in (0.5, 0.9))
    return Needed(median, ninety, float(np.isfinite(taken).mean()))


def _number(x: float) -> str:
    return f"{x:,.0f}" if math.isfinite(x) else "not within the stream"


def _rows(rates: list[Rate]) -> list[str]:
    return [
        f"| {r.method} | {r.stream} | {r.runs:,} | {r.rate:.3f} | {r.low:.3f} to {r.high:.3f} |".replace("0.", ".")
        for r in rates
    ]


def render(errors: list[Rate], controls: list[Rate], power: list[tuple[Power, Needed]], seed: int) -> str:
    """The three tables, in Markdown."""
    head = ["| method | stream | runs | wrong | 95 % interval of that |", "|---|---|---|---|---|"]
    lines = [
        f"Runs of {OBSERVATIONS:,} observations, each looked at; alpha {ALPHA:g}; seed {seed}; "
        f"numpy {np.__version__}, scipy {scipy.__version__}. Written by `make sim`.",
        "",
        "**Wrong when nothing is wrong** (demand: at most .05)",
        "",
        *head,
        *_rows(errors),
        "",
        "**Negative controls** (they must fail)",
        "",
        *head,
        *_rows(controls),
        "",
        "**Observations until the right decision**",
        "",
        "| question | truth | median | 90th percentile | decided within the stream | runs |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {q.question} | {q.stream} | {_number(n.median)} {q.unit} | {_number(n.ninety)} | {n.decided:.1%} | {q.runs:,} |"
        for q, n in power
    ]
    return "\n".join(lines)


def write(tables: str, manual: Path = MANUAL) -> None:
    """Puts the tables between the markers of the manual; ValueError when it has none."""
    text = manual.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{manual} has no {BEGIN} … {END}: put the two markers where the tables belong")
    manual.write_text(f"{before}{BEGIN}\n{tables}\n{END}{after}", encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    """Runs everything, prints as it goes, and says which demands were missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.simulate", description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=10_000, help="experiments per method (default 10,000)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--write", action="store_true", help=f"put the tables into {MANUAL.name}")
    options = parser.parse_args(arguments)
    if options.runs < 1:
        parser.error("--runs must be at least 1")
    missed: list[str] = []
    errors, controls, power = [], [], []
    for i, (method, stream, experiment) in enumerate(METHODS):
        runs = min(options.runs, RUNS_PER_UNIT) if method.startswith("per unit") else options.runs
        errors.append(measure(method, stream, experiment, runs, [options.seed, 0, i]))
        _say(errors[-1])
        if (errors[-1].rate if runs >= RUNS_PER_UNIT else errors[-1].low) > ALPHA:  # a short run only finds gross faults
            missed.append(f"{method} ({stream}) is wrong in {errors[-1].rate:.3f} of runs")
    for i, (method, stream, experiment, least) in enumerate(CONTROLS):
        runs = min(options.runs, RUNS_PER_UNIT) if "sticky" in stream else options.runs
        controls.append(measure(method, stream, experiment, runs, [options.seed, 1, i]))
        _say(controls[-1])
        if controls[-1].rate < least:
            missed.append(f"the negative control {method} ({stream}) is wrong in only {controls[-1].rate:.3f} of runs")
    for i, question in enumerate(QUESTIONS):
        power.append((question, ask(question, question.runs, [options.seed, 2, i])))
        median = power[-1][1].median
        print(f"{question.question:38} {question.stream:44} median {_number(median)} {question.unit}", flush=True)
        if question.most is not None and median > question.most:
            missed.append(f"{question.question} {question.stream}: median {_number(median)}, not {_number(question.most)}")
    if options.write:
        write(render(errors, controls, power, options.seed))
        print(f"tables written to {MANUAL}")
    for line in missed:
        print(f"MISSED: {line}", file=sys.stderr)
    return 1 if missed else 0


def _say(rate: Rate) -> None:
    print(f"{rate.method:38} {rate.stream:52} {rate.rate:.4f}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
