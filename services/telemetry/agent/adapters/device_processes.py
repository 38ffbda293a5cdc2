"""Describe the processes on a device: name, user and container, where this node permits."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import psutil

from accelerator_autopilot.contracts.messages.telemetry import ProcessInfo

# Docker, containerd and CRI-O all include the container's 64 hexadecimal digits in its cgroup's name.
_CONTAINER = re.compile(r"([0-9a-f]{64})")
UNKNOWN_START = datetime.fromtimestamp(0, UTC)


def describe_process(pid: int, memory_bytes: int | None, proc: Path = Path("/proc")) -> ProcessInfo:
    """Describe a process; from another pid namespace only its number is known."""
    try:
        process = psutil.Process(pid)
        name, user = _text(process.name()), _text(process.username())
        started = datetime.fromtimestamp(process.create_time(), UTC)
    except (psutil.Error, KeyError, ValueError, OverflowError, OSError):
        return ProcessInfo(pid=pid, started_at=UNKNOWN_START, memory_bytes=memory_bytes)
    return ProcessInfo(
        pid=pid,
        started_at=started,
        name=name,
        username=user,
        container=container_of(pid, proc),
        memory_bytes=memory_bytes,
    )


def _text(name: str) -> str:
    """Make a process name valid UTF-8: a process may set its name to arbitrary bytes."""
    return name.encode(errors="replace").decode()


def container_of(pid: int, proc: Path) -> str:
    """Return the container's short id, from the process's control groups."""
    try:
        groups = (proc / str(pid) / "cgroup").read_text(errors="replace")
    except OSError:
        return ""
    found = _CONTAINER.search(groups)
    return found[1][:12] if found else ""
