"""A client's connection for the soak, which knows its own port (to tell whose worker it was on) and what of an answer had come."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from dataclasses import dataclass
from time import monotonic
from typing import Any

PATIENCE_S = 30.0  # an answer that takes longer is lost


class Cut(Exception):
    """The connection ended, or nothing came for too long, before the answer was whole."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer."""

    status: int
    fields: dict[str, str]
    body: bytes


class Wire:
    """One connection. `begun` holds the fields of an answer whose head has come but which is not whole yet."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, opened: float) -> None:
        self._reader = reader
        self._writer = writer
        self.opened = opened
        self.port: int = writer.get_extra_info("sockname")[1]
        self.begun: dict[str, str] | None = None

    @classmethod
    async def open(cls, port: int, *, receive_buffer: int = 0) -> Wire:
        """A new connection to 127.0.0.1. Raises Cut."""
        loop = asyncio.get_running_loop()
        sock = socket.socket()
        sock.setblocking(False)
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        opened = monotonic()
        try:
            await asyncio.wait_for(loop.sock_connect(sock, ("127.0.0.1", port)), PATIENCE_S)
            reader, writer = await asyncio.open_connection(sock=sock, limit=2**16)
        except OSError as error:
            sock.close()
            raise Cut(f"no connection: {error!r}") from None
        return cls(reader, writer, opened)

    async def send(self, data: bytes) -> None:
        """Send it. Raises Cut."""
        try:
            self._writer.write(data)
            await asyncio.wait_for(self._writer.drain(), PATIENCE_S)
        except (OSError, RuntimeError) as error:  # the latter is uvloop's word for a transport that is closed
            raise Cut(f"while sending: {error!r}") from None

    async def answer(self, *, piece: int = 2**16, pause: float = 0.0) -> Answer:
        """The next answer, read in pieces with pauses between them. Raises Cut."""
        self.begun = None
        try:
            async with asyncio.timeout(PATIENCE_S):
                head = await self._reader.readuntil(b"\r\n\r\n")
                lines = head.decode("latin-1").split("\r\n")
                status = int(lines[0].split(" ")[1])
                fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:-2])}
                self.begun = fields
                body = await self._body(fields, piece, pause)
        except (OSError, asyncio.IncompleteReadError) as error:
            raise Cut(f"{type(error).__name__}: {str(error)[:200]}") from None
        self.begun = None
        return Answer(status, fields, body)

    async def _body(self, fields: dict[str, str], piece: int, pause: float) -> bytes:
        if "transfer-encoding" in fields:
            pieces = []
            while size := int(await self._reader.readuntil(b"\r\n"), 16):
                pieces.append(await self._slowly(size, piece, pause))
                await self._reader.readexactly(2)
            await self._reader.readuntil(b"\r\n")
            return b"".join(pieces)
        return await self._slowly(int(fields.get("content-length", 0)), piece, pause)

    async def _slowly(self, size: int, piece: int, pause: float) -> bytes:
        pieces = []
        while size:
            pieces.append(await self._reader.readexactly(min(size, piece)))
            size -= len(pieces[-1])
            if pause and size:
                await asyncio.sleep(pause)
        return b"".join(pieces)

    async def reads(self, size: int) -> None:
        """Read so many bytes, whatever they are, or what there is before the end."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self._reader.readexactly(size)
        except (OSError, asyncio.IncompleteReadError):
            pass

    def closes(self) -> None:
        """Leave with FIN."""
        self._writer.close()

    def resets(self) -> None:
        """Vanish with RST."""
        sock = self._writer.get_extra_info("socket")
        if sock is not None and sock.fileno() >= 0:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()


async def call(port: int, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    """One call of the control API: status and JSON. Raises Cut."""
    text = b"" if body is None else json.dumps(body).encode()
    wire = await Wire.open(port)
    try:
        head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\nContent-Type: application/json\r\n"
        await wire.send(f"{head}Content-Length: {len(text)}\r\n\r\n".encode() + text)
        answer = await wire.answer()
    finally:
        wire.closes()
    return answer.status, json.loads(answer.body or b"null")
