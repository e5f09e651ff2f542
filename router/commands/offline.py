"""`bluegreen record`, `replay` and `backtest`: exchanges into a file, and out of it at a candidate.

Recording goes through the control API and fetches what the shadow writes, while it writes it; the other two need no router.
What they do is in `router.offline`, which a notebook can call as well.
"""

from __future__ import annotations

import contextlib
import csv
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from router.commands.failed import Failed
from router.commands.options import ControlOption, JsonOption, client_of, print_json

if TYPE_CHECKING:
    from rich.progress import Progress

    from router.commands.client import ControlClient

POLL_SECONDS: Final = 0.25
_GRACE_SECONDS: Final = 5.0

RecordingArgument = Annotated[Path, typer.Argument(metavar="FILE", help="What `bluegreen record` wrote.")]
RateOption = Annotated[
    float | None, typer.Option("--rate", metavar="R", help="Exchanges per second; else as fast as they are answered.")
]
InFlightOption = Annotated[int, typer.Option("--in-flight", metavar="N", min=1, max=4096, help="Requests at once.")]
HeaderOption = Annotated[
    list[str] | None,
    typer.Option("--header", metavar="NAME:VALUE", help="Set on every request, such as credentials, which are not recorded."),
]


def record(
    ctx: typer.Context,
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="Where to write the exchanges: one line of JSON each; as Parquet if it ends so."),
    ],
    count: Annotated[int, typer.Option("--count", metavar="N", min=1, max=10_000_000, help="So many exchanges.")] = 1000,
    seconds: Annotated[float, typer.Option("--seconds", metavar="S", min=0.1, max=86_400, help="For so long at most.")] = 60.0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if there is one.")] = False,
    as_json: JsonOption = False,
    control: ControlOption = None,
) -> None:
    """Record exchanges as they come to the shadow: requests, answers and times (Ctrl-C ends it early)."""
    client = client_of(ctx, control)
    if file.exists() and not overwrite:
        raise Failed(f"{file} is there already; name another file, or add --overwrite")
    if _is_parquet(file):
        _require_parquet()  # before anything is asked of the router
    number = str(client.post("/v1/recordings", {"exchanges": count, "seconds": seconds})["id"])
    try:
        with _failing(), _writable(file) as write, _bar("exchanges", count, as_json) as advance:
            told = _fetch(client, number, write, advance, time.monotonic() + seconds + _GRACE_SECONDS)
    finally:
        with contextlib.suppress(Failed):
            client.delete(f"/v1/recordings/{number}")
    if not told["exchanges"]:
        file.unlink(missing_ok=True)
        why = _listed(told["skipped"])
        raise Failed(
            f"no exchange could be recorded: {why}"
            if why
            else "no exchange came: the shadow gets them while requests are mirrored (bluegreen shadow 100) or traffic is split"
        )
    told["bytes"] = file.stat().st_size
    report = {"file": str(file), **{name: told[name] for name in ("exchanges", "bytes", "ended", "skipped")}}
    if as_json:
        print_json(report)
        return
    print(f"{told['exchanges']:,} exchanges ({told['bytes'] / 1e6:.1f} MB) in {file}: {told['ended'] or 'ended by hand'}")
    if told["skipped"]:
        print(f"not recorded: {_listed(told['skipped'])}")


def replay(
    file: RecordingArgument,
    to: Annotated[str, typer.Option("--to", metavar="URL", help="The server that is asked.")],
    rate: RateOption = None,
    in_flight: InFlightOption = 16,
    header: HeaderOption = None,
    as_json: JsonOption = False,
) -> None:
    """Send recorded requests to a server, and tell how it answered."""
    from router import offline

    with _failing(), _bar("exchanges", _count(file), as_json) as advance:
        found = offline.replay(file, to, headers=_headers(header), rate=rate, in_flight=in_flight, progress=advance).to_dict()
    if as_json:
        print_json(found)
        return
    latency = found["latency_ms"]
    times = ", ".join(f"{name} {value:.3g} ms" for name, value in latency.items() if value is not None)
    print(f"{found['sent']:,} requests in {found['seconds']:.1f} s ({found['per_second'] or 0:,.0f}/s); {times or 'no answer'}")
    print(f"answers: {_listed(found['statuses'])}; recorded: {_listed(found['recorded'])}; {found['same_status']:,} the same")
    if found["skipped"]:
        print(f"not sent: {_listed(found['skipped'])}")


def backtest(
    file: RecordingArgument,
    green: Annotated[str, typer.Option("--green", metavar="URL", help="The candidate.")],
    policy: Annotated[
        Path | None, typer.Option("--policy", metavar="CONFIG", help="A configuration file: its compare and rollout sections.")
    ] = None,
    blue: Annotated[
        str | None, typer.Option("--blue", metavar="URL", help="The old model, asked again: for its noise, and latencies.")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option("--labels", metavar="FILE", help="CSV with request_id and label: what was true.")
    ] = None,
    rate: RateOption = None,
    in_flight: InFlightOption = 16,
    header: HeaderOption = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 unless the verdict is promote.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Compare a candidate's answers with the recorded ones and give the verdict that the gates would give."""
    from router import offline

    with _failing(), _bar("exchanges", _count(file), as_json) as advance:
        found = offline.backtest(
            file,
            green,
            config=policy,
            blue=blue,
            labels=_labels(labels) if labels is not None else None,
            headers=_headers(header),
            rate=rate,
            in_flight=in_flight,
            progress=advance,
        )
    if as_json:
        print_json(found.to_dict())
    else:
        _tell(found.to_dict())
    if strict and found.verdict["verdict"] != "promote":
        raise Failed(f"the verdict is {found.verdict['verdict']}: {'; '.join(found.verdict['reasons'])}")


COMMANDS: Final[tuple[Callable[..., None], ...]] = (record, replay, backtest)


# --- recording ------------------------------------------------------------------------------------------------------------


def _fetch(
    client: ControlClient, number: str, write: Callable[[bytes], object], advance: Callable[[int], None], deadline: float
) -> dict[str, Any]:
    """Write what the shadow has written, until it is over."""
    at = 0
    stopped = False
    while True:
        told = client.get(f"/v1/recordings/{number}")
        while at < told["bytes"] and (piece := client.download(f"/v1/recordings/{number}/lines", {"start": at})):
            write(piece)
            at += len(piece)
        advance(told["exchanges"])
        if stopped or (told["ended"] and at >= told["bytes"]):
            return told
        if time.monotonic() > deadline:
            if told["exchanges"]:
                return told
            raise Failed("the shadow process does not record: `bluegreen status` says whether it runs")
        try:
            time.sleep(POLL_SECONDS)
        except KeyboardInterrupt:
            stopped = True


@contextlib.contextmanager
def _writable(file: Path) -> Iterator[Callable[[bytes], object]]:
    from router.recording_parquet import ParquetRecording

    try:
        with ParquetRecording(file) if _is_parquet(file) else file.open("wb") as out:
            yield out.write
    except OSError as error:
        raise Failed(f"cannot write {file}: {error.strerror or error}") from None


def _is_parquet(file: Path) -> bool:
    return file.suffix.lower() == ".parquet"


def _require_parquet() -> None:
    from router.recording_parquet import require_pyarrow

    with _failing():
        require_pyarrow()


# --- what the three share -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _failing() -> Iterator[None]:
    """Errors of the offline part, in one line."""
    from router.recording import RecordingError
    from router.replay import ReplayError

    try:
        yield
    except (RecordingError, ReplayError) as error:
        raise Failed(str(error)) from None


@contextlib.contextmanager
def _bar(what: str, total: int | None, quiet: bool) -> Iterator[Callable[[int], None]]:
    """A progress bar on stderr, told how many are done so far."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar: Progress
    with Bar(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)


def _count(file: Path) -> int:
    """How many exchanges a recording holds."""
    from router.recording import count_recorded

    return count_recorded(file)


def _headers(given: list[str] | None) -> dict[str, str] | None:
    found = {}
    for text in given or ():
        name, colon, value = text.partition(":")
        if not colon or not name.strip():
            raise typer.BadParameter(f"{text!r} is not NAME:VALUE", param_hint="--header")
        found[name.strip()] = value.strip()
    return found or None


def _labels(file: Path) -> dict[str, str]:
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            rows = csv.DictReader(lines)
            if not {"request_id", "label"} <= set(rows.fieldnames or ()):
                raise Failed(f"{file}: the first line must name the columns request_id and label")
            return {row["request_id"]: row["label"] for row in rows if row["request_id"] and row["label"]}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise Failed(f"cannot read {file}: {error}") from None


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items())


def _tell(found: dict[str, Any]) -> None:
    from router.rollout.asked import asked_line

    for sentence in found["evidence"]["summary"]:
        print(sentence)
    if found["skipped"]:
        print(f"Not used: {_listed(found['skipped'])}.")
    verdict = found["verdict"]
    print(asked_line(verdict["asked"]))
    print(f"verdict: {verdict['verdict']}")
    for gate in verdict["gates"]:
        print(f"  {gate['state']:<9} {gate['name']}: {gate['detail']}")
