"""Temporary folders of jobs: deleted with their batch, or after their worker died."""

from __future__ import annotations

import os
import shutil
import tempfile
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Self

PREFIX = "autopilot-job-"


class ScratchFolders:
    """A private folder, created on first use and deleted at the end."""

    def __init__(self, parent: Path | None) -> None:
        self._parent = parent

    @cached_property
    def folder(self) -> Path:
        """The folder."""
        return Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=self._parent))

    def __enter__(self) -> Self:
        """Create nothing yet."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Delete the folder, if there is one."""
        if "folder" in self.__dict__:
            shutil.rmtree(self.folder, ignore_errors=True)


def sweep_scratch(parent: Path | None) -> int:
    """Delete the folders of workers that no longer exist; returns how many."""
    deleted = 0
    for folder in Path(parent or tempfile.gettempdir()).glob(f"{PREFIX}*"):
        pid = folder.name.removeprefix(PREFIX).split("-")[0]
        if pid.isdigit() and not _alive(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)
            deleted += 1
    return deleted


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
