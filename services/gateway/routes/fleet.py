"""The fleet: devices, live frames, pools, decisions, and the operator's commands and policy."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Annotated, Literal

from fastapi import APIRouter, Query
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, Field
from sse_starlette import EventSourceResponse

from services.gateway.auth import Admin, Operator, Viewer
from services.gateway.deps import Autopilot
from shared.client.fleet import Decision, DeviceView, Explanation
from shared.errors import NotFoundError
from shared.messages.commands import CommandOutcome, DecisionRecord, FleetPolicy, Recommendation
from shared.messages.jobs import PoolStatus

router = APIRouter(prefix="/v1", tags=["fleet"])
Limit = Annotated[int, Query(ge=1, le=1000)]


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


@router.get("/devices/live", dependencies=[Viewer], response_class=EventSourceResponse)
async def live(autopilot: Autopilot) -> EventSourceResponse:
    """Samples as they are published."""

    async def stream() -> AsyncIterator[dict[str, str]]:
        async for frame in autopilot.fleet.live():
            body = {
                "node": frame.node,
                "at": frame.tick_time(frame.ticks - 1).isoformat(),
                "devices": frame.latest(),
            }
            yield {"event": "frame", "data": json.dumps(body)}

    return EventSourceResponse(stream())


@router.post("/devices/{device}/cap", dependencies=[Operator])
async def cap(device: str, body: CapRequest, autopilot: Autopilot) -> CommandOutcome:
    """Cap a device's power for a while and tell what was read back."""
    node = (await autopilot.fleet.find(device)).node
    command = await autopilot.steering.cap_power(
        node, device, body.cap_w, clock_mhz=body.clock_mhz, lease_s=body.lease_s
    )
    return await autopilot.steering.outcome(command.id)


@router.post("/devices/{device}/drain", dependencies=[Operator])
async def drain(device: str, body: DrainRequest, autopilot: Autopilot) -> CommandOutcome:
    """Take a device out of service or back."""
    node = (await autopilot.fleet.find(device)).node
    command = await autopilot.steering.drain(node, device, body.action)
    return await autopilot.steering.outcome(command.id)


@router.get("/pools", dependencies=[Viewer])
async def pools(autopilot: Autopilot) -> list[PoolStatus]:
    """Every pool with its workers."""
    return await autopilot.fleet.pools()


@router.post("/pools/{pool}/scale", dependencies=[Operator])
async def scale(pool: str, body: ScaleRequest, autopilot: Autopilot) -> CommandOutcome:
    """Set the number of workers; the scheduler goes on from there."""
    command = await autopilot.steering.scale(pool, body.replicas)
    return await autopilot.steering.outcome(command.id)


@router.get("/decisions", dependencies=[Viewer])
async def decisions(autopilot: Autopilot, limit: Limit = 50) -> list[Decision]:
    """Every command with its reason and its outcome."""
    return await autopilot.fleet.decisions(limit)


@router.get("/decisions/records", dependencies=[Viewer])
async def decision_records(autopilot: Autopilot, limit: Limit = 50) -> list[DecisionRecord]:
    """Decisions about pools, commanded or not."""
    return await autopilot.fleet.decision_records(limit)


@router.get("/decisions/{decision}", dependencies=[Viewer])
async def explain(decision: str, autopilot: Autopilot) -> Explanation:
    """What was seen, considered and allowed, and what came of it."""
    return await autopilot.fleet.explain(decision)


@router.post("/recommendations/{recommendation}/approve", dependencies=[Operator])
async def approve(recommendation: str, autopilot: Autopilot) -> CommandOutcome:
    """Carry out what was recommended."""
    found = [r for r in await autopilot.fleet.recommendations(1000) if r.id == recommendation]
    if not found:
        raise NotFoundError(f"no recommendation {recommendation!r}")
    command = await autopilot.steering.approve(found[0])
    return await autopilot.steering.outcome(command.id)


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
async def report(autopilot: Autopilot, week: str) -> HTMLResponse:
    """The report of a week, 2026-W47, with plots."""
    return HTMLResponse(await autopilot.fleet.report(week))
