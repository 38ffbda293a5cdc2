"""Waiting for conditions instead of sleeping."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any


async def eventually(look: Callable[[], Any], within_s: float = 10.0, what: str = "") -> Any:
    """Call `look` (sync or async) until it returns something true, and return that."""
    loop = asyncio.get_running_loop()
    until = loop.time() + within_s
    while True:
        seen = look()
        if inspect.isawaitable(seen):
            seen = await seen
        if seen:
            return seen
        assert loop.time() < until, f"not within {within_s} s: {what or look}; last seen {seen!r}"
        await asyncio.sleep(0.05)
