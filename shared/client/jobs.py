"""Jobs from the publisher's side."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import nats.errors
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.errors import APIError, NotFoundError
from pydantic import BaseModel, ValidationError

from shared import subjects
from shared.clock import utc_now
from shared.errors import (
    ConflictError,
    InvalidInputError,
    JobFailedError,
    UnavailableError,
)
from shared.errors import (
    NotFoundError as Missing,
)
from shared.ids import derived_id, new_id
from shared.messages.jobs import PRIORITIES, Job, JobProgress, JobResult, JobState, Priority
from shared.payloads import load_payload, store_payload
from shared.streams import PAYLOAD_INLINE_LIMIT

_MAX_MESSAGES_PER_SUBJECT = 10077


class JobView(BaseModel):
    """What is known of a job: queued (waiting or running), or how it ended."""

    id: str
    kind: str
    state: str
    priority: str = ""
    result: JobResult | None = None


@dataclass(frozen=True)
class JobHandle:
    """A submitted job."""

    id: str
    kind: str
    jobs: Jobs
    duplicate: bool = False

    async def wait(self, timeout_s: float = 60.0) -> JobResult:
        """Wait for its result."""
        return await self.jobs.wait(self.id, timeout_s)


class Jobs:
    """Submit, wait, follow, cancel and list jobs."""

    def __init__(self, nc: Client, js: JetStreamContext, actor: str) -> None:
        self._nc, self._js, self._actor = nc, js, actor

    async def submit(
        self,
        kind: str,
        payload: dict[str, Any],
        *,
        priority: Priority = "normal",
        job_id: str | None = None,
        idempotency_key: str | None = None,
        ttl_s: float = 86_400.0,
        max_attempts: int = 3,
    ) -> JobHandle:
        """Publish a job and wait until it is stored.

        The same `job_id` or `idempotency_key` is the same job. Raises InvalidInputError for a bad
        argument and UnavailableError when the stream did not confirm.
        """
        if priority not in PRIORITIES:
            raise InvalidInputError("priority", priority, f"must be one of {', '.join(PRIORITIES)}")
        if job_id is None:
            job_id = derived_id(self._actor, kind, idempotency_key) if idempotency_key else new_id()
        reference = None
        if len(json.dumps(payload)) > PAYLOAD_INLINE_LIMIT:
            reference = await store_payload(self._js, f"job-{job_id}", payload)
        try:
            job = Job(
                id=job_id,
                kind=kind,
                priority=priority,
                payload={} if reference else payload,
                payload_ref=reference,
                submitter=self._actor,
                submitted_at=utc_now(),
                ttl_s=ttl_s,
                max_attempts=max_attempts,
            )
        except ValidationError as error:
            first = error.errors()[0]
            raise InvalidInputError(str(first["loc"][0]), first["input"], first["msg"]) from error
        if idempotency_key and await self.find_result(job_id):
            return JobHandle(job_id, kind, self, duplicate=True)
        try:
            ack = await self._js.publish(
                subjects.job(kind, priority, job_id),
                job.model_dump_json(exclude_none=True).encode(),
                headers={"Nats-Msg-Id": job_id},
                stream="JOBS",
            )
        except (APIError, nats.errors.Error) as error:
            raise UnavailableError(f"job {job_id} was not confirmed: {error}") from error
        return JobHandle(job_id, kind, self, duplicate=bool(ack.duplicate))

    async def find_result(self, job_id: str) -> JobResult | None:
        """The result, if there is one."""
        try:
            message = await self._js.get_last_msg("RESULTS", subjects.result(job_id), direct=True)
        except NotFoundError:
            return None
        result = JobResult.model_validate_json(message.data or b"")
        if result.output_ref:
            output = (await load_payload(self._js, result.output_ref)).get("output")
            result = result.model_copy(update={"output": output})
        return result

    async def wait(self, job_id: str, timeout_s: float = 60.0) -> JobResult:
        """Wait for the result of a job. Raises TimeoutError when there is none in time."""
        # Subscribe first and look second, so that a result in between is not missed.
        subscription = await self._nc.subscribe(subjects.result(job_id))
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    found = await self.find_result(job_id)
                    if found is not None:
                        return found
                    try:
                        await subscription.next_msg(timeout=2.0)
                    except nats.errors.TimeoutError:
                        continue
        finally:
            await subscription.unsubscribe()

    async def output(self, job_id: str, timeout_s: float = 60.0) -> Any:
        """Wait for the output of a job. Raises JobFailedError when it ended without one."""
        result = await self.wait(job_id, timeout_s)
        if result.status != "succeeded":
            reason = result.errors[-1].message if result.errors else result.status
            raise JobFailedError(f"job {job_id} {result.status}: {reason}")
        return result.output

    async def progress(self, job_id: str) -> AsyncIterator[JobProgress]:
        """Follow a job until it ends."""
        done = asyncio.create_task(self.wait(job_id, timeout_s=86_400))
        subscription = await self._nc.subscribe(subjects.progress(job_id))
        try:
            while not done.done():
                try:
                    message = await subscription.next_msg(timeout=0.2)
                    yield JobProgress.model_validate_json(message.data)
                except (nats.errors.TimeoutError, ValidationError):
                    continue
        finally:
            done.cancel()
            await subscription.unsubscribe()

    async def view(self, job_id: str) -> JobView:
        """What is known of a job. Raises NotFoundError for an unknown id."""
        result = await self.find_result(job_id)
        if result is not None:
            return JobView(id=job_id, kind=result.kind, state=result.status, result=result)
        try:
            message = await self._js.get_last_msg("JOBS", subjects.any_job(job_id), direct=True)
        except NotFoundError:
            raise Missing(f"job {job_id} is neither queued nor finished within the last day") from None
        _, kind, priority, *_ = (message.subject or "").split(".")
        return JobView(id=job_id, kind=subjects.untoken(kind), state="queued", priority=priority)

    async def cancel(self, job_id: str) -> JobResult:
        """End a job that has no result yet. Raises ConflictError when it ended already."""
        view = await self.view(job_id)
        if view.result is not None:
            raise ConflictError(f"job {job_id} already {view.state}")
        kv = await self._js.key_value("jobs")
        await kv.put(subjects.token(job_id), JobState(cancelled=True).model_dump_json().encode())
        now = utc_now()
        result = JobResult(job_id=job_id, kind=view.kind, status="cancelled", submitted_at=now, finished_at=now)
        try:
            await self._js.publish(subjects.result(job_id), result.model_dump_json().encode(), stream="RESULTS")
        except APIError as error:
            if error.err_code == _MAX_MESSAGES_PER_SUBJECT:
                raise ConflictError(f"job {job_id} ended meanwhile") from error
            raise
        await self._js.purge_stream("JOBS", subject=subjects.any_job(job_id))
        return result

    async def queued(self, limit: int = 1000) -> list[JobView]:
        """Jobs that wait or run."""
        info = await self._js.stream_info("JOBS", subjects_filter=subjects.JOBS_WITH_ID)
        views = []
        for subject in list(info.state.subjects or {})[:limit]:
            _, kind, priority, job_id = subject.split(".")
            views.append(
                JobView(
                    id=subjects.untoken(job_id),
                    kind=subjects.untoken(kind),
                    state="queued",
                    priority=priority,
                )
            )
        return views

    async def finished(self, limit: int = 50) -> list[JobView]:
        """The newest results of the last day, newest first."""
        last = (await self._js.stream_info("RESULTS")).state.last_seq
        views: list[JobView] = []
        for sequence in range(last, max(0, last - limit), -1):
            try:
                message = await self._js.get_msg("RESULTS", sequence, direct=True)
            except NotFoundError:
                continue
            result = JobResult.model_validate_json(message.data or b"")
            views.append(JobView(id=result.job_id, kind=result.kind, state=result.status, result=result))
        return views
