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


SENT: dict[int | str, dict[str, Any]] = {202: {"description": "sent, and nobody has told yet what came of it"}}


class CapRequest(BaseModel):
    """A power cap, a clock to hold, or both; neither restores the default."""

    cap_w: float | None = Field(gt=0, examples=[180.0])
    clock_mhz: float | None = Field(default=None, gt=0, examples=[1200.0])
    lease_s: float = Field(default=60.0, gt=0, le=86_400)


class DrainRequest(BaseModel):
    """Out of service, or back."""

    action: Literal["cordon", "drain", "restore"]


class ScaleRequest(BaseModel):
    """The wanted number of workers."""

    replicas: int = Field(ge=0, le=10_000)


@router.get("/devices", dependencies=[Viewer])
async def devices(autopilot: Autopilot) -> list[DeviceView]:
    """Every device with its newest sample."""
    return await autopilot.fleet.devices()


@router.get("/devices/live", dependencies=[Viewer, Depends(counted)], response_class=EventSourceResponse)
async def live(request: Request) -> EventSourceResponse:
    """Samples as they are published; a slow reader misses some."""

    async def stream() -> AsyncIterator[dict[str, str]]:
        async for text in request.app.state.frames.listen():
            yield {"event": "frame", "data": text}

    return EventSourceResponse(stream(), send_timeout=STREAM_SEND_S)


@router.post("/devices/{device}/cap", dependencies=[Operator], response_model=CommandOutcome, responses=SENT)
async def cap(device: Id, body: CapRequest, autopilot: Autopilot) -> CommandOutcome | Response:
    """Cap a device's power for a while and tell what was read back."""
    node = (await autopilot.fleet.find(device)).node
    command = await autopilot.steering.cap_power(
        node, device, body.cap_w, clock_mhz=body.clock_mhz, lease_s=body.lease_s
    )
    return await _outcome(autopilot, command.id)


@router.post("/devices/{device}/drain", dependencies=[Operator], response_model=CommandOutcome, responses=SENT)
async def drain(device: Id, body: DrainRequest, autopilot: Autopilot) -> CommandOutcome | Response:
    """Take a device out of service or back."""
    node = (await autopilot.fleet.find(device)).node
    command = await autopilot.steering.drain(node, device, body.action)
    return await _outcome(autopilot, command.id)


@router.get("/pools", dependencies=[Viewer])
async def pools(autopilot: Autopilot) -> list[PoolStatus]:
    """Every pool with its workers."""
    return await autopilot.fleet.pools()


@router.post("/pools/{pool}/scale", dependencies=[Operator], response_model=CommandOutcome, responses=SENT)
async def scale(pool: Id, body: ScaleRequest, autopilot: Autopilot) -> CommandOutcome | Response:
    """Set the number of workers; the scheduler goes on from there."""
    if pool not in {p.pool for p in await autopilot.fleet.pools()}:
        raise NotFoundError(f"no pool {pool!r}: `autopilot pools` lists them")
    command = await autopilot.steering.scale(pool, body.replicas)
    return await _outcome(autopilot, command.id)


@router.get("/decisions", dependencies=[Viewer])
async def decisions(autopilot: Autopilot, limit: Limit = 50) -> list[Decision]:
    """Every command with its reason and its outcome."""
    return await autopilot.fleet.decisions(limit)


@router.get("/decisions/records", dependencies=[Viewer])
async def decision_records(autopilot: Autopilot, limit: Limit = 50) -> list[DecisionRecord]:
    """Decisions about pools, commanded or not."""
    return await autopilot.fleet.decision_records(limit)


@router.get("/decisions/{decision}", dependencies=[Viewer])
async def explain(decision: Id, autopilot: Autopilot) -> Explanation:
    """What was seen, considered and allowed, and what came of it."""
    return await autopilot.fleet.explain(decision)


@router.post(
    "/recommendations/{recommendation}/approve", dependencies=[Operator], response_model=CommandOutcome, responses=SENT
)
async def approve(recommendation: Id, autopilot: Autopilot) -> CommandOutcome | Response:
    """Carry out what was recommended."""
    found = [r for r in await autopilot.fleet.recommendations(1000) if r.id == recommendation]
    if not found:
        raise NotFoundError(f"no recommendation {recommendation!r}")
    command = await autopilot.steering.approve(found[0])
    return await _outcome(autopilot, command.id)


@router.get("/recommendations", dependencies=[Viewer])
async def recommendations(autopilot: Autopilot, limit: Limit = 50) -> list[Recommendation]:
    """What the scheduler would do."""
    return await autopilot.fleet.recommendations(limit)


@router.get("/policy", dependencies=[Viewer])
async def policy(autopilot: Autopilot) -> FleetPolicy:
    """The operator's policy."""
    return await autopilot.steering.policy()


@router.put("/policy", dependencies=[Admin])
async def set_policy(body: FleetPolicy, autopilot: Autopilot) -> FleetPolicy:
    """Replace the policy."""
    await autopilot.steering.set_policy(body)
    return body


@router.get("/reports", dependencies=[Viewer])
async def reports(autopilot: Autopilot) -> list[str]:
    """Weeks that have a report on energy and service."""
    return await autopilot.fleet.reports()


@router.get("/reports/{week}", dependencies=[Viewer], response_class=HTMLResponse)
async def report(autopilot: Autopilot, week: Id) -> HTMLResponse:
    """The report of a week, 2026-W47, with plots."""
    return HTMLResponse(await autopilot.fleet.report(week), headers={"Content-Security-Policy": REPORT_CSP})


async def _outcome(autopilot: Autopilot, command_id: str) -> CommandOutcome | Response:
    try:
        return await autopilot.steering.outcome(command_id, OUTCOME_S)
    except TimeoutError:
        told = {"command_id": command_id, "detail": "sent; nobody has told yet what came of it, see /v1/decisions"}
        return JSONResponse(told, 202, headers={"Location": "/v1/decisions"})
