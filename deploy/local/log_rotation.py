"""Log files of supervised processes: private, and bounded by rotation."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

MAX_BYTES = 20 * 2**20
KEPT = 3


def open_log(path: Path) -> int:
    """Return a file descriptor that appends to a log which only its owner can read."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.fchmod(descriptor, 0o600)
    return descriptor


def rotate(path: Path, *, max_bytes: int = MAX_BYTES, kept: int = KEPT) -> bool:
    """Move a log that exceeds `max_bytes` to `<name>.1`, and older ones one further; True when it did.

    The process keeps its descriptor, so the content is copied and the file truncated: what is written in between is
    lost, a line at most. Raises OSError, for example when the disk is full.
    """
    if not path.exists() or path.stat().st_size <= max_bytes:
        return False
    for number in range(kept - 1, 0, -1):
        older = path.with_name(f"{path.name}.{number}")
        if older.exists():
            older.replace(path.with_name(f"{path.name}.{number + 1}"))
    first = path.with_name(f"{path.name}.1")
    try:
        with path.open("rb") as source, os.fdopen(open_log(first), "wb") as copy:
            shutil.copyfileobj(source, copy)
    finally:
        # A full disk needs the space more than the log.
        os.truncate(path, 0)
    return True
