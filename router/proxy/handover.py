"""What the shadow is given of a finished exchange, gathered while it runs and offered to the tap as one frame.

Both sides are kept up to the bounds of `mirroring`; an answer that was longer is marked as cut. Answers that the router made in
a server's place (502, 503, 504) are handed over like any other: they are what the client of that arm saw.
"""

from __future__ import annotations

from time import time
from typing import TYPE_CHECKING

from router import counters as c
from shadow import frame

if TYPE_CHECKING:
    from router.proxy.exchange import Exchange


class Handover:
    """One exchange's: to be `mirrored`, or for the prediction log alone. Of the answer's body at most `room` bytes are kept."""

    __slots__ = ("_cut", "_head", "_mirrored", "_pieces", "_room")

    def __init__(self, mirrored: bool, room: int) -> None:
        self._mirrored = mirrored
        self._room = room
        self._head = b""
        self._pieces: list[bytes] = []
        self._cut = 0

    def answer(self, head: bytes, data: bytes) -> None:
        """The answer's head as the server sent it, and what of its body came along."""
        self._head = head
        self.more(data)

    def more(self, data: bytes) -> None:
        """More of the answer's body, framed as it came."""
        room = self._room
        if len(data) > room:
            self._cut = frame.RESPONSE_CUT
            data = data[:room]
        if data:  # a stream without end adds nothing to a list that is full
            self._room = room - len(data)
            self._pieces.append(data)

    def offer(self, exchange: Exchange, kept: list[bytes] | None, now: float) -> None:
        """One frame to the tap. `kept` is the request's body; one too long to keep makes a mirrored exchange count as lost."""
        gateway, target, routing, started = exchange.gateway, exchange.target, exchange.routing, exchange.started
        assert target is not None
        words, cell = gateway.words, routing.release_cell
        flags = self._cut | (frame.FELL_BACK if exchange.fell_back else 0) | (frame.RECALLED if exchange.recalled else 0)
        if not self._mirrored:
            flags |= frame.LOGGED_ONLY | (frame.REQUEST_CUT if kept is None else 0)
        elif words[cell] != routing.release:
            return  # four releases ago: its cell has been given to another
        else:
            words[cell + 1] += 1
        pieces = self._pieces
        if (self._mirrored and kept is None) or not gateway.tap.offer(
            frame.encode(
                target.index,
                flags,
                routing.release,
                routing.revision,
                time() - (now - started),
                (exchange.first_byte - started) * 1e3,
                (now - started) * 1e3,
                exchange.request_id,
                exchange.head.raw,
                kept[0] if kept and len(kept) == 1 else b"".join(kept or ()),
                self._head,
                pieces[0] if len(pieces) == 1 else b"".join(pieces),
            )
        ):
            words[cell + 2 if self._mirrored else c.UNLOGGED] += 1
