"""Batches: many jobs of one kind, submitted together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, BackgroundTasks, Depends, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from accelerator_autopilot.client.batches import BatchView
from accelerator_autopilot.contracts.job_building import Options
from accelerator_autopilot.gateway.application.event_fanout import counted
from accelerator_autopilot.gateway.application.job_submission import Submit
from accelerator_autopilot.gateway.dependencies import Autopilot
from accelerator_autopilot.gateway.http.path_parameters import Id, Key, Named
from accelerator_autopilot.gateway.security.roles import Operator, Viewer
from accelerator_autopilot.gateway.security.route_access import GuardedRoute

router = APIRouter(prefix="/v1/batches", tags=["batches"], route_class=GuardedRoute)


class BatchSubmission(Options):
    """A batch: one job per payload."""

    kind: Named = Field(examples=["embed"])
    payloads: list[dict[str, Any]] = Field(min_length=1, max_length=100_000, examples=[[{"texts": ["a"]}]])

    def options(self) -> dict[str, Any]:
        """The options, without kind and payloads."""
        return self.model_dump(exclude={"kind", "payloads"}, exclude_unset=True)


class BatchSubmitted(BaseModel):
    """A submitted batch. Its jobs are `<id>.0` to `<id>.<count - 1>`."""

    id: str
    count: int
    duplicate: bool = Field(
        default=False, description="the batch had been submitted before and was not submitted again"
    )


@router.post("", status_code=202)
async def submit(
    body: BatchSubmission,
    to_queue: Submit,
    request: Request,
    response: Response,
    afterwards: BackgroundTasks,
    idempotency_key: Key = None,
) -> BatchSubmitted:
    """Submit a batch. The same Idempotency-Key always means the same batch.

    Without a key, the same body means the same batch until the request has been answered, so that retrying after an
    error or a lost response does not create a second batch. After that, the same body is a new batch.
    """
    handle = await to_queue.batch(body.kind, body.payloads, body.options(), idempotency_key)
    if not await request.is_disconnected():
        afterwards.add_task(to_queue.answered)
    response.headers["Location"] = f"/v1/batches/{handle.id}"
    return BatchSubmitted(id=handle.id, count=handle.count, duplicate=handle.duplicate)


@router.get("/{batch_id}", dependencies=[Viewer])
async def read(batch_id: Id, autopilot: Autopilot) -> BatchView:
    """Read the progress of a batch."""
    return await autopilot.batches.view(batch_id)


@router.get("/{batch_id}/results", dependencies=[Viewer, Depends(counted)])
async def results(
    batch_id: Id, autopilot: Autopilot, timeout_s: Annotated[float, Query(gt=0, le=86_400)] = 3600.0
) -> StreamingResponse:
    """Stream the results in the order of the inputs, one JSON object per line, as they become available."""
    await autopilot.batches.view(batch_id)

    async def lines() -> AsyncIterator[bytes]:
        async for result in autopilot.batches.results(batch_id, timeout_s):
            yield result.model_dump_json().encode() + b"\n"

    return StreamingResponse(lines(), media_type="application/x-ndjson")


@router.delete("/{batch_id}", dependencies=[Operator])
async def cancel(batch_id: Id, autopilot: Autopilot) -> dict[str, int]:
    """Cancel the jobs of a batch that have no result yet."""
    await autopilot.audit("batch.cancelled", batch_id)
    return {"cancelled": await autopilot.batches.cancel(batch_id)}
