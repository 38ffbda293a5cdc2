"""Which devices we capped, kept on disk so that a crash cannot leave a cap behind."""

from __future__ import annotations

import json
import logging
from pathlib import Path

log = logging.getLogger(__name__)


class CapFile:
    """A JSON list of devices. A file that cannot be read is set aside, never taken for empty."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> set[str]:
        """Devices that were capped when the last process ended."""
        try:
            names = json.loads(self._path.read_text())
        except FileNotFoundError:
            return set()
        except (OSError, ValueError) as error:
            aside = self._path.with_suffix(".unreadable")
            log.critical("cap file unreadable, check caps by hand", extra={"kept_as": str(aside), "error": str(error)})
            self._path.replace(aside)
            return set()
        return {str(name) for name in names} if isinstance(names, list) else set()

    def save(self, devices: set[str]) -> None:
        """Replace the file at once, so that it is never half written."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        draft = self._path.with_suffix(".tmp")
        draft.write_text(json.dumps(sorted(devices)))
        draft.replace(self._path)
