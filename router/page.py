"""The plan page: one small memory-mapped file through which control tells every worker what to do.

Two slots hold plan JSON; one aligned 8-byte revision word says which slot holds (`revision & 1`). The writer fills the idle
slot and then stores the word, so a reader that sees the new word sees the whole new plan, and a switch needs no message and
no acknowledgement. A reader compares the word with the last one it saw, which costs tens of nanoseconds, and decodes only on
change. The page lies on disk: it survives the end of every process. A length and a CRC in each slot tell a slot that was
written whole from one that was not, should the machine itself stop between the two stores.

There is one writer (the control process, under the state directory's lock).
"""

from __future__ import annotations

import mmap
import os
import struct
import zlib
from pathlib import Path

from router.errors import StartError

MAGIC = b"BGPLAN01"
SLOT_BYTES = 256 * 1024
_WORD_OFFSET = 8
_FIRST_SLOT = 64  # the word has a cache line of its own
_SLOT_HEAD = struct.Struct("<QII")  # revision, length, crc32
_DAMAGED_LOOKS = 1000  # at a page that nobody writes
_LOOKS = 1_000_000  # some seconds; a writer that does nothing but write laps a reader thousands of times in a row
PAGE_BYTES = _FIRST_SLOT + 2 * SLOT_BYTES


class PlanPage:
    """The mapped page. `revision` is the word; `read` gives the plan's bytes; `write` is for the one writer."""

    __slots__ = ("_map", "_word")

    def __init__(self, path: Path, *, writable: bool = False) -> None:
        """Map the page at `path`; a writer creates it when it is not there. Raises StartError."""
        try:
            if writable and not path.exists():
                _create(path)
            handle = os.open(path, os.O_RDWR if writable else os.O_RDONLY)
        except OSError as error:
            raise StartError(f"cannot open the plan page {path}: {error.strerror}") from None
        try:
            if os.fstat(handle).st_size != PAGE_BYTES or os.pread(handle, 8, 0) != MAGIC:
                raise StartError(f"{path} is not a plan page of this version; move it away to begin with an empty one")
            access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
            self._map = mmap.mmap(handle, PAGE_BYTES, access=access)
        finally:
            os.close(handle)
        # A native-order view: the load and the store of an aligned 8-byte word are each one machine instruction.
        self._word = memoryview(self._map)[_WORD_OFFSET : _WORD_OFFSET + 8].cast("Q")

    @property
    def word(self) -> memoryview:
        """The revision word itself, for a reader that compares it on every request: `page.word[0]`."""
        return self._word

    @property
    def revision(self) -> int:
        """The revision that holds; 0 while no plan has been written."""
        return int(self._word[0])

    def read(self) -> tuple[int, bytes]:
        """The revision that holds and its plan's bytes; (0, b"") while there is none. Raises StartError on a damaged page."""
        damaged = 0
        for _ in range(_LOOKS):
            revision = self.revision
            if revision == 0:
                return 0, b""
            content = self._slot(revision & 1, revision)
            if self.revision != revision:
                continue  # the writer has lapped us: two more writes reuse the slot that was being read
            if content is not None:
                return revision, content
            older = self._slot((revision - 1) & 1, revision - 1)
            if older is not None:
                return revision - 1, older
            damaged += 1
            if damaged == _DAMAGED_LOOKS:
                raise StartError("the plan page is damaged: neither of its slots holds a whole plan")
        raise StartError("the plan page could not be read: it changed during every look")

    def previous(self) -> bytes | None:
        """The plan before the present one, while its slot still holds it."""
        revision = self.revision
        return self._slot((revision - 1) & 1, revision - 1) if revision > 1 else None

    def write(self, revision: int, content: bytes) -> None:
        """Make `content` the plan of `revision`, which must be the next one. Raises ValueError when it does not fit."""
        if revision <= self.revision:
            raise ValueError(f"revision {revision} is not after {self.revision}")
        if len(content) > SLOT_BYTES - _SLOT_HEAD.size:
            raise ValueError(f"the plan takes {len(content)} bytes; at most {SLOT_BYTES - _SLOT_HEAD.size} fit")
        start = _FIRST_SLOT + (revision & 1) * SLOT_BYTES
        body = start + _SLOT_HEAD.size
        self._map[body : body + len(content)] = content
        _SLOT_HEAD.pack_into(self._map, start, revision, len(content), zlib.crc32(content))
        self._word[0] = revision

    def flush(self) -> None:
        """Ask the kernel to put the page on the disk (it is safe from the end of any process without this)."""
        self._map.flush()

    def close(self) -> None:
        """Unmap the page."""
        self._word.release()
        self._map.close()

    def _slot(self, index: int, revision: int) -> bytes | None:
        start = _FIRST_SLOT + index * SLOT_BYTES
        held, length, crc = _SLOT_HEAD.unpack_from(self._map, start)
        if held != revision or length > SLOT_BYTES - _SLOT_HEAD.size:
            return None
        body = start + _SLOT_HEAD.size
        content = self._map[body : body + length]
        return content if zlib.crc32(content) == crc else None


def _create(path: Path) -> None:
    """An empty page, complete before it has its name."""
    fresh = path.with_name(path.name + ".new")
    fresh.write_bytes(MAGIC.ljust(PAGE_BYTES, b"\0"))
    fresh.chmod(0o600)
    fresh.replace(path)
