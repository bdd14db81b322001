"""Every error is a sentence: what handlers say, and what the description of the API promises."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from damoyolo.app.limits import RefusedError
from damoyolo.app.metrics import Metrics
from damoyolo.app.schemas import Problem
from damoyolo.errors import UserError

CLIENT_GONE = 499
"""What nginx logs for a client that did not wait; nobody receives it."""
FAULTS = {
    400: "empty body, or a wrong length",
    401: "token missing or wrong",
    403: "asked by a name that is not served",
    408: "the body came too slowly",
    413: "too many bytes or pixels",
    415: "no image",
    422: "a damaged image, or a wrong option",
    500: "the network failed",
    503: "busy; try again after Retry-After seconds",
}


def faults(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For the description of a route."""
    return {status: {"model": Problem, "description": FAULTS[status]} for status in statuses}


def explain_errors(app: FastAPI, metrics: Metrics) -> None:
    """Every error is a `Problem`."""

    @app.exception_handler(RefusedError)
    async def refused(_: Request, error: RefusedError) -> JSONResponse:
        metrics.refused.labels(error.reason).inc()
        headers = {} if error.retry_after_s is None else {"retry-after": str(error.retry_after_s)}
        return JSONResponse({"error": str(error)}, error.status, headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        return JSONResponse({"error": _explain(error.errors()[0])}, 422)

    @app.exception_handler(HTTPException)
    async def other(request: Request, error: HTTPException) -> JSONResponse:
        text = f"{request.method} {request.url.path[:80]}: {error.detail}{_instead(error)}"
        return JSONResponse({"error": f"{text}; /docs tells what there is"}, error.status_code, error.headers)

    @app.exception_handler(ClientDisconnect)
    async def gone(_: Request, __: ClientDisconnect) -> Response:
        metrics.aborted.inc()
        return Response(status_code=CLIENT_GONE)

    @app.exception_handler(UserError)
    async def unusable(_: Request, error: UserError) -> JSONResponse:
        return JSONResponse({"error": str(error)}, 422)


def _instead(error: HTTPException) -> str:
    """What to send to an address that answers to another method."""
    methods = (error.headers or {}).get("Allow", "")
    if methods == "POST":
        return "; POST the bytes of an image file there, as curl --data-binary @FILE does"
    return f"; it answers to {methods}" if methods else ""


def _explain(mistake: dict[str, Any]) -> str:
    """A mistake in an option, with its name, value and remedy."""
    name = str(mistake["loc"][-1])
    reason = str(mistake["msg"]).replace("Input should be", "should be")
    return f"{name}: '{str(mistake.get('input'))[:80]}' {reason}; correct it or leave it out"
