"""Run many small tasks that wait for the broker, a limited number at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from accelerator_autopilot.contracts.errors import UnavailableError

T = TypeVar("T")
MAX_CONCURRENT = 64


async def in_flight(
    items: Iterable[T],
    work: Callable[[T], Awaitable[None]],
    *,
    left_out: Callable[[T], None] = lambda _: None,
    most: int = MAX_CONCURRENT,
) -> None:
    """Process every item. Raises the first UnavailableError once the tasks that had started have ended.

    If the bus fails for one item it will fail for the next: after such an error no further task starts, and
    `left_out` is called for each remaining item. Any other error of `work` stops it in the same way.
    """
    items = list(items)
    waiting = iter(items)
    errors: list[Exception] = []

    async def lane() -> None:
        for item in waiting:
            if errors:
                left_out(item)
                continue
            try:
                await work(item)
            except Exception as error:  # noqa: BLE001  raised below, when the others have ended
                errors.append(error)

    await asyncio.gather(*(lane() for _ in range(min(most, len(items)))))
    if errors:
        raise next((error for error in errors if isinstance(error, UnavailableError)), errors[0])
