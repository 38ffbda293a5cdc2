"""Split long work in an event loop into slices, so that nothing else waits for all of it."""

from __future__ import annotations

import asyncio
import time

SLICE_S = 0.01


class CooperativeLoop:
    """Called after each small piece of work; it periodically yields to the event loop."""

    def __init__(self, slice_s: float = SLICE_S) -> None:
        self._slice_s = slice_s
        self._since = time.monotonic()

    async def give(self) -> None:
        """Yield to the event loop if a slice's time is used up."""
        if time.monotonic() - self._since > self._slice_s:
            await asyncio.sleep(0)
            self._since = time.monotonic()
