"""API keys and roles: a viewer reads, an operator also submits and steers, an admin also sets policy."""

from __future__ import annotations

import hmac
import json
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Annotated

from fastapi import Depends, HTTPException, Request
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer

from shared.api_keys import digest
from shared.errors import SettingsError

_header = APIKeyHeader(name="X-API-Key", auto_error=False, description="the API key")
_bearer = HTTPBearer(auto_error=False, description="the same key, as OpenAI's clients send it")


class Role(IntEnum):
    """Each role may do what the lower ones may."""

    viewer = 1
    operator = 2
    admin = 3


@dataclass(frozen=True)
class Caller:
    """Whose key it is, and what it may do."""

    user: str
    role: Role


def load_keys(path: Path) -> dict[str, Caller]:
    """Callers by their keys' digests. Raises SettingsError for a file that is missing or wrong."""
    try:
        return {str(digest): _caller(digest, entry) for digest, entry in json.loads(path.read_text()).items()}
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise SettingsError(
            f"AUTOPILOT_API_KEYS_FILE={path}: must be a JSON object of SHA-256 digest to viewer, operator or admin, "
            f"or to an object with role and user "
            f"({type(error).__name__})"
        ) from error


def _caller(digest: str, entry: str | dict[str, str]) -> Caller:
    if isinstance(entry, dict):
        return Caller(str(entry["user"]), Role[entry["role"]])
    return Caller(f"key-{digest[:8]}", Role[str(entry)])


def require(least: Role) -> Callable[..., Caller]:
    """A dependency that lets keys of at least this role pass."""

    def check(
        request: Request,
        key: Annotated[str | None, Depends(_header)],
        bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
    ) -> Caller:
        given = key or (bearer.credentials if bearer else None)
        if given is None:
            raise HTTPException(401, "send an API key in the header X-API-Key or as a bearer token")
        wanted = digest(given)
        keys: dict[str, Caller] = request.app.state.keys
        caller = next((c for d, c in keys.items() if hmac.compare_digest(d, wanted)), None)
        if caller is None:
            raise HTTPException(401, "this API key is not known")
        if caller.role < least:
            raise HTTPException(403, f"this needs the role {least.name}, the key has {caller.role.name}")
        return caller

    return check


Viewer = Depends(require(Role.viewer))
Operator = Depends(require(Role.operator))
Admin = Depends(require(Role.admin))
