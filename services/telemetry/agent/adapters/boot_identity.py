"""Which boot this is and which load of a driver, so that a reset can be told from a restart of the agent."""

from __future__ import annotations

from pathlib import Path

from accelerator_autopilot.telemetry.agent.adapters.sysfs import read_text

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
MODULES = Path("/sys/module")


def boot_id(path: Path = BOOT_ID) -> str:
    """The kernel's id of this boot; empty where it tells none."""
    return (read_text(path) or "")[:200]


def driver_epoch(module: str, boot: str | None = None, modules: Path = MODULES) -> str:
    """One load of a kernel module; empty where that cannot be told.

    sysfs gives a module's folder another inode number each time it is loaded, within one boot.
    """
    boot = boot_id() if boot is None else boot
    try:
        return f"{boot}/{module}/{(modules / module).stat().st_ino}" if boot else ""
    except OSError:
        return ""
