"""Identify this boot and each load of a driver, to tell a device reset from an agent restart."""

from __future__ import annotations

from pathlib import Path

from accelerator_autopilot.telemetry.agent.adapters.sysfs import read_text

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
MODULES = Path("/sys/module")


def boot_id(path: Path = BOOT_ID) -> str:
    """Return the kernel's id of this boot; empty where it has none."""
    return (read_text(path) or "")[:200]


def driver_epoch(module: str, boot: str | None = None, modules: Path = MODULES) -> str:
    """Identify one load of a kernel module; empty where that is unknown.

    Within one boot, sysfs gives a module's folder a new inode number each time the module is loaded.
    """
    boot = boot_id() if boot is None else boot
    try:
        return f"{boot}/{module}/{(modules / module).stat().st_ino}" if boot else ""
    except OSError:
        return ""
