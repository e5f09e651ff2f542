"""`bluegreen rollout …`: start, pause, resume, abort, status, and how long it would take.

Clients of the control API like every other command. `--watch` shows the rollout while it goes on, and ends with it: exit status
0 when it is done, 1 when green was taken back, so that a script can wait for the outcome.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from router.commands.failed import Failed
from router.commands.options import ControlOption, JsonOption, client_of, print_json

if TYPE_CHECKING:
    from router.commands.client import ControlClient

app = typer.Typer(help="Walk green up step by step while the evidence allows it.", no_args_is_help=True, add_completion=False)

PolicyOption = Annotated[
    Path | None,
    typer.Option("--policy", metavar="FILE", help="A policy (YAML), or a configuration with one; else the file's."),
]
WatchOption = Annotated[bool, typer.Option("--watch", help="Show it until it ends: exit status 0 done, 1 taken back.")]
_LOOK_SECONDS = 0.5
_ENDED = ("done", "rolled_back", "aborted", "idle")


@app.command()
def start(
    ctx: typer.Context,
    policy: PolicyOption = None,
    watch: WatchOption = False,
    as_json: JsonOption = False,
    control: ControlOption = None,
) -> None:
    """Begin a rollout of the present green."""
    if watch and as_json:
        raise typer.BadParameter("--json prints one document; leave --watch out", param_hint="--watch")
    body: dict[str, Any] = {"action": "start"}
    if policy is not None:
        body["policy"] = read_policy(policy)
    client = client_of(ctx, control)
    document = client.post("/v1/rollout", body)
    if watch:
        raise typer.Exit(_watch(client, document))
    steps = ", ".join(f"{step:g}" for step in document["steps"])
    line = f"rollout {document['number']} has begun (attempt {document['attempt']} at release {document['release']}): {steps} %"
    _tell(document, as_json, line)


@app.command()
def pause(ctx: typer.Context, as_json: JsonOption = False, control: ControlOption = None) -> None:
    """Stop where it is; green keeps its share."""
    _act(ctx, control, "pause", as_json)


@app.command()
def resume(ctx: typer.Context, as_json: JsonOption = False, control: ControlOption = None) -> None:
    """Go on in the step where it was paused."""
    _act(ctx, control, "resume", as_json)


@app.command()
def abort(ctx: typer.Context, as_json: JsonOption = False, control: ControlOption = None) -> None:
    """End it, with all traffic on blue."""
    _act(ctx, control, "abort", as_json)


@app.command()
def status(ctx: typer.Context, watch: WatchOption = False, as_json: JsonOption = False, control: ControlOption = None) -> None:
    """Show the present rollout: its step, its gates, and the verdict."""
    if watch and as_json:
        raise typer.BadParameter("--json prints one document; leave --watch out", param_hint="--watch")
    client = client_of(ctx, control)
    document = client.get("/v1/rollout")
    if watch:
        raise typer.Exit(_watch(client, document))
    if as_json:
        print_json(document)
        return
    from router.commands import rollout_view, tables

    tables.console().print(rollout_view.rollout(document))


@app.command("plan")
def what_if(
    ctx: typer.Context, policy: PolicyOption = None, as_json: JsonOption = False, control: ControlOption = None
) -> None:
    """Say how long each step would likely take, with the traffic and the evidence there are now. Changes nothing."""
    body = {} if policy is None else {"policy": read_policy(policy)}
    document = client_of(ctx, control).post("/v1/rollout/forecast", body)
    if as_json:
        print_json(document)
        return
    from router.commands import rollout_view, tables

    tables.console().print(rollout_view.forecast(document))


def read_policy(path: Path) -> dict[str, Any]:
    """A policy from a YAML file: the file's whole content, or its `rollout` when it is a configuration. Raises Failed."""
    from router.config_file import read_yaml

    document = read_yaml(path)
    if "rollout" in document or "blue" in document:
        document = document.get("rollout") or {}
    if not isinstance(document, dict):
        raise Failed(f"{path}: rollout: must be a mapping such as `steps: [10, 50, 100]`")
    return document


def verified(client: ControlClient) -> dict[str, Any]:
    """The chain of promotion records, checked here and not by the router: `{whole, records, newest, trouble}`."""
    from router.rollout.records import broken_link

    numbers = [record["number"] for record in client.get("/v1/rollouts")["rollouts"]]
    records = [client.get(f"/v1/rollouts/{number}") for number in numbers]
    trouble = broken_link(records)
    newest = records[-1]["hash"] if records else None
    return {"whole": trouble is None, "records": len(records), "newest": newest, "trouble": trouble}


def verified_words(found: dict[str, Any]) -> str:
    """What `verified` found, on one line. Raises Failed for a chain that is broken."""
    if not found["whole"]:
        raise Failed(f"the chain of promotion records is broken: {found['trouble']}")
    if not found["records"]:
        return "there is no promotion record yet"
    return f"{found['records']} promotion records, the chain is whole; the newest hash is {found['newest']}"


def write_record(client: ControlClient, number: int, file: Path) -> dict[str, Any]:
    """Write the promotion record of a rollout as a page; `{file, rollout, outcome, hash, previous, chain}`. Raises Failed."""
    from router.report_rollout import chain_words, write_rollout

    numbers = [record["number"] for record in client.get("/v1/rollouts")["rollouts"]]
    if number not in numbers:
        raise Failed(_no_record(client, number, numbers))
    record, chain = client.get(f"/v1/rollouts/{number}"), verified(client)
    with writing(file):
        try:
            write_rollout(file, record, chain)
        except (KeyError, TypeError, ValueError) as error:
            # Another format, or a record that was changed. What it holds can be had all the same.
            trouble = chain["trouble"] or f"its document lacks something: {error}"
            raise Failed(
                f"the record of rollout {number} cannot be shown ({trouble}); GET /v1/rollouts/{number} gives it"
            ) from None
    return {
        "file": str(file),
        "rollout": number,
        "outcome": record["document"].get("outcome"),
        "hash": record["hash"],
        "previous": record["previous"],
        "chain": {**chain, "words": chain_words(record, chain)},
    }


@contextlib.contextmanager
def writing(file: Path) -> Iterator[None]:
    """A page that cannot be written is one line. Raises Failed."""
    try:
        yield
    except OSError as error:
        raise Failed(f"cannot write {file}: {error.strerror}; name a file in a folder that you may write to") from None


def _no_record(client: ControlClient, number: int, numbers: list[int]) -> str:
    """Why a rollout has no record, and which have one."""
    present = client.get("/v1/rollout")
    if present.get("number") == number:
        why = f"rollout {number} has not ended yet, and leaves its record then (`bluegreen rollout status` shows it)"
    else:
        why = f"there is no record of a rollout {number}"
    if not numbers:
        return f"{why}; there is no promotion record yet"
    return f"{why}; there {'is one' if len(numbers) == 1 else 'are records'} of {_ranges(numbers)}"


def _ranges(numbers: list[int]) -> str:
    """Growing numbers in words: 1 to 4, 6 and 9."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    words: list[str] = []
    for low, high in runs:
        words += [f"{low} to {high}"] if high > low + 1 else [str(number) for number in range(low, high + 1)]
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]


def _act(ctx: typer.Context, control: str | None, action: str, as_json: bool) -> None:
    document = client_of(ctx, control).post("/v1/rollout", {"action": action})
    _tell(document, as_json, f"rollout {document['number']} is {document['state']}, green has {document['green_percent']:g} %")


def _tell(document: dict[str, Any], as_json: bool, line: str) -> None:
    if as_json:
        print_json(document)
    else:
        print(line)


def _watch(client: ControlClient, document: dict[str, Any]) -> int:
    """Show a rollout until it ends; the exit status."""
    from rich.live import Live

    from router.commands import rollout_view, tables

    screen = tables.console()
    if screen.is_terminal:
        with Live(rollout_view.rollout(document), console=screen, auto_refresh=False) as live:
            while document["state"] not in _ENDED:
                time.sleep(_LOOK_SECONDS)
                document = client.get("/v1/rollout")
                live.update(rollout_view.rollout(document), refresh=True)
    else:
        said = None
        while True:
            line = rollout_view.line(document)
            if line != said:
                print(line, flush=True)
                said = line
            if document["state"] in _ENDED:
                break
            time.sleep(_LOOK_SECONDS)
            document = client.get("/v1/rollout")
    if document["state"] in ("done", "idle"):
        return 0
    print(f"bluegreen: the rollout was {document['state'].replace('_', ' ')}: {document['reason']}", file=sys.stderr)
    return 1
