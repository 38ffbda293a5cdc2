"""Enforce the limits of a sandboxed program: its time, memory, number of processes and output."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

POLL_S = 0.05
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
End = Literal["exit", "time", "cancelled", "memory", "processes"]


@dataclass(frozen=True)
class Finished:
    """How a program ended: by itself (`exit`), or killed for the reason in `end`.

    `truncated` means that it wrote more than is kept in `output`.
    """

    code: int
    output: str
    end: End = "exit"
    truncated: bool = False

    @property
    def timed_out(self) -> bool:
        """Whether it was killed because it exceeded its time limit."""
        return self.end == "time"


@dataclass(frozen=True)
class Limits:
    """What all processes of one program may use together."""

    time_s: float
    memory_bytes: int
    processes: int
    output_bytes: int


def watch(process: subprocess.Popen[bytes], given: bytes, limits: Limits, cancelled: Callable[[], bool]) -> Finished:
    """Feed a program, wait for it, and kill all of its processes when it exceeds a limit."""
    kept, total = bytearray(), 0

    def read() -> None:
        nonlocal total
        assert process.stdout is not None  # noqa: S101  piped
        with process.stdout as pipe:
            while chunk := pipe.read1(65_536):  # type: ignore[attr-defined]
                total += len(chunk)
                kept.extend(chunk[: limits.output_bytes - len(kept)])

    def write() -> None:
        assert process.stdin is not None  # noqa: S101  piped
        with suppress(OSError), process.stdin as pipe:
            pipe.write(given)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    threading.Thread(target=write, daemon=True).start()
    end, until = _wait(process, limits, cancelled), time.monotonic() + 5.0
    reader.join(timeout=max(0.0, until - time.monotonic()))
    return Finished(process.returncode, kept.decode(errors="replace"), end, truncated=total > len(kept))


def _wait(process: subprocess.Popen[bytes], limits: Limits, cancelled: Callable[[], bool]) -> End:
    until = time.monotonic() + limits.time_s
    while True:
        try:
            process.wait(POLL_S)
        except subprocess.TimeoutExpired:
            end = _excess(process.pid, limits) or ("cancelled" if cancelled() else None)
            if end is None and time.monotonic() < until:
                continue
            # The sandbox's first process dies with bubblewrap, and the kernel then kills all the others.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return end or "time"
        return "exit"


def _excess(root: int, limits: Limits) -> End | None:
    pids = descendants(root)
    if len(pids) > 2 * limits.processes:
        return "processes"
    # Shared memory is counted once for each process, so the exact figure is only worth its cost now.
    if sum(map(_resident_bytes, pids)) > limits.memory_bytes and sum(map(_own_bytes, pids)) > limits.memory_bytes:
        return "memory"
    return None


def descendants(root: int) -> list[int]:
    """Return the current descendants of this process."""
    found: list[int] = []
    waiting = [root]
    while waiting:
        for task in _tasks(waiting.pop()):
            with suppress(OSError, ValueError):
                children = [int(pid) for pid in (task / "children").read_text().split()]
                found += children
                waiting += children
    return found


def _tasks(pid: int) -> list[Path]:
    try:
        return list(Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return []


def _resident_bytes(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES
    except (OSError, ValueError, IndexError):
        return 0


def _own_bytes(pid: int) -> int:
    """Return its proportional share of resident memory; all of it where the kernel does not report the share."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return _resident_bytes(pid)
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
