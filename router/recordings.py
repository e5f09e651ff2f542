"""Recordings under way: asked for by the control process, written by the shadow, fetched by a client, and then gone.

The two processes meet in files, as everywhere: control writes what is wanted (`wanted.json`, whole before it has its name), the
shadow looks for it a few times a second, appends lines to `ID.jsonl` and says in `ID.json` how far it is. There is one
recording at a time, bounded in exchanges, bytes and time; so whoever forgets one leaves nothing behind that grows. Files of an
older one are removed when the next begins.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final

from router.errors import Refused, RouterError
from router.recording import Recorder, RecordingError
from router.state import StateDir
from shadow.frame import Frame

_log = logging.getLogger("recordings")

MAX_EXCHANGES: Final = 10_000_000
MAX_SECONDS: Final = 86_400.0
MAX_BYTES: Final = 1 << 30
PIECE: Final = 4 << 20  # bytes fetched at a time
LOOK_SECONDS: Final = 0.25
_GRACE_SECONDS: Final = 10.0  # after its time a recording that never said it ended counts as ended
_ID: Final = re.compile(r"[0-9a-f]{16}")


class NoRecording(RouterError):
    """There is no recording of that id."""

    status = 404
    title = "No such recording"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to record: so many exchanges, bytes, and until when (seconds since the epoch), whichever comes first."""

    id: str
    exchanges: int
    bytes: int
    until: float


@dataclass(slots=True)
class Progress:
    """How far it is. `ended` says why it is over, empty while it is not; `skipped` counts exchanges by why they were not
    kept.
    """

    id: str
    exchanges: int = 0
    bytes: int = 0
    ended: str = ""
    skipped: dict[str, int] = field(default_factory=dict)


# --- control's side -------------------------------------------------------------------------------------------------------


def begin(state: StateDir, exchanges: int, seconds: float, now: float) -> Wanted:
    """Ask for a recording. Raises Refused while there is another."""
    folder = state.recordings
    folder.mkdir(mode=0o700, exist_ok=True)
    present = _wanted(folder)
    if present is not None and not progress(state, present.id).ended and now < present.until + _GRACE_SECONDS:
        left = max(present.until - now, 0.0)
        raise Refused(f"a recording is under way, for {left:.0f} s at most; wait for it, or end it with DELETE {present.id}")
    for old in folder.iterdir():
        old.unlink(missing_ok=True)
    wanted = Wanted(secrets.token_hex(8), exchanges, MAX_BYTES, now + seconds)
    _write(folder / "wanted.json", asdict(wanted))
    return wanted


def progress(state: StateDir, number: str) -> Progress:
    """How far a recording is. Raises NoRecording."""
    path = _file(state, number, ".json")
    found = _wanted(state.recordings)
    try:
        return Progress(**json.loads(path.read_bytes()))
    except FileNotFoundError:
        if found is not None and found.id == number:
            return Progress(number)  # the shadow has not looked yet
        raise NoRecording(f"there is no recording {number}; POST /v1/recordings begins one") from None


def piece(state: StateDir, number: str, start: int) -> bytes:
    """Up to 4 MiB of a recording from a position on. Raises NoRecording."""
    progress(state, number)
    try:
        with _file(state, number, ".jsonl").open("rb") as file:
            file.seek(start)
            return file.read(PIECE)
    except FileNotFoundError:
        return b""


def end(state: StateDir, number: str) -> Progress:
    """End a recording and remove its files; returns how far it was. Raises NoRecording."""
    found = progress(state, number)
    wanted = _wanted(state.recordings)
    if wanted is not None and wanted.id == number:
        (state.recordings / "wanted.json").unlink(missing_ok=True)
    for suffix in (".json", ".jsonl"):
        _file(state, number, suffix).unlink(missing_ok=True)
    return found


# --- the shadow's side ----------------------------------------------------------------------------------------------------


class Spool:
    """Writes the recording that is wanted, if any. `sweep` is called many times a second; `recording` says whether to
    `take`.
    """

    def __init__(self, state: StateDir, redact: Sequence[str]) -> None:
        self._folder = state.recordings
        self._recorder = Recorder(redact)
        self._looked_at = 0.0
        self._wanted: Wanted | None = None
        self._progress = Progress("")
        self._lines: list[bytes] = []
        self._file: BinaryIO | None = None

    @property
    def recording(self) -> bool:
        """Whether frames are to be taken."""
        return self._file is not None

    def take(self, frame: Frame) -> None:
        """Record an exchange."""
        wanted, told = self._wanted, self._progress
        if wanted is None or self._file is None:
            return
        try:
            line = self._recorder.line(frame)
        except RecordingError as error:
            told.skipped[str(error)] = told.skipped.get(str(error), 0) + 1
            return
        self._lines.append(line)
        told.exchanges += 1
        told.bytes += len(line)
        if told.exchanges >= wanted.exchanges:
            self._end("all exchanges that were asked for")
        elif told.bytes >= wanted.bytes:
            self._end(f"{wanted.bytes} bytes, the most that a recording may hold")

    def sweep(self, now: float) -> None:
        """Write what was taken, and look whether anything else is wanted; `now` in seconds since the epoch."""
        if now - self._looked_at < LOOK_SECONDS:
            return
        self._looked_at = now
        wanted = _wanted(self._folder)
        if (wanted.id if wanted else None) != (self._wanted.id if self._wanted else None):
            self._turn_to(wanted)
        if self._file is not None and self._wanted is not None:
            if now >= self._wanted.until:
                self._end("the time is over")
            else:
                self._write()

    def close(self) -> None:
        """The shadow ends."""
        if self._file is not None:
            self._end("the shadow ended")

    def _turn_to(self, wanted: Wanted | None) -> None:
        if self._file is not None:
            self._file.close()
        self._file, self._lines, self._wanted = None, [], wanted
        if wanted is None:
            return
        self._progress = Progress(wanted.id)
        path = self._folder / f"{wanted.id}.jsonl"
        if path.exists():  # it was begun by a shadow that is no more; what it wrote counts
            self._progress = _progress_of(path)
            self._end(self._progress.ended or "the shadow was started again")
            return
        try:
            self._file = path.open("xb")
        except OSError as error:
            self._end(f"cannot write {path}: {error.strerror}")

    def _write(self) -> None:
        lines, self._lines = self._lines, []
        try:
            if lines and self._file is not None:
                self._file.write(b"".join(lines))
                self._file.flush()
            if self._wanted is not None and (self._folder / "wanted.json").exists():
                _write(self._folder / f"{self._progress.id}.json", asdict(self._progress))
        except OSError as error:
            _log.error("the recording ends: %s", error)
            self._progress.ended = f"cannot be written: {error.strerror}"
            if self._file is not None:
                with contextlib.suppress(OSError):
                    self._file.close()
            self._file = None
            with contextlib.suppress(OSError):  # a few bytes may find a place where many did not
                _write(self._folder / f"{self._progress.id}.json", asdict(self._progress))

    def _end(self, why: str) -> None:
        self._progress.ended = why
        self._write()
        if self._file is not None:
            self._file.close()
        self._file = None


def _progress_of(path: Path) -> Progress:
    """What a recording's file holds: as its writer last said, else as it can be counted."""
    try:
        return Progress(**json.loads(path.with_suffix(".json").read_bytes()))
    except (OSError, ValueError, TypeError):
        content = path.read_bytes()
        return Progress(path.stem, content.count(b"\n"), len(content))


def _wanted(folder: Path) -> Wanted | None:
    try:
        return Wanted(**json.loads((folder / "wanted.json").read_bytes()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def _file(state: StateDir, number: str, suffix: str) -> Path:
    if _ID.fullmatch(number) is None:
        raise NoRecording(f"{number!r} is not the id of a recording")
    return state.recordings / f"{number}{suffix}"


def _write(path: Path, value: dict[str, Any]) -> None:
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.write_text(json.dumps(value))
    fresh.chmod(0o600)
    fresh.replace(path)
