"""The tap: finished exchanges leave the worker here, for the shadow, and are forgotten.

A bounded Unix stream socket. Frames are gathered for a few milliseconds and written in one piece; when what waits in the
socket's buffer is over the bound, or nobody listens, the frame is dropped and counted. So whatever the shadow does (hang,
crash, fall behind), a worker never waits for it and never holds more than the bound.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any, Final, cast

from models.tasks import spawn

GATHER_SECONDS: Final = 0.004
RETRY_SECONDS: Final = 0.25
_PIECE: Final = 256 * 1024  # gathered bytes that leave at once


class Tap:
    """The worker's end, an asyncio protocol. `offer` takes one frame, or says that it was dropped."""

    __slots__ = ("_bound", "_connecting", "_frames", "_loop", "_path", "_retry_at", "_size", "_timer", "_transport")

    def __init__(self, path: Path, bound: int, loop: asyncio.AbstractEventLoop) -> None:
        self._path = path
        self._bound = bound
        self._loop = loop
        self._transport: asyncio.WriteTransport | None = None
        self._frames: list[bytes] = []
        self._size = 0
        self._timer: asyncio.TimerHandle | None = None
        self._retry_at = 0.0
        self._connecting = False

    def offer(self, frame: bytes) -> bool:
        """Hand over a frame; False when it was dropped. Never blocks."""
        transport = self._transport
        if transport is None or self._size + transport.get_write_buffer_size() + len(frame) > self._bound:
            return False
        self._frames.append(frame)
        self._size += len(frame)
        if self._timer is None:
            self._timer = self._loop.call_later(GATHER_SECONDS, self.flush)
        elif self._size > _PIECE:
            self._timer.cancel()
            self.flush()
        return True

    def flush(self) -> None:
        """Write what was gathered."""
        self._timer = None
        frames, self._frames, self._size = self._frames, [], 0
        if self._transport is not None and frames:
            self._transport.write(b"".join(frames))

    def keep_connected(self, now: float) -> None:
        """Called by the sweep: tries again now and then while nobody listens."""
        if self._transport is None and not self._connecting and now >= self._retry_at:
            self._connecting = True
            self._retry_at = now + RETRY_SECONDS
            spawn(self._connect(), "tap connection")

    def close(self) -> None:
        """Write what is left and close."""
        self.flush()
        if self._transport is not None:
            self._transport.close()

    async def _connect(self) -> None:
        with short_path(self._path) as name:
            try:
                async with asyncio.timeout(1.0):
                    await self._loop.create_unix_connection(cast(Any, lambda: self), name)
            except OSError:
                return
            finally:
                self._connecting = False

    # --- asyncio's side ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The shadow listens."""
        self._transport = cast(asyncio.WriteTransport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """The shadow went away; what it had not read is lost with it, and it reckons that loss when it comes back."""
        self._transport = None

    def data_received(self, data: bytes) -> None:
        """The shadow never says anything."""

    def pause_writing(self) -> None:
        """The bound in `offer` is what counts."""

    def resume_writing(self) -> None:
        """See `pause_writing`."""


class short_path:  # noqa: N801  used like a function: `with short_path(p) as name`
    """A name for a Unix socket that always fits into the 107 bytes of `sun_path`, however deep its folder lies.

    Linux resolves `/proc/self/fd/N/name` relative to an open folder.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._folder = -1

    def __enter__(self) -> str:
        if len(os.fsencode(self._path)) <= 107:
            return str(self._path)
        try:
            self._folder = os.open(self._path.parent, os.O_PATH | os.O_DIRECTORY)
        except OSError:
            return str(self._path)
        return f"/proc/self/fd/{self._folder}/{self._path.name}"

    def __exit__(self, *_: object) -> None:
        if self._folder >= 0:
            os.close(self._folder)
