"""Run a source in its own thread, so that a driver call that never returns cannot block the agent."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from accelerator_autopilot.telemetry.agent.adapters.late_driver import LateDriverSource
from accelerator_autopilot.telemetry.agent.ports import DeviceSource
from accelerator_autopilot.telemetry.errors import SourceBusyError, SourceHungError

T = TypeVar("T")

# A call waits for at most this many time limits of others: a sample behind a few slow caps.
MAX_TURNS = 3


class ThreadedSource:
    """Calls a source's methods one at a time, each with a time limit; while one hangs, no other is tried."""

    def __init__(self, source: DeviceSource, timeout_s: float) -> None:
        self._source, self.name, self._timeout_s = source, source.name, timeout_s
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._turn = asyncio.Lock()
        self._pending: asyncio.Future[Any] | None = None
        self._late_at = 0.0
        # A daemon thread: one that is stuck in a hung driver must not keep the process alive.
        threading.Thread(target=self._serve, name=f"source-{source.name}", daemon=True).start()

    @property
    def source(self) -> DeviceSource:
        """The source itself, once its driver is opened."""
        awaited = self._source
        if not isinstance(awaited, LateDriverSource):
            return awaited
        # A source that is to be released is no longer asked: it is released in its own thread.
        return awaited if awaited.opened is None or awaited.released() else awaited.opened

    @property
    def is_driver(self) -> bool:
        """Whether its failures say something about its devices."""
        return getattr(self.source, "is_driver", True)

    @property
    def absent(self) -> bool:
        """Whether the machine has no such source, as far as is known."""
        return isinstance(self._source, LateDriverSource) and self._source.absent

    @property
    def hung(self) -> bool:
        """Whether a call has not returned within its time limit."""
        return self._running and asyncio.get_running_loop().time() >= self._late_at

    @property
    def _running(self) -> bool:
        return self._pending is not None and not self._pending.done()

    async def call(self, function: Callable[[], T]) -> T:
        """Run a function of the source in its thread, after earlier calls.

        Raises SourceHungError when it, or an earlier call, exceeds its time limit, and SourceBusyError when
        earlier calls leave no time for it; then the function is never run.
        """
        self._refuse_hung()
        async with self._my_turn():
            loop = asyncio.get_running_loop()
            await self._let_finish(loop)
            future: asyncio.Future[T] = loop.create_future()
            self._pending, self._late_at = future, loop.time() + self._timeout_s

            def work() -> None:
                try:
                    result = function()
                except BaseException as error:  # noqa: BLE001  handed to the caller; the thread must go on
                    _later(loop, _fail, future, _bearable(error))
                else:
                    _later(loop, _succeed, future, result)

            self._calls.put(work)
            try:
                return await asyncio.wait_for(asyncio.shield(future), self._timeout_s)
            except TimeoutError:
                if future.done() and not future.cancelled() and future.exception() is not None:
                    raise  # raised by the function itself
                raise SourceHungError(f"source {self.name}: no answer in {self._timeout_s:g} s") from None

    @asynccontextmanager
    async def _my_turn(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(MAX_TURNS * self._timeout_s):
                await self._turn.acquire()
        except TimeoutError:
            self._refuse_hung()
            raise SourceBusyError(f"source {self.name}: still busy after {MAX_TURNS * self._timeout_s:g} s") from None
        try:
            yield
        finally:
            self._turn.release()

    async def _let_finish(self, loop: asyncio.AbstractEventLoop) -> None:
        """Wait for a call whose caller gave up, up to that call's own time limit."""
        if self._pending is not None and self._running:
            await asyncio.wait([self._pending], timeout=max(0.0, self._late_at - loop.time()))
        self._refuse_hung()

    def _refuse_hung(self) -> None:
        if self.hung:
            raise SourceHungError(f"source {self.name}: a driver call has not returned")

    def _serve(self) -> None:
        while True:
            self._calls.get()()


def _later(loop: asyncio.AbstractEventLoop, function: Callable[..., None], *args: Any) -> None:
    try:
        loop.call_soon_threadsafe(function, *args)
    except RuntimeError:
        return  # the loop was closed meanwhile: nobody is waiting any more


def _succeed(future: asyncio.Future[T], result: T) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()  # retrieved so that asyncio does not log it: its caller may have given up


def _bearable(error: BaseException) -> Exception:
    """Convert what a future cannot hold into an error of this call; a driver's package may even call sys.exit()."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    return RuntimeError(f"{type(error).__name__}: {error}")
