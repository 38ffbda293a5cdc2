"""Parse a message into a job; what the body leaves out comes from the subject and the stream. Pure."""

from __future__ import annotations

from datetime import datetime

from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.errors import InvalidInputError
from accelerator_autopilot.contracts.messages.jobs import Job, JobBody


def read_job(subject: str, data: bytes, sequence: int, stored_at: datetime) -> Job:
    """Return the job in a message.

    Raises ValidationError, or InvalidInputError when body and subject contradict each other.
    """
    body = JobBody.model_validate_json(data)
    project, in_project = subjects.split_project(subject)
    _, kind, priority, *rest = in_project.split(".")
    kind = subjects.untoken(kind)
    if body.kind not in (None, kind):
        raise InvalidInputError("kind", body.kind, f"must be the subject's {kind!r}")
    if "project" in body.model_fields_set and body.project != project:
        raise InvalidInputError("project", body.project, f"must be the subject's {project!r}")
    identity = subjects.job_id(rest) if rest else body.id or f"seq-{sequence}"
    return Job.model_validate(
        body.model_dump(exclude_none=True)
        | {
            "id": identity,
            "kind": kind,
            "project": project,
            "priority": subjects.untoken(priority),
            "submitted_at": body.submitted_at or stored_at,
        }
    )
