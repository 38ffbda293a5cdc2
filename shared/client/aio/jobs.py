"""Submit jobs in asynchronous programs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import suppress
from typing import Any, TypeVar, cast, overload

from accelerator_autopilot.client.aio.base import Connected
from accelerator_autopilot.client.aio.batch import AsyncBatch
from accelerator_autopilot.client.aio.job import AsyncJob
from accelerator_autopilot.client.error_translation import call, translated
from accelerator_autopilot.client.job_views import JobView
from accelerator_autopilot.client.output_parsing import parse_output
from accelerator_autopilot.client.submit_options import Identified, When, job_options, kind_and_body
from accelerator_autopilot.contracts.dataframe_conversion import Rows
from accelerator_autopilot.contracts.errors import AutopilotError, InvalidInputError
from accelerator_autopilot.contracts.ids import new_id
from accelerator_autopilot.contracts.kinds.base import Payload, R, Result
from accelerator_autopilot.contracts.messages.jobs import DeadJob, JobNeeds, JobProgress, Priority
from accelerator_autopilot.contracts.streams import DAY_S

S = TypeVar("S", bound=Result)


class AsyncJobMethods(Connected):
    """Submit, run, map and find jobs."""

    @overload
    async def submit(
        self,
        payload: Payload[R],
        *,
        kind: str | None = None,
        priority: Priority = "normal",
        pool: str | None = None,
        needs: JobNeeds | None = None,
        deadline: When | None = None,
        not_before: When | None = None,
        after: Iterable[str | Identified] = (),
        time_limit: float | None = None,
        max_attempts: int = 3,
        keep_result: float = DAY_S,
        idempotency_key: str | None = None,
        job_id: str | None = None,
    ) -> AsyncJob[R]: ...
    @overload
    async def submit(
        self,
        payload: Mapping[str, Any],
        *,
        kind: str,
        priority: Priority = "normal",
        pool: str | None = None,
        needs: JobNeeds | None = None,
        deadline: When | None = None,
        not_before: When | None = None,
        after: Iterable[str | Identified] = (),
        time_limit: float | None = None,
        max_attempts: int = 3,
        keep_result: float = DAY_S,
        idempotency_key: str | None = None,
        job_id: str | None = None,
    ) -> AsyncJob[Any]: ...
    @call
    async def submit(
        self,
        payload: Payload[Any] | Mapping[str, Any],
        *,
        kind: str | None = None,
        priority: Priority = "normal",
        pool: str | None = None,
        needs: JobNeeds | None = None,
        deadline: When | None = None,
        not_before: When | None = None,
        after: Iterable[str | Identified] = (),
        time_limit: float | None = None,
        max_attempts: int = 3,
        keep_result: float = DAY_S,
        idempotency_key: str | None = None,
        job_id: str | None = None,
    ) -> AsyncJob[Any]:
        """Store a job and return its handle.

        `payload` is a model such as Summarize(text=...), or a dictionary with `kind`. The job must start by
        `deadline` and enters the queue at `not_before`; both are a datetime, or a time from now. `after` names
        jobs that must succeed first; `needs` and `pool` restrict the workers. One attempt may run for
        `time_limit` seconds, and there are `max_attempts`. The result is kept for `keep_result` seconds. The
        same `idempotency_key` or `job_id` refers to the same job while that or its result exists. Raises
        InvalidInputError, ConflictError when the key belongs to another payload, BusyError when the queue is
        full, and UnavailableError.
        """
        name, body, model = kind_and_body(payload, kind)
        options = job_options(
            priority=priority,
            pool=pool,
            needs=needs,
            deadline=deadline,
            not_before=not_before,
            after=after,
            time_limit=time_limit,
            max_attempts=max_attempts,
            keep_result=keep_result,
        )
        made = await self._autopilot.jobs.submit(name, body, job_id=job_id, idempotency_key=idempotency_key, **options)
        future = await self._watcher.watch(made.id)
        return AsyncJob(self._autopilot, future, job_id=made.id, kind=name, model=model, duplicate=made.duplicate)

    @call
    async def run(
        self,
        payload: Payload[R],
        *,
        timeout: float | None = 300.0,
        priority: Priority = "normal",
        pool: str | None = None,
        needs: JobNeeds | None = None,
        deadline: When | None = None,
        time_limit: float | None = None,
        max_attempts: int = 3,
        idempotency_key: str | None = None,
    ) -> R:
        """Run a job and return its result.

        A job that takes longer than `timeout` seconds, or that nobody waits for any more, is cancelled. Raises
        what `submit` raises, JobFailedError, and TimeoutError.
        """
        job: AsyncJob[R] = await self.submit(
            payload,
            priority=priority,
            pool=pool,
            needs=needs,
            deadline=deadline,
            time_limit=time_limit,
            max_attempts=max_attempts,
            idempotency_key=idempotency_key,
        )
        try:
            return await job.result(timeout)
        except asyncio.CancelledError:
            with suppress(AutopilotError):
                await job.cancel()
            raise
        except TimeoutError:
            await job.cancel()
            raise TimeoutError(await job.why_waiting(timeout, cancelled=True)) from None

    @overload
    async def map(
        self,
        payloads: Iterable[Payload[R]],
        *,
        kind: str | None = None,
        timeout: float | None = 3600.0,
        priority: Priority = "normal",
        pool: str | None = None,
        needs: JobNeeds | None = None,
        deadline: When | None = None,
        time_limit: float | None = None,
        max_attempts: int = 3,
        keep_result: float = DAY_S,
        batch_id: str | None = None,
    ) -> AsyncBatch[R]: ...
    @overload
    async def map(
        self,
        payloads: Iterable[Mapping[str, Any]],
        *,
        kind: str,
        timeout: float | None = 3600.0,
        priority: Priority = "normal",
        pool: str | None = None,
        needs: JobNeeds | None = None,
        deadline: When | None = None,
        time_limit: float | None = None,
        max_attempts: int = 3,
        keep_result: float = DAY_S,
        batch_id: str | None = None,
    ) -> AsyncBatch[Any]: ...
    @call
    async def map(
        self,
        payloads: Iterable[Payload[Any]] | Iterable[Mapping[str, Any]],
        *,
        kind: str | None = None,
        timeout: float | None = 3600.0,
        priority: Priority = "normal",
        pool: str | None = None,
        needs: JobNeeds | None = None,
        deadline: When | None = None,
        time_limit: float | None = None,
        max_attempts: int = 3,
        keep_result: float = DAY_S,
        batch_id: str | None = None,
    ) -> AsyncBatch[Any]:
        """Submit one job per input and return a handle of them all.

        Iterating it yields results in the order of the inputs; `as_completed` yields them as they arrive. Each
        may take `timeout` seconds after the previous one. The same `batch_id` is the same batch while any of
        its jobs or results exists: repeating the call submits only what is missing. Raises what `submit`
        raises.
        """
        read = [kind_and_body(one, kind) for one in payloads]
        names = {name for name, _, _ in read}
        if len(names) > 1:
            raise InvalidInputError("payloads", ", ".join(sorted(names)), "must all be of one kind")
        options = job_options(
            priority=priority,
            pool=pool,
            needs=needs,
            deadline=deadline,
            not_before=None,
            after=(),
            time_limit=time_limit,
            max_attempts=max_attempts,
            keep_result=keep_result,
        )
        name, model = next(((n, m) for n, _, m in read), (kind or "", None))
        made = await self._autopilot.batches.map(name, [body for _, body, _ in read], batch_id=batch_id, **options)
        return AsyncBatch(self._autopilot, batch_id=made.id, count=made.count, timeout=timeout, model=model)

    @overload
    async def job(self, job_id: str, result: type[S]) -> AsyncJob[S]: ...
    @overload
    async def job(self, job_id: str, result: None = None) -> AsyncJob[Any]: ...
    @call
    async def job(self, job_id: str, result: type[Result] | None = None) -> AsyncJob[Any]:
        """Return the handle of a job that was submitted before, also by another program.

        `result` is its result's model. Raises NotFoundError.
        """
        view = await self._autopilot.jobs.view(job_id)
        return AsyncJob(self._autopilot, await self._watcher.watch(job_id), job_id=job_id, kind=view.kind, model=result)

    @overload
    async def batch(self, batch_id: str, result: type[S], timeout: float | None = 3600.0) -> AsyncBatch[S]: ...
    @overload
    async def batch(self, batch_id: str, result: None = None, timeout: float | None = 3600.0) -> AsyncBatch[Any]: ...
    @call
    async def batch(
        self,
        batch_id: str,
        result: type[Result] | None = None,
        timeout: float | None = 3600.0,
    ) -> AsyncBatch[Any]:
        """Return the handle of a batch that was submitted before. Raises NotFoundError."""
        view = await self._autopilot.batches.view(batch_id)
        return AsyncBatch(self._autopilot, batch_id=batch_id, count=view.count, timeout=timeout, model=result)

    async def stream(self, payload: Payload[R], *, priority: Priority = "normal") -> AsyncIterator[JobProgress | R]:
        """Run a job and yield all of its progress, and finally its result.

        Raises what `submit` raises, and JobFailedError.
        """
        name, body, model = kind_and_body(payload, None)
        job_id = new_id()
        with translated("stream"):
            async for report in self._autopilot.jobs.stream(name, body, job_id=job_id, fresh=True, priority=priority):
                yield report if isinstance(report, JobProgress) else cast("R", parse_output(report, model))

    @call
    async def queued(self, limit: int = 1000) -> Rows[JobView]:
        """Return jobs that wait or run."""
        return Rows(await self._autopilot.jobs.queued(limit))

    @call
    async def finished(self, limit: int = 50) -> Rows[JobView]:
        """Return the newest results of the last day, newest first."""
        return Rows(await self._autopilot.jobs.finished(limit))

    @call
    async def dead_jobs(self, kind: str | None = None, limit: int = 50) -> Rows[DeadJob]:
        """Return jobs that could not succeed, with every attempt's error, newest first."""
        return Rows(await self._autopilot.dead.list(kind, limit))

    @call
    async def replay(self, job_id: str) -> AsyncJob[Any]:
        """Submit a dead job again, as a new one. Raises NotFoundError."""
        made = await self._autopilot.dead.replay(job_id)
        return AsyncJob(self._autopilot, await self._watcher.watch(made.id), job_id=made.id, kind=made.kind)
