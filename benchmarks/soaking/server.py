"""A model server for the soak: every answer carries what its request asked, so that a client can tell a right one from a wrong one.

    python server.py --port P --colour blue --name blue-0

`x-soak-id` comes back in head and body, with a digest of the request's body as it arrived. `x-soak-answer: N` asks for N bytes
that follow from the id, `x-soak-chunked: 1` for chunked framing, `x-soak-hold: S` for an answer after S seconds. Green predicts
otherwise than blue for one request in fifty, so that the shadow has disagreements to keep.

Runs by itself (no import from the project): it is killed with SIGKILL and started again all the time.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json

import uvloop

PIECE = 32 * 1024


def digest(body: bytes) -> str:
    """What the server says of a body."""
    return hashlib.sha256(body).hexdigest()[:16]


def pattern(identity: str, size: int) -> bytes:
    """The bytes of a large answer."""
    block = hashlib.sha512(identity.encode()).digest()
    return (block * (size // len(block) + 1))[:size]


async def read_body(reader: asyncio.StreamReader, fields: dict[str, str]) -> bytes:
    """A request's body, by Content-Length or chunks."""
    if fields.get("transfer-encoding", "").lower() != "chunked":
        return await reader.readexactly(int(fields.get("content-length", 0)))
    pieces = []
    while size := int(await reader.readuntil(b"\r\n"), 16):
        pieces.append((await reader.readexactly(size + 2))[:-2])
    while await reader.readuntil(b"\r\n") != b"\r\n":
        pass
    return b"".join(pieces)


class Server:
    """One server of an arm."""

    def __init__(self, colour: str, name: str) -> None:
        self._colour = colour
        self._name = name

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, ValueError, asyncio.LimitOverrunError):
            while True:
                lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:-2])}
                body = await read_body(reader, fields)
                if hold := float(fields.get("x-soak-hold", 0)):
                    await asyncio.sleep(hold)
                await self._answer(writer, fields, body)
        writer.close()

    async def _answer(self, writer: asyncio.StreamWriter, fields: dict[str, str], body: bytes) -> None:
        identity = fields.get("x-soak-id", "")
        about = f"x-soak-id: {identity}\r\nx-soak-server: {self._name}\r\nx-soak-digest: {digest(body)}\r\n"
        if size := int(fields.get("x-soak-answer", 0)):
            content, kind = pattern(identity, size), "application/octet-stream"
        else:
            content, kind = json.dumps(self._prediction(identity, body)).encode(), "application/json"
        chunked = "x-soak-chunked" in fields
        framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(content)}"
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\n{about}{framing}\r\n\r\n".encode()
        if len(content) <= PIECE and not chunked:
            writer.write(head + content)
            return
        writer.write(head)
        for start in range(0, len(content), PIECE):
            piece = content[start : start + PIECE]
            writer.write(b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece)
            await writer.drain()
        if chunked:
            writer.write(b"0\r\n\r\n")

    def _prediction(self, identity: str, body: bytes) -> dict[str, object]:
        number = int(digest(body), 16)
        label = number % 10
        if self._colour == "green" and number % 50 == 0:
            label += 1
        output = {"name": "predict", "shape": [1], "datatype": "INT64", "data": [label]}
        return {"model_name": "soak", "id": identity, "colour": self._colour, "digest": digest(body), "outputs": [output]}


async def main(port: int, colour: str, name: str) -> None:
    """Serve until killed."""
    server = await asyncio.start_server(Server(colour, name).serve, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--colour", required=True)
    parser.add_argument("--name", required=True)
    given = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(given.port, given.colour, given.name))
