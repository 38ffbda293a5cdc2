"""The newest commands that were applied to this node's devices, kept on disk across crashes."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from accelerator_autopilot.runtime.command_fence import CarriedOut

log = logging.getLogger(__name__)

_NEWEST = TypeAdapter(dict[str, CarriedOut])


class CommandFile:
    """A JSON object, replaced atomically and synced; an unreadable file counts as missing."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def load(self) -> dict[str, CarriedOut]:
        """Return the stored commands, by kind of command and target."""
        try:
            return _NEWEST.validate_json(await asyncio.to_thread(self._path.read_bytes))
        except FileNotFoundError:
            return {}
        except (OSError, ValidationError, RecursionError) as error:
            log.warning("newest commands unreadable", extra={"file": str(self._path), "error": type(error).__name__})
            return {}

    async def save(self, newest: dict[str, CarriedOut]) -> None:
        """Replace the stored commands. Raises OSError."""
        await asyncio.to_thread(self._replace, _NEWEST.dump_json(newest))

    def _replace(self, content: bytes) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        draft = self._path.with_suffix(".tmp")
        with draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self._path)
