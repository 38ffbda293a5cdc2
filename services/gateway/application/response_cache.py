"""Cache expensive responses for a short time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class CachedResponse(Generic[T]):
    """A cached response that is the same for every caller."""

    def __init__(self, fresh_s: float) -> None:
        self._fresh_s = fresh_s
        self._making = asyncio.Lock()
        self._kept: tuple[float, T] | None = None

    async def get(self, make: Callable[[], Awaitable[T]]) -> T:
        """Return the response, recreated when it is older than `fresh_s` seconds. Raises what `make` raises."""
        async with self._making:
            now = asyncio.get_running_loop().time()
            if self._kept is None or now - self._kept[0] > self._fresh_s:
                self._kept = now, await make()
            return self._kept[1]
