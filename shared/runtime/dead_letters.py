"""Write dead letters. The job's input is stored separately, for as long as the job itself may live."""

from __future__ import annotations

from datetime import timedelta

from nats.js import JetStreamContext

from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.job_building import MESSAGE_ID, message_id
from accelerator_autopilot.contracts.messages.jobs import DeadJob, DeadReason, Job, JobError
from accelerator_autopilot.transport.clock import utc_now
from accelerator_autopilot.transport.payload_store import store_payload
from accelerator_autopilot.transport.result_publishing import BUS_ERRORS, not_stored

MIN_S = 60.0
# Errors whose messages are our own: fields, rules, sizes.
OWN = {
    "InvalidInputError", "ValidationError", "CannotRunError", "CannotHandleError", "NotConfiguredError",
    "NotFoundError", "RetryableJobError", "UnavailableError", "expired", "worker_died", "dependency_failed",
}  # fmt: skip


async def publish_dead(
    js: JetStreamContext, job: Job, reason: DeadReason, errors: list[JobError], subject: str
) -> None:
    """Publish a job's dead letter; idempotent. Raises UnavailableError where it was not stored."""
    now = utc_now()
    if job.payload:
        until = max(job.submitted_at + timedelta(seconds=job.ttl_s), now + timedelta(seconds=MIN_S))
        reference = await store_payload(js, subjects.in_project(job.project, f"dead-{job.id}"), job.payload, until)
        job = job.model_copy(update={"payload": {}, "payload_ref": reference})
    # Messages of libraries may quote the job, and this letter outlives it.
    errors = [e if e.type in OWN else e.model_copy(update={"message": ""}) for e in errors]
    dead = DeadJob(
        id=job.id,
        kind=job.kind,
        reason=reason,
        job=job,
        errors=errors,
        subject=subject,
        at=now,
        **job.owner,
    )
    body = dead.model_dump_json(exclude_none=True).encode()
    try:
        letter = subjects.dead(dead.kind, dead.project)
        await js.publish(letter, body, headers={MESSAGE_ID: message_id(job, "dead-")})
    except BUS_ERRORS as error:
        raise not_stored(f"the dead letter of job {dead.id}", error) from error
