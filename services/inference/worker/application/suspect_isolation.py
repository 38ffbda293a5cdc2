"""Decide which jobs may run side by side: one that survived no previous batch runs alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class SuspectIsolation:
    """Lets ordinary runs overlap, and isolated ones run one at a time with nothing beside them."""

    def __init__(self) -> None:
        self._changed = asyncio.Condition()
        self._running = 0
        self._wanting = 0
        self._alone = False

    @asynccontextmanager
    async def of(self, *, alone: bool) -> AsyncIterator[None]:
        """Run within this context as soon as that is allowed."""
        async with self._changed:
            if alone:
                self._wanting += 1
                try:
                    await self._changed.wait_for(lambda: self._running == 0 and not self._alone)
                    self._alone = True
                finally:
                    self._wanting -= 1
                    self._changed.notify_all()
            else:
                await self._changed.wait_for(lambda: not self._alone and not self._wanting)
                self._running += 1
        try:
            yield
        finally:
            async with self._changed:
                if alone:
                    self._alone = False
                else:
                    self._running -= 1
                self._changed.notify_all()
