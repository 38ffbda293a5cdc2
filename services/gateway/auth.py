"""API keys and roles: a viewer reads, an operator also submits and steers, an admin also sets policy."""

from __future__ import annotations

import hmac
import json
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from typing import Annotated

from fastapi import Depends, HTTPException, Request
from fastapi.security import APIKeyHeader

from shared.api_keys import digest
from shared.errors import SettingsError

_header = APIKeyHeader(name="X-API-Key", auto_error=False, description="the API key")


class Role(IntEnum):
    """Each role may do what the lower ones may."""

    viewer = 1
    operator = 2
    admin = 3


def load_keys(path: Path) -> dict[str, Role]:
    """Digests and roles. Raises SettingsError for a file that is missing or wrong."""
    try:
        entries = json.loads(path.read_text())
        return {str(d): Role[str(role)] for d, role in entries.items()}
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise SettingsError(
            f"AUTOPILOT_API_KEYS_FILE={path}: must be a JSON object of SHA-256 digest to viewer, operator or admin "
            f"({type(error).__name__})"
        ) from error


def require(least: Role) -> Callable[..., Role]:
    """A dependency that lets keys of at least this role pass."""

    def check(request: Request, key: Annotated[str | None, Depends(_header)]) -> Role:
        if key is None:
            raise HTTPException(401, "send an API key in the header X-API-Key")
        wanted = digest(key)
        keys: dict[str, Role] = request.app.state.keys
        role = next((r for d, r in keys.items() if hmac.compare_digest(d, wanted)), None)
        if role is None:
            raise HTTPException(401, "this API key is not known")
        if role < least:
            raise HTTPException(403, f"this needs the role {least.name}, the key has {role.name}")
        return role

    return check


Viewer = Depends(require(Role.viewer))
Operator = Depends(require(Role.operator))
Admin = Depends(require(Role.admin))
