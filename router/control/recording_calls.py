"""`/v1/recordings`: begin a recording of exchanges, fetch it as it grows, end it.

The shadow writes it (router/recordings.py); what it does not get (because nothing is mirrored and traffic is not split) is not
recorded. A client fetches from where it stopped; nothing is kept once it has ended the recording.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict

from fastapi import APIRouter, Query, Response
from pydantic import Field

from router import recordings
from router.control.bodies import Body
from router.control.problems import Json
from router.recordings import MAX_EXCHANGES, MAX_SECONDS
from router.state import StateDir


class RecordingBody(Body):
    """`POST /v1/recordings`: how many exchanges at most, and for how long."""

    exchanges: int = Field(1000, strict=True, ge=1, le=MAX_EXCHANGES)
    seconds: float = Field(60.0, strict=True, gt=0, le=MAX_SECONDS)


def recording_routes(state: StateDir, now: Callable[[], float] = time.time) -> APIRouter:
    """The four calls."""
    routes = APIRouter(tags=["recordings"])

    @routes.post("/v1/recordings")
    def begin(body: RecordingBody) -> Json:
        """Begin to record exchanges as they come to the shadow. One recording at a time (409)."""
        return Json(asdict(recordings.begin(state, body.exchanges, body.seconds, now())))

    @routes.get("/v1/recordings/{number}")
    def progress(number: str) -> Json:
        """How far it is: `exchanges`, `bytes`, what was `skipped` and why, and once it is over why it `ended`."""
        return Json(asdict(recordings.progress(state, number)))

    @routes.get("/v1/recordings/{number}/lines")
    def lines(number: str, start: int = Query(0, ge=0, lt=2**62, description="From this byte on.")) -> Response:
        """The next lines, up to 4 MiB; the last one may be cut, and goes on in the next piece."""
        return Response(recordings.piece(state, number, start), media_type="application/x-ndjson")

    @routes.delete("/v1/recordings/{number}")
    def end(number: str) -> Json:
        """End it and remove what it wrote."""
        return Json(asdict(recordings.end(state, number)))

    return routes
