"""How jobs end: one result each, dead letters, and errors kept between attempts."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.errors import APIError, KeyNotFoundError, NotFoundError
from nats.js.kv import KeyValue
from pydantic import ValidationError

from services.inference.domain.retry import Bury, after_error
from services.inference.settings import WorkerSettings
from shared import subjects
from shared.clock import utc_now
from shared.dead_letters import publish_dead
from shared.errors import InvalidInputError
from shared.ids import derived_id
from shared.messages.jobs import DeadJob, Job, JobError, JobResult, JobState, JobStatus, JobUsage
from shared.payloads import drop_payload, load_payload, store_payload
from shared.references import fill_in, wanted_jobs
from shared.streams import DAY_S, PAYLOAD_INLINE_LIMIT

log = logging.getLogger(__name__)

RESULT_EXISTS = 10077
RAW_LIMIT = 2000


@dataclass
class Taken:
    """A job that this worker holds: its message, its number of attempts so far, its errors."""

    message: Msg
    job: Job
    delivered: int
    errors: list[JobError] = field(default_factory=list)
    cancelled: bool = False

    @property
    def attempt(self) -> int:
        """The attempt that is about to run, from 1."""
        return len(self.errors) + 1


@dataclass(frozen=True)
class Ran:
    """When a batch ran, and what it took."""

    started_at: datetime
    run_s: float = 0.0
    batch_size: int = 1
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class JobOutcomes:
    """Writes what became of jobs. Every write is confirmed before the job is acknowledged."""

    def __init__(self, js: JetStreamContext, kv: KeyValue, settings: WorkerSettings) -> None:
        self._js, self._kv, self._settings = js, kv, settings

    async def succeed(self, taken: Taken, output: Any, ran: Ran) -> None:
        """The job's one result, unless it has one, and the end of its payload."""
        wait_s = max(0.0, (ran.started_at - taken.job.submitted_at).total_seconds())
        usage = JobUsage(
            wait_s=wait_s,
            run_s=ran.run_s,
            batch_size=ran.batch_size,
            prompt_tokens=ran.prompt_tokens,
            completion_tokens=ran.completion_tokens,
        )
        await self._finish(taken, self._result(taken, "succeeded", ran.started_at, output=output, usage=usage))
        if taken.job.payload_ref:
            await drop_payload(self._js, taken.job.payload_ref)

    async def fail(self, taken: Taken, error: BaseException) -> None:
        """Another attempt later, or a dead letter."""
        self.note(taken, error)
        verdict = after_error(taken.job, error, len(taken.errors))
        fields = {"job_id": taken.job.id, "kind": taken.job.kind, "attempt": len(taken.errors)}
        log.warning("attempt failed", extra=fields | {"error": type(error).__name__})
        if isinstance(verdict, Bury):
            await self.bury(taken, verdict)
            return
        await self._remember(taken.job.id, taken.errors)
        await taken.message.nak(delay=verdict.delay_s)

    def note(self, taken: Taken, error: BaseException) -> None:
        """Add an error to those of the job."""
        taken.errors = [
            *taken.errors,
            JobError(
                attempt=taken.attempt,
                type=type(error).__name__,
                message=explain(error)[:4000],
                worker=self._settings.worker,
                at=utc_now(),
            ),
        ]

    async def bury(self, taken: Taken, verdict: Bury) -> None:
        """Dead letter, then the failed result, then the acknowledgement: each can be repeated."""
        await publish_dead(self._js, taken.job, verdict.reason, taken.errors, taken.message.subject)
        await self._finish(taken, self._result(taken, "failed", None))
        log.warning("job buried", extra={"job_id": taken.job.id, "kind": taken.job.kind, "reason": verdict.reason})

    async def bury_unreadable(self, message: Msg) -> None:
        """Keep what is no job at all where an operator finds it, for a day."""
        sequence = message.metadata.sequence.stream
        kind = subjects.untoken(message.subject.split(".")[1])
        raw = message.data[:RAW_LIMIT].decode(errors="replace")
        identity = derived_id("JOBS", str(sequence))
        dead = DeadJob(id=identity, kind=kind, reason="invalid", raw=raw, subject=message.subject, at=utc_now())
        body = dead.model_dump_json(exclude_none=True).encode()
        headers = {"Nats-Msg-Id": f"dead-{identity}"}
        await self._js.publish(subjects.dead(kind), body, headers=headers, msg_ttl=DAY_S)
        await message.ack()
        log.warning("unreadable job", extra={"subject": message.subject, "sequence": sequence})

    async def payload(self, job: Job) -> dict[str, Any]:
        """The job's input, wherever it is kept, with other jobs' outputs filled in.

        Raises NotFoundError when it expired and InvalidInputError for a reference that leads nowhere.
        """
        payload = await load_payload(self._js, job.payload_ref) if job.payload_ref else job.payload
        outputs = {job_id: await self._output(job_id) for job_id in wanted_jobs(payload)}
        filled = fill_in(payload, outputs) if outputs else payload
        return filled if isinstance(filled, dict) else {}

    async def status_of(self, job_id: str) -> JobStatus | None:
        """How a job ended; None when it has not."""
        try:
            message = await self._js.get_last_msg("RESULTS", subjects.result(job_id), direct=True)
        except NotFoundError:
            return None
        return JobResult.model_validate_json(message.data or b"").status

    async def recall(self, job_id: str) -> JobState:
        """What is kept of a job between attempts."""
        try:
            entry = await self._kv.get(subjects.token(job_id))
            return JobState.model_validate_json(entry.value or b"")
        except (KeyNotFoundError, ValidationError):
            return JobState()

    async def _remember(self, job_id: str, errors: list[JobError]) -> None:
        state = JobState(errors=errors)
        await self._kv.put(subjects.token(job_id), state.model_dump_json().encode())

    async def _output(self, job_id: str) -> Any:
        try:
            message = await self._js.get_last_msg("RESULTS", subjects.result(job_id), direct=True)
        except NotFoundError:
            raise InvalidInputError("$result", job_id, "has no result") from None
        result = JobResult.model_validate_json(message.data or b"")
        if result.status != "succeeded":
            raise InvalidInputError("$result", job_id, f"{result.status}")
        return (await load_payload(self._js, result.output_ref))["output"] if result.output_ref else result.output

    async def _finish(self, taken: Taken, result: JobResult) -> None:
        ttl_s = taken.job.result_ttl_s
        body = result.model_dump_json(exclude_none=True).encode()
        if len(body) > PAYLOAD_INLINE_LIMIT:
            until = utc_now() + timedelta(seconds=ttl_s)
            reference = await store_payload(self._js, f"result-{result.job_id}", {"output": result.output}, until)
            slim = result.model_copy(update={"output": None, "output_ref": reference})
            body = slim.model_dump_json(exclude_none=True).encode()
        try:
            await self._js.publish(subjects.result(result.job_id), body, stream="RESULTS", msg_ttl=ttl_s)
        except APIError as error:
            if error.err_code != RESULT_EXISTS:
                raise
        await taken.message.ack()

    def _result(
        self,
        taken: Taken,
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
            attempt=max(1, taken.attempt if status == "succeeded" else len(taken.errors)),
            usage=usage,
            submitted_at=job.submitted_at,
            started_at=started_at,
            finished_at=utc_now(),
        )


def explain(error: BaseException) -> str:
    """What went wrong, by field and rule and without the input: an error must not quote the job."""
    if isinstance(error, InvalidInputError):
        return f"{error.field}: {error.rule}"
    if isinstance(error, ValidationError):
        return "; ".join(f"{'.'.join(str(p) for p in e['loc'])}: {e['msg']}" for e in error.errors())
    return str(error) or type(error).__name__
