"""Jobs from the publisher's side."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import nats.errors
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.errors import APIError, NotFoundError
from pydantic import ValidationError

from accelerator_autopilot.client.job_following import SOON, follow, look_again, nowhere, patient
from accelerator_autopilot.client.job_views import JobView, list_finished, list_queued, view_of_waiting
from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.errors import (
    AutopilotError,
    BusyError,
    ConflictError,
    InvalidInputError,
    JobCancelledError,
    JobFailedError,
    UnavailableError,
)
from accelerator_autopilot.contracts.errors import NotFoundError as Missing
from accelerator_autopilot.contracts.ids import derived_id, new_id
from accelerator_autopilot.contracts.job_building import (
    MESSAGE_ID,
    Options,
    address,
    make_job,
    make_options,
    message_id,
)
from accelerator_autopilot.contracts.messages.jobs import Job, JobProgress, JobResult, JobState
from accelerator_autopilot.contracts.projects import DEFAULT_PROJECT
from accelerator_autopilot.contracts.streams import DAY_S, PAYLOAD_INLINE_LIMIT
from accelerator_autopilot.transport import job_id_claims
from accelerator_autopilot.transport.clock import utc_now
from accelerator_autopilot.transport.job_id_claims import Claims, fingerprint
from accelerator_autopilot.transport.payload_store import (
    MAX_PAYLOAD_BYTES,
    job_payload,
    load_payload,
    store_encoded,
)
from accelerator_autopilot.transport.publish_retries import Outgoing, publish_patiently
from accelerator_autopilot.transport.result_publishing import BUS_ERRORS, not_stored, publish_result


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

    def __init__(
        self,
        nc: Client,
        js: JetStreamContext,
        actor: str,
        project: str = DEFAULT_PROJECT,
        claims: Claims | None = None,
    ) -> None:
        self._nc, self._js, self._actor, self.project = nc, js, actor, project
        self._claims = claims or Claims(js, project)

    def acting_as(self, actor: str, project: str) -> Jobs:
        """Return the same client acting for somebody else."""
        return Jobs(self._nc, self._js, actor, project, self._claims if project == self.project else None)

    async def submit(
        self,
        kind: str,
        payload: dict[str, Any],
        *,
        job_id: str | None = None,
        idempotency_key: str | None = None,
        submitter: str | None = None,
        fresh: bool = False,
        **options: Any,
    ) -> JobHandle:
        """Publish a job and wait until it is stored; `options` are the fields of `Options`.

        The same `job_id` or `idempotency_key` is the same job for as long as that or its result exists; `fresh`
        means that nobody else can have used the id, which saves a lookup. Raises InvalidInputError for a bad
        argument, ConflictError when the id or key belongs to another kind or payload, BusyError when the queue
        is full, and UnavailableError when the stream did not confirm.
        """
        chosen = make_options(**options)
        who = submitter or self._actor
        fresh = fresh or (job_id is None and not idempotency_key)
        job_id = job_id or self.identify(kind, who, idempotency_key)
        if fresh:
            job = await self.prepare(job_id, kind, payload, chosen, submitter=who)
            return JobHandle(job_id, kind, self, duplicate=await self.publish(job))
        digest = fingerprint(kind, payload)
        revision = await self._claims.claim(job_id, digest)
        if revision is None:
            return JobHandle(job_id, kind, self, duplicate=True)
        there = await self._publish_claimed(job_id, kind, payload, chosen, who, digest, revision)
        return JobHandle(job_id, kind, self, duplicate=there)

    def identify(self, kind: str, submitter: str, idempotency_key: str | None) -> str:
        """Return the id of a submitter's job: the same for the same key, a new one without a key."""
        return derived_id(submitter, kind, idempotency_key) if idempotency_key else new_id()

    async def _publish_claimed(
        self,
        job_id: str,
        kind: str,
        payload: dict[str, Any],
        options: Options,
        submitter: str,
        digest: str,
        revision: int,
    ) -> bool:
        """Publish a job under an id that was claimed; True when it existed already."""
        try:
            job = await self.prepare(job_id, kind, payload, options, submitter=submitter, claim=revision)
            job = job.model_copy(update={"fingerprint": digest})
        except AutopilotError:
            await self._claims.release(job_id)
            raise
        try:
            if not await self.publish(job, first=True):
                return False
            if await self._is_there(job_id, digest):
                return True
            # The stream remembers the id of a finished job whose result is already deleted.
            return await self.publish(job, f"{message_id(job)}-{revision}")
        except BusyError:
            await self._claims.release(job_id)
            raise

    async def _is_there(self, job_id: str, digest: str) -> bool:
        """Whether the job exists. Raises ConflictError, UnavailableError."""
        try:
            return await self._claims.is_there(job_id, digest)
        except BUS_ERRORS as error:
            raise not_stored(f"job {job_id}", error) from error

    async def prepare(
        self,
        job_id: str,
        kind: str,
        payload: dict[str, Any],
        options: Options,
        *,
        submitter: str,
        claim: int = 0,
    ) -> Job:
        """Prepare the job for publishing: a payload that is too large for a message goes to the object store first.

        `claim` makes the object's name unique among those who submit under the same id.
        """
        job = make_job(
            job_id, kind, payload, options, submitter=submitter, now=utc_now(), project=self.project, actor=self._actor
        )
        encoded = json.dumps(payload).encode()
        size = len(encoded)
        if size <= PAYLOAD_INLINE_LIMIT:
            return job
        if size > MAX_PAYLOAD_BYTES:
            raise InvalidInputError("payload", f"{size} bytes", f"may have at most {MAX_PAYLOAD_BYTES} bytes: split it")
        # Its time to live starts when it may run.
        expires_at = max(job.submitted_at, job.not_before or job.submitted_at) + timedelta(seconds=job.ttl_s)
        reference = await store_encoded(self._js, job_payload(self.project, job_id, claim), encoded, expires_at)
        return job.model_copy(update={"payload": {}, "payload_ref": reference})

    async def publish(self, job: Job, message_id: str | None = None, *, first: bool = False) -> bool:
        """Publish a prepared job; True when it existed already: the same message, or with `first` any with its id."""
        message = message_of(job)
        headers = message.headers
        if message_id is not None:
            headers[MESSAGE_ID] = message_id
        if first and message.stream == "JOBS" and not job.after:
            headers |= job_id_claims.first(job.id, job.project)
        elif first and await self._claims.exists(job.id):
            return True
        try:
            ack = await publish_patiently(self._js, message.subject, message.body, headers, stream=message.stream)
        except BUS_ERRORS as error:
            if first and isinstance(error, APIError) and error.err_code in job_id_claims.WRONG_SEQUENCE:
                return True
            raise not_stored(f"job {job.id}", error) from error
        return bool(ack.duplicate)

    async def find_result(self, job_id: str, *, direct: bool = True) -> JobResult | None:
        """Return the result, if there is a readable one; without `direct`, only the stream leader is asked."""
        try:
            message = await self._js.get_last_msg("RESULTS", subjects.result(job_id, self.project), direct=direct)
        except NotFoundError:
            return None
        return await self.read_result(message.data or b"")

    async def read_result(self, stored: bytes) -> JobResult | None:
        """Read a result from RESULTS, with its output wherever that is stored; None where it is unreadable."""
        try:
            result = JobResult.model_validate_json(stored)
        except ValidationError:
            return None
        if result.output_ref:
            try:
                output = (await load_payload(self._js, result.output_ref)).get("output")
            except Missing:
                # The output's time to live has ended, and the result's with it.
                return None
            result = result.model_copy(update={"output": output})
        return result

    async def is_gone(self, job_id: str) -> bool:
        """Whether no result can arrive any more: the job is nowhere, or its result is unreadable."""
        try:
            return not await self._claims.waits(job_id) and await self.find_result(job_id, direct=False) is None
        except (UnavailableError, *BUS_ERRORS):
            return False

    async def wait(self, job_id: str, timeout_s: float = 60.0) -> JobResult:
        """Wait for the result of a job.

        Raises TimeoutError when there is none in time, and NotFoundError when none can arrive: the result has expired,
        or there is no such job.
        """
        # Subscribe first and read second, so that a result in between is not missed.
        subscription = await self._nc.subscribe(subjects.result(job_id, self.project))
        try:
            async with asyncio.timeout(timeout_s):
                check, pauses = patient(self._nc, self.find_result), look_again()
                looks = 0
                while True:
                    found = await check(job_id)
                    if found is not None:
                        return found
                    if looks >= SOON and await self.is_gone(job_id):
                        raise nowhere(job_id)
                    looks += 1
                    with suppress(nats.errors.TimeoutError):
                        await subscription.next_msg(timeout=next(pauses))
                        # It will be stored shortly, and may be kept only briefly.
                        pauses = look_again()
        finally:
            await subscription.unsubscribe()

    async def output(self, job_id: str, timeout_s: float = 60.0) -> Any:
        """Wait for the output of a job. Raises what `wait` does, and JobFailedError when it ended without one."""
        return output_of(await self.wait(job_id, timeout_s))

    async def events(self, job_id: str) -> AsyncIterator[JobProgress | JobResult]:
        """Follow a job: its progress, then its result. Raises NotFoundError when none can come any more."""
        async for report in follow(self._nc, self.find_result, self.is_gone, (self.project, job_id)):
            yield report

    async def progress(self, job_id: str) -> AsyncIterator[JobProgress]:
        """Follow a job until it ends. Raises what `events` does."""
        async for report in self.events(job_id):
            if isinstance(report, JobProgress):
                yield report

    async def stream(
        self, kind: str, payload: dict[str, Any], *, job_id: str | None = None, **options: Any
    ) -> AsyncIterator[JobProgress | JobResult]:
        """Submit a job and yield all of its progress, its result last."""
        options = {"fresh": job_id is None} | options
        job_id = job_id or new_id()

        async def begin() -> None:
            await self.submit(kind, payload, job_id=job_id, **options)

        async for report in follow(self._nc, self.find_result, self.is_gone, (self.project, job_id), begin):
            yield report

    async def load(self, job: Job) -> dict[str, Any]:
        """Return a job's payload, wherever it is stored. Raises NotFoundError when it expired."""
        return await load_payload(self._js, job.payload_ref) if job.payload_ref else job.payload

    async def view(self, job_id: str) -> JobView:
        """Return what is known of a job. Raises NotFoundError for an unknown id."""
        result = await self.find_result(job_id)
        if result is not None:
            return JobView(id=job_id, kind=result.kind, state=result.status, result=result)
        for stream, subject in subjects.stages_of_job(job_id, self.project):
            try:
                message = await self._js.get_last_msg(stream, subject, direct=True)
            except NotFoundError:
                continue
            return view_of_waiting(job_id, message.subject or "", message.data or b"")
        # It may have ended since the first lookup.
        result = await self.find_result(job_id)
        if result is not None:
            return JobView(id=job_id, kind=result.kind, state=result.status, result=result)
        raise nowhere(job_id)

    async def cancel(self, job_id: str) -> JobResult:
        """Cancel a job that has no result yet. Raises ConflictError when it ended already."""
        view = await self.view(job_id)
        if view.result is not None:
            raise ConflictError(f"job {job_id} already {view.state}")
        if not await self.end_cancelled(job_id, view.kind):
            raise ConflictError(f"job {job_id} finished in the meantime")
        for stream, subject in subjects.stages_of_job(job_id, self.project):
            await self._js.purge_stream(stream, subject=subject)
        return JobResult(
            job_id=job_id,
            kind=view.kind,
            status="cancelled",
            submitted_at=utc_now(),
            finished_at=utc_now(),
            **self._owner(),
        )

    async def end_cancelled(self, job_id: str, kind: str) -> bool:
        """Notify its worker, and store the result of a cancelled job; False when it ended otherwise meanwhile.

        Raises UnavailableError when the result could not be stored; a worker that has the job then stores it.
        """
        now = utc_now()
        try:
            kv = await self._js.key_value("jobs")
            await kv.put(
                subjects.job_key(job_id, self.project),
                JobState(cancelled=True, at=now, **self._owner()).model_dump_json().encode(),
            )
        except BUS_ERRORS as error:
            raise not_stored(f"the end of job {job_id}", error) from error
        result = JobResult(
            job_id=job_id, kind=kind, status="cancelled", submitted_at=now, finished_at=now, **self._owner()
        )
        return await publish_result(self._js, result, result.model_dump_json().encode(), DAY_S)

    def _owner(self) -> dict[str, str]:
        return {"project": self.project, "actor": self._actor}

    async def queued(self, limit: int = 1000) -> list[JobView]:
        """Return jobs that wait or run."""
        return await list_queued(self._js, self.project, limit)

    async def finished(self, limit: int = 50) -> list[JobView]:
        """Return the newest results of the last day, newest first."""
        return await list_finished(self._js, self.project, limit)


def message_of(job: Job) -> Outgoing:
    """Return the message that publishes a prepared job to its stage."""
    stream, subject, headers = address(job, utc_now())
    return Outgoing(stream, subject, headers, job.model_dump_json(exclude_none=True).encode())


def output_of(result: JobResult) -> Any:
    """Return the output of a finished job. Raises JobFailedError, or JobCancelledError, when it ended without one."""
    if result.status == "cancelled":
        raise JobCancelledError(f"job {result.job_id} was cancelled")
    if result.status != "succeeded":
        last = result.errors[-1] if result.errors else None
        reason = (last.message or last.type) if last else "no reason is on record"
        raise JobFailedError(f"job {result.job_id} {result.status}: {reason}")
    return result.output
