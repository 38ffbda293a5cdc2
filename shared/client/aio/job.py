"""The handle of a job in asynchronous programs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Generator
from typing import Any, Generic, TypeVar, cast

from accelerator_autopilot.client.autopilot_client import AutopilotClient
from accelerator_autopilot.client.error_translation import call, translated
from accelerator_autopilot.client.job_views import JobView
from accelerator_autopilot.client.output_parsing import parse_output
from accelerator_autopilot.contracts.errors import AutopilotError, ConflictError
from accelerator_autopilot.contracts.kinds.base import Result
from accelerator_autopilot.contracts.messages.jobs import JobProgress, JobResult

R = TypeVar("R")


class AsyncJob(Generic[R]):
    """A submitted job. `await job` returns its result."""

    def __init__(
        self,
        autopilot: AutopilotClient,
        future: asyncio.Future[JobResult],
        *,
        job_id: str,
        kind: str,
        model: type[Result] | None = None,
        duplicate: bool = False,
    ) -> None:
        self._autopilot, self._future, self.model = autopilot, future, model
        self.id, self.kind, self.duplicate = job_id, kind, duplicate

    def __repr__(self) -> str:
        """Return the job's kind, id and state."""
        return f"<{type(self).__name__} {self.kind} {self.id} {'done' if self.done() else 'pending'}>"

    def __await__(self) -> Generator[Any, None, R]:
        """Wait for the result, however long it takes."""
        return self.result().__await__()

    async def result(self, timeout: float | None = None) -> R:
        """Return the result. Raises JobFailedError, JobCancelledError, and TimeoutError after `timeout` seconds."""
        return cast("R", parse_output(await self.details(timeout), self.model))

    async def exception(self, timeout: float | None = None) -> Exception | None:
        """Return the error that the job failed with, or None. Raises TimeoutError after `timeout` seconds."""
        try:
            await self.result(timeout)
        except TimeoutError:
            raise
        except AutopilotError as error:
            return error
        return None

    async def details(self, timeout: float | None = None) -> JobResult:
        """Return how it ended: status, worker, times, tokens, attempts and the plain output.

        Raises TimeoutError after `timeout` seconds.
        """
        try:
            return await asyncio.wait_for(asyncio.shield(self._future), timeout)
        except TimeoutError:
            raise TimeoutError(await self.why_waiting(timeout)) from None

    def done(self) -> bool:
        """Whether it has ended, as far as this client knows."""
        return self._future.done()

    def ended(self) -> JobResult | BaseException:
        """Return how a finished job ended, or why that is unknown."""
        return self._future.exception() or self._future.result()

    def cancelled(self) -> bool:
        """Whether it was cancelled."""
        if not self.done():
            return False
        end = self.ended()
        return isinstance(end, JobResult) and end.status == "cancelled"

    @call
    async def cancel(self) -> bool:
        """Cancel the job before or during its run; False when it had ended already. Raises NotFoundError."""
        if self.done():
            return self.cancelled()
        try:
            await self._autopilot.jobs.cancel(self.id)
        except ConflictError:
            return False
        return True

    def add_done_callback(self, callback: Callable[[AsyncJob[R]], object]) -> None:
        """Call `callback(job)` in the event loop once the job has ended."""
        self._future.add_done_callback(lambda _: callback(self))

    async def progress(self) -> AsyncIterator[JobProgress]:
        """Yield its progress until it ends: fractions, and pieces of the output where the kind reports them."""
        with translated("progress"):
            async for report in self._autopilot.jobs.progress(self.id):
                yield report

    @call
    async def state(self) -> JobView:
        """Return its current state: queued, scheduled, waiting, succeeded, failed or cancelled.

        Raises NotFoundError.
        """
        return await self._autopilot.jobs.view(self.id)

    async def why_waiting(self, waited_s: float | None, *, cancelled: bool = False) -> str:
        """Return the message of a timeout."""
        text = f"job {self.id} has no result after {waited_s:g} s, and {'was cancelled' if cancelled else 'continues'}"
        try:
            async with asyncio.timeout(2.0):
                pools = await self._autopilot.fleet.pools()
        except Exception:  # noqa: BLE001  the answer is worth no error of its own
            return f"{text}; the server does not answer"
        if any(pool.workers for pool in pools if self.kind in pool.kinds):
            return text
        known = ", ".join(sorted({kind for pool in pools for kind in pool.kinds})) or "none"
        return (
            f"{text}: no worker runs {self.kind!r} (kinds that pools run: {known}); `autopilot up` starts workers, "
            "AUTOPILOT_POOL_KINDS says for which kinds"
        )
