"""Read how a job ended. An unreadable result counts as an end too: RESULTS stores only one for each job."""

from __future__ import annotations

from nats.js import JetStreamContext
from nats.js.errors import NotFoundError
from pydantic import ValidationError

from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.messages.jobs import JobError, JobResult
from accelerator_autopilot.contracts.projects import DEFAULT_PROJECT
from accelerator_autopilot.transport.clock import utc_now
from accelerator_autopilot.transport.unreadable_values import seen


async def read_result(js: JetStreamContext, job_id: str, project: str = DEFAULT_PROJECT) -> JobResult | None:
    """Return the result of a job, a failed one where it is unreadable; None when the job has not ended.

    Raises nats-py's errors.
    """
    try:
        message = await js.get_last_msg("RESULTS", subjects.result(job_id, project), direct=True)
    except NotFoundError:
        return None
    try:
        return JobResult.model_validate_json(message.data or b"")
    except ValidationError:
        seen["RESULTS"] += 1
        at = message.time or utc_now()
        why = JobError(attempt=1, type="InvalidInputError", message="its result cannot be read", worker="", at=at)
        return JobResult(
            job_id=job_id,
            kind="unknown",
            status="failed",
            errors=[why],
            submitted_at=at,
            finished_at=at,
            project=project,
        )
