"""The command `bluegreen`.

Every command but `demo`, `serve`, `check` and `model` is a client of the control API. Exit status: 0 done; 1 the router said
no, with one line on stderr that says what and what to do; 2 wrong usage. Heavy libraries load inside the command that needs
them, so that a switch in an emergency waits for none.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from router.commands import offline, rollout
from router.commands.failed import Failed
from router.commands.options import ControlOption, JsonOption, ReasonOption, client_of, print_json
from router.errors import RouterError, SettingsError, StartError

app = typer.Typer(
    name="bluegreen",
    help="Put a new model version beside the one in production, compare, shift traffic, and switch back in an instant.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

app.add_typer(rollout.app, name="rollout")


def _version(asked: bool) -> None:
    if asked:
        from router.version import own_version

        source = str(importlib.import_module("models.http1").__file__)
        how = "interpreted" if source.endswith(".py") else "compiled"
        print(f"bluegreen {own_version()}, data plane {how}, {sys.implementation.name} {sys.version.split()[0]}")
        raise typer.Exit


VersionOption = Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")]


@app.callback()
def _global(ctx: typer.Context, control: ControlOption = None, version: VersionOption = False) -> None:
    ctx.obj = control


# --- what needs no router -------------------------------------------------------------------------------------------------


@app.command()
def demo(
    duration: Annotated[
        float, typer.Option("--duration", metavar="S", min=1, help="Seconds of traffic, about; from 60 on with two rollouts.")
    ] = 90.0,
    as_json: JsonOption = False,
) -> None:
    """Train two models, serve them, and walk through a comparison, a split, a failure and a switch back."""
    from router.demo import run

    raise typer.Exit(run(duration, as_json))


@app.command()
def serve(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="The configuration file (YAML).")],
    workers: Annotated[int | None, typer.Option("--workers", metavar="N", min=1, max=64, help="Instead of the file's.")] = None,
    reseed: Annotated[
        bool, typer.Option("--reseed", help="Take the file's arms and split again, not the stored plan.")
    ] = False,
) -> None:
    """Run the router."""
    from router import supervisor
    from router.api_token import read_token
    from router.settings import load_settings

    settings = load_settings(config)
    token = read_token(settings.control_token_file)
    raise typer.Exit(supervisor.serve(settings, config=config, workers=workers, reseed=reseed, token=token))


@app.command()
def check(
    config: Annotated[Path | None, typer.Argument(metavar="[CONFIG]", help="The configuration file (YAML).")] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the file's JSON Schema, for editors, and end.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Check a configuration file and say what is wrong with it, without starting anything."""
    from router.api_token import read_token
    from router.settings import json_schema, load_settings, require_token

    if schema:
        print(json.dumps(json_schema(), indent=2))
        return
    if config is None:
        raise typer.BadParameter("name the configuration file, or ask for --schema", param_hint="CONFIG")
    settings = load_settings(config)
    require_token(settings, read_token(settings.control_token_file))
    if as_json:
        print_json(settings.to_json())
        return
    plan = settings.first_plan()
    green = f"green {plan.green.name} at {plan.split.green_percent:g} %" if plan.green else "no green yet"
    print(f"{config}: good. Clients at {settings.listen}, control at {settings.control}; blue {plan.blue.name}, {green}.")


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
)
def model(ctx: typer.Context) -> None:
    """Train and serve the reference models (`bluegreen model --help`)."""
    commands = importlib.import_module("models.reference.commands")  # by name: scikit-learn's neighbourhood loads only here
    commands.app(ctx.args, prog_name="bluegreen model")


# --- clients of the control API: changes ----------------------------------------------------------------------------------


@app.command()
def switch(
    ctx: typer.Context,
    to: Annotated[str, typer.Argument(metavar="blue|green")],
    reason: ReasonOption = "",
    as_json: JsonOption = False,
    control: ControlOption = None,
) -> None:
    """Send all live traffic to one colour, at once. Returns when that holds on every worker."""
    if to not in ("blue", "green"):
        raise typer.BadParameter(f"{to!r} is no colour: blue or green", param_hint="blue|green")
    client = client_of(ctx, control)
    begin = time.perf_counter()
    done = client.post("/v1/switch", {"to": to, "reason": reason})
    spent = (time.perf_counter() - begin) * 1000
    recalled = f", {done['recalled']} recalled from green" if done["recalled"] else ""
    where = "on every worker" if done.get("holds", True) else "for every new request; a worker has not answered yet"
    _tell(done, as_json, f"{to} has all live traffic {where} (revision {done['revision']}, {spent:.1f} ms{recalled})")


@app.command()
def split(
    ctx: typer.Context,
    percent: Annotated[float, typer.Argument(metavar="PERCENT", help="Green's share, 0 to 100 in steps of 0.01.")],
    reason: ReasonOption = "",
    as_json: JsonOption = False,
    control: ControlOption = None,
) -> None:
    """Give green a share of live traffic."""
    plan = client_of(ctx, control).post("/v1/split", {"green_percent": _plain(percent), "reason": reason})
    share = plan["split"]["green_percent"]
    _tell(plan, as_json, f"green has {share:g} % of live traffic (revision {plan['revision']})")


@app.command()
def shadow(
    ctx: typer.Context,
    percent: Annotated[float, typer.Argument(metavar="PERCENT", help="Share of exchanges that are mirrored, 0 to 100.")],
    reason: ReasonOption = "",
    as_json: JsonOption = False,
    control: ControlOption = None,
) -> None:
    """Mirror a share of exchanges to the other arm and compare."""
    plan = client_of(ctx, control).post("/v1/shadow", {"percent": _plain(percent), "reason": reason})
    _tell(plan, as_json, f"{plan['shadow']['percent']:g} % of exchanges are mirrored (revision {plan['revision']})")


@app.command()
def candidate(
    ctx: typer.Context,
    servers: Annotated[list[str], typer.Argument(metavar="URL...", help="Green's servers.")],
    name: Annotated[str | None, typer.Option("--name", metavar="NAME", help="The version's name; else its address.")] = None,
    reason: ReasonOption = "",
    as_json: JsonOption = False,
    control: ControlOption = None,
) -> None:
    """Name green's servers. It gets no live traffic yet, and a release begins."""
    body: dict[str, Any] = {"servers": servers, "reason": reason}
    if name is not None:
        body["name"] = name
    plan = client_of(ctx, control).put("/v1/arms/green", body)
    green = plan["green"]["name"]
    _tell(plan, as_json, f"green is {green}, with 0 % of live traffic (release {plan['release']}, revision {plan['revision']})")


@app.command()
def promote(
    ctx: typer.Context,
    reason: ReasonOption = "",
    as_json: JsonOption = False,
    control: ControlOption = None,
) -> None:
    """Make green's servers blue's. The old blue's stay in the green slot, so that a switch can go back."""
    plan = client_of(ctx, control).post("/v1/promote", {"reason": reason})
    blue, green = plan["blue"]["name"], plan["green"]["name"]
    _tell(plan, as_json, f"{blue} is blue and has all live traffic; {green} waits as green (revision {plan['revision']})")


# --- clients of the control API: questions --------------------------------------------------------------------------------


@app.command()
def status(
    ctx: typer.Context,
    watch: Annotated[bool, typer.Option("--watch", help="Show it again every second, until Ctrl-C.")] = False,
    as_json: JsonOption = False,
    control: ControlOption = None,
) -> None:
    """Show what holds, who is well and what was counted."""
    if watch and as_json:
        raise typer.BadParameter("--json prints one document; leave --watch out", param_hint="--watch")
    client = client_of(ctx, control)
    document = client.get("/v1/status")
    if as_json:
        print_json(document)
        return
    from router.commands import tables

    screen = tables.console()
    if not watch:
        screen.print(tables.status(document))
        return
    from rich.live import Live

    with Live(tables.status(document), console=screen, auto_refresh=False) as live, contextlib.suppress(KeyboardInterrupt):
        while True:
            time.sleep(1)
            live.update(tables.status(client.get("/v1/status")), refresh=True)


@app.command()
def evidence(ctx: typer.Context, as_json: JsonOption = False, control: ControlOption = None) -> None:
    """Show what the shadow found about green, and the verdict."""
    _show(client_of(ctx, control).get("/v1/evidence"), as_json, "evidence")


@app.command()
def history(
    ctx: typer.Context,
    last: Annotated[int | None, typer.Option("--last", metavar="N", min=1, help="Only the newest N entries.")] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Check the chain of promotion records instead.")] = False,
    as_json: JsonOption = False,
    control: ControlOption = None,
) -> None:
    """Show who changed what, when and why, oldest first."""
    if verify:
        found = rollout.verified(client_of(ctx, control))
        _tell(found, as_json, "" if as_json else rollout.verified_words(found))
        raise typer.Exit(0 if found["whole"] else 1)
    _show(client_of(ctx, control).get("/v1/history", {"last": last} if last else None), as_json, "history")


@app.command()
def pairs(
    ctx: typer.Context,
    disagreeing: Annotated[bool, typer.Option("--disagreeing", help="Only pairs that disagree.")] = False,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, max=1000, help="The newest N.")] = 20,
    as_json: JsonOption = False,
    control: ControlOption = None,
) -> None:
    """Show recorded pairs: the request, both answers and the difference (with --json), newest first."""
    document = client_of(ctx, control).get("/v1/pairs", {"disagreeing": disagreeing, "limit": limit})
    _show(document, as_json, "pairs")


@app.command()
def report(
    ctx: typer.Context,
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE.html", help="Where to write it; with --rollout rollout-N.html if left out.")
    ] = None,
    number: Annotated[
        int | None, typer.Option("--rollout", metavar="N", min=1, help="Of a rollout that has ended: its promotion record.")
    ] = None,
    as_json: JsonOption = False,
    control: ControlOption = None,
) -> None:
    """Write one self-contained page for the meeting where the decision is made, or of what a rollout left."""
    if number is not None:
        told = rollout.write_record(client_of(ctx, control), number, file or Path(f"rollout-{number}.html"))
        _tell(told, as_json, f"{told['file']} is written: open it in a browser. {told['chain']['words']}")
        return
    if file is None:
        raise typer.BadParameter(
            "name the file to write, such as report.html, or a rollout with --rollout N", param_hint="FILE.html"
        )
    from router.report import write_report

    api = client_of(ctx, control)
    evidence, status = api.get("/v1/evidence"), api.get("/v1/status")
    history = api.get("/v1/history", {"last": 50})["history"]
    pairs = api.get("/v1/pairs", {"disagreeing": True, "limit": 20})["pairs"]
    with rollout.writing(file):
        write_report(file, evidence, status, history, pairs)
    _tell({"file": str(file)}, as_json, f"{file} is written: open it in a browser")


@app.command()
def feedback(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="CSV or JSON lines, or - for standard input.")],
    as_json: JsonOption = False,
    control: ControlOption = None,
) -> None:
    """Tell the router what was true: labels or rewards for answered requests, by request_id or by unit."""
    from router.commands import feedback as rows

    report = rows.send(client_of(ctx, control), file, quiet=as_json)
    _tell(report, as_json, rows.told(report))


for command in offline.COMMANDS:
    app.command()(command)


# --- how commands speak ---------------------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns its exit status: 0, 1 after one line on stderr, or 2 for wrong usage."""
    try:
        if line := foreign_package():
            return _fail(line)
        app(list(argv) if argv is not None else None, prog_name="bluegreen")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except (Failed, SettingsError, StartError, RouterError) as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        return 130
    return 0


def foreign_package() -> str | None:
    """A line for the case that an imported `models`, `shadow` or `router` is somebody else's; None when all are ours.

    Three names so plain are easily taken by a user's own package on PYTHONPATH. Ours lie beside each other.
    """
    home = Path(__file__).resolve().parent.parent
    for name in ("models", "shadow", "router"):
        try:
            where = importlib.import_module(name).__file__
        except ImportError:
            return f"the package {name!r} of bluegreen is missing beside {home / 'router'}; install bluegreen again"
        if where is None or Path(where).resolve().parent.parent != home:
            return f"the package {name!r} comes from {where}, not from bluegreen in {home}; remove it from PYTHONPATH"
    return None


def _plain(percent: float) -> float | int:
    """The number as JSON can carry it and as its writer would write it: 10, not 10.0."""
    if not math.isfinite(percent):
        raise typer.BadParameter(f"{percent} is not a percentage", param_hint="PERCENT")
    return int(percent) if percent == int(percent) else percent


def _tell(document: dict[str, Any], as_json: bool, line: str) -> None:
    if as_json:
        print_json(document)
    else:
        print(line)


def _show(document: dict[str, Any], as_json: bool, table: str) -> None:
    if as_json:
        print_json(document)
        return
    from router.commands import tables

    render: Callable[[dict[str, Any]], Any] = getattr(tables, table)
    tables.console().print(render(document))


def _fail(line: str) -> int:
    print(f"bluegreen: {line}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
