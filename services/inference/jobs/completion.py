"""Complete jobs: exactly one result each, dead letters, and errors recorded between attempts."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, TypeVar

from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.kv import KeyValue

from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.errors import InvalidInputError, UnavailableError
from accelerator_autopilot.contracts.job_output_references import fill_in, wanted_jobs
from accelerator_autopilot.contracts.messages.jobs import Job, JobError, JobResult, JobState, JobStatus, JobUsage
from accelerator_autopilot.contracts.streams import PAYLOAD_INLINE_LIMIT
from accelerator_autopilot.inference.jobs.dead_lettering import DeadLettering, explain
from accelerator_autopilot.inference.jobs.retry_policy import EndJob, Places, after_error, counted
from accelerator_autopilot.inference.jobs.retry_records import RetryRecords
from accelerator_autopilot.inference.jobs.stored_results import read_result
from accelerator_autopilot.inference.settings import WorkerSettings
from accelerator_autopilot.runtime.bus import BUS_ERRORS
from accelerator_autopilot.runtime.poison_messages import may_pass
from accelerator_autopilot.transport.clock import utc_now
from accelerator_autopilot.transport.payload_store import (
    MAX_PAYLOAD_BYTES,
    drop_payload,
    is_own,
    load_payload,
    store_payload,
)
from accelerator_autopilot.transport.result_publishing import publish_result

log = logging.getLogger(__name__)

# Delays before retrying a write that failed; the last one repeats.
STORE_RETRY_S = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


S = TypeVar("S")


@dataclass
class ClaimedJob:
    """A job that this worker holds: its message, its number of attempts so far, its errors."""

    message: Msg
    job: Job
    delivered: int
    errors: list[JobError] = field(default_factory=list)
    cancelled: bool = False
    alone: bool = False
    kills: int = 0

    @property
    def attempt(self) -> int:
        """The number of the attempt that is about to run, from 1."""
        return len(self.errors) + 1

    @property
    def since(self) -> datetime:
        """When this job was submitted; older records under its id belong to an earlier job."""
        return min(self.job.submitted_at, self.message.metadata.timestamp)


@dataclass(frozen=True)
class RunStats:
    """When a batch ran, and the resources it used."""

    started_at: datetime
    run_s: float = 0.0
    batch_size: int = 1
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class JobCompletion:
    """Records the outcomes of jobs. Every write is confirmed before the job is acknowledged.

    A write that cannot be stored for now, because the stream is full or the broker unreachable, is retried until it
    can: meanwhile the worker keeps the job and takes no others.
    """

    def __init__(
        self,
        js: JetStreamContext,
        kv: KeyValue,
        settings: WorkerSettings,
        cancelled: Callable[[ClaimedJob], bool] = lambda _: False,
    ) -> None:
        self._js, self._settings, self._is_cancelled = js, settings, cancelled
        self.records = RetryRecords(kv)
        self._dead = DeadLettering(js, settings.worker)
        self._ending = asyncio.Event()

    def end(self) -> None:
        """Stop retrying: the process is about to exit, and another worker will rerun jobs without a stored result."""
        self._ending.set()

    async def succeed(self, taken: ClaimedJob, output: Any, ran: RunStats) -> None:
        """Store the job's result, unless it has one, and delete its payload."""
        wait_s = max(0.0, (ran.started_at - taken.job.submitted_at).total_seconds())
        usage = JobUsage(
            wait_s=wait_s,
            run_s=ran.run_s,
            batch_size=ran.batch_size,
            prompt_tokens=ran.prompt_tokens,
            completion_tokens=ran.completion_tokens,
        )
        await self._finish(taken, self._result(taken, "succeeded", ran.started_at, output=output, usage=usage))
        if taken.job.payload_ref and is_own(taken.job.payload_ref, taken.job.project, taken.job.id):
            await drop_payload(self._js, taken.job.payload_ref)

    async def cancel(self, taken: ClaimedJob) -> None:
        """Finish a cancelled job that was taken anyway: the canceller may have been unable to store its result."""
        await self._finish(taken, self._result(taken, "cancelled", None))

    async def fail(self, taken: ClaimedJob, error: BaseException, places: Places | None = None) -> None:
        """Schedule another attempt, or dead-letter the job; `places` says where else it may run."""
        self.note(taken, error)
        verdict = after_error(taken.job, error, counted(taken.errors, places))
        fields = {"job_id": taken.job.id, "kind": taken.job.kind, "attempt": len(taken.errors)}
        log.warning("attempt failed", extra=fields | {"error": type(error).__name__})
        if isinstance(verdict, EndJob):
            await self.dead_letter(taken, verdict)
            return
        await self._stored(taken.message, lambda: self._write_record(taken))
        await taken.message.nak(delay=verdict.delay_s)

    async def give_back(self, taken: ClaimedJob, *, alone: bool) -> None:
        """Schedule another attempt that does not count against the job, in a batch of its own if requested."""
        if alone:
            await self._change(taken, {"alone": True})
        await taken.message.nak()

    def note(self, taken: ClaimedJob, error: BaseException) -> None:
        """Add an error to the job's record."""
        taken.errors = [
            *taken.errors,
            JobError(
                attempt=taken.attempt,
                type=getattr(error, "reported_as", type(error).__name__),
                message=explain(error)[:4000],
                worker=self._settings.worker,
                at=utc_now(),
                device=f"{self._settings.node}/{self._settings.worker_device}",
            ),
        ]

    async def dead_letter(self, taken: ClaimedJob, verdict: EndJob) -> None:
        """Publish the dead letter, then the failed result, then acknowledge; each step is idempotent."""
        if verdict.why:
            kind = "expired" if verdict.reason == "expired" else "worker_died"
            taken.errors = [*taken.errors, self._dead.reason(kind, verdict.why, len(taken.errors))]
        job, errors, s = taken.job, taken.errors, self._settings
        where = {"worker": s.worker, "device": s.worker_device, "node": s.node}
        subject = taken.message.subject
        await self._stored(taken.message, lambda: self._dead.dead_letter(job, verdict.reason, errors, subject, **where))
        await taken.message.ack()

    async def dead_letter_unreadable(self, message: Msg, error: Exception) -> None:
        """Store a failed result for a message that is not a job, under the id that its subject names."""
        metadata = message.metadata
        await self._stored(
            message,
            lambda: self._dead.dead_letter_unreadable(
                message.subject, message.data, metadata.sequence.stream, metadata.timestamp, error
            ),
        )
        await message.ack()

    async def give_up(self, message: Msg, error: Exception) -> None:
        """End a job whose message could not be handled; acknowledging it is left to the caller."""
        await self._stored(message, lambda: self._dead.give_up(message, error))

    async def forward(self, message: Msg, stream: str, subject: str, headers: dict[str, str], body: bytes) -> None:
        """Publish a job elsewhere, then acknowledge it here."""

        async def publish() -> None:
            await self._js.publish(subject, body, headers=dict(headers), stream=stream)

        await self._stored(message, publish)
        await message.ack()

    async def payload(self, job: Job) -> dict[str, Any]:
        """Return the job's input, wherever it is stored, with references to other jobs' outputs resolved.

        Raises NotFoundError when it expired and InvalidInputError for a reference that cannot be resolved.
        """
        payload = await load_payload(self._js, job.payload_ref, MAX_PAYLOAD_BYTES) if job.payload_ref else job.payload
        outputs = {job_id: await self._output(job_id, job.project) for job_id in wanted_jobs(payload)}
        filled = fill_in(payload, outputs) if outputs else payload
        return filled if isinstance(filled, dict) else {}

    async def status_of(self, job_id: str, project: str) -> JobStatus | None:
        """Return how a job ended; None when it has not."""
        result = await read_result(self._js, job_id, project)
        return result.status if result else None

    async def read_record(self, taken: ClaimedJob) -> JobState:
        """Return what is recorded of a job between attempts."""
        return await self.records.read(taken.job.reference, taken.since)

    async def _write_record(self, taken: ClaimedJob) -> None:
        await self._change(taken, {"errors": taken.errors})

    async def _change(self, taken: ClaimedJob, fields: dict[str, Any]) -> None:
        fields = {"actor": taken.job.actor} | fields
        await self.records.change(taken.job.reference, lambda state: state.model_copy(update=fields), taken.since)

    async def _output(self, job_id: str, project: str) -> Any:
        result = await read_result(self._js, job_id, project)
        if result is None:
            raise InvalidInputError("$result", job_id, "has no result")
        if result.status != "succeeded":
            raise InvalidInputError("$result", job_id, f"{result.status}")
        return (await load_payload(self._js, result.output_ref))["output"] if result.output_ref else result.output

    async def _finish(self, taken: ClaimedJob, result: JobResult) -> None:
        ttl_s = taken.job.result_ttl_s
        body = result.model_dump_json(exclude_none=True).encode()
        if len(body) > PAYLOAD_INLINE_LIMIT:
            until = utc_now() + timedelta(seconds=ttl_s)
            name, output = subjects.in_project(result.project, f"result-{result.job_id}"), {"output": result.output}
            reference = await self._stored(taken.message, lambda: store_payload(self._js, name, output, until))
            slim = result.model_copy(update={"output": None, "output_ref": reference})
            body = slim.model_dump_json(exclude_none=True).encode()
        cancelled = self._result(taken, "cancelled", None)

        async def publish() -> bool:
            # Whoever cancelled it while it was running was told that the worker would report the outcome.
            if self._is_cancelled(taken):
                return await publish_result(self._js, cancelled, cancelled.model_dump_json().encode(), ttl_s)
            return await publish_result(self._js, result, body, ttl_s)

        await self._stored(taken.message, publish)
        await taken.message.ack()

    async def _stored(self, message: Msg, store: Callable[[], Awaitable[S]]) -> S:
        """Retry until it is stored.

        When the process is about to exit, gives the job back and raises the last error. Raises at once for
        errors that retrying cannot help, such as a message that is too large for the server.
        """
        tries = 0
        while True:
            try:
                return await store()
            except (UnavailableError, *BUS_ERRORS) as error:
                if not (may_pass(error) and may_pass(error.__cause__ or error)):
                    raise
                pause_s = STORE_RETRY_S[min(tries, len(STORE_RETRY_S) - 1)]
                fields = {"subject": message.subject, "tries": tries + 1, "error": str(error) or type(error).__name__}
                log.warning("could not store the outcome; retrying", extra=fields)
                if self._ending.is_set():
                    await message.nak()
                    raise
            tries += 1
            with suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), pause_s)

    def _result(
        self,
        taken: ClaimedJob,
        status: str,
        started_at: datetime | None,
        *,
        output: Any = None,
        usage: JobUsage | None = None,
    ) -> JobResult:
        job, s = taken.job, self._settings
        return JobResult(
            job_id=job.id,
            kind=job.kind,
            status=status,
            output=output,
            errors=taken.errors,
            worker=s.worker,
            device=s.worker_device,
            node=s.node,
            submitter=job.submitter,
            fingerprint=job.fingerprint,
            **job.owner,
            attempt=taken.attempt,
            usage=usage,
            submitted_at=job.submitted_at,
            started_at=started_at,
            finished_at=utc_now(),
        )
