"""Recordings under way: control asks, the shadow writes, a client fetches; all in files."""

from __future__ import annotations

from pathlib import Path

import pytest

from router import recordings
from router.errors import Refused
from router.recording import read_line
from router.recordings import NoRecording, Spool
from router.state import StateDir
from shadow.frame import REQUEST_CUT, Frame


@pytest.fixture
def state(tmp_path: Path) -> StateDir:
    one = StateDir(tmp_path / "state")
    one.create()
    return one


def frame(number: int, flags: int = 0) -> Frame:
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n"
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"
    return Frame(0, flags, 1, 1, 1000.0, 1.0, 2.0, b"r%d" % number, head, b"{}", answer, b"{}")


def ids(state: StateDir, number: str) -> list[str]:
    found = b""
    while piece := recordings.piece(state, number, len(found)):
        found += piece
    return [read_line(line).request_id for line in found.splitlines()]


def test_what_is_wanted_is_written_until_it_is_enough(state: StateDir) -> None:
    spool = Spool(state, ())
    spool.sweep(1.0)
    assert not spool.recording
    wanted = recordings.begin(state, 3, 60.0, 100.0)
    assert recordings.progress(state, wanted.id).exchanges == 0
    spool.sweep(101.0)
    assert spool.recording
    spool.take(frame(1))
    spool.take(frame(2, REQUEST_CUT))
    spool.sweep(102.0)
    told = recordings.progress(state, wanted.id)
    assert (told.exchanges, told.ended) == (1, "")
    assert sum(told.skipped.values()) == 1
    for number in range(3, 9):
        if spool.recording:
            spool.take(frame(number))
    told = recordings.progress(state, wanted.id)
    assert (told.exchanges, told.ended) == (3, "all exchanges that were asked for")
    assert ids(state, wanted.id) == ["r1", "r3", "r4"]
    assert told.bytes == len(recordings.piece(state, wanted.id, 0))
    spool.sweep(103.0)
    assert not spool.recording
    recordings.end(state, wanted.id)
    assert list(state.recordings.iterdir()) == []


def test_time_ends_it(state: StateDir) -> None:
    spool = Spool(state, ())
    wanted = recordings.begin(state, 1000, 5.0, 100.0)
    spool.sweep(101.0)
    spool.take(frame(1))
    spool.sweep(105.5)
    assert not spool.recording
    assert recordings.progress(state, wanted.id).ended == "the time is over"
    assert ids(state, wanted.id) == ["r1"]


def test_bytes_end_it(state: StateDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recordings, "MAX_BYTES", 900)
    spool = Spool(state, ())
    wanted = recordings.begin(state, 1000, 5.0, 100.0)
    spool.sweep(101.0)
    taken = 0
    while spool.recording:
        spool.take(frame(taken))
        taken += 1
    assert 1 < taken < 10
    assert "900 bytes" in recordings.progress(state, wanted.id).ended


def test_one_at_a_time_and_an_old_one_makes_way(state: StateDir) -> None:
    first = recordings.begin(state, 10, 5.0, 100.0)
    with pytest.raises(Refused, match="under way, for 3 s"):
        recordings.begin(state, 10, 5.0, 102.0)
    spool = Spool(state, ())
    spool.sweep(103.0)
    second = recordings.begin(state, 10, 5.0, 120.0)  # nobody ended the first one, but its time is long over
    spool.sweep(120.0)
    spool.take(frame(1))
    spool.sweep(121.0)
    assert ids(state, second.id) == ["r1"]
    with pytest.raises(NoRecording):
        recordings.progress(state, first.id)


def test_ended_by_hand_nothing_more_is_written(state: StateDir) -> None:
    spool = Spool(state, ())
    wanted = recordings.begin(state, 10, 60.0, 100.0)
    spool.sweep(101.0)
    spool.take(frame(1))
    spool.sweep(101.5)
    assert recordings.end(state, wanted.id).exchanges == 1
    spool.take(frame(2))
    spool.sweep(102.0)
    assert not spool.recording
    assert list(state.recordings.iterdir()) == []
    with pytest.raises(NoRecording):
        recordings.piece(state, wanted.id, 0)


def test_a_shadow_that_was_started_again_does_not_write_over_what_there_is(state: StateDir) -> None:
    spool = Spool(state, ())
    wanted = recordings.begin(state, 10, 60.0, 100.0)
    spool.sweep(101.0)
    spool.take(frame(1))
    spool.sweep(102.0)
    again = Spool(state, ())
    again.sweep(103.0)
    assert not again.recording
    found = recordings.progress(state, wanted.id)
    assert (found.ended, found.exchanges) == ("the shadow was started again", 1)
    assert found.bytes == len(recordings.piece(state, wanted.id, 0))
    assert ids(state, wanted.id) == ["r1"]


def test_a_recording_that_cannot_be_written_says_so(state: StateDir) -> None:
    spool = Spool(state, ())
    wanted = recordings.begin(state, 10, 60.0, 100.0)
    spool.sweep(101.0)
    assert spool._file is not None
    spool._file.close()
    spool._file = open("/dev/full", "wb", buffering=0)  # noqa: SIM115  the spool closes it
    spool.take(frame(1))
    spool.sweep(102.0)
    assert not spool.recording
    assert "No space left" in recordings.progress(state, wanted.id).ended


def test_the_end_of_the_shadow_ends_it(state: StateDir) -> None:
    spool = Spool(state, ())
    wanted = recordings.begin(state, 10, 60.0, 100.0)
    spool.sweep(101.0)
    spool.take(frame(1))
    spool.close()
    told = recordings.progress(state, wanted.id)
    assert (told.exchanges, told.ended) == (1, "the shadow ended")
    assert ids(state, wanted.id) == ["r1"]


@pytest.mark.parametrize("number", ["", "..", "../../plan", "0" * 16, "0123456789ABCDEF", "wanted"])
def test_only_ids_that_were_given_lead_to_files(state: StateDir, number: str) -> None:
    recordings.begin(state, 10, 60.0, 100.0)
    with pytest.raises(NoRecording):
        recordings.progress(state, number)
