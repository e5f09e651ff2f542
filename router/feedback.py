"""Rows of feedback from text: JSON, JSON lines or CSV, each row checked by itself.

Ground truth comes from exports of other systems, and exports have bad rows. So a row that cannot be used is refused with its
line and the reason, and the rest is taken; only a text of which nothing can be used (no JSON list, a CSV file without the
columns) is refused as a whole. A row names a request by `request_id` or a unit of the split by `unit` (with `at`, if it is
about the time before a later exposure), and gives a `label`, a `reward`, or both. Other columns are left aside.

One line is one row: quoted fields may hold commas and quotes, but no line ends. Nothing here writes anything.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from router.errors import RouterError
from router.store.exposures import FeedbackRow
from router.unit_names import UnitNames
from shadow.decisions import label_words

COLUMNS: Final = ("request_id", "unit", "at", "label", "reward")
MAX_LINE: Final = 1 << 16  # bytes
_MAX_ID: Final = 200  # characters; the data plane takes no longer ids from clients
_MAX_KEY: Final = 4096
_MAX_CACHED: Final = 10_000

Rejected = tuple[int, str]  # line, why
Row = Callable[[Any, int], FeedbackRow]


class FeedbackError(RouterError):
    """Nothing of the text can be used; the message says what it must be."""

    status = 422
    title = "Not valid feedback"


class RowReader:
    """Checks single rows. `line` in what it makes is what it is told; a row that is refused raises ValueError with the
    reason.
    """

    def __init__(self, names: UnitNames) -> None:
        self._names = names
        self._labels: dict[str, str] = {}
        self._units: dict[str, str] = {}

    def from_object(self, value: object, line: int) -> FeedbackRow:
        """A row of JSON."""
        if not isinstance(value, Mapping):
            raise ValueError('is not a JSON object such as {"request_id": "…", "label": 2}')
        get = value.get
        return self._row(line, get("request_id"), get("unit"), get("at"), get("label"), get("reward"))

    def from_fields(self, fields: Sequence[str], places: Sequence[int | None], line: int) -> FeedbackRow:
        """A row of CSV; `places` says where each of `COLUMNS` stands. An empty field is one that is not given."""
        return self._row(line, *[fields[place] if place is not None else None for place in places])

    def _row(self, line: int, request_id: object, unit: object, at: object, label: object, reward: object) -> FeedbackRow:
        if request_id is not None and request_id != "":
            request = self._request_id(request_id)
            named, when = None, 0.0
        elif unit is not None and unit != "":
            request = None
            named, when = self._unit(unit), _moment(at)
        else:
            raise ValueError("names neither a request_id nor a unit")
        words = None if label is None or label == "" else self._label(label)
        amount = None if reward is None or reward == "" else _reward(reward)
        if words is None and amount is None:
            raise ValueError("gives neither a label nor a reward")
        return FeedbackRow(line, request, named, when, words, amount)

    @staticmethod
    def _request_id(value: object) -> str:
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**_MAX_ID:
            return str(value)
        if not isinstance(value, str):
            raise ValueError("the request_id must be a text, as x-request-id gave it")
        value = value.strip()
        if not value or len(value) > _MAX_ID or not value.isascii() or not value.isprintable():
            raise ValueError(f"the request_id must be printable ASCII of at most {_MAX_ID} characters")
        return value

    def _unit(self, value: object) -> str:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            value = json.dumps(value)  # as the data plane reads a number at a JSON pointer
        if not isinstance(value, str):
            raise ValueError("the unit must be a text or a number, as the split key has it")
        known = self._units.get(value)
        if known is None:
            if len(value) > _MAX_KEY:
                raise ValueError(f"the unit may have at most {_MAX_KEY} characters")
            known = self._names.name(value.encode("utf-8", "surrogatepass"))
            if len(self._units) < _MAX_CACHED:
                self._units[value] = known
        return known

    def _label(self, value: object) -> str:
        if not isinstance(value, str):
            return label_words(value)
        known = self._labels.get(value)
        if known is None:
            known = label_words(value)
            if len(self._labels) < _MAX_CACHED:
                self._labels[value] = known
        return known


class TextRows:
    """Rows from lines that come in pieces of any size. `feed` and `finish` give what was read; `rejected` what was not."""

    def __init__(self, kind: str, reader: RowReader) -> None:
        """`kind` is csv or ndjson."""
        self._reader = reader
        self._csv = kind == "csv"
        self._columns: _Columns | None = None
        self._rest = b""
        self._line = 0

    def feed(self, data: bytes) -> Iterator[FeedbackRow | Rejected]:
        """The rows of the lines that are whole with `data`. Raises FeedbackError when the text is none of its kind."""
        whole, end, rest = data.rpartition(b"\n")
        if not end:
            self._rest += rest
            if len(self._rest) > MAX_LINE:
                raise FeedbackError(f"line {self._line + 1} is longer than {MAX_LINE} bytes; is this text of one row per line?")
            return
        lines = (self._rest + whole).split(b"\n")
        self._rest = rest
        yield from self._rows(lines)

    def finish(self) -> Iterator[FeedbackRow | Rejected]:
        """The row of a last line without an end."""
        rest, self._rest = self._rest, b""
        if rest:
            yield from self._rows([rest])
        if self._csv and self._columns is None:
            raise FeedbackError(f"the CSV text is empty; its first line names the columns: {', '.join(COLUMNS)}")

    def _rows(self, lines: list[bytes]) -> Iterator[FeedbackRow | Rejected]:
        read = self._csv_row if self._csv else self._json_row
        for raw in lines:
            self._line += 1
            if self._line == 1:
                raw = raw.removeprefix(b"\xef\xbb\xbf")
            if not raw or raw.isspace():
                continue
            try:
                if len(raw) > MAX_LINE:
                    raise ValueError(f"is longer than {MAX_LINE} bytes")
                row = read(raw.decode().rstrip("\r"))
            except UnicodeDecodeError:
                yield self._line, "is not UTF-8"
            except ValueError as error:
                yield self._line, str(error)
            else:
                if row is not None:
                    yield row

    def _json_row(self, text: str) -> FeedbackRow:
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            raise ValueError("is not JSON") from None
        return self._reader.from_object(value, self._line)

    def _csv_row(self, text: str) -> FeedbackRow | None:
        columns = self._columns
        if columns is None:
            self._columns = _Columns(text)
            return None
        fields = columns.cut(text)
        if len(fields) != columns.count:
            raise ValueError(f"has {len(fields)} fields, but the first line names {columns.count} columns")
        return self._reader.from_fields(fields, columns.places, self._line)


class _Columns:
    """What the first line of a CSV text says."""

    __slots__ = ("count", "delimiter", "places")

    def __init__(self, line: str) -> None:
        self.delimiter = max(",;\t", key=line.count)
        try:
            names = [name.strip().lower() for name in self.cut(line)]
        except ValueError:
            raise FeedbackError("the first line, which names the columns, has a quote that does not end") from None
        self.count = len(names)
        self.places = tuple(names.index(column) if column in names else None for column in COLUMNS)
        found = {column for column, place in zip(COLUMNS, self.places, strict=True) if place is not None}
        if not found & {"request_id", "unit"} or not found & {"label", "reward"}:
            raise FeedbackError(
                f"the first line must name the columns, with request_id or unit, and label or reward; it is {line[:100]!r}"
            )

    def cut(self, line: str) -> list[str]:
        if '"' not in line:
            return line.split(self.delimiter)
        try:
            return next(csv.reader([line], delimiter=self.delimiter, strict=True))
        except (csv.Error, StopIteration):
            raise ValueError("has a quote that does not end (a row is one line)") from None


def json_rows(body: bytes, reader: RowReader) -> Iterator[FeedbackRow | Rejected]:
    """The rows of a JSON list; their place in it, from 1, stands for the line. Raises FeedbackError."""
    try:
        values = json.loads(body)
    except (ValueError, RecursionError):
        raise FeedbackError("the body is not JSON; for one object per line send it as application/x-ndjson") from None
    if not isinstance(values, list):
        raise FeedbackError('the body must be a JSON list such as [{"request_id": "…", "label": 2}]')
    for place, value in enumerate(values, 1):
        try:
            yield reader.from_object(value, place)
        except ValueError as error:
            yield place, str(error)


def _reward(value: object) -> float:
    try:
        amount = float(value)  # type: ignore[arg-type]  # what it cannot take raises
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"the reward must be a number, not {str(value)[:40]!r}") from None
    if not math.isfinite(amount):
        raise ValueError("the reward must be finite")
    return amount


def _moment(value: object) -> float:
    """Seconds since the epoch, from a number of them or an ISO 8601 time (without a zone: UTC); 0 for none."""
    if value is None or value == "":
        return 0.0
    try:
        seconds = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        try:
            when = datetime.fromisoformat(str(value).strip())
            seconds = (when if when.tzinfo else datetime.fromisoformat(f"{str(value).strip()}+00:00")).timestamp()
        except (ValueError, OverflowError, OSError):
            raise ValueError(f"at must be seconds since the epoch or an ISO 8601 time, not {str(value)[:40]!r}") from None
    if not math.isfinite(seconds) or not 0.0 < seconds < 1e11:
        raise ValueError("at must be seconds since the epoch")
    return seconds
