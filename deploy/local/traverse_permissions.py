"""Folders above the data folder that are opened for passing through, for as long as the product runs.

As root, PostgreSQL is a user of its own, and so are services that join its group to reach its socket: neither comes to
a data folder below `/root` otherwise. The wheel lets everybody list all those folders; passing through is enough.
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
    """What was opened is written down before, so that it is closed again also by the run after a crash."""

    def __init__(self, record: Path) -> None:
        self._record = record

    @contextmanager
    def opened(self, folder: Path) -> Iterator[None]:
        """Whatever is done to the folders above `folder` meanwhile, others may only pass through them afterwards."""
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
                log.info("opened for passing through until the product is stopped", extra={"folders": changed})

    def close(self) -> None:
        """Give the folders the modes that they had, where nobody else has changed them since."""
        for above, mode in self._noted().items():
            try:
                if _mode(above) in {mode | PASS, mode | LIST}:
                    above.chmod(mode)
            except OSError as error:
                log.warning("folder not closed again", extra={"folder": str(above), "error": error.strerror})
        self._record.unlink(missing_ok=True)

    def _note(self, modes: dict[Path, int]) -> None:
        noted = self._noted()
        # What the run before noted and did not come to close was the mode before.
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
            log.warning("record of opened folders unreadable", extra={"error": type(error).__name__})
            return {}


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)
