"""Refusals as RFC 9457 problem documents, whoever refuses: the router's own rules, the framework's checks, or a bug.

Every answer of the control API that is not a success has this one shape, so that a client needs one reader for all of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from router.errors import RouterError, Unavailable

_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,200}")


class Json(Response):
    """A JSON answer. ASCII only, so that text which is no valid Unicode cannot break it; NaN is a bug and raises."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """The body."""
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()


class Problem(Json):
    """A problem document (RFC 9457). `type` is about:blank where the status says all, else it names the kind of refusal."""

    media_type = "application/problem+json"

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        title: str | None = None,
        request_id: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """`title` left out: the status's own phrase. `request_id` is repeated when it is fit to stand in a header."""
        kind = f"urn:bluegreen:problem:{title.lower().replace(' ', '-')}" if title else "about:blank"
        body = {"type": kind, "title": title or HTTPStatus(status).phrase, "status": status, "detail": detail}
        if request_id is not None and _REQUEST_ID.fullmatch(request_id):
            body["request_id"] = request_id
        super().__init__(body, status, headers=dict(headers) if headers else None)


def add_problem_handlers(app: FastAPI) -> None:
    """Have an app answer every error with a problem document."""
    app.add_exception_handler(RouterError, _router_error)
    app.add_exception_handler(RequestValidationError, _not_valid)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _bug)


def _router_error(request: Request, error: Exception) -> Problem:
    assert isinstance(error, RouterError)
    headers = {"retry-after": "1"} if isinstance(error, Unavailable) else None
    return Problem(error.status, str(error), title=error.title, request_id=_request_id(request), headers=headers)


def _http_error(request: Request, error: Exception) -> Problem:
    assert isinstance(error, HTTPException)
    detail = str(error.detail)
    if error.status_code == 404 and detail == HTTPStatus.NOT_FOUND.phrase:
        detail = f"there is no {request.url.path} here; the calls are listed at /docs"
    elif error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        detail = f"{request.url.path} does not take {request.method}" + (f", only {allowed}" if allowed else "")
    return Problem(error.status_code, detail, request_id=_request_id(request), headers=error.headers)


def _not_valid(request: Request, error: Exception) -> Problem:
    """What pydantic found in a request: the first fault, in words; 400 for what is not JSON, 415 for what does not say so."""
    assert isinstance(error, RequestValidationError)
    faults = error.errors()
    fault = faults[0]
    place = [str(part) for part in fault["loc"]]
    if place[:1] == ["body"]:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json" and not kind.endswith("+json") and fault["type"] != "missing":
            text = f"the body must be JSON with Content-Type: application/json, not {kind or 'none'}"
            return Problem(415, text, request_id=_request_id(request))
        if fault["type"] == "json_invalid":
            text = f"the body is not JSON: {fault['ctx']['error']}"
            return Problem(400, text, request_id=_request_id(request))
    where = ".".join(place[1:]) or {"body": "the body"}.get(place[0], place[0])
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    return Problem(422, f"{where}: {_words(fault)}{more}", title="Not a valid request", request_id=_request_id(request))


def _words(fault: Mapping[str, Any]) -> str:
    kind = fault["type"]
    if kind == "missing":
        return "is missing"
    if kind == "extra_forbidden":
        return "is not a field of this call"
    if kind == "value_error":
        return str(fault["ctx"]["error"])
    text = str(fault["msg"])
    return f"must {text.removeprefix('Input should ')}" if text.startswith("Input should ") else text


def _bug(request: Request, error: Exception) -> Problem:
    return Problem(500, "the control process failed on this request; its log says where", request_id=_request_id(request))


def _request_id(request: Request) -> str | None:
    return request.headers.get("x-request-id")
