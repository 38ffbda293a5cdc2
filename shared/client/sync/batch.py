"""The handle of many jobs in programs without an event loop."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

from accelerator_autopilot.client.aio.batch import AsyncBatch
from accelerator_autopilot.client.batches import BatchView
from accelerator_autopilot.client.loop_thread import LoopThread
from accelerator_autopilot.contracts.errors import JobFailedError
from accelerator_autopilot.contracts.messages.jobs import JobResult

R = TypeVar("R")


class Batch(Generic[R]):
    """Many jobs of one kind. Iterating gives their results in the order of the inputs."""

    def __init__(self, thread: LoopThread, batch: AsyncBatch[R]) -> None:
        self._thread, self._batch = thread, batch
        self.id, self.count = batch.id, batch.count

    def __len__(self) -> int:
        """Return how many jobs there are."""
        return self.count

    def __iter__(self) -> Iterator[R]:
        """Yield results in the order of the inputs, each once it and those before it are available.

        Raises JobFailedError at the first job that failed, and TimeoutError when the next takes too long.
        """
        return self._thread.iterate(aiter(self._batch))

    def results(self) -> list[R]:
        """Return all results in the order of the inputs. Raises as iterating does."""
        return self._thread.run(self._batch.results())

    def as_completed(self) -> Iterator[tuple[int, R]]:
        """Yield results as they arrive, each with the index of its input. Raises as iterating does."""
        return self._thread.iterate(self._batch.as_completed())

    def outcomes(self) -> Iterator[R | JobFailedError]:
        """Iterate, but yield the error of a job that failed and continue with the others."""
        return self._thread.iterate(self._batch.outcomes())

    def details(self) -> Iterator[JobResult]:
        """Return how each job ended, in the order of the inputs. Raises TimeoutError when the next takes too long."""
        return self._thread.iterate(self._batch.details())

    def progress(self) -> BatchView:
        """Return how many are done."""
        return self._thread.run(self._batch.progress())

    def cancel(self) -> int:
        """Cancel the jobs that have no result yet; returns how many."""
        return self._thread.run(self._batch.cancel())
