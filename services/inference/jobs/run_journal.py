"""A small file that a worker and its pool both have open: what runs now, told also when the worker cannot speak."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import IO

from pydantic import BaseModel, ValidationError

MOST_BYTES = 1 << 20


class RunningJob(BaseModel):
    """A job that runs. `alone` says that it is one that runs in no batch with others."""

    id: str
    alone: bool = False


class JournalEntry(BaseModel):
    """What a worker does: the jobs that run, whether a model loads, the kinds whose failures made it end."""

    jobs: list[RunningJob] = []
    loading: bool = False
    failing_kinds: list[str] = []


class RunJournal:
    """The worker's side. Without a file it writes nothing."""

    def __init__(self, fd: int | None) -> None:
        self._fd, self._lock, self._entry = fd, threading.Lock(), JournalEntry()

    def running(self, jobs: Sequence[RunningJob]) -> None:
        """These run now."""
        self._write(jobs=list(jobs))

    def loading(self, on: bool) -> None:  # noqa: FBT001  a hook of one flag
        """A model begins or ends to load, which may keep the whole process from speaking."""
        self._write(loading=on)

    def failing(self, kinds: Sequence[str]) -> None:
        """Jobs of these kinds fail one after another."""
        self._write(failing_kinds=list(kinds))

    def _write(self, **changed: object) -> None:
        with self._lock:
            self._entry = self._entry.model_copy(update=changed)
            if self._fd is None:
                return
            # A reader takes what stands before the first line's end: nothing of a longer entry of before. Where it
            # cannot be written (a full disk), the pool goes by what the worker said last; no job is held up for it.
            with suppress(OSError):
                os.pwrite(self._fd, self._entry.model_dump_json().encode() + b"\n", 0)


def open_journal() -> IO[bytes]:
    """The pool's side: a file without a name, for a worker to inherit; in memory where there is such a thing."""
    if hasattr(os, "memfd_create"):
        file: IO[bytes] = os.fdopen(os.memfd_create("autopilot-journal"), "w+b")
    else:
        file = tempfile.TemporaryFile(prefix="autopilot-journal-")  # noqa: SIM115  open for as long as the worker lives
    os.set_inheritable(file.fileno(), True)
    return file


def read_journal(file: IO[bytes]) -> JournalEntry | None:
    """What the worker last wrote; None when that is nothing, or half written."""
    line, end, _ = os.pread(file.fileno(), MOST_BYTES, 0).partition(b"\n")
    if not end:
        return None
    try:
        return JournalEntry.model_validate_json(line)
    except ValidationError:
        return None
