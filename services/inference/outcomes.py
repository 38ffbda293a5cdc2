"""How jobs end: one result each, dead letters, and errors kept between attempts."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.errors import APIError, KeyNotFoundError
from nats.js.kv import KeyValue
from pydantic import ValidationError

from shared import subjects
from shared.clock import utc_now
from shared.ids import derived_id
from shared.messages.jobs import DeadJob, Job, JobError, JobResult, JobState
from shared.payloads import load_payload, store_payload
from shared.streams import PAYLOAD_INLINE_LIMIT

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


class JobOutcomes:
    """Writes what became of jobs. Every write is confirmed before the job is acknowledged."""

    def __init__(self, js: JetStreamContext, kv: KeyValue) -> None:
        self._js, self._kv = js, kv

    async def finish(self, taken: Taken, result: JobResult) -> bool:
        """Publish the result unless the job has one, then acknowledge; True when this was the one."""
        body = result.model_dump_json(exclude_none=True).encode()
        if len(body) > PAYLOAD_INLINE_LIMIT:
            reference = await store_payload(self._js, f"result-{result.job_id}", {"output": result.output})
            slim = result.model_copy(update={"output": None, "output_ref": reference})
            body = slim.model_dump_json(exclude_none=True).encode()
        first = await self._publish_once(subjects.result(result.job_id), body)
        await taken.message.ack()
        return first

    async def _publish_once(self, subject: str, body: bytes) -> bool:
        try:
            await self._js.publish(subject, body, stream="RESULTS")
        except APIError as error:
            if error.err_code != RESULT_EXISTS:
                raise
            return False
        return True

    async def bury(self, taken: Taken, reason: str, result: JobResult) -> None:
        """Dead letter, then the failed result, then the acknowledgement: each can be repeated."""
        job = taken.job
        dead = DeadJob.model_validate(
            {
                "id": job.id,
                "kind": job.kind,
                "reason": reason,
                "job": job,
                "errors": taken.errors,
                "subject": taken.message.subject,
                "at": utc_now(),
            }
        )
        await self._publish_dead(dead)
        await self.finish(taken, result)
        log.warning("job buried", extra={"job_id": job.id, "kind": job.kind, "reason": reason})

    async def bury_unreadable(self, message: Msg) -> None:
        """Keep what is no job at all where an operator finds it."""
        sequence = message.metadata.sequence.stream
        kind = subjects.untoken(message.subject.split(".")[1])
        raw = message.data[:RAW_LIMIT].decode(errors="replace")
        identity = derived_id("JOBS", str(sequence))
        dead = DeadJob(id=identity, kind=kind, reason="invalid", raw=raw, subject=message.subject, at=utc_now())
        await self._publish_dead(dead)
        await message.ack()
        log.warning("unreadable job", extra={"subject": message.subject, "sequence": sequence})

    async def _publish_dead(self, dead: DeadJob) -> None:
        await self._js.publish(
            subjects.dead(dead.kind),
            dead.model_dump_json(exclude_none=True).encode(),
            headers={"Nats-Msg-Id": f"dead-{dead.id}"},
        )

    async def payload(self, job: Job) -> dict[str, Any]:
        """The job's input, wherever it is kept. Raises NotFoundError when it expired."""
        return await load_payload(self._js, job.payload_ref) if job.payload_ref else job.payload

    async def recall(self, job_id: str) -> JobState:
        """What is kept of a job between attempts."""
        try:
            entry = await self._kv.get(subjects.token(job_id))
            return JobState.model_validate_json(entry.value or b"")
        except (KeyNotFoundError, ValidationError):
            return JobState()

    async def remember(self, job_id: str, errors: list[JobError]) -> None:
        """Keep a job's errors for its next attempt."""
        state = JobState(errors=errors)
        await self._kv.put(subjects.token(job_id), state.model_dump_json().encode())
