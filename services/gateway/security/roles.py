"""Roles: a viewer reads, an operator also submits and steers, an admin also sets policy.

The guard has already checked the key; here the route checks the role once more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from fastapi import Depends, HTTPException, Request
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer

from accelerator_autopilot.gateway.security.key_file import Caller, Role

_header = APIKeyHeader(name="X-API-Key", auto_error=False, description="the API key")
_bearer = HTTPBearer(auto_error=False, description="the same key, as OpenAI's clients send it")
NO_KEY = "send an API key in the header X-API-Key or as a bearer token"


class RoleCheck:
    """A dependency that admits keys of at least this role."""

    def __init__(self, least: Role) -> None:
        self.least = least

    def __call__(
        self,
        request: Request,
        _key: Annotated[str | None, Depends(_header)],
        _token: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
    ) -> Caller:
        """Return the caller that the guard identified. Raises HTTPException."""
        caller: Caller | None = getattr(request.state, "caller", None)
        if caller is None:
            raise HTTPException(401, NO_KEY)
        if caller.role < self.least:
            raise HTTPException(403, too_low(self.least, caller))
        return caller


def too_low(least: Role, caller: Caller) -> str:
    """Return the error message for a key of a lower role."""
    return f"this needs the role {least.name}, the key has {caller.role.name}"


def require(least: Role) -> Callable[..., Caller]:
    """Return the check of a role."""
    return RoleCheck(least)


Viewer = Depends(require(Role.viewer))
Operator = Depends(require(Role.operator))
Admin = Depends(require(Role.admin))
