"""The proxy that one writes first: FastAPI and httpx, a weighted choice, everything collected before it is passed on.

It is the lower end of the comparison: what the router would cost were it written in an afternoon. One client is kept open,
so connections to the upstreams are reused; nothing is limited, counted or retried.
"""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import blake2b

import httpx
import uvicorn
from fastapi import FastAPI, Request, Response

_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "host", "te", "trailer", "upgrade"}


def make_app(blue: str, green: str, green_percent: int) -> FastAPI:
    """The application: every path and method goes to one of the two base URLs."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with httpx.AsyncClient(timeout=30, limits=httpx.Limits(max_connections=None)) as client:
            app.state.client = client
            yield

    app = FastAPI(lifespan=lifespan)

    @app.api_route("/{path:path}", methods=["GET", "POST", "PUT", "DELETE", "PATCH"])
    async def forward(path: str, request: Request) -> Response:
        user = request.headers.get("x-user-id", "").encode()
        bucket = int.from_bytes(blake2b(user, digest_size=8).digest(), "big") % 100
        client: httpx.AsyncClient = request.app.state.client
        answer = await client.request(
            request.method,
            f"{green if bucket < green_percent else blue}/{path}",
            params=request.query_params,
            headers={name: value for name, value in request.headers.items() if name not in _HOP},
            content=await request.body(),
        )
        headers = {name: value for name, value in answer.headers.items() if name not in _HOP | {"content-encoding"}}
        return Response(answer.content, answer.status_code, headers)

    return app


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--blue", required=True)
    parser.add_argument("--green", required=True)
    parser.add_argument("--green-percent", type=int, default=10)
    arguments = parser.parse_args()
    application = make_app(arguments.blue, arguments.green, arguments.green_percent)
    uvicorn.run(application, host="127.0.0.1", port=arguments.port, log_level="error", access_log=False, loop="uvloop")
