"""`bluegreen feedback FILE`: sends a file of labels or rewards in pieces, and reports what became of its rows.

The file goes out some megabytes at a time, so that the router never holds all of it, the bar moves, and a connection that
breaks costs one piece: whatever was sent twice counts as duplicate. Rows that were refused are told with their line in the
whole file.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from router.commands.client import ControlClient
from router.commands.failed import Failed

PIECE: Final = 4 << 20  # bytes
MAX_SHOWN: Final = 20
_COUNTS: Final = ("rows", "joined", "replaced", "duplicates", "unknown", "kept", "rejected_rows")
_KINDS: Final = {".csv": "text/csv", ".tsv": "text/csv", ".jsonl": "application/x-ndjson", ".ndjson": "application/x-ndjson"}


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of the file. Line n of it is line n + `before` of the file."""

    content: bytes
    before: int
    size: int  # bytes of the file that it stands for


def send(client: ControlClient, path: Path, *, quiet: bool = False) -> dict[str, Any]:
    """Send a file (`-`: standard input) and add up the router's answers. Raises Failed, also when no row could be used."""
    report: dict[str, Any] = {**dict.fromkeys(_COUNTS, 0), "rejected": []}
    with _opened(path) as file, _bar(path, quiet) as bar:
        kind = _kind(path, file)
        total = path.stat().st_size if str(path) != "-" else None
        task = bar.add_task("rows", total=total)
        for piece in _pieces(file, kind):
            if piece.content.isspace():
                continue
            try:
                answer = client.upload(
                    "/v1/feedback", piece.content, "text/csv" if kind == "text/csv" else "application/x-ndjson"
                )
            except Failed as error:
                if not report["rows"]:
                    raise Failed(f"{path}: {error}") from None
                sent = f"{report['rows']:,} rows were taken before that, and sending them again does no harm"
                raise Failed(f"{path}: {error}; {sent}") from None
            for name in _COUNTS:
                report[name] += answer[name]
            report["rejected"] += [{**bad, "line": bad["line"] + piece.before} for bad in answer["rejected"]]
            bar.advance(task, piece.size)
    if not report["rows"]:
        raise Failed(f"{path} holds no rows")
    if report["rejected_rows"] == report["rows"]:
        first = report["rejected"][0]
        raise Failed(f"{path}: no row could be used; line {first['line']} {first['why']}")
    return report


def told(report: dict[str, Any]) -> str:
    """The report in words."""
    parts = [f"{report['joined']:,} joined"]
    for name, words in (
        ("replaced", "replaced an earlier value"),
        ("duplicates", "duplicates"),
        ("unknown", "of unknown requests"),
        ("rejected_rows", "rejected"),
    ):
        if report[name]:
            parts.append(f"{report[name]:,} {words}")
    lines = [f"{report['rows']:,} rows: {', '.join(parts)}"]
    if report["unknown"]:
        lines.append(f"{report['kept']:,} of the unknown ones wait for their requests (predictions.pending)")
    lines += [f"line {bad['line']}: {bad['why']}" for bad in report["rejected"][:MAX_SHOWN]]
    if (more := report["rejected_rows"] - min(len(report["rejected"]), MAX_SHOWN)) > 0:
        lines.append(f"and {more:,} more")
    return "\n".join(lines)


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    if str(path) == "-":
        yield sys.stdin.buffer
        return
    try:
        file = path.open("rb")
    except OSError as error:
        raise Failed(f"cannot read {path}: {error.strerror}") from None
    with file:
        yield file


def _bar(path: Path, quiet: bool) -> Progress:
    console = Console(stderr=True)
    columns = (TextColumn(path.name), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal)


def _kind(path: Path, file: IO[bytes]) -> str:
    """By the file's name, else by its first character."""
    if (kind := _KINDS.get(path.suffix.lower())) is not None:
        return kind
    start = file.peek(64).lstrip(b"\xef\xbb\xbf \t\r\n")[:1] if hasattr(file, "peek") else b""
    return {b"{": "application/x-ndjson", b"[": "application/json"}.get(start, "text/csv")


def _pieces(file: IO[bytes], kind: str) -> Iterator[Piece]:
    if kind == "application/json":
        yield from _listed(file)
        return
    columns = b""
    line = 0
    while lines := file.readlines(PIECE):
        content = b"".join(lines)
        if columns:
            # A piece of CSV names the columns again, on a line that the file does not have.
            yield Piece(columns + content, line - 1, len(content))
        else:
            yield Piece(content, line, len(content))
            if kind == "text/csv":
                columns = next((text.rstrip(b"\r\n") + b"\n" for text in lines if text.strip()), b"")
        line += len(lines)


def _listed(file: IO[bytes]) -> Iterator[Piece]:
    """A JSON list, as JSON lines; a row's place in the list is its line."""
    try:
        values = json.load(file)
    except (ValueError, RecursionError):
        raise Failed(f"{file.name} begins like a JSON list and is none; write one JSON object on each line") from None
    rows = [json.dumps(value).encode() + b"\n" for value in values]
    for at in range(0, len(rows), 20_000):
        content = b"".join(rows[at : at + 20_000])
        yield Piece(content, at, len(content))
