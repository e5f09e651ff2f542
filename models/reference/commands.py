"""`bluegreen model train` and `bluegreen model serve`; also `python -P -m models.reference.commands`.

Only typer is imported here: scikit-learn, FastAPI and rich load inside the command that needs them, so that `--help`
and every other command of the program stay quick. Exit status: 0 done, 1 failed with one line on stderr, 2 wrong
usage.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from models.reference.train import ALL, versions

if TYPE_CHECKING:
    from models.reference.train import TrainedModel

app = typer.Typer(
    name="model",
    help="Train and serve the reference models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def _group() -> None:
    """Train and serve the reference models."""


def _known(datasets: list[str] | None) -> list[str] | None:
    for dataset in datasets or []:
        if dataset not in ALL:
            raise typer.BadParameter(f"no data set {dataset!r}; there are {', '.join(ALL)}")
    return datasets


@app.command("train")
def train_command(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Directory for the models; made if missing.")],
    dataset: Annotated[
        list[str] | None,
        typer.Option(
            "--dataset",
            metavar="NAME",
            callback=_known,
            help=f"One of {', '.join(ALL)}; may be repeated. Default: all.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")] = False,
) -> None:
    """Fit blue and green models on data sets that scikit-learn carries, and save them with skops."""
    from models.reference.artifact import ModelFileError

    chosen = dataset or list(ALL)
    try:
        with _progress(chosen, shown=not as_json) as step:
            from models.reference.train import train

            trained = train(out, chosen, step)
    except ModelFileError as error:
        _fail(error)
    if as_json:
        typer.echo(json.dumps(_document(out, trained), indent=2))
    else:
        _print_table(out, trained)


@app.command("serve")
def serve_command(
    paths: Annotated[
        list[Path], typer.Argument(metavar="PATH.skops...", help="Models to serve; the first one is the default.")
    ],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes any free one.")] = 9001,
    name: Annotated[str | None, typer.Option(help="Serve under this name. Default: the card's.")] = None,
    version: Annotated[str | None, typer.Option(help="Serve as this version. Default: the card's.")] = None,
    delay_ms: Annotated[float, typer.Option(min=0, help="Fault injection: delay of every answer, ms.")] = 0.0,
    delay_jitter_ms: Annotated[
        float, typer.Option(min=0, help="Fault injection: uniform random delay on top, up to this, ms.")
    ] = 0.0,
    error_rate: Annotated[
        float, typer.Option(min=0, max=1, help="Fault injection: share of requests answered with 500.")
    ] = 0.0,
    noise_rate: Annotated[
        float, typer.Option(min=0, max=1, help="Fault injection: share of requests with a random wrong answer.")
    ] = 0.0,
    seed: Annotated[int | None, typer.Option(help="Fault injection: makes the faults reproducible.")] = None,
) -> None:
    """Serve trained models with the Open Inference Protocol v2, V1 and MLflow's /invocations."""
    from models.reference.artifact import ModelFileError
    from models.reference.behaviour import Behaviour
    from models.reference.serve import ServeError, serve

    try:
        behaviour = Behaviour(delay_ms, delay_jitter_ms, error_rate, noise_rate, seed)
        if len(paths) > 1 and (name is not None or version is not None):
            raise ValueError("--name and --version need a single PATH")
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    served = ", ".join(path.name for path in paths)
    try:
        serve(paths, host, port, name, version, behaviour, lambda url: typer.echo(f"serving {served} on {url}"))
    except (ModelFileError, ServeError) as error:
        _fail(error)


def _fail(error: Exception) -> None:
    typer.echo(f"bluegreen model: {error}", err=True)
    raise typer.Exit(1) from error


@contextlib.contextmanager
def _progress(datasets: list[str], shown: bool) -> Iterator[Callable[[str], None]]:
    """A progress bar on stderr, if that is a terminal; what is yielded moves it on by one model."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not (shown and console.is_terminal)) as bar:
        total = sum(len(versions(dataset)) for dataset in dict.fromkeys(datasets))
        task = bar.add_task("training", total=total)
        yield lambda name: bar.update(task, advance=1, description=f"trained {name}")


def _document(out: Path, trained: list[TrainedModel]) -> dict[str, object]:
    from dataclasses import asdict

    models = [{"path": str(one.path), "card_path": str(one.card_path), **asdict(one.card)} for one in trained]
    return {"directory": str(out), "models": models}


def _print_table(out: Path, trained: list[TrainedModel]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{len(trained)} models in {out}", title_justify="left")
    table.add_column("file", overflow="fold", no_wrap=True)  # a name cut short could not be copied
    for heading in ("score", "rows", "what it is"):
        table.add_column(heading)
    for model in trained:
        card = model.card
        table.add_row(model.path.name, f"{card.metric} {card.score:.4f}", str(card.n_train), card.description)
    Console().print(table)


if __name__ == "__main__":
    app(prog_name="bluegreen model")
