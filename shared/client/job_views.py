"""What is known of jobs, and lists of those that wait, run or have ended."""

from __future__ import annotations

from nats.js import JetStreamContext
from nats.js.errors import NotFoundError
from pydantic import BaseModel, ValidationError

from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.job_building import first_problem
from accelerator_autopilot.contracts.messages.jobs import Job, JobResult
from accelerator_autopilot.contracts.projects import DEFAULT_PROJECT

_STATES = {"waiting": "waiting", "later": "scheduled", "due": "scheduled"}
# At most so many results of other projects are skipped for each one that is listed.
_MAX_SKIPPED = 20


class JobView(BaseModel):
    """What is known of a job: queued (waiting or running), or how it ended."""

    id: str
    kind: str
    state: str
    priority: str = ""
    result: JobResult | None = None


async def list_queued(js: JetStreamContext, project: str, limit: int) -> list[JobView]:
    """Return jobs of a project that wait or run. Raises nats-py errors."""
    views: list[JobView] = []
    wildcard = ">" if project == DEFAULT_PROJECT else subjects.in_project(project, ">")
    for stream in ("JOBS", "LATER"):
        info = await js.stream_info(stream, subjects_filter=wildcard)
        for subject in info.state.subjects or {}:
            if len(views) < limit and subjects.split_project(subject)[0] == project:
                views += _view_of_queued(subject)
    return views


async def list_finished(js: JetStreamContext, project: str, limit: int) -> list[JobView]:
    """Return the newest results of a project, newest first. Raises nats-py errors."""
    last = (await js.stream_info("RESULTS")).state.last_seq
    views: list[JobView] = []
    skipped = 0
    for sequence in range(last, 0, -1):
        if len(views) >= limit or skipped > _MAX_SKIPPED * limit:
            break
        try:
            message = await js.get_msg("RESULTS", sequence, direct=True)
            result = JobResult.model_validate_json(message.data or b"")
        except (NotFoundError, ValidationError):
            skipped += _MAX_SKIPPED
            continue
        if result.project != project:
            skipped += 1
            continue
        views.append(JobView(id=result.job_id, kind=result.kind, state=result.status, result=result))
    return views


def _view_of_queued(subject: str) -> list[JobView]:
    stage, *tokens = subjects.split_project(subject)[1].split(".")
    if stage == "jobs" and len(tokens) > 2:
        kind, priority, *identity = tokens
        return [JobView(id=subjects.job_id(identity), kind=subjects.untoken(kind), state="queued", priority=priority)]
    if stage in _STATES:
        return [JobView(id=subjects.job_id(tokens), kind="", state=_STATES[stage])]
    return []


def view_of_waiting(job_id: str, subject: str, body: bytes) -> JobView:
    """Return the view of a job that waits or runs. Raises InvalidInputError for an unreadable one."""
    stage, _, rest = subjects.split_project(subject)[1].partition(".")
    state = _STATES.get(stage, "queued")
    if state == "queued":
        kind, priority, *_ = rest.split(".")
        return JobView(id=job_id, kind=subjects.untoken(kind), state=state, priority=priority)
    try:
        job = Job.model_validate_json(body)
    except ValidationError as error:
        raise first_problem(error) from error
    return JobView(id=job_id, kind=job.kind, state=state, priority=job.priority)
