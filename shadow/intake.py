"""The shadow's end of the tap: listens on the Unix socket, cuts what workers send into frames, hands them on.

It never answers and never makes a worker wait: what is read is mirrored or let go at once, and when there is more than can be
mirrored, let go before it is decoded (`refuses`), which takes a hundredth of the time. A connection whose bytes are not
frames is closed; the worker opens a new one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import cast

from shadow.frame import Frame, FrameError, FrameReader, Refusal

_log = logging.getLogger("intake")


class Intake(asyncio.Protocol):
    """One worker's connection."""

    __slots__ = ("_reader", "_refuses", "_take", "_transport")

    def __init__(self, take: Callable[[Frame], None], refuses: Refusal | None = None) -> None:
        self._reader = FrameReader()
        self._take = take
        self._refuses = refuses
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A worker has connected."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Frames, in pieces of any size."""
        try:
            for frame in self._reader.feed(data, self._refuses):
                self._take(frame)
        except FrameError as error:
            _log.error("a worker's tap is closed: %s", error)
            if self._transport is not None:
                self._transport.abort()
