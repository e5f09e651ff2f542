"""What the rollouts showed, as parts of the manual: one pair of markers for each part, so that one can be measured again alone.

Each part gives its text and its failures; a failure is something that must not be, and stands in the text as well.
"""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from scipy.stats import binom

from benchmarks.rolling.bursts import OFFERED, Burst
from benchmarks.rolling.kills import Killed
from benchmarks.rolling.trials import Trial
from benchmarks.rolling.worlds import GREENS_WORSE, POLICY, RATE, STEPS
from router.rollout.states import State

MANUAL = Path(__file__).resolve().parents[2] / "docs" / "rollouts.md"
ALPHA = 0.05
TOO_RARE = 0.01  # so many wrong rollbacks or more would be this rare if each had probability alpha
MOST_MS = 1000.0


@dataclass(frozen=True, slots=True)
class Part:
    """One part: its marker's name, its text, and what must not be."""

    name: str
    text: str
    failures: tuple[str, ...]


def alike_part(trials: Sequence[Trial]) -> Part:
    """Green like blue."""
    ended = Counter(one.state for one in trials)
    wrong = [one for one in trials if one.state is State.ROLLED_BACK]
    rare = float(binom.sf(len(wrong) - 1, len(trials), ALPHA))
    failures = _complaints(trials)
    if rare < TOO_RARE:
        failures.append(f"{len(wrong)} of {len(trials)} rolled back wrongly: that or more has probability {rare:.2g} at alpha")
    if undecided := [one for one in trials if one.state not in (State.DONE, State.ROLLED_BACK)]:
        failures.append(f"{len(undecided)} were not decided at the deadline: {undecided[0].reason}")
    lines = [
        f"**Green like blue**, {_of(trials)} (1 % of the predictions and 0.5 % of the answers of either go wrong at random): "
        f"{ended[State.DONE]} done, **{len(wrong)} rolled back** "
        f"(at alpha {ALPHA:g} about {ALPHA * len(trials):.2g} may be, and {_allowed(len(trials))} would still be consistent with it), "
        f"{len(undecided)} paused at the deadline. Done after {_spread([one.seconds for one in trials if one.state is State.DONE], 's')}.",
        *(f"Taken back at {one.where} by {', '.join(one.gates) or 'the breaker'}: {one.reason}." for one in wrong),
    ]
    return _part("aa", lines, failures)


def worse_part(trials: Sequence[Trial]) -> Part:
    """Green worse."""
    failures = _complaints(trials)
    for one in trials:
        if one.state is not State.ROLLED_BACK:
            failures.append(f"{one.green}: {one.state} at {one.where}: {one.reason}")
    back = sum(one.state is State.ROLLED_BACK for one in trials)
    beyond = sum(any(" began " in line for line in one.complaints) for one in trials)
    lines = [
        f"**Green worse**, {_of(trials)}: **{back} rolled back**, {beyond} of them beyond the step at which the evidence sufficed.",
        "",
        "| green | its margin | rollouts | taken back at | by | observations, median (most) | after the evidence sufficed, most |",
        "|---|---|---:|---|---|---:|---:|",
        *(_kind_row(green.name, green.margin, [t for t in trials if t.green == green.name]) for green in GREENS_WORSE),
    ]
    return _part("worse", lines, failures)


def _kind_row(name: str, margin: str, trials: Sequence[Trial]) -> str:
    if not trials:
        return f"| {name} | {margin} | 0 | | | | |"
    gates = Counter(gate for one in trials for gate in one.gates or ("breaker",))
    counts = [one.n for one in trials if one.n]
    of = Counter(one.of for one in trials if one.n).most_common(1)
    late = [one.late_s for one in trials if one.late_s is not None]
    observed = f"{median(counts):,.0f} ({max(counts):,}) {of[0][0]}" if counts else "-"
    return (
        f"| {name} | {margin} | {len(trials)} | {_counted(one.where for one in trials)} | {_counted(gates.elements())} "
        f"| {observed} | {f'{max(*late, 0.0):.2f} s' if late else '-'} |"
    )


def idle_part(trials: Sequence[Trial]) -> Part:
    """No traffic."""
    failures = _complaints(trials)
    lines = [f"**No traffic**, {_of(trials)}: "]
    for green, step in (("never any", 0), ("none from the first step on", 1)):
        those = [one for one in trials if one.green == green]
        stayed = [one for one in those if one.state is State.PAUSED and one.step == step]
        where = "before the first step" if step == 0 else "in the first step, where it ended"
        lines[0] += f"{len(those)} had {green}, of which {len(stayed)} stayed {where} and paused at the deadline; "
        failures += [f"{green}: {one.state} at {one.where}: {one.reason}" for one in those if one not in stayed]
    advanced = sum(one.step > (one.green != "never any") for one in trials)
    lines[0] += f"**{advanced} advanced**."
    return _part("idle", lines, failures)


def kills_part(found: Killed) -> Part:
    """`kill -9`."""
    failures = list(found.complaints)
    lines = [
        f"**`kill -9` of the control process**: {found.random} times at random moments of rollouts, and {found.aimed} times within 10 ms "
        f"of a change of the plan; {sum(found.ended.values())} rollouts, {found.moves} moves, {found.revisions} revisions of plans. "
        f"**{len(failures)} violations** (state and plan that disagree, a step skipped or repeated, a revision missing, a broken chain).",
        "",
        "| | |",
        "|---|---|",
        *(f"| found {moment} | {n} |" for moment, n in found.moments.most_common()),
        *(f"| found {state} | {n} |" for state, n in found.states.most_common()),
        f"| restarts after which state and plan were compared (the others were killed before they answered) | {found.restarts_checked} |",
        f"| until the new process answered | {_spread(found.up_s, 's')} |",
        *(f"| rollouts of a {what} | {n} |" for what, n in sorted(found.ended.items())),
        f"| `bluegreen history --verify`, for each router | {'; '.join(line.split(';')[0] for line in found.verified)} |",
    ]
    return _part("kills", lines, failures)


def burst_part(bursts: Sequence[Burst]) -> Part:
    """Bursts of 5xx."""
    failures = [line for one in bursts for line in one.complaints]
    times = [max(one.zero_ms, one.last_ms) for one in bursts]
    errors = sum(one.errors for one in bursts)
    if max(times) >= MOST_MS:
        failures.append(f"a burst took {max(times):.0f} ms")
    if errors:
        failures.append(f"{errors} client requests saw an error")
    lines = [
        f"**Bursts of 5xx** at 50 % green, {OFFERED:,.0f} requests/s offered, fallback armed, {len(bursts)} bursts: from green's first 5xx "
        f"until the plan gave it 0 % and its last user's request had come **{_spread(times, 'ms', digits=0)}** (asked for: under "
        f"{MOST_MS:g} ms); **{errors} of {sum(one.asked for one in bursts):,} client requests** saw an error.",
        "",
        "| of green's requests fail | bursts | plan at 0 % | last request at green | failures of green | client p99 | sent late, p99 |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for share in sorted({one.share for one in bursts}, reverse=True):
        those = [one for one in bursts if one.share == share]
        cells = (
            f"{share:.0%}",
            f"{len(those)}",
            _spread([one.zero_ms for one in those], "ms", digits=0),
            _spread([one.last_ms for one in those], "ms", digits=0),
            _spread([float(one.failures) for one in those], "", digits=0),
            _spread([one.p99_ms for one in those], "ms"),
            _spread([one.late_p99_ms for one in those], "ms"),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return _part("burst", lines, failures)


# --- the manual -----------------------------------------------------------------------------------------------------------------


def setting() -> str:
    """How it was done, in a sentence, for the head of the printed report."""
    gates = ", ".join(POLICY["gates"])
    return (
        f"{RATE:.0f} requests/s at each router; shadow, then steps {list(STEPS)} % of {POLICY['hold']} at least; gates {gates}"
    )


def write(parts: Iterable[Part], manual: Path = MANUAL) -> None:
    """Put each part between its markers; ValueError when the manual has none."""
    text = manual.read_text(encoding="utf-8")
    for part in parts:
        begin, end = f"<!-- rollouts:{part.name}:begin -->", f"<!-- rollouts:{part.name}:end -->"
        before, found, rest = text.partition(begin)
        _, closed, after = rest.partition(end)
        if not found or not closed:
            raise ValueError(f"{manual} has no {begin} … {end}: put the two markers where the report belongs")
        text = f"{before}{begin}\n{part.text}\n{end}{after}"
    manual.write_text(text, encoding="utf-8")


def _part(name: str, lines: list[str], failures: list[str]) -> Part:
    if failures:
        lines = [*lines, "", "Short of what is asked for:", "", *(f"- {line}" for line in failures)]
    when = datetime.now(UTC).strftime("%Y-%m-%d")
    where = f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    return Part(
        name, "\n".join([*lines, "", f"{when}, {where}: `python -m benchmarks.rollouts --only {name}`"]), tuple(failures)
    )


def _complaints(trials: Iterable[Trial]) -> list[str]:
    return [line for one in trials for line in one.complaints]


def _of(trials: Sequence[Trial]) -> str:
    return f"{len(trials)} rollout{'' if len(trials) == 1 else 's'}"


def _allowed(n: int) -> int:
    """The largest number of wrong rollbacks that is not too rare."""
    return int(binom.isf(TOO_RARE, n, ALPHA))


def _counted(words: Iterable[str]) -> str:
    return ", ".join(f"{word} ({n})" for word, n in Counter(words).most_common())


def _spread(values: Sequence[float], unit: str, digits: int = 1) -> str:
    """Median and largest."""
    return f"{median(values):.{digits}f} (most {max(values):.{digits}f}) {unit}".strip() if values else "-"
