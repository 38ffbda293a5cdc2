"""The handle of many jobs in asynchronous programs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Generic, TypeVar, cast

from accelerator_autopilot.client.autopilot_client import AutopilotClient
from accelerator_autopilot.client.batches import BatchView
from accelerator_autopilot.client.error_translation import call, translated
from accelerator_autopilot.client.output_parsing import parse_output
from accelerator_autopilot.contracts.errors import JobFailedError
from accelerator_autopilot.contracts.kinds.base import Result
from accelerator_autopilot.contracts.messages.jobs import JobResult

R = TypeVar("R")


class AsyncBatch(Generic[R]):
    """Many jobs of one kind. Iterating gives their results in the order of the inputs."""

    def __init__(
        self,
        autopilot: AutopilotClient,
        *,
        batch_id: str,
        count: int,
        timeout: float | None,
        model: type[Result] | None = None,
    ) -> None:
        self._autopilot, self._timeout_s, self._model = autopilot, timeout, model
        self.id, self.count = batch_id, count

    def __len__(self) -> int:
        """Return how many jobs there are."""
        return self.count

    async def __aiter__(self) -> AsyncIterator[R]:
        """Yield results in the order of the inputs, each once it and those before it are available.

        Raises JobFailedError at the first job that failed, and TimeoutError when the next takes too long.
        """
        async for one in self.details():
            yield self._parse(one)

    async def results(self) -> list[R]:
        """Return all results in the order of the inputs. Raises as iterating does."""
        return [one async for one in self]

    async def as_completed(self) -> AsyncIterator[tuple[int, R]]:
        """Yield results as they arrive, each with the index of its input. Raises as iterating does."""
        with translated("as_completed"):
            async for number, one in self._autopilot.batches.completed(self.id, self._timeout_s):
                yield number, self._parse(one)

    async def outcomes(self) -> AsyncIterator[R | JobFailedError]:
        """Iterate, but yield the error of a job that failed and continue with the others."""
        async for one in self.details():
            try:
                yield self._parse(one)
            except JobFailedError as error:
                yield error

    async def details(self) -> AsyncIterator[JobResult]:
        """Return how each job ended, in the order of the inputs. Raises TimeoutError when the next takes too long."""
        with translated("map"):
            async for one in self._autopilot.batches.results(self.id, self._timeout_s):
                yield one

    @call
    async def progress(self) -> BatchView:
        """Return how many are done."""
        return await self._autopilot.batches.view(self.id)

    @call
    async def cancel(self) -> int:
        """Cancel the jobs that have no result yet; returns how many."""
        return await self._autopilot.batches.cancel(self.id)

    def _parse(self, result: JobResult) -> R:
        return cast("R", parse_output(result, self._model))
