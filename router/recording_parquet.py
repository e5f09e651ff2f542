"""Recordings as Parquet: one row an exchange, in columns that pandas, DuckDB and the like take as they are.

The columns are those of `Recorded`: times as timestamps and milliseconds, headers as maps (a name may come twice), bodies as
bytes. Rows are written in groups that are bounded in rows and bytes, and read a few at a time, so memory is bounded whatever
the file holds. A file that somebody has filtered and written again is taken too, if the columns are still there. pyarrow is an
extra (`bluegreen[parquet]`): it weighs more than everything else together, and JSON lines need nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from router.recording import VERSION, Recorded, RecordingError, checked, read_line

GROUP_ROWS: Final = 5_000
GROUP_BYTES: Final = 8 << 20  # of bodies and headers; the last exchange of a group may go beyond
_READ_ROWS: Final = 64
_VERSION_KEY: Final = b"bluegreen.recording"
_MISSING: Final = (
    "Parquet needs pyarrow, which is not installed: pip install 'bluegreen[parquet]', or record into a .jsonl file"
)


def require_pyarrow() -> Any:
    """The module `pyarrow`. Raises RecordingError with what to install when it is not there."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise RecordingError(_MISSING) from None
    return pyarrow


class ParquetRecording:
    """Writes lines of a recording, which may come in pieces, as a Parquet file. A context manager: its end completes the file,
    also when it ends by an error, so that what was recorded until then can be read.
    """

    def __init__(self, path: Path | str) -> None:
        """Raises RecordingError without pyarrow, OSError when the file cannot be written."""
        self._arrow = require_pyarrow()
        self._schema = _schema(self._arrow)
        self._writer = self._arrow.parquet.ParquetWriter(str(path), self._schema, compression="zstd")
        self._rest = b""
        self._rows: list[dict[str, Any]] = []
        self._held = 0

    def __enter__(self) -> ParquetRecording:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self._flush()
        finally:
            self._writer.close()

    def write(self, piece: bytes) -> None:
        """Some bytes of JSON lines, the last of which may be cut. Raises RecordingError, OSError."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        for line in lines:
            if line and not line.isspace():
                self.add(read_line(line))

    def add(self, recorded: Recorded) -> None:
        """One exchange. Raises OSError."""
        self._rows.append(_row(recorded))
        self._held += _size(recorded)
        if len(self._rows) >= GROUP_ROWS or self._held >= GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        rows, self._rows, self._held = self._rows, [], 0
        if not rows:
            return
        try:
            table = self._arrow.Table.from_pylist(rows, schema=self._schema)
        except (self._arrow.ArrowException, OverflowError, UnicodeError) as error:
            raise RecordingError(f"an exchange cannot be written as Parquet: {_first_line(error)}") from None
        self._writer.write_table(table)


def count_rows(path: Path | str) -> int:
    """How many exchanges a Parquet file holds. Raises RecordingError."""
    return int(_opened(path).metadata.num_rows)


def read_parquet(path: Path | str) -> Iterator[Recorded]:
    """The exchanges of a Parquet file, in order. Raises RecordingError with the file's name and the row."""
    file = _opened(path)
    arrow = require_pyarrow()
    known = file.schema_arrow.metadata or {}
    version = known.get(_VERSION_KEY, str(VERSION).encode()).decode("latin-1")
    if version != str(VERSION):
        raise RecordingError(f"{path} is of version {version!r}; this bluegreen reads version {VERSION}")
    names = [field.name for field in _schema(arrow)]
    if missing := [name for name in names if name not in file.schema_arrow.names]:
        raise RecordingError(f"{path} is no recording of exchanges: it lacks the columns {', '.join(missing)}")
    number = 0
    try:
        for batch in file.iter_batches(batch_size=_READ_ROWS, columns=names):
            started = _microseconds(arrow, batch.column("started"))
            for row, at in zip(batch.drop_columns(["started"]).to_pylist(), started, strict=True):
                number += 1
                yield _recorded(row, at)
    except RecordingError as error:
        raise RecordingError(f"{path}: row {number} {error}") from None
    except (arrow.ArrowException, OSError) as error:
        raise RecordingError(f"cannot read {path} after row {number}: {_first_line(error)}") from None


def _opened(path: Path | str) -> Any:
    arrow = require_pyarrow()
    try:
        return arrow.parquet.ParquetFile(str(path))
    except (arrow.ArrowException, OSError) as error:
        raise RecordingError(f"cannot read {path}: {_first_line(error)}") from None


def _schema(arrow: Any) -> Any:
    headers = arrow.map_(arrow.string(), arrow.string())
    columns = {
        "request_id": arrow.string(),
        "started": arrow.timestamp("us", tz="UTC"),
        "colour": arrow.string(),
        "release": arrow.int64(),
        "revision": arrow.int64(),
        "fell_back": arrow.bool_(),
        "first_ms": arrow.float64(),
        "total_ms": arrow.float64(),
        "method": arrow.string(),
        "target": arrow.string(),
        "request_headers": headers,
        "request_body": arrow.binary(),
        "status": arrow.int16(),
        "response_headers": headers,
        "response_body": arrow.binary(),
        "truncated": arrow.bool_(),
    }
    fields = [arrow.field(name, kind, nullable=False) for name, kind in columns.items()]
    return arrow.schema(fields, metadata={_VERSION_KEY: str(VERSION)})


def _row(recorded: Recorded) -> dict[str, Any]:
    row = {name: getattr(recorded, name) for name in Recorded.__slots__}
    return {**row, "started": round(recorded.started * 1e6)}


def _size(recorded: Recorded) -> int:
    headers = (*recorded.request_headers, *recorded.response_headers)
    return len(recorded.request_body) + len(recorded.response_body) + sum(len(name) + len(value) for name, value in headers)


def _microseconds(arrow: Any, column: Any) -> list[int | None]:
    if not arrow.types.is_timestamp(column.type):
        raise RecordingError(f"has {column.type} in the column started where a timestamp is due")
    # What another program has written may count nanoseconds.
    found: list[int | None] = column.cast(arrow.timestamp("us", tz="UTC"), safe=False).cast(arrow.int64()).to_pylist()
    return found


def _recorded(row: Mapping[str, Any], microseconds: int | None) -> Recorded:
    if microseconds is None:
        raise RecordingError("has no time in the column started")
    if empty := [name for name, value in row.items() if value is None]:
        raise RecordingError(f"has nothing in the column {empty[0]}")
    try:
        found = Recorded(
            request_id=str(row["request_id"]),
            started=microseconds / 1e6,
            colour=str(row["colour"]),
            release=int(row["release"]),
            revision=int(row["revision"]),
            method=str(row["method"]),
            target=str(row["target"]),
            request_headers=tuple((str(name), str(value)) for name, value in row["request_headers"]),
            request_body=_bytes(row["request_body"]),
            status=int(row["status"]),
            response_headers=tuple((str(name), str(value)) for name, value in row["response_headers"]),
            response_body=_bytes(row["response_body"]),
            first_ms=float(row["first_ms"]),
            total_ms=float(row["total_ms"]),
            fell_back=bool(row["fell_back"]),
            truncated=bool(row["truncated"]),
        )
    except (TypeError, ValueError, OverflowError) as error:
        raise RecordingError(f"is no exchange: {error}") from None
    return checked(found)


def _bytes(body: bytes | str) -> bytes:
    return body.encode() if isinstance(body, str) else bytes(body)


def _first_line(error: BaseException) -> str:
    words = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(words).splitlines()[0]
