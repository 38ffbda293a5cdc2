"""Submit jobs in programs without an event loop."""
# Written by `make docs-generate` from client.aio.jobs: change that instead.

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar, cast, overload

from accelerator_autopilot.client.job_views import JobView
from accelerator_autopilot.client.submit_options import Identified, When
from accelerator_autopilot.client.sync.base import Blocking
from accelerator_autopilot.client.sync.batch import Batch
from accelerator_autopilot.client.sync.job import Job
from accelerator_autopilot.contracts.dataframe_conversion import Rows
from accelerator_autopilot.contracts.kinds.base import Payload, R, Result
from accelerator_autopilot.contracts.messages.jobs import DeadJob, JobNeeds, JobProgress, Priority
from accelerator_autopilot.contracts.streams import DAY_S

S = TypeVar("S", bound=Result)


class JobMethods(Blocking):
    """Submit, run, map and find jobs."""

    @overload
    def submit(
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
    ) -> Job[R]: ...
    @overload
    def submit(
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
    ) -> Job[Any]: ...

    def submit(
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
    ) -> Job[Any]:
        """Store a job and return its handle.

        `payload` is a model such as Summarize(text=...), or a dictionary with `kind`. The job must start by
        `deadline` and enters the queue at `not_before`; both are a datetime, or a time from now. `after` names
        jobs that must succeed first; `needs` and `pool` restrict the workers. One attempt may run for
        `time_limit` seconds, and there are `max_attempts`. The result is kept for `keep_result` seconds. The
        same `idempotency_key` or `job_id` refers to the same job while that or its result exists. Raises
        InvalidInputError, ConflictError when the key belongs to another payload, BusyError when the queue is
        full, and UnavailableError.
        """
        return self._job(
            cast("Any", self._client).submit(
                payload,
                kind=kind,
                priority=priority,
                pool=pool,
                needs=needs,
                deadline=deadline,
                not_before=not_before,
                after=after,
                time_limit=time_limit,
                max_attempts=max_attempts,
                keep_result=keep_result,
                idempotency_key=idempotency_key,
                job_id=job_id,
            )
        )

    def run(
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
        return self._wait(
            self._client.run(
                payload,
                timeout=timeout,
                priority=priority,
                pool=pool,
                needs=needs,
                deadline=deadline,
                time_limit=time_limit,
                max_attempts=max_attempts,
                idempotency_key=idempotency_key,
            )
        )

    @overload
    def map(
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
    ) -> Batch[R]: ...
    @overload
    def map(
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
    ) -> Batch[Any]: ...

    def map(
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
    ) -> Batch[Any]:
        """Submit one job per input and return a handle of them all.

        Iterating it yields results in the order of the inputs; `as_completed` yields them as they arrive. Each
        may take `timeout` seconds after the previous one. The same `batch_id` is the same batch while any of
        its jobs or results exists: repeating the call submits only what is missing. Raises what `submit`
        raises.
        """
        return self._batch(
            cast("Any", self._client).map(
                payloads,
                kind=kind,
                timeout=timeout,
                priority=priority,
                pool=pool,
                needs=needs,
                deadline=deadline,
                time_limit=time_limit,
                max_attempts=max_attempts,
                keep_result=keep_result,
                batch_id=batch_id,
            )
        )

    @overload
    def job(self, job_id: str, result: type[S]) -> Job[S]: ...
    @overload
    def job(self, job_id: str, result: None = None) -> Job[Any]: ...

    def job(self, job_id: str, result: type[Result] | None = None) -> Job[Any]:
        """Return the handle of a job that was submitted before, also by another program.

        `result` is its result's model. Raises NotFoundError.
        """
        return self._job(cast("Any", self._client).job(job_id, result))

    @overload
    def batch(self, batch_id: str, result: type[S], timeout: float | None = 3600.0) -> Batch[S]: ...
    @overload
    def batch(self, batch_id: str, result: None = None, timeout: float | None = 3600.0) -> Batch[Any]: ...

    def batch(
        self,
        batch_id: str,
        result: type[Result] | None = None,
        timeout: float | None = 3600.0,
    ) -> Batch[Any]:
        """Return the handle of a batch that was submitted before. Raises NotFoundError."""
        return self._batch(cast("Any", self._client).batch(batch_id, result, timeout))

    def stream(self, payload: Payload[R], *, priority: Priority = "normal") -> Iterator[JobProgress | R]:
        """Run a job and yield all of its progress, and finally its result.

        Raises what `submit` raises, and JobFailedError.
        """
        return self._iterate(self._client.stream(payload, priority=priority))

    def queued(self, limit: int = 1000) -> Rows[JobView]:
        """Return jobs that wait or run."""
        return self._wait(self._client.queued(limit))

    def finished(self, limit: int = 50) -> Rows[JobView]:
        """Return the newest results of the last day, newest first."""
        return self._wait(self._client.finished(limit))

    def dead_jobs(self, kind: str | None = None, limit: int = 50) -> Rows[DeadJob]:
        """Return jobs that could not succeed, with every attempt's error, newest first."""
        return self._wait(self._client.dead_jobs(kind, limit))

    def replay(self, job_id: str) -> Job[Any]:
        """Submit a dead job again, as a new one. Raises NotFoundError."""
        return self._job(self._client.replay(job_id))
