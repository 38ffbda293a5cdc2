"""Long work in an event loop, cut into slices: who waits for the loop is never kept waiting for the whole of it."""

from __future__ import annotations

import asyncio
import time

SLICE_S = 0.01


class CooperativeLoop:
    """Asked after each small piece of work; now and then it lets everybody else have a turn."""

    def __init__(self, slice_s: float = SLICE_S) -> None:
        self._slice_s = slice_s
        self._since = time.monotonic()

    async def give(self) -> None:
        """Let others run if this has run for a slice."""
        if time.monotonic() - self._since > self._slice_s:
            await asyncio.sleep(0)
            self._since = time.monotonic()
