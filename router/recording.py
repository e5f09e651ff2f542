"""Exchanges as lines of JSON, and back: what `bluegreen record` writes and `replay` and `backtest` read; as Parquet they are
written and read in `recording_parquet`.

One line is one exchange: the request, the answer that the client got, from which arm, and how long it took. Bodies stand there
without chunk framing, as text where they are UTF-8 and in base64 where not, with their content-codings on. Credentials are
never recorded, nor what `record.redact` names; a body in which a JSON pointer cannot be redacted, because it is not whole
JSON, is not recorded at all. A line of a newer version, or one that is no exchange, is refused with its number.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from models.framing import FramingError, unframed
from models.http1 import HttpError
from models.http1_response import parse_response
from models.predictions import json_document, json_pointer
from models.predictions.prediction import Unreadable
from shadow.fields import MAX_FIELDS, MAX_HEAD, request_head
from shadow.frame import FELL_BACK, REQUEST_CUT, RESPONSE_CUT, Frame

VERSION: Final = 1
REDACTED: Final = "[redacted]"
_CREDENTIALS: Final = frozenset(
    "authorization proxy-authorization cookie set-cookie api-key x-api-key x-auth-token x-goog-api-key".split()
)
# They frame the message or belong to the connection that it came by; a replay has its own.
_HOP: Final = frozenset(
    "connection content-length expect keep-alive proxy-connection te trailer transfer-encoding upgrade x-request-id".split()
)

Fields = tuple[tuple[str, str], ...]


class RecordingError(ValueError):
    """The recording cannot be read; the message says where and why."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """One exchange. `started` in seconds since the epoch, times in ms; `colour` is the arm that answered the client."""

    request_id: str
    started: float
    colour: str
    release: int
    revision: int
    method: str
    target: str
    request_headers: Fields
    request_body: bytes
    status: int
    response_headers: Fields
    response_body: bytes
    first_ms: float
    total_ms: float
    fell_back: bool = False
    truncated: bool = False

    def to_frame(self, release: int = 1) -> Frame:
        """The exchange as the mirror takes it: with lengths in place of chunks."""
        return Frame(
            colour=1 if self.colour == "green" else 0,
            flags=(FELL_BACK if self.fell_back else 0) | (RESPONSE_CUT if self.truncated else 0),
            release=release,
            revision=self.revision,
            started=self.started,
            first_byte_ms=self.first_ms,
            total_ms=self.total_ms,
            request_id=self.request_id.encode("ascii", "replace"),
            request_head=_head(f"{self.method} {self.target} HTTP/1.1", self.request_headers, len(self.request_body)),
            request_body=self.request_body,
            response_head=_head(f"HTTP/1.1 {self.status} recorded", self.response_headers, len(self.response_body)),
            response_body=self.response_body,
        )


class Recorder:
    """Makes lines of frames. `redact` holds `header:NAME` and `json:/pointer`."""

    def __init__(self, redact: Sequence[str] = ()) -> None:
        self._headers = _CREDENTIALS | {rule.removeprefix("header:").lower() for rule in redact if rule.startswith("header:")}
        self._pointers = tuple(rule.removeprefix("json:") for rule in redact if rule.startswith("json:"))

    def line(self, frame: Frame) -> bytes:
        """The line, with its end. Raises RecordingError with the reason for an exchange that cannot be recorded."""
        if frame.flags & REQUEST_CUT:
            raise RecordingError("the request's body was longer than what is kept")
        try:
            head = request_head(frame.request_head)
            answered = parse_response(frame.response_head, head.method, MAX_HEAD, MAX_FIELDS)
            if answered is None:
                raise RecordingError("half a head")
            bodies = unframed(frame.request_body, head.length), unframed(frame.response_body, answered.length)
        except (HttpError, FramingError):
            raise RecordingError("not readable") from None
        request, response = _fields(frame.request_head), _fields(frame.response_head)
        cut = bool(frame.flags & RESPONSE_CUT)
        document = {
            "version": VERSION,
            "request_id": frame.request_id.decode("ascii", "replace"),
            "started": frame.started,
            "colour": "green" if frame.colour == 1 else "blue",
            "release": frame.release,
            "revision": frame.revision,
            "fell_back": bool(frame.flags & FELL_BACK),
            "first_ms": round(frame.first_byte_ms, 3),
            "total_ms": round(frame.total_ms, 3),
            "request": {
                "method": head.method.decode("ascii"),
                "target": head.target.decode("latin-1"),
                "headers": self._blanked(request),
                **_written(self._redacted(bodies[0], request, cut=False)),
            },
            "response": {
                "status": answered.status,
                "headers": self._blanked(response),
                "truncated": cut,
                **_written(self._redacted(bodies[1], response, cut=cut)),
            },
        }
        return json.dumps(document, separators=(",", ":")).encode() + b"\n"

    def _blanked(self, fields: Fields) -> list[list[str]]:
        return [[name, REDACTED if name.lower() in self._headers else value] for name, value in fields]

    def _redacted(self, body: bytes, fields: Fields, *, cut: bool) -> bytes:
        if not self._pointers or not body:
            return body
        coded = any(name.lower() == "content-encoding" for name, _ in fields)
        try:
            document = None if coded or cut else json_document.load(body)
        except Unreadable:
            document = None
        if document is None:
            raise RecordingError("a body is not whole JSON, so nothing in it could be redacted")
        for pointer in self._pointers:
            document = json_pointer.replace(document, pointer, REDACTED)
        return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")


def read_line(line: bytes) -> Recorded:
    """One line as an exchange. Raises RecordingError."""
    try:
        document = json.loads(line)
    except (ValueError, RecursionError):
        raise RecordingError("is not JSON") from None
    if not isinstance(document, Mapping) or "version" not in document:
        raise RecordingError("is not a recorded exchange (bluegreen record writes them)")
    if document["version"] != VERSION:
        raise RecordingError(f"is of version {document['version']!r}; this bluegreen reads version {VERSION}")
    try:
        request, response = document["request"], document["response"]
        found = Recorded(
            request_id=str(document["request_id"]),
            started=float(document["started"]),
            colour=str(document["colour"]),
            release=int(document["release"]),
            revision=int(document["revision"]),
            method=str(request["method"]),
            target=str(request["target"]),
            request_headers=_read_fields(request["headers"]),
            request_body=_read_body(request),
            status=int(response["status"]),
            response_headers=_read_fields(response["headers"]),
            response_body=_read_body(response),
            first_ms=float(document["first_ms"]),
            total_ms=float(document["total_ms"]),
            fell_back=bool(document["fell_back"]),
            truncated=bool(response["truncated"]),
        )
    except KeyError as error:
        raise RecordingError(f"lacks {error}") from None
    except RecordingError:
        raise
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise RecordingError(f"is no exchange: {error}") from None
    return checked(found)


def checked(found: Recorded) -> Recorded:
    """The exchange itself, if it can be sent again. Raises RecordingError."""
    if any(end in text for field in (*found.request_headers, *found.response_headers) for text in field for end in "\r\n"):
        raise RecordingError("has a header field with a line end in it")
    if not all(map(math.isfinite, (found.started, found.first_ms, found.total_ms))):
        raise RecordingError("has a time that is no number")
    try:
        frame = found.to_frame()
        head = request_head(frame.request_head)
        if parse_response(frame.response_head, head.method, MAX_HEAD, MAX_FIELDS) is None:
            raise RecordingError("has a head that ends in its middle")
    except RecordingError:
        raise
    except (HttpError, ValueError) as error:
        raise RecordingError(f"is no exchange: {error}") from None
    if found.colour not in ("blue", "green"):
        raise RecordingError(f"was answered by {found.colour!r}, which is no colour")
    return found


def read_recording(path: Path | str) -> Iterator[Recorded]:
    """The exchanges of a file, in order: JSON lines, or Parquet, which is told by its first bytes. Raises RecordingError with
    the file's name and the line or row.
    """
    try:
        with Path(path).open("rb") as file:
            if not _is_parquet(file):
                yield from _read_lines(path, file)
                return
    except OSError as error:
        raise RecordingError(f"cannot read {path}: {error.strerror}") from None
    from router.recording_parquet import read_parquet

    yield from read_parquet(path)


def count_recorded(path: Path | str) -> int:
    """How many exchanges a file holds, by its lines or by what a Parquet file says. Raises RecordingError."""
    try:
        with Path(path).open("rb") as file:
            if not _is_parquet(file):
                return sum(1 for line in file if not line.isspace())
    except OSError as error:
        raise RecordingError(f"cannot read {path}: {error.strerror}") from None
    from router.recording_parquet import count_rows

    return count_rows(path)


def _is_parquet(file: BinaryIO) -> bool:
    found = file.read(4) == b"PAR1"
    file.seek(0)
    return found


def _read_lines(path: Path | str, lines: Iterable[bytes]) -> Iterator[Recorded]:
    for number, line in enumerate(lines, 1):
        if line.isspace():
            continue
        try:
            yield read_line(line)
        except RecordingError as error:
            raise RecordingError(f"{path}: line {number} {error}") from None


def _fields(head: bytes) -> Fields:
    pairs = (line.partition(":") for line in head.decode("latin-1").split("\r\n")[1:-2])
    return tuple((name, value.strip(" \t")) for name, _, value in pairs)


def _head(line: str, fields: Fields, length: int) -> bytes:
    # A credential that was blanked is no credential.
    kept = [f"{name}: {value}\r\n" for name, value in fields if name.lower() not in _HOP and value != REDACTED]
    return "".join((line, "\r\n", *kept, f"content-length: {length}\r\n\r\n")).encode("latin-1")


def _written(body: bytes) -> dict[str, str]:
    try:
        return {"body": body.decode()}
    except UnicodeDecodeError:
        return {"body_base64": base64.b64encode(body).decode("ascii")}


def _read_body(message: Mapping[str, Any]) -> bytes:
    if "body_base64" in message:
        return base64.b64decode(message["body_base64"], validate=True)
    return str(message["body"]).encode()


def _read_fields(pairs: Any) -> Fields:
    return tuple((str(name), str(value)) for name, value in pairs)
