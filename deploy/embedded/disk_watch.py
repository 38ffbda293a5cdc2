"""The disk under the data folder: told before it is full, and nats-server made to write again afterwards.

nats-server keeps the first write error of a stream until it is restarted, also when there is room again.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

log = logging.getLogger(__name__)

MIB = 2**20
CHECK_EVERY_S = 2.0

Level = Literal["ok", "low", "full"]


@dataclass(frozen=True)
class DiskLimits:
    """When a disk counts as low or full; leaving a level takes `margin` times its limit."""

    low_share: float = 0.10
    full_bytes: int = 128 * MIB
    margin: float = 1.5


class DiskLevel:
    """Levels with hysteresis, from free and total bytes."""

    def __init__(self, limits: DiskLimits | None = None) -> None:
        self._limits = limits or DiskLimits()
        self.level: Level = "ok"

    def update(self, free: int, total: int) -> Level:
        """The level now."""
        limits = self._limits
        full = limits.full_bytes * (limits.margin if self.level == "full" else 1.0)
        low = limits.low_share * total * (limits.margin if self.level != "ok" else 1.0)
        if free < full:
            self.level = "full"
        elif free < low:
            self.level = "low"
        else:
            self.level = "ok"
        return self.level


async def watch_disk(
    folder: Path, on_room_again: Callable[[], Awaitable[None]], *, limits: DiskLimits | None = None
) -> None:
    """Look at the disk until cancelled; `on_room_again` is called when one that was full has room again."""
    disk, before = DiskLevel(limits), "ok"
    while True:
        usage = await asyncio.to_thread(shutil.disk_usage, folder)
        level = disk.update(usage.free, usage.total)
        if level != before:
            log.warning("disk", extra={"level": level, "free_mib": usage.free // MIB, "folder": str(folder)})
            if before == "full":
                await on_room_again()
            before = level
        await asyncio.sleep(CHECK_EVERY_S)
