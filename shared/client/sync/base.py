"""What all parts of the blocking client share: the asynchronous client, and the thread that runs it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from accelerator_autopilot.client.aio.batch import AsyncBatch
from accelerator_autopilot.client.aio.job import AsyncJob
from accelerator_autopilot.client.loop_thread import LoopThread
from accelerator_autopilot.client.sync.batch import Batch
from accelerator_autopilot.client.sync.job import Job

if TYPE_CHECKING:
    from accelerator_autopilot.client.aio.client import AsyncClient

T = TypeVar("T")


class Blocking:
    """Waits for the calls of an asynchronous client in its thread."""

    def __init__(self, thread: LoopThread, client: AsyncClient) -> None:
        self._thread, self._client = thread, client

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return self._thread.run(work)

    def _iterate(self, source: AsyncIterator[T]) -> Iterator[T]:
        return self._thread.iterate(source)

    def _job(self, work: Coroutine[Any, Any, AsyncJob[T]]) -> Job[T]:
        return Job(self._thread, self._thread.run(work))

    def _batch(self, work: Coroutine[Any, Any, AsyncBatch[T]]) -> Batch[T]:
        return Batch(self._thread, self._thread.run(work))
