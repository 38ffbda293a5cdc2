"""Dead letters: jobs that could not succeed."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response

from accelerator_autopilot.contracts.messages.jobs import DeadJob
from accelerator_autopilot.gateway.dependencies import Autopilot
from accelerator_autopilot.gateway.http.path_parameters import Filter, Id
from accelerator_autopilot.gateway.routes.jobs import Submitted
from accelerator_autopilot.gateway.security.roles import Operator, Viewer
from accelerator_autopilot.gateway.security.route_access import GuardedRoute

router = APIRouter(prefix="/v1/dead", tags=["jobs"], route_class=GuardedRoute)


@router.get("", dependencies=[Viewer])
async def list_dead(
    autopilot: Autopilot, kind: Filter = None, limit: Annotated[int, Query(ge=1, le=1000)] = 50
) -> list[DeadJob]:
    """List the newest dead letters, newest first."""
    return await autopilot.dead.list(kind, limit)


@router.post("/{job_id}/replay", status_code=202, dependencies=[Operator])
async def replay(job_id: Id, autopilot: Autopilot, response: Response) -> Submitted:
    """Submit a dead job again, as a new job."""
    await autopilot.audit("job.replayed", job_id)
    handle = await autopilot.dead.replay(job_id)
    response.headers["Location"] = f"/v1/jobs/{handle.id}"
    return Submitted(id=handle.id, duplicate=handle.duplicate)
