"""Return every error as problem details (RFC 9457)."""

from __future__ import annotations

import json
import math
import reprlib
from http import HTTPStatus
from typing import Any

import nats.errors
import nats.js.errors
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from accelerator_autopilot.contracts.errors import (
    AutopilotError,
    BusyError,
    ConflictError,
    InvalidInputError,
    JobFailedError,
    NotFoundError,
    UnavailableError,
)

# The first match applies. What NATS does not answer in time may succeed later.
_STATUS: dict[type[Exception], int] = {
    BusyError: 429,
    JobFailedError: 422,
    InvalidInputError: 422,
    NotFoundError: 404,
    ConflictError: 409,
    UnavailableError: 503,
    nats.js.errors.NotFoundError: 404,
    nats.js.errors.InvalidKeyError: 404,
    nats.errors.MaxPayloadError: 413,
    nats.errors.Error: 503,
    TimeoutError: 503,
    ConnectionError: 503,
}
RETRY_AFTER_S = 2.0
MAX_ERRORS = 20


def status_of(error: Exception) -> int:
    """Return the HTTP status of an error; 500 for an unexpected one."""
    return next((status for kind, status in _STATUS.items() if isinstance(error, kind)), 500)


def detail_of(error: Exception) -> str:
    """Return the detail to show of an error: our own messages, but only the type of NATS errors."""
    if isinstance(error, AutopilotError):
        return str(error)
    return f"NATS request failed: {type(error).__name__}; try again" if status_of(error) == 503 else str(error)


def retry_after(error: Exception, response: Response) -> Response:
    """Add Retry-After to the response where a retry helps."""
    if isinstance(error, BusyError):
        response.headers["Retry-After"] = str(math.ceil(error.retry_after_s))
    elif response.status_code == 503:
        response.headers["Retry-After"] = str(math.ceil(RETRY_AFTER_S))
    return response


def problem(status: int, detail: str, **more: Any) -> Response:
    """Return one problem."""
    body = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail} | more
    response = Response(json.dumps(body).encode(), status, media_type="application/problem+json")
    if status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def install(app: FastAPI) -> None:
    """Make the app return every error this way."""

    async def on_known(_: Request, error: Exception) -> Response:
        status = status_of(error)
        more: dict[str, Any] = {}
        if isinstance(error, BusyError):
            more = {"retry_after_s": error.retry_after_s}
        elif isinstance(error, InvalidInputError):
            more = {"errors": [{"field": error.field, "rule": error.rule}]}
        return retry_after(error, problem(status, detail_of(error), **more))

    async def on_invalid(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)  # noqa: S101  registered for it
        errors = [
            {"field": ".".join(str(p) for p in e["loc"])[:200], "rule": e["msg"], "value": _shown(e.get("input"))}
            for e in error.errors()[:MAX_ERRORS]
        ]
        return problem(422, "; ".join(f"{e['field']}: {e['rule']}" for e in errors), errors=errors)

    async def on_http(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101  registered for it
        response = problem(error.status_code, str(error.detail))
        response.headers.update(error.headers or {})
        return response

    for kind in (AutopilotError, nats.errors.Error, TimeoutError, ConnectionError):
        app.add_exception_handler(kind, on_known)
    app.add_exception_handler(RequestValidationError, on_invalid)
    app.add_exception_handler(HTTPException, on_http)


def _shown(value: Any) -> str:
    """Shorten a value: echoing all of a large one would cost more than the request."""
    return repr(value[:200])[:200] if isinstance(value, str | bytes) else reprlib.repr(value)[:200]
