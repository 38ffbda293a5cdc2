"""Build a job from a caller's options, and the subject that it is published under. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import AwareDatetime, BaseModel, Field, ValidationError

from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.errors import InvalidInputError
from accelerator_autopilot.contracts.job_output_references import wanted_jobs
from accelerator_autopilot.contracts.messages.jobs import Job, JobNeeds, Priority
from accelerator_autopilot.contracts.projects import DEFAULT_PROJECT
from accelerator_autopilot.contracts.streams import JOB_AGE_S

SCHEDULE = "Nats-Schedule"
SCHEDULE_TARGET = "Nats-Schedule-Target"
MESSAGE_ID = "Nats-Msg-Id"
MESSAGE_TTL = "Nats-TTL"


class Options(BaseModel):
    """Options of a job besides its kind and payload."""

    model_config = {"extra": "forbid", "frozen": True}

    priority: Priority = "normal"
    ttl_s: float = Field(default=86_400.0, gt=0, le=JOB_AGE_S)
    deadline_at: AwareDatetime | None = None
    result_ttl_s: float = Field(default=86_400.0, ge=1, le=JOB_AGE_S)
    max_attempts: int = Field(default=3, ge=1, le=20)
    timeout_s: float | None = Field(default=None, ge=1, le=JOB_AGE_S, description="an attempt may run for this long")
    delay_s: float | None = Field(default=None, ge=0, le=JOB_AGE_S, description="enters the queue after this time")
    at: AwareDatetime | None = Field(default=None, description="enters the queue then")
    after: Sequence[str] = Field(default=(), max_length=1000, description="jobs that must have succeeded")
    needs: JobNeeds | None = None


def make_options(**named: Any) -> Options:
    """Create options from named arguments. Raises InvalidInputError for the first invalid one."""
    try:
        return Options(**named)
    except ValidationError as error:
        raise first_problem(error) from error


def first_problem(error: ValidationError) -> InvalidInputError:
    """Return the first validation error as one of ours."""
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"]) or "job"
    value = first["input"] if isinstance(first["input"], str | int | float | None) else type(first["input"]).__name__
    return InvalidInputError(field, value, first["msg"])


def check_id(field: str, identity: str) -> None:
    """Raise InvalidInputError for an id that no path of the HTTP API can contain."""
    if "/" in identity or "\\" in identity or identity in {".", ".."}:
        raise InvalidInputError(field, identity, "must not be '.' or '..' and must not contain a slash")


def make_job(
    job_id: str,
    kind: str,
    payload: dict[str, Any],
    options: Options,
    *,
    submitter: str,
    now: datetime,
    project: str = DEFAULT_PROJECT,
    actor: str = "",
) -> Job:
    """Create the job. Raises InvalidInputError for a field that violates a rule."""
    check_id("job_id", job_id)
    at = options.at or (now + timedelta(seconds=options.delay_s) if options.delay_s else None)
    if at is not None and at > now + timedelta(seconds=JOB_AGE_S):
        raise InvalidInputError("at", at.isoformat(), f"must be within {JOB_AGE_S / 86_400:.0f} days")
    after = list(dict.fromkeys([*options.after, *wanted_jobs(payload)]))
    if job_id in after:
        raise InvalidInputError("after", job_id, "a job cannot wait for itself")
    try:
        return Job(
            id=job_id,
            kind=kind,
            priority=options.priority,
            payload=payload,
            submitter=submitter,
            project=project,
            actor=actor or submitter,
            submitted_at=now,
            ttl_s=options.ttl_s,
            deadline_at=options.deadline_at,
            result_ttl_s=options.result_ttl_s,
            max_attempts=options.max_attempts,
            timeout_s=options.timeout_s,
            after=after,
            not_before=at,
            needs=options.needs,
        )
    except ValidationError as error:
        raise first_problem(error) from error


def address(job: Job, now: datetime) -> tuple[str, str, dict[str, str]]:
    """Return the stream, subject and headers of a job: waiting for others, then for its time, then in the queue."""
    if job.after:
        return "JOBS", subjects.waiting(job.id, job.project), {MESSAGE_ID: message_id(job, "waiting-")}
    if job.not_before is not None and job.not_before > now:
        # The server counts whole seconds, and a job must not start before its time.
        at = (job.not_before + timedelta(microseconds=999_999)).astimezone(UTC)
        headers = {SCHEDULE: f"@at {at.strftime('%Y-%m-%dT%H:%M:%SZ')}"}
        headers |= {SCHEDULE_TARGET: subjects.due(job.id, job.project), MESSAGE_ID: message_id(job, "later-")}
        return "LATER", subjects.later(job.id, job.project), headers
    return queue_address(job)


def queue_address(job: Job) -> tuple[str, str, dict[str, str]]:
    """Stream, subject and headers of a job that may run now."""
    return "JOBS", subjects.job(job.kind, job.priority, job.id, job.project), {MESSAGE_ID: message_id(job)}


def message_id(job: Job, stage: str = "") -> str:
    """The id under which a stream knows a job's message again: two projects may use the same id for two jobs."""
    return subjects.in_project(job.project, f"{stage}{job.id}")
