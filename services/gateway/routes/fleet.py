"""The fleet: devices, live frames, pools, decisions, and the operator's commands and policy."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from pydantic import BaseModel, Field
from sse_starlette import EventSourceResponse

from accelerator_autopilot.client.fleet import Decision, DeviceView, Explanation
from accelerator_autopilot.contracts.errors import NotFoundError
from accelerator_autopilot.contracts.messages.commands import (
    CommandOutcome,
    DecisionRecord,
    FleetPolicy,
    Recommendation,
)
from accelerator_autopilot.contracts.messages.jobs import PoolStatus
from accelerator_autopilot.gateway.application.event_fanout import counted
from accelerator_autopilot.gateway.dependencies import Autopilot
from accelerator_autopilot.gateway.http.path_parameters import Id
from accelerator_autopilot.gateway.security.roles import Admin, Operator, Viewer
from accelerator_autopilot.gateway.security.route_access import GuardedRoute

router = APIRouter(prefix="/v1", tags=["fleet"], route_class=GuardedRoute)
STREAM_SEND_S = 30.0
OUTCOME_S = 10.0
REPORT_CSP = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'"
Limit = Annotated[int, Query(ge=1, le=1000)]


SENT: dict[int | str, dict[str, Any]] = {202: {"description": "sent; the outcome is not known yet"}}


class CapRequest(BaseModel):
    """A power cap, a locked clock, or both. With neither, the default is restored."""

    cap_w: float | None = Field(gt=0, examples=[180.0])
    clock_mhz: float | None = Field(default=None, gt=0, examples=[1200.0])
    lease_s: float = Field(default=60.0, gt=0, le=86_400)


class DrainRequest(BaseModel):
    """Whether to take a device out of service or to restore it."""

    action: Literal["cordon", "drain", "restore"]


class ScaleRequest(BaseModel):
    """The desired number of workers."""

    replicas: int = Field(ge=0, le=10_000)


@router.get("/devices", dependencies=[Viewer])
async def devices(autopilot: Autopilot) -> list[DeviceView]:
    """List devices with their newest sample."""
    return await autopilot.fleet.devices()


@router.get("/devices/live", dependencies=[Viewer, Depends(counted)], response_class=EventSourceResponse)
async def live(request: Request) -> EventSourceResponse:
    """Stream samples as they are published. A slow reader misses some."""

    async def stream() -> AsyncIterator[dict[str, str]]:
        async for text in request.app.state.frames.listen():
            yield {"event": "frame", "data": text}

    return EventSourceResponse(stream(), send_timeout=STREAM_SEND_S)


@router.post("/devices/{device}/cap", dependencies=[Operator], response_model=CommandOutcome, responses=SENT)
async def cap(device: Id, body: CapRequest, autopilot: Autopilot) -> CommandOutcome | Response:
    """Cap a device's power for the time of a lease; returns the value read back."""
    node = (await autopilot.fleet.find(device)).node
    command = await autopilot.steering.cap_power(
        node, device, body.cap_w, clock_mhz=body.clock_mhz, lease_s=body.lease_s
    )
    return await _outcome(autopilot, command.id)


@router.post("/devices/{device}/drain", dependencies=[Operator], response_model=CommandOutcome, responses=SENT)
async def drain(device: Id, body: DrainRequest, autopilot: Autopilot) -> CommandOutcome | Response:
    """Take a device out of service, or restore it."""
    node = (await autopilot.fleet.find(device)).node
    command = await autopilot.steering.drain(node, device, body.action)
    return await _outcome(autopilot, command.id)


@router.get("/pools", dependencies=[Viewer])
async def pools(autopilot: Autopilot) -> list[PoolStatus]:
    """List pools with their workers."""
    return await autopilot.fleet.pools()


@router.post("/pools/{pool}/scale", dependencies=[Operator], response_model=CommandOutcome, responses=SENT)
async def scale(pool: Id, body: ScaleRequest, autopilot: Autopilot) -> CommandOutcome | Response:
    """Set a pool's number of workers. The scheduler continues from there."""
    if pool not in {p.pool for p in await autopilot.fleet.pools()}:
        raise NotFoundError(f"there is no pool {pool!r}: list them with `autopilot pools`")
    command = await autopilot.steering.scale(pool, body.replicas)
    return await _outcome(autopilot, command.id)


@router.get("/decisions", dependencies=[Viewer])
async def decisions(autopilot: Autopilot, limit: Limit = 50) -> list[Decision]:
    """List commands with reasons and outcomes."""
    return await autopilot.fleet.decisions(limit)


@router.get("/decisions/records", dependencies=[Viewer])
async def decision_records(autopilot: Autopilot, limit: Limit = 50) -> list[DecisionRecord]:
    """List decisions about pools, including those without a command."""
    return await autopilot.fleet.decision_records(limit)


@router.get("/decisions/{decision}", dependencies=[Viewer])
async def explain(decision: Id, autopilot: Autopilot) -> Explanation:
    """Explain a decision: what was observed, considered, allowed and the outcome."""
    return await autopilot.fleet.explain(decision)


@router.post(
    "/recommendations/{recommendation}/approve", dependencies=[Operator], response_model=CommandOutcome, responses=SENT
)
async def approve(recommendation: Id, autopilot: Autopilot) -> CommandOutcome | Response:
    """Carry out a recommendation."""
    found = [r for r in await autopilot.fleet.recommendations(1000) if r.id == recommendation]
    if not found:
        raise NotFoundError(
            f"there is no recommendation {recommendation!r}: list them with `autopilot recommendations`"
        )
    command = await autopilot.steering.approve(found[0])
    return await _outcome(autopilot, command.id)


@router.get("/recommendations", dependencies=[Viewer])
async def recommendations(autopilot: Autopilot, limit: Limit = 50) -> list[Recommendation]:
    """List the scheduler's recommendations."""
    return await autopilot.fleet.recommendations(limit)


@router.get("/policy", dependencies=[Viewer])
async def policy(autopilot: Autopilot) -> FleetPolicy:
    """Read the operator's policy."""
    return await autopilot.steering.policy()


@router.put("/policy", dependencies=[Admin])
async def set_policy(body: FleetPolicy, autopilot: Autopilot) -> FleetPolicy:
    """Replace the operator's policy."""
    await autopilot.steering.set_policy(body)
    return body


@router.get("/reports", dependencies=[Viewer])
async def reports(autopilot: Autopilot) -> list[str]:
    """List weeks that have a report on energy and service."""
    return await autopilot.fleet.reports()


@router.get("/reports/{week}", dependencies=[Viewer], response_class=HTMLResponse)
async def report(autopilot: Autopilot, week: Id) -> HTMLResponse:
    """Read the report of a week such as 2026-W47, as a page with plots."""
    return HTMLResponse(await autopilot.fleet.report(week), headers={"Content-Security-Policy": REPORT_CSP})


async def _outcome(autopilot: Autopilot, command_id: str) -> CommandOutcome | Response:
    try:
        return await autopilot.steering.outcome(command_id, OUTCOME_S)
    except TimeoutError:
        content = {"command_id": command_id, "detail": "sent; the outcome is not known yet, see /v1/decisions"}
        return JSONResponse(content, 202, headers={"Location": "/v1/decisions"})
