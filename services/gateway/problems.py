"""Every error as problem details (RFC 9457)."""

from __future__ import annotations

import math
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from shared.errors import (
    AutopilotError,
    BusyError,
    ConflictError,
    InvalidInputError,
    JobFailedError,
    NotFoundError,
    UnavailableError,
)

# The first that fits.
_STATUS: dict[type[AutopilotError], int] = {
    BusyError: 429,
    JobFailedError: 422,
    InvalidInputError: 422,
    NotFoundError: 404,
    ConflictError: 409,
    UnavailableError: 503,
}


def status_of(error: Exception) -> int:
    """The HTTP status of an error of ours."""
    return next((status for kind, status in _STATUS.items() if isinstance(error, kind)), 500)


def problem(status: int, detail: str, **more: Any) -> JSONResponse:
    """One problem."""
    title = HTTPStatus(status).phrase
    return JSONResponse(
        {"type": "about:blank", "title": title, "status": status, "detail": detail} | more,
        status_code=status,
        media_type="application/problem+json",
    )


def install(app: FastAPI) -> None:
    """Have the app answer every error this way."""

    async def on_own(_: Request, error: Exception) -> JSONResponse:
        status = status_of(error)
        if isinstance(error, BusyError):
            response = problem(status, str(error), retry_after_s=error.retry_after_s)
            response.headers["Retry-After"] = str(math.ceil(error.retry_after_s))
            return response
        if isinstance(error, InvalidInputError):
            return problem(status, str(error), errors=[{"field": error.field, "rule": error.rule}])
        return problem(status, str(error))

    async def on_invalid(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)  # noqa: S101  registered for it
        errors = [
            {
                "field": ".".join(str(p) for p in e["loc"]),
                "rule": e["msg"],
                "value": repr(e.get("input"))[:200],
            }
            for e in error.errors()
        ]
        return problem(422, "; ".join(f"{e['field']}: {e['rule']}" for e in errors), errors=errors)

    async def on_http(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)  # noqa: S101  registered for it
        return problem(error.status_code, str(error.detail))

    app.add_exception_handler(AutopilotError, on_own)
    app.add_exception_handler(RequestValidationError, on_invalid)
    app.add_exception_handler(HTTPException, on_http)
