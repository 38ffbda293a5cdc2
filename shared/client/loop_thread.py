"""An event loop in its own thread, for programs that have none."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import Any, TypeVar

from accelerator_autopilot.contracts.errors import UnavailableError

T = TypeVar("T")
STOP_S = 5.0


class LoopThread:
    """Runs coroutines for callers in other threads, which wait.

    The thread is a daemon: a program that forgets to close its client still ends. User callbacks run one after
    another in a second thread, so that they may call the client themselves.
    """

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._pid, self._stopping = os.getpid(), False
        self._callbacks = ThreadPoolExecutor(1, f"{name}-callbacks")
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def start(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Start a coroutine. Raises UnavailableError when the client was closed or the process was forked since."""
        if self._pid != os.getpid():
            work.close()
            raise UnavailableError("the client was opened before this process was forked: connect again in this one")
        if self._stopping:
            work.close()
            raise UnavailableError("the client is closed")
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine and return its result. Ctrl-C cancels it."""
        started = self.start(work)
        try:
            return started.result()
        except CancelledError:
            if self._stopping:
                raise UnavailableError("the client was closed in the meantime") from None
            raise
        except BaseException:
            started.cancel()
            raise

    def iterate(self, source: AsyncIterator[T]) -> Iterator[T]:
        """Yield the items of an asynchronous iterator."""
        try:
            while True:
                try:
                    yield self.run(_next(source))
                except StopAsyncIteration:
                    return
        finally:
            close = getattr(source, "aclose", None)
            if close is not None and not self._stopping and self._pid == os.getpid():
                # Without waiting: the garbage collector may call this in the loop's own thread.
                self.start(close())

    def call_soon(self, work: Callable[..., object], *arguments: Any) -> None:
        """Call a function in the loop."""
        self._loop.call_soon_threadsafe(work, *arguments)

    def call_back(self, work: Callable[..., object], *arguments: Any) -> None:
        """Call a user's function in the callback thread; directly when the client has been closed."""
        try:
            self._callbacks.submit(work, *arguments)
        except RuntimeError:
            work(*arguments)

    def stop(self) -> None:
        """Cancel what runs, and end the loop and its thread; does nothing in a forked process."""
        if self._pid != os.getpid() or self._stopping:
            return
        self._stopping = True
        asyncio.run_coroutine_threadsafe(self._end(), self._loop)
        self._thread.join(STOP_S)
        if not self._thread.is_alive():
            self._loop.close()
        self._callbacks.shutdown(wait=False)

    async def _end(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=STOP_S / 2)
        self._loop.call_soon(self._loop.stop)


async def _next(source: AsyncIterator[T]) -> T:
    return await anext(source)
