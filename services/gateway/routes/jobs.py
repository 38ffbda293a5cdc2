"""Jobs: submit, list, read, cancel, follow."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Response
from pydantic import BaseModel, Field
from sse_starlette import EventSourceResponse

from accelerator_autopilot.client.job_views import JobView
from accelerator_autopilot.contracts.errors import NotFoundError
from accelerator_autopilot.contracts.job_building import Options
from accelerator_autopilot.contracts.messages.jobs import JobProgress
from accelerator_autopilot.gateway.application.event_fanout import counted
from accelerator_autopilot.gateway.application.job_submission import Submit
from accelerator_autopilot.gateway.dependencies import Autopilot
from accelerator_autopilot.gateway.http.path_parameters import Id, Key, Named
from accelerator_autopilot.gateway.http.problem_details import problem
from accelerator_autopilot.gateway.security.roles import Operator, Viewer
from accelerator_autopilot.gateway.security.route_access import GuardedRoute

STREAM_SEND_S = 30.0
router = APIRouter(prefix="/v1/jobs", tags=["jobs"], route_class=GuardedRoute)


class Submission(Options):
    """A job to run."""

    kind: Named = Field(examples=["summarize"])
    payload: dict[str, Any] = Field(examples=[{"text": "A long text. It has sentences.", "max_sentences": 1}])

    def options(self) -> dict[str, Any]:
        """The options, without kind and payload."""
        return self.model_dump(exclude={"kind", "payload"}, exclude_unset=True)


class Submitted(BaseModel):
    """A submitted job."""

    id: str
    duplicate: bool


@router.post("", status_code=202)
async def submit(
    body: Submission,
    to_queue: Submit,
    response: Response,
    idempotency_key: Key = None,
) -> Submitted:
    """Submit a job. The same Idempotency-Key always means the same job."""
    handle = await to_queue.job(body.kind, body.payload, body.options(), idempotency_key=idempotency_key)
    response.headers["Location"] = f"/v1/jobs/{handle.id}"
    return Submitted(id=handle.id, duplicate=handle.duplicate)


@router.get("", dependencies=[Viewer])
async def list_jobs(autopilot: Autopilot, limit: Annotated[int, Query(ge=1, le=1000)] = 50) -> list[JobView]:
    """List queued jobs, then the newest finished ones."""
    waiting = (await autopilot.jobs.queued(limit))[:limit]
    return waiting if len(waiting) == limit else waiting + await autopilot.jobs.finished(limit - len(waiting))


@router.get("/{job_id}", dependencies=[Viewer])
async def read(job_id: Id, autopilot: Autopilot) -> JobView:
    """Read a job, with its result once there is one."""
    return await autopilot.jobs.view(job_id)


@router.delete("/{job_id}", dependencies=[Operator])
async def cancel(job_id: Id, autopilot: Autopilot) -> JobView:
    """Cancel a job that has not finished."""
    await autopilot.audit("job.cancelled", job_id)
    result = await autopilot.jobs.cancel(job_id)
    return JobView(id=job_id, kind=result.kind, state=result.status, result=result)


@router.get("/{job_id}/events", dependencies=[Viewer, Depends(counted)], response_class=EventSourceResponse)
async def events(job_id: Id, autopilot: Autopilot) -> EventSourceResponse:
    """Follow a job: `progress` events, then one `result`, or one `error` if its result has expired."""
    await autopilot.jobs.view(job_id)

    async def stream() -> AsyncIterator[dict[str, str]]:
        try:
            async for told in autopilot.jobs.events(job_id):
                kind = "progress" if isinstance(told, JobProgress) else "result"
                yield {"event": kind, "data": told.model_dump_json()}
        except NotFoundError as error:
            yield {"event": "error", "data": bytes(problem(404, str(error)).body).decode()}

    return EventSourceResponse(stream(), send_timeout=STREAM_SEND_S)
