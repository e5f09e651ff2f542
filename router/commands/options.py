"""What commands share: their common options, and the client that these lead to."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from router.commands.client import ControlClient

DEFAULT_CONTROL = "http://127.0.0.1:8001"

ControlOption = Annotated[
    str | None,
    typer.Option("--control", metavar="URL", help=f"The control API; else BLUEGREEN_CONTROL, else {DEFAULT_CONTROL}."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
ReasonOption = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why, for the history.")]


def client_of(ctx: typer.Context, control: str | None) -> ControlClient:
    """The control API that a command line means. Raises Failed."""
    from router.commands.client import ControlClient

    return ControlClient(control or ctx.obj or os.environ.get("BLUEGREEN_CONTROL") or DEFAULT_CONTROL)


def print_json(document: dict[str, Any]) -> None:
    """One document for programs."""
    print(json.dumps(document, indent=2))
