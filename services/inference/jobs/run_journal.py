"""A small file shared by a worker and its pool: what runs now, readable even while the worker hangs."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import IO

from pydantic import BaseModel, ValidationError

MAX_BYTES = 1 << 20


class RunningJob(BaseModel):
    """A job that runs. `alone` means that it is not in a batch with others."""

    id: str
    alone: bool = False


class JournalEntry(BaseModel):
    """What a worker does: its running jobs, whether a model loads, the kinds whose failures made it exit."""

    jobs: list[RunningJob] = []
    loading: bool = False
    failing_kinds: list[str] = []


class RunJournal:
    """The worker's side. Without a file, nothing is written."""

    def __init__(self, fd: int | None) -> None:
        self._fd, self._lock, self._entry = fd, threading.Lock(), JournalEntry()

    def running(self, jobs: Sequence[RunningJob]) -> None:
        """Mark these jobs as running within the context."""
        self._write(jobs=list(jobs))

    def loading(self, on: bool) -> None:  # noqa: FBT001  a hook of one flag
        """Mark the start or end of loading a model, which may block the whole process."""
        self._write(loading=on)

    def failing(self, kinds: Sequence[str]) -> None:
        """Record that jobs of these kinds fail one after another."""
        self._write(failing_kinds=list(kinds))

    def _write(self, **changed: object) -> None:
        with self._lock:
            self._entry = self._entry.model_copy(update=changed)
            if self._fd is None:
                return
            # A reader takes only the first line, so nothing of a longer earlier entry. When the file cannot
            # be written (a full disk), the pool relies on the worker's last status; no job is delayed for
            # it.
            with suppress(OSError):
                os.pwrite(self._fd, self._entry.model_dump_json().encode() + b"\n", 0)


def open_journal() -> IO[bytes]:
    """The pool's side: an unnamed file for a worker to inherit; in memory where supported."""
    if hasattr(os, "memfd_create"):
        file: IO[bytes] = os.fdopen(os.memfd_create("autopilot-journal"), "w+b")
    else:
        file = tempfile.TemporaryFile(prefix="autopilot-journal-")  # noqa: SIM115  open for as long as the worker lives
    os.set_inheritable(file.fileno(), True)
    return file


def read_journal(file: IO[bytes]) -> JournalEntry | None:
    """Return what the worker last wrote; None when there is nothing, or a partial write."""
    line, end, _ = os.pread(file.fileno(), MAX_BYTES, 0).partition(b"\n")
    if not end:
        return None
    try:
        return JournalEntry.model_validate_json(line)
    except ValidationError:
        return None
