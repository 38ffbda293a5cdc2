"""Memory and descriptors of every process over time, and whether they grow."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import median

from tests.chaos.soak.processes import Processes

EVERY_S = 5.0
AROUND_S = 45.0
MEMORY_GROWTH = 1.1
MORE_FILES = 16


@dataclass
class Resources:
    """Samples by process: time since the start, megabytes, descriptors."""

    processes: Processes
    samples: dict[str, list[tuple[float, float, int]]] = field(default_factory=dict)
    loads: list[float] = field(default_factory=list)

    async def run(self) -> None:
        """Sample until cancelled."""
        began = time.monotonic()
        while True:
            usage = await asyncio.to_thread(self.processes.usage)
            for name, (rss_mb, files) in usage.items():
                self.samples.setdefault(name, []).append((time.monotonic() - began, rss_mb, files))
            self.loads.append(os.getloadavg()[0])
            await asyncio.sleep(EVERY_S)

    def machine_load(self) -> dict[str, float]:
        """How busy the machine was, with all that ran on it: processes that want to run, a minute's mean."""
        return {"median": round(median(self.loads), 1), "max": round(max(self.loads), 1)} if self.loads else {}

    def compare(self, mark_s: float) -> dict[str, dict[str, float]]:
        """Each process around a time and at the end, by the median."""
        found = {}
        for name, samples in self.samples.items():
            end_s = samples[-1][0]
            early = [s for s in samples if abs(s[0] - mark_s) <= AROUND_S]
            late = [s for s in samples if s[0] >= end_s - AROUND_S]
            if early and late and end_s > mark_s + AROUND_S:
                found[name] = {
                    "mb_then": median(s[1] for s in early),
                    "mb_end": median(s[1] for s in late),
                    "files_then": median(s[2] for s in early),
                    "files_end": median(s[2] for s in late),
                }
        return found

    def growth(self, mark_s: float) -> Iterator[str]:
        """Processes that have grown since a time."""
        for name, seen in self.compare(mark_s).items():
            if seen["mb_end"] > MEMORY_GROWTH * seen["mb_then"]:
                yield f"{name} grew from {seen['mb_then']:.1f} to {seen['mb_end']:.1f} MB"
            if seen["files_end"] > MEMORY_GROWTH * seen["files_then"] + MORE_FILES:
                yield f"{name} went from {seen['files_then']:g} to {seen['files_end']:g} open files"
