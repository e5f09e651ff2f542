"""What a soak found: the account of its requests, what the processes held, what failed, and all of it as a page of the manual."""

from __future__ import annotations

import platform
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MANUAL = Path(__file__).resolve().parents[2] / "docs" / "soak.md"
BEGIN, END = "<!-- soak:begin -->", "<!-- soak:end -->"

GROWTH = 0.05  # of resident memory, from the end of warming up to the end
GROWTH_BYTES = 2 << 20  # allowed to the small processes, of which 5 % is less than the allocator's own steps
DESCRIPTORS = 4


@dataclass(frozen=True, slots=True)
class Held:
    """What a process holds when it is quiet."""

    resident: int
    descriptors: int


@dataclass(frozen=True, slots=True)
class Account:
    """What became of the requests, and what was done meanwhile. `lost` and `wrong` are one line for each."""

    asked: dict[str, int]
    answered: dict[str, int]
    arms: dict[str, int]
    vanished: int
    wrong: list[str]
    lost_with_worker: int
    lost_with_server: int
    lost: list[str]
    changes: dict[str, int]
    refused_changes: list[str]
    recalled: int
    worker_kills: int
    held_by_killed: int
    server_kills: int


@dataclass
class Outcome:
    """One run. `held` after warming up and at the end, each by process."""

    seconds: float
    warm_up: float
    seed: int = 0
    held: list[dict[str, Held]] = field(default_factory=list)
    in_flight: int = 0
    unaccounted: int = 0
    leftovers: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    status: dict[str, Any] = field(default_factory=dict)
    evidence: dict[str, Any] = field(default_factory=dict)
    account: Account | None = None

    def failures(self) -> list[str]:
        """Everything that must not be, in words."""
        account = self.account
        assert account is not None
        found = [f"wrong answer: {line}" for line in account.wrong]
        found += [f"lost: {line}" for line in account.lost]
        found += [f"control: {line}" for line in account.refused_changes]
        found += [f"when it was quiet there was still something {line}" for line in self.leftovers]
        found += [f"the router's log: {line}" for line in self.complaints]
        asked = sum(account.asked.values())
        ended = sum(account.answered.values()) + len(account.wrong) + account.lost_with_worker + account.lost_with_server
        if asked != ended + len(account.lost):
            found.append(f"{asked} requests were sent and {ended + len(account.lost)} have an end")
        before, after = self.held
        for name, then in before.items():
            now = after[name]
            if now.resident - then.resident > max(GROWTH * then.resident, GROWTH_BYTES):
                found.append(f"memory of {name} grew from {_mib(then.resident)} to {_mib(now.resident)}")
            if now.descriptors - then.descriptors > DESCRIPTORS:
                found.append(f"descriptors of {name} grew from {then.descriptors} to {now.descriptors}")
        return found


def render(outcome: Outcome) -> str:
    """The report as Markdown."""
    account, evidence = outcome.account, outcome.evidence
    assert account is not None
    asked, answered = sum(account.asked.values()), sum(account.answered.values())
    failures = outcome.failures()
    lines = [
        f"{outcome.seconds / 60:.1f} minutes of load (seed {outcome.seed}) on {platform.system()} {platform.release()}, Python "
        f"{platform.python_version()}: **{'everything held' if not failures else f'{len(failures)} failed'}**.",
        *(f"- {failure}" for failure in failures),
        "",
        "| requests | |",
        "|---|---|",
        f"| asked | {asked:,} ({asked / outcome.seconds:,.0f} per second) |",
        *(f"| &nbsp;&nbsp;{kind} | {count:,} |" for kind, count in sorted(account.asked.items())),
        f"| answered right | {answered:,} (blue {account.arms.get('blue', 0):,}, green {account.arms.get('green', 0):,}) |",
        f"| answered wrong | {len(account.wrong)} |",
        f"| lost on a killed worker's connections | {account.lost_with_worker} (of {account.held_by_killed} connections) |",
        f"| cut off because the server that was sending was killed | {account.lost_with_server} |",
        f"| lost otherwise | {len(account.lost)} |",
        f"| clients that vanished | {account.vanished:,} |",
        "",
        "| meanwhile | |",
        "|---|---|",
        *(f"| {name} calls | {count:,} |" for name, count in sorted(account.changes.items())),
        f"| requests recalled from green by a switch | {account.recalled:,} |",
        f"| servers killed and started again | {account.server_kills} |",
        f"| workers killed | {account.worker_kills} |",
        *(
            f"| {colour}: errors, retries, fallbacks | {arm['errors']:,}, {arm['retries']:,}, {arm['fallbacks']:,} |"
            for colour, arm in outcome.status["arms"].items()
        ),
        f"| exchanges sampled for the shadow | {evidence['sampled']:,} |",
        f"| &nbsp;&nbsp;compared + dropped | {evidence['pairs']:,} + {evidence['dropped']:,} |",
        "",
        f"| when quiet | after {outcome.warm_up:.0f} s | at the end | descriptors |",
        "|---|---|---|---|",
        *(
            f"| {name} | {_mib(then.resident)} | {_mib(outcome.held[1][name].resident)} "
            f"| {then.descriptors} → {outcome.held[1][name].descriptors} |"
            for name, then in outcome.held[0].items()
        ),
    ]
    return "\n".join(lines)


def write(text: str, manual: Path = MANUAL) -> None:
    """Put the report between the markers of the manual; ValueError when it has none."""
    before, begin, rest = manual.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{manual} has no {BEGIN} … {END}: put the two markers where the report belongs")
    manual.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"
