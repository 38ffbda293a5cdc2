"""A source in a thread of its own, so that a driver that never returns cannot freeze the agent."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from services.telemetry.errors import SourceHungError
from services.telemetry.ports import DeviceSource

T = TypeVar("T")


class GuardedSource:
    """Calls a source's methods one at a time with a time limit; while one hangs, no other is tried."""

    def __init__(self, source: DeviceSource, timeout_s: float) -> None:
        self.source, self.name, self._timeout_s = source, source.name, timeout_s
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._pending: asyncio.Future[Any] | None = None
        # A daemon: a thread inside a hung driver must not keep the process alive.
        threading.Thread(target=self._serve, name=f"source-{source.name}", daemon=True).start()

    @property
    def hung(self) -> bool:
        """Whether a call has not returned yet."""
        return self._pending is not None and not self._pending.done()

    async def call(self, function: Callable[[], T]) -> T:
        """Run a function of the source in its thread. Raises SourceHungError past the time limit."""
        if self.hung:
            raise SourceHungError(f"source {self.name}: a driver call has not returned")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._pending = future

        def work() -> None:
            try:
                result = function()
            except Exception as error:  # noqa: BLE001  handed to the caller
                _later(loop, _fail, future, error)
            else:
                _later(loop, _succeed, future, result)

        self._calls.put(work)
        try:
            return await asyncio.wait_for(asyncio.shield(future), self._timeout_s)
        except TimeoutError:
            raise SourceHungError(f"source {self.name}: no answer in {self._timeout_s:g} s") from None

    def _serve(self) -> None:
        while True:
            self._calls.get()()


def _later(loop: asyncio.AbstractEventLoop, function: Callable[..., None], *args: Any) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(function, *args)


def _succeed(future: asyncio.Future[T], result: T) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
