"""End jobs without success: a dead letter with the reason, then the failed result. Each step is idempotent."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from nats.aio.msg import Msg
from nats.js import JetStreamContext
from pydantic import ValidationError

from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.errors import AutopilotError, InvalidInputError
from accelerator_autopilot.contracts.ids import derived_id
from accelerator_autopilot.contracts.messages.jobs import DeadJob, DeadReason, Job, JobError, JobResult
from accelerator_autopilot.contracts.streams import DAY_S
from accelerator_autopilot.inference.jobs.decoding import read_job
from accelerator_autopilot.runtime.dead_letters import publish_dead
from accelerator_autopilot.transport.clock import utc_now
from accelerator_autopilot.transport.result_publishing import publish_result

log = logging.getLogger(__name__)

RAW_LIMIT = 2000
MAX_REMEMBERED_LETTERS = 10_000
UNKNOWN_KIND = "unknown"


@dataclass(frozen=True)
class DeadLettering:
    """Dead-letters jobs; `name` identifies the reporter.

    Every method raises the errors of nats-py and UnavailableError.
    """

    js: JetStreamContext
    name: str
    # The result may be refused for longer than the stream's deduplication window lasts.
    _lettered: dict[tuple[str, datetime], None] = field(default_factory=dict)

    def reason(self, kind: str, text: str, attempt: int = 1) -> JobError:
        """Return why a job ends: its last error."""
        return JobError(attempt=max(1, attempt), type=kind, message=text[:4000], worker=self.name, at=utc_now())

    async def dead_letter(
        self, job: Job, reason: DeadReason, errors: list[JobError], subject: str, **where: Any
    ) -> None:
        """Publish a dead letter and a failed result, unless the job has a result; `where` holds more result fields."""
        if (job.reference, job.submitted_at) not in self._lettered:
            await publish_dead(self.js, job, reason, errors, subject)
            self._lettered[job.reference, job.submitted_at] = None
            if len(self._lettered) > MAX_REMEMBERED_LETTERS:
                del self._lettered[next(iter(self._lettered))]
        result = JobResult(
            job_id=job.id,
            kind=job.kind,
            status="failed",
            errors=errors,
            submitter=job.submitter,
            fingerprint=job.fingerprint,
            **job.owner,
            submitted_at=job.submitted_at,
            finished_at=utc_now(),
            attempt=max((e.attempt for e in errors), default=1),
            **where,
        )
        await self._publish(result, job.result_ttl_s)
        log.warning("job dead-lettered", extra={"job_id": job.id, "kind": job.kind, "reason": reason})

    async def dead_letter_unreadable(
        self, subject: str, data: bytes, sequence: int, stored_at: datetime, error: Exception
    ) -> None:
        """Dead-letter a message that is not a job: keep it for a day for operators, and store a result for its id.

        The id is the subject's, or `seq-<sequence in the stream>` where the subject has none.
        """
        kind, identity = named_by(subject, sequence)
        project = subjects.project_of(subject)
        why = self.reason("InvalidInputError", f"the message is not a valid job: {explain(error)}")
        raw = data[:RAW_LIMIT].decode(errors="replace")
        dead = DeadJob(
            id=identity,
            kind=kind,
            reason="invalid",
            raw=raw,
            errors=[why],
            subject=subject,
            at=utc_now(),
            project=project,
        )
        body = dead.model_dump_json(exclude_none=True).encode()
        headers = {"Nats-Msg-Id": f"dead-{derived_id(subject, str(sequence))}"}
        await self.js.publish(subjects.dead(kind, project), body, headers=headers, msg_ttl=DAY_S)
        result = JobResult(
            job_id=identity,
            kind=kind,
            status="failed",
            errors=[why],
            submitted_at=stored_at,
            finished_at=utc_now(),
            project=project,
        )
        await self._publish(result, DAY_S)
        log.warning("unreadable job", extra={"subject": subject, "sequence": sequence})

    async def give_up(self, message: Msg, error: Exception) -> None:
        """End a job whose message could not be handled, where neither the worker nor the bus is at fault."""
        metadata = message.metadata
        sequence, stored_at = metadata.sequence.stream, metadata.timestamp
        try:
            job = read_message(message.subject, message.data, sequence, stored_at)
        except (ValidationError, InvalidInputError, ValueError, RecursionError):
            await self.dead_letter_unreadable(message.subject, message.data, sequence, stored_at, error)
            return
        text = f"could not be handled: {explain(error) if isinstance(error, AutopilotError) else type(error).__name__}"
        await self.dead_letter(job, "permanent_error", [self.reason("CannotHandleError", text)], message.subject)

    async def _publish(self, result: JobResult, ttl_s: float) -> None:
        await publish_result(self.js, result, result.model_dump_json(exclude_none=True).encode(), ttl_s)


def read_message(subject: str, data: bytes, sequence: int, stored_at: datetime) -> Job:
    """Parse a message of the queue, or of a job that waits for others or for its time.

    Raises ValueError or InvalidInputError.
    """
    if subjects.split_project(subject)[1].startswith("jobs."):
        return read_job(subject, data, sequence, stored_at)
    return Job.model_validate_json(data)


def named_by(subject: str, sequence: int) -> tuple[str, str]:
    """Return the kind and id of a job as its subject names them."""
    stage, *tokens = subjects.split_project(subject)[1].split(".")
    kind, rest = (subjects.untoken(tokens[0]), tokens[2:]) if stage == "jobs" else (UNKNOWN_KIND, tokens)
    identity = subjects.job_id(rest) if rest else f"seq-{sequence}"
    return kind if _is_name(kind) else UNKNOWN_KIND, identity if _is_name(identity) else derived_id(subject)


def _is_name(text: str) -> bool:
    """Whether messages can carry it: the subject may come from a publisher that ignores our naming rules."""
    return 0 < len(text.encode()) <= subjects.MOST_NAME_BYTES and "\0" not in text


def explain(error: BaseException) -> str:
    """Describe what went wrong, by field and rule and without the input: an error must not quote the job."""
    if isinstance(error, InvalidInputError):
        return f"{error.field}: {error.rule}"
    if isinstance(error, ValidationError):
        return "; ".join(f"{'.'.join(str(p) for p in e['loc']) or 'body'}: {e['msg']}" for e in error.errors())
    return str(error) if isinstance(error, AutopilotError) and str(error) else type(error).__name__
