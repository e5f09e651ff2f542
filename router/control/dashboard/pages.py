"""Serves the dashboard: three files of this package, read once, that hold no data themselves.

The page asks the control API like any other client does. A strict Content-Security-Policy keeps everything else out, since
names of models and reasons in the history are other people's text.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from pathlib import Path

from fastapi import APIRouter, Response

_FOLDER = Path(__file__).parent
_HEADERS = {
    "cache-control": "no-cache",
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


def dashboard_routes() -> APIRouter:
    """`/` and the two files that it needs."""
    routes = APIRouter(include_in_schema=False)
    files = (
        ("/", "index.html", "text/html"),
        ("/dashboard/page.js", "page.js", "text/javascript"),
        ("/dashboard/style.css", "style.css", "text/css"),
    )
    for path, name, kind in files:
        routes.add_api_route(path, _serve((_FOLDER / name).read_bytes(), kind), methods=["GET", "HEAD"], name=name)
    return routes


def _serve(content: bytes, kind: str) -> Callable[[], Coroutine[None, None, Response]]:
    async def file() -> Response:
        return Response(content, media_type=kind, headers=_HEADERS)

    return file
