"""Share a worker's device between kinds: batches take turns, but a long one does not block the other kinds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

# Long batches that may run beside the current one: each uses a thread and part of the device.
MAX_LONG_BATCHES = 3


class KindTurns:
    """Hands the device from batch to batch in the order of requests.

    A batch that runs for longer than `longest_s` passes its turn on and continues; its own kind takes nothing more
    meanwhile, since a runner runs one batch at a time.
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
        while self._long >= MAX_LONG_BATCHES:
            self._a_long_one_ended.clear()
            await self._a_long_one_ended.wait()
        self._long += 1
        self._device.release()
