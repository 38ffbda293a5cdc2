"""The file of API keys, reloaded when it changes."""

from __future__ import annotations

import hmac
import json
import logging
import re
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from accelerator_autopilot.contracts.errors import SettingsError
from accelerator_autopilot.contracts.projects import DEFAULT_PROJECT, check_project
from accelerator_autopilot.contracts.service_names import SERVICE_NAMES
from accelerator_autopilot.runtime.api_keys import digest

log = logging.getLogger(__name__)

_DIGEST = re.compile(r"[0-9a-f]{64}")
MAX_KEY_LENGTH = 500


class Role(IntEnum):
    """Each role includes the permissions of the lower ones."""

    viewer = 1
    operator = 2
    admin = 3


@dataclass(frozen=True)
class Caller:
    """The user of a key, and its role."""

    user: str
    role: Role
    project: str = DEFAULT_PROJECT


def load_keys(path: Path) -> dict[str, Caller]:
    """Return callers by the digests of their keys. Raises SettingsError for a missing or invalid file."""
    try:
        return {d: _caller(d, entry) for d, entry in json.loads(path.read_text()).items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise SettingsError(
            f"AUTOPILOT_API_KEYS_FILE={path}: must be a JSON object of SHA-256 digest to viewer, operator or admin, "
            f"or to an object with role, user and, for another than the default one, project "
            f"({type(error).__name__}: {error})"
        ) from error


def _caller(key_digest: str, entry: str | dict[str, str]) -> Caller:
    if not _DIGEST.fullmatch(key_digest):
        raise ValueError(f"{key_digest[:12]!r}… is not a SHA-256 in lower-case hexadecimal digits")
    if not isinstance(entry, dict):
        return Caller(f"key-{key_digest[:8]}", Role[str(entry)])
    user = str(entry["user"])
    if not 1 <= len(user.encode()) <= 100 or not user.isprintable() or user in SERVICE_NAMES:
        raise ValueError(f"user {user[:100]!r} must have 1 to 100 printable bytes and must not be a service's name")
    return Caller(user, Role[entry["role"]], check_project(str(entry.get("project", DEFAULT_PROJECT))))


class KeyRing:
    """The currently valid keys. Raises SettingsError when there are none at first."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp = self._look()
        self._callers = load_keys(path)
        self.problem = ""

    def find(self, key: str) -> Caller | None:
        """Return the caller with this key; None for an unknown one."""
        if not 0 < len(key) <= MAX_KEY_LENGTH:
            return None
        wanted = digest(key)
        # Every digest is compared, so that timing reveals nothing.
        found = [caller for known, caller in self._callers.items() if hmac.compare_digest(known, wanted)]
        return found[0] if found else None

    def refresh(self) -> None:
        """Reload the file if it changed; an unreadable one leaves the previous keys and a `problem`."""
        stamp = self._look()
        if stamp == self._stamp and not self.problem:
            return
        try:
            self._callers = load_keys(self._path)
        except SettingsError as error:
            if self.problem != str(error):
                log.exception("API keys not reloaded; the previous ones stay valid")
            self.problem = str(error)
        else:
            log.info("API keys loaded", extra={"keys": len(self._callers)})
            self._stamp, self.problem = stamp, ""

    def _look(self) -> tuple[int, int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino
