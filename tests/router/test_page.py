from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.errors import StartError
from router.page import MAGIC, PAGE_BYTES, SLOT_BYTES, PlanPage

contents = st.binary(max_size=2000)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "plan.page"


def test_an_empty_page_holds_no_plan(path: Path) -> None:
    page = PlanPage(path, writable=True)
    assert page.revision == 0
    assert page.read() == (0, b"")
    assert page.previous() is None
    assert path.stat().st_mode & 0o777 == 0o600


@settings(deadline=None, max_examples=50)
@given(plans=st.lists(contents, min_size=1, max_size=6))
def test_readers_see_the_last_plan_written_and_the_one_before(
    tmp_path_factory: pytest.TempPathFactory, plans: list[bytes]
) -> None:
    path = tmp_path_factory.mktemp("page") / "plan.page"
    writer = PlanPage(path, writable=True)
    reader = PlanPage(path)
    for revision, content in enumerate(plans, 1):
        writer.write(revision, content)
        assert reader.word[0] == revision
        assert reader.read() == (revision, content)
        assert reader.previous() == (plans[revision - 2] if revision > 1 else None)
    writer.flush()
    writer.close()
    reader.close()
    again = PlanPage(path, writable=True)
    assert again.read() == (len(plans), plans[-1])
    again.close()


def test_the_page_survives_the_kill_of_its_writer(path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from router.page import PlanPage\n"
        "page = PlanPage(Path(sys.argv[1]), writable=True)\n"
        "page.write(1, b'one'); page.write(2, b'two'); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == -9
    assert PlanPage(path).read() == (2, b"two")


def test_readers_beside_a_fast_writer_only_ever_see_whole_plans(path: Path) -> None:
    """Another process writes as fast as it can, until enough was read; each plan's every byte tells its revision, so a torn one
    would show.
    """
    PlanPage(path, writable=True).write(1, b"\x01" * 5000)
    code = (
        "import itertools, sys, threading; from pathlib import Path; from router.page import PlanPage\n"
        "enough = threading.Event()\n"
        "threading.Thread(target=lambda: (sys.stdin.read(), enough.set())).start()\n"
        "page = PlanPage(Path(sys.argv[1]), writable=True)\n"
        "for revision in itertools.count(2):\n"
        "    page.write(revision, bytes([revision % 251]) * (4000 + revision % 1000))\n"
        "    if enough.is_set(): break\n"
        "print(revision)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        reader = PlanPage(path)
        last, reads = 0, 0
        while last < 40_000 or reads < 100:
            assert writer.poll() is None
            revision, content = reader.read()
            assert revision >= last
            assert len(content) == (5000 if revision == 1 else 4000 + revision % 1000)
            assert content == bytes([revision % 251]) * len(content)
            last, reads = revision, reads + 1
        newest, _ = writer.communicate()
    assert writer.returncode == 0
    assert reader.read()[0] == int(newest)


def test_a_damaged_slot_gives_way_to_the_plan_before(path: Path) -> None:
    page = PlanPage(path, writable=True)
    page.write(1, b"the first plan")
    page.write(2, b"the second plan")
    with path.open("r+b") as file:
        file.seek(64 + 16 + 3)  # in the body of slot 0, where even revisions lie
        file.write(b"X")
    assert PlanPage(path).read() == (1, b"the first plan")
    with path.open("r+b") as file:
        file.seek(64 + SLOT_BYTES + 16 + 3)
        file.write(b"X")
    with pytest.raises(StartError, match="damaged"):
        PlanPage(path).read()


@settings(deadline=None, max_examples=100)
@given(at=st.integers(64, 64 + 60), byte=st.integers(0, 255), slot=st.integers(0, 1))
def test_whatever_byte_of_a_slot_is_changed_no_wrong_plan_comes_out(
    tmp_path_factory: pytest.TempPathFactory, at: int, byte: int, slot: int
) -> None:
    path = tmp_path_factory.mktemp("page") / "plan.page"
    page = PlanPage(path, writable=True)
    page.write(1, b"a" * 40)
    page.write(2, b"b" * 40)
    with path.open("r+b") as file:
        file.seek(at + slot * SLOT_BYTES)
        file.write(bytes([byte]))
    assert page.read() in ((2, b"b" * 40), (1, b"a" * 40))


@pytest.mark.parametrize("revision", [0, 1, 2])
def test_revisions_only_grow(path: Path, revision: int) -> None:
    page = PlanPage(path, writable=True)
    page.write(1, b"one")
    page.write(2, b"two")
    with pytest.raises(ValueError, match="not after 2"):
        page.write(revision, b"again")
    assert page.read() == (2, b"two")


def test_a_plan_that_does_not_fit_changes_nothing(path: Path) -> None:
    page = PlanPage(path, writable=True)
    page.write(1, b"x" * (SLOT_BYTES - 16))
    with pytest.raises(ValueError, match="fit"):
        page.write(2, b"x" * (SLOT_BYTES - 15))
    assert page.revision == 1
    assert len(page.read()[1]) == SLOT_BYTES - 16


@pytest.mark.parametrize("content", [b"", b"BGPLAN01", b"\0" * PAGE_BYTES, b"BGPLAN99".ljust(PAGE_BYTES, b"\0")])
def test_what_is_no_plan_page_is_refused_with_what_to_do(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(StartError, match="is not a plan page of this version; move it away"):
        PlanPage(path, writable=True)
    assert path.read_bytes() == content


def test_a_reader_creates_nothing(path: Path) -> None:
    with pytest.raises(StartError, match="No such file"):
        PlanPage(path)
    assert os.listdir(path.parent) == []


def test_the_magic_begins_the_file(path: Path) -> None:
    PlanPage(path, writable=True)
    assert path.read_bytes()[:8] == MAGIC
    assert path.stat().st_size == PAGE_BYTES
