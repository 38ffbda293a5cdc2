"""Folders above the data folder that others may traverse, for as long as the product runs.

As root, PostgreSQL runs as its own user, and so do services that join its group to reach its socket: otherwise neither
could reach a data folder below `/root`. The wheel makes all those folders listable by everybody; traversing them is
enough.
"""

from __future__ import annotations

import json
import logging
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger(__name__)

PASS, LIST = 0o011, 0o055


class TraversePermissions:
    """Changed modes are recorded first, so that they are restored even by the run after a crash."""

    def __init__(self, record: Path) -> None:
        self._record = record

    @contextmanager
    def opened(self, folder: Path) -> Iterator[None]:
        """Allow only traversal of the folders above `folder`, whatever changes their modes within this context."""
        if os.geteuid() != 0:
            yield
            return
        before = {above: _mode(above) for above in folder.parents}
        self._note({above: mode for above, mode in before.items() if mode | PASS != mode})
        changed: list[str] = []
        try:
            yield
        finally:
            for above, mode in before.items():
                if _mode(above) != mode:
                    above.chmod(mode | PASS)
                    changed += [str(above)] if mode | PASS != mode else []
            if changed:
                log.info("folder opened for traversal until the product stops", extra={"folders": changed})

    def close(self) -> None:
        """Restore the folders' previous modes, unless somebody else has changed them since."""
        for above, mode in self._noted().items():
            try:
                if _mode(above) in {mode | PASS, mode | LIST}:
                    above.chmod(mode)
            except OSError as error:
                log.warning("folder mode not restored", extra={"folder": str(above), "error": error.strerror})
        self._record.unlink(missing_ok=True)

    def _note(self, modes: dict[Path, int]) -> None:
        noted = self._noted()
        # What an earlier run recorded and did not restore was the original mode.
        wanted = modes | noted
        if wanted != noted:
            draft = self._record.with_suffix(".tmp")
            draft.write_text(json.dumps({str(above): f"{mode:o}" for above, mode in wanted.items()}))
            draft.replace(self._record)

    def _noted(self) -> dict[Path, int]:
        try:
            found = json.loads(self._record.read_text())
            return {Path(above): int(mode, 8) & 0o7777 for above, mode in found.items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
            log.warning("record of changed folder modes unreadable", extra={"error": type(error).__name__})
            return {}


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)
