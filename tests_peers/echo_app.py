"""The server behind the client tests: uvicorn with this ASGI application, which gives back what it got in several ways.

It also speaks as much of OpenAI's protocol as its client needs. Everything it answers follows from the request, so an answer
through the router can be compared with a direct one byte by byte.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import hashlib
import json
from collections.abc import AsyncIterator

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

BLOCK = hashlib.sha512(b"large").digest() * 1024  # 64 KiB


async def echo(request: Request) -> Response:
    """The body, whole."""
    return Response(await request.body(), media_type=request.headers.get("content-type", "application/octet-stream"))


async def stream_echo(scope: Scope, receive: Receive, send: Send) -> None:
    """The body, each piece as it comes: the answer begins before the request ends."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    more = True
    while more:
        message = await receive()
        more = message.get("more_body", False)
        await send({"type": "http.response.body", "body": message.get("body", b""), "more_body": more})


async def digest(request: Request) -> Response:
    """What arrived: its digest, its length, how it was framed."""
    state, size = hashlib.sha256(), 0
    async for piece in request.stream():
        state.update(piece)
        size += len(piece)
    framing = {name: request.headers.get(name) for name in ("content-length", "transfer-encoding", "content-encoding")}
    return JSONResponse({"sha256": state.hexdigest(), "size": size, **framing})


async def large(request: Request) -> Response:
    """`blocks` times 64 KiB, in chunks unless `length` is asked for."""
    blocks = int(request.query_params["blocks"])

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(blocks):
            yield BLOCK

    headers = {"content-length": str(blocks * len(BLOCK))} if "length" in request.query_params else {}
    return StreamingResponse(pieces(), headers=headers, media_type="application/octet-stream")


async def compressed(request: Request) -> Response:
    """JSON, gzipped for who accepts that."""
    text = json.dumps({"outputs": list(range(500))}).encode()
    if "gzip" not in request.headers.get("accept-encoding", ""):
        return Response(text, media_type="application/json")
    return Response(gzip.compress(text, mtime=0), headers={"content-encoding": "gzip"}, media_type="application/json")


async def events(request: Request) -> Response:
    """Server-sent events."""

    async def lines() -> AsyncIterator[bytes]:
        for number in range(int(request.query_params["count"])):
            yield b"data: %d\n\n" % number
            await asyncio.sleep(0.005)
        yield b"data: [DONE]\n\n"

    return StreamingResponse(lines(), media_type="text/event-stream")


async def nothing(_request: Request) -> Response:
    """204."""
    return Response(status_code=204)


async def chat(request: Request) -> Response:
    """A chat completion, plain or streamed, that says which model was asked for."""
    asked = await request.json()
    words = ["You", " said: ", asked["messages"][-1]["content"]]
    about = {"id": "chatcmpl-1", "created": 1, "model": asked["model"]}
    if not asked.get("stream"):
        message = {"role": "assistant", "content": "".join(words)}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 1, "completion_tokens": 3, "total_tokens": 4}
        return JSONResponse({**about, "object": "chat.completion", "choices": [choice], "usage": usage})

    async def pieces() -> AsyncIterator[bytes]:
        for word in words:
            chunk = {"choices": [{"index": 0, "delta": {"content": word}, "finish_reason": None}]}
            yield b"data: %s\n\n" % json.dumps({**about, "object": "chat.completion.chunk", **chunk}).encode()
        yield b"data: [DONE]\n\n"

    return StreamingResponse(pieces(), media_type="text/event-stream")


async def embeddings(request: Request) -> Response:
    """An embedding as a list of numbers."""
    asked = await request.json()
    texts = asked["input"] if isinstance(asked["input"], list) else [asked["input"]]
    data = [{"object": "embedding", "index": i, "embedding": [float(len(text)), 0.5, -1.0]} for i, text in enumerate(texts)]
    usage = {"prompt_tokens": 1, "total_tokens": 1}
    return JSONResponse({"object": "list", "model": asked["model"], "data": data, "usage": usage})


async def talk(socket: WebSocket) -> None:
    """Each message goes back as it came."""
    await socket.accept(subprotocol=(socket.scope.get("subprotocols") or [None])[0])
    try:
        while True:
            message = await socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            if message.get("text") == "close":
                await socket.close(4321, "as asked")
                return
            if message.get("bytes") is not None:
                await socket.send_bytes(message["bytes"])
            else:
                await socket.send_text(message["text"])
    except WebSocketDisconnect:
        pass


app = Starlette(
    routes=[
        Route("/echo", echo, methods=["POST", "PUT"]),
        Mount("/stream-echo", stream_echo),
        Route("/digest", digest, methods=["POST", "PUT"]),
        Route("/large", large),
        Route("/compressed", compressed),
        Route("/events", events),
        Route("/nothing", nothing),
        Route("/v1/chat/completions", chat, methods=["POST"]),
        Route("/v1/embeddings", embeddings, methods=["POST"]),
        WebSocketRoute("/ws", talk),
    ]
)

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    uvicorn.run(app, host="127.0.0.1", port=parser.parse_args().port, log_level="warning", ws_max_size=32 << 20)
