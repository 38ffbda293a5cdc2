"""Parse a message into a job; what the body leaves out comes from the subject and the stream. Pure."""

from __future__ import annotations

from datetime import datetime

from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.messages.jobs import Job, JobBody


def read_job(subject: str, data: bytes, sequence: int, stored_at: datetime) -> Job:
    """Return the job in a message.

    Raises ValidationError, or ValueError when body and subject contradict each other.
    """
    body = JobBody.model_validate_json(data)
    _, kind, priority, *rest = subject.split(".")
    kind = subjects.untoken(kind)
    if body.kind not in (None, kind):
        raise ValueError(f"kind: must be the subject's {kind!r}")
    identity = subjects.job_id(rest) if rest else body.id or f"seq-{sequence}"
    return Job.model_validate(
        body.model_dump(exclude_none=True)
        | {
            "id": identity,
            "kind": kind,
            "priority": subjects.untoken(priority),
            "submitted_at": body.submitted_at or stored_at,
        }
    )
