"""How often the analysis of users is wrong: whole experiments, simulated, looked at all the time.

    python -m benchmarks.experiments [--runs 2000] [--write]

Green is blue, behind a ramp of 5, 20 and 50 % and a base rate that drifts; every tenth request somebody looks whether errors,
rewards, accuracy or latency differ. At alpha .05 at most 5 % of the experiments may ever say so. Beside them the negative
control, the same sticky users counted by request, and how soon a split that loses users is found. `--write` puts the tables into
docs/experiments.md. Exit status 1 when a demand is missed. One core, a few minutes.
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import betaincinv

from shadow.draws import BUCKETS, Drawn
from shadow.experiment import SAMPLE_RATIO_ALPHA, Experiment
from shadow.sequential import log_threshold

ALPHA = 0.05
RAMP = (0.05, 0.2, 0.5)
REQUESTS = 600
USERS = 40
LOOK_EVERY = 10
MOST_FOR_MISMATCH = 20_000
QUESTIONS = ("errors", "reward", "accuracy", "latency")
MANUAL = Path(__file__).resolve().parent.parent / "docs" / "experiments.md"
BEGIN, END = "<!-- sim:begin -->", "<!-- sim:end -->"


@dataclass(frozen=True, slots=True)
class World:
    """How requests come. `sticky`: users keep their arm and differ from each other; `by_request`: analysed as if they did not."""

    name: str
    sticky: bool
    by_request: bool = False
    ramp: tuple[float, ...] = RAMP
    requests: int = REQUESTS


WORLDS = (
    World("split by chance, per request", sticky=False),
    World("40 sticky users, per unit", sticky=True),
    World("40 sticky users, per request, 2,000 of them at 50 % (negative control)", True, True, (0.5,), 2000),
)


def wrong_in(world: World, run: int) -> set[str]:
    """One experiment without a difference: what was called different at any look."""
    rng = np.random.default_rng([WORLDS.index(world), run])
    experiment, wrong = Experiment(ALPHA), set()
    place, clumsy, taste = rng.integers(0, BUCKETS, USERS), rng.beta(0.3, 1.0, USERS), rng.beta(0.3, 0.3, USERS)
    for n in range(world.requests):
        step = len(world.ramp) * n // world.requests
        share, drift = world.ramp[step], n / world.requests
        user = int(rng.integers(USERS))
        if world.sticky:
            green = bool(place[user] < round(share * BUCKETS))
            bad, good, speed = clumsy[user], taste[user], 2.0 + 2.0 * taste[user]
        else:
            green = bool(rng.random() < share)
            bad, good, speed = 0.05 + 0.3 * drift, 0.2 + 0.6 * drift, 2.0 + drift
        keyed = world.sticky and not world.by_request
        one = Drawn(f"{user:016x}" if keyed else None, green, share, step + 1)
        latency = math.exp(rng.normal(speed, 0.2))
        experiment.expose(one, error=bool(rng.random() < bad), latency_ms=latency, at=0.0, keyed=keyed)
        reward = float(rng.random() < good)
        experiment.earn(one, reward, keyed=keyed)
        answer = str(int(reward))
        experiment.label(one, "1", None if green else answer, answer if green else None, answer=answer, keyed=keyed)
        if n % LOOK_EVERY == LOOK_EVERY - 1:
            wrong |= decided(experiment)
    return wrong


def decided(experiment: Experiment) -> set[str]:
    """The questions that are decided, either way; errors are asked one way, as the gate does."""
    bar = log_threshold(ALPHA)
    found = {"errors"} if experiment.events.n and experiment.events.log_e_above(1.0) >= bar else set()
    for name in QUESTIONS[1:]:
        scores = getattr(experiment, name)
        if scores.n and max(scores.log_e_above(0.0), scores.log_e_below(0.0)) >= bar + math.log(2.0):
            found.add(name)
    return found


def mismatch_after(lost: float, share: float, run: int) -> int | None:
    """Requests until a split is reported whose first `lost` of the buckets never arrive; None beyond 20,000."""
    rng = np.random.default_rng([99, round(1e4 * lost), round(1e4 * share), run])
    place = rng.integers(0, BUCKETS, 8_000)
    experiment = Experiment(ALPHA)
    for n in range(MOST_FOR_MISMATCH):
        user = int(rng.integers(len(place)))
        if place[user] < lost * BUCKETS:
            continue
        green = bool(place[user] < round(share * BUCKETS))
        one = Drawn(f"{user:016x}", green, share, 1)
        if experiment.draws.new_in_revision(one):
            experiment.ratio.update(green, share, 1)
        if n % 100 == 99 and experiment.ratio.log_e() >= log_threshold(SAMPLE_RATIO_ALPHA):
            return n + 1
    return None


def tables(runs: int) -> tuple[str, list[str]]:
    """The tables, and what is not as it must be."""
    wrong_words = []
    lines = [f"| alike arms, {runs:,} experiments of {REQUESTS} requests | " + " | ".join(QUESTIONS) + " |"]
    lines.append("|---|" + "---:|" * len(QUESTIONS))
    for world in WORLDS:
        count = runs if not world.by_request else max(runs // 10, 20)
        found = [wrong_in(world, run) for run in range(count)]
        cells = []
        for question in QUESTIONS:
            wrong = sum(question in one for one in found)
            high = float(betaincinv(wrong + 1, count - wrong, 0.975)) if wrong < count else 1.0
            cells.append(f"{wrong / count:.3f} (to {high:.3f})")
            if not world.by_request and wrong / count > ALPHA:
                wrong_words.append(f"{world.name}: {question} was wrong in {wrong} of {count}")
        lines.append(f"| {world.name} | " + " | ".join(cells) + " |")
        print(lines[-1], file=sys.stderr)
    lines += ["", "| a split that loses users | median requests until it is reported | not within 20,000 |", "|---|---:|---:|"]
    for lost, share in ((0.10, 0.5), (0.05, 0.2), (0.05, 0.05)):
        count = max(runs // 40, 10)
        after = [mismatch_after(lost, share, run) for run in range(count)]
        known = sorted(MOST_FOR_MISMATCH + 1 if n is None else n for n in after)
        missed = sum(n is None for n in after)
        lines.append(
            f"| {lost:.0%} of the buckets, all green's, at {share:.0%} | {known[len(known) // 2]:,} | {missed} of {count} |"
        )
        print(lines[-1], file=sys.stderr)
        if missed:
            wrong_words.append(f"a split that lost {lost:.0%} at {share:.0%} was not reported in {missed} of {count}")
    return "\n".join(lines), wrong_words


def main() -> int:
    """Simulate, print, and write if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--write", action="store_true", help="put the tables into docs/experiments.md")
    options = parser.parse_args()
    text, wrong = tables(options.runs)
    text += "\n\nIn brackets the upper end of the 95 % interval of the share. `python -m benchmarks.experiments`"
    print(text)
    if options.write:
        manual = MANUAL.read_text()
        head, rest = manual.split(BEGIN)
        MANUAL.write_text(f"{head}{BEGIN}\n{text}\n{END}{rest.split(END)[1]}")
    for line in wrong:
        print(f"missed: {line}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
