"""Whose turn it is on a worker's device: one batch after the other, but a long one does not hold up the other kinds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

# Long batches that may run beside the one whose turn it is: each takes a thread and its part of the device.
MOST_LONG = 3


class DeviceTurns:
    """Hands the device from batch to batch in the order in which they ask.

    A batch that runs for longer than `longest_s` passes its turn on while it goes on; its own kind takes nothing more
    meanwhile, since a lane runs one batch at a time.
    """

    def __init__(self, longest_s: float) -> None:
        self._longest_s = longest_s
        self._device = asyncio.Lock()
        self._long = 0
        self._a_long_one_ended = asyncio.Event()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Run within this context, when it is this batch's turn."""
        await self._device.acquire()
        passing = asyncio.create_task(self._pass_on())
        try:
            yield
        finally:
            if passing.done() and not passing.cancelled():
                self._long -= 1
                self._a_long_one_ended.set()
            else:
                passing.cancel()
                self._device.release()

    async def _pass_on(self) -> None:
        await asyncio.sleep(self._longest_s)
        while self._long >= MOST_LONG:
            self._a_long_one_ended.clear()
            await self._a_long_one_ended.wait()
        self._long += 1
        self._device.release()
