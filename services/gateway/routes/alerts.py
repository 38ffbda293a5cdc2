"""Alerts, subscriptions, silences and acknowledgements."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime, time
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from pydantic import AnyHttpUrl, BaseModel, Field
from sse_starlette import EventSourceResponse

from accelerator_autopilot.contracts.incident_root_cause import incidents
from accelerator_autopilot.contracts.messages.alerts import Alert, AlertState
from accelerator_autopilot.contracts.messages.audit import AuditRecord
from accelerator_autopilot.contracts.messages.notifications import (
    Acknowledgement,
    Channel,
    DeliveryReply,
    Silence,
    Subscription,
)
from accelerator_autopilot.gateway.application.event_fanout import counted
from accelerator_autopilot.gateway.dependencies import Autopilot
from accelerator_autopilot.gateway.http.path_parameters import Id, Named, Text
from accelerator_autopilot.gateway.security.key_file import Caller, Role
from accelerator_autopilot.gateway.security.roles import Operator, Viewer, require
from accelerator_autopilot.gateway.security.route_access import GuardedRoute

STREAM_SEND_S = 30.0
router = APIRouter(prefix="/v1", tags=["alerts"], route_class=GuardedRoute)


class NewSubscription(BaseModel):
    """A webhook receiver with its format and filters. An empty filter matches everything."""

    url: str = Field(max_length=2000, examples=["https://example.com/hooks/autopilot"])
    channel: Channel = "webhook"
    secret: str | None = Field(
        None, min_length=10, description="PagerDuty's routing key; otherwise a secret is generated"
    )
    template: str = Field("", max_length=20_000)
    severities: list[Named] = Field([], max_length=100)
    kinds: list[Named] = Field([], max_length=1000)
    nodes: list[Named] = Field([], max_length=1000)
    devices: list[Named] = Field([], max_length=1000)
    states: list[AlertState] = Field([], max_length=10)
    by_incident: bool = False
    per_minute: int | None = Field(None, ge=1)
    quiet_from: time | None = None
    quiet_to: time | None = None
    escalate_after_s: float = Field(0.0, ge=0, le=86_400)


class NewSilence(BaseModel):
    """Which alerts not to deliver (shell patterns), from when (now by default) until when."""

    node: Named = "*"
    device: Named = "*"
    kind: Named = "*"
    severity: Named = "*"
    starts_at: datetime | None = None
    ends_at: datetime
    reason: Text = ""


class IncidentView(BaseModel):
    """An incident with its alerts, the most likely root cause first."""

    id: str
    severity: str
    devices: list[str]
    alerts: list[Alert]


class RiskView(BaseModel):
    """A device's risk from 0 to 1, and its reasons."""

    node: str
    device: str
    score: float
    because: str


class Note(BaseModel):
    """A note to an acknowledgement."""

    note: Text = ""


@router.get("/alerts", dependencies=[Viewer])
async def open_alerts(autopilot: Autopilot) -> list[Alert]:
    """List the open alerts."""
    return await autopilot.alerts.open()


@router.get("/incidents", dependencies=[Viewer])
async def open_incidents(autopilot: Autopilot) -> list[IncidentView]:
    """List incidents: open alerts that belong together, the most likely root cause first."""
    found = incidents(await autopilot.alerts.open())
    return [IncidentView(id=i.id, severity=i.severity, devices=i.devices, alerts=list(i.alerts)) for i in found]


@router.get("/risks", dependencies=[Viewer])
async def risks(request: Request, autopilot: Autopilot) -> list[RiskView]:
    """List devices by the risk that they fail again, with reasons. At most half a minute old."""
    found = await request.app.state.risks.get(autopilot.alerts.risks)
    return [RiskView(node=r.node, device=r.device, score=round(r.score, 4), because=r.explained) for r in found]


@router.get("/alerts/history", dependencies=[Viewer])
async def history(autopilot: Autopilot, limit: Annotated[int, Query(ge=1, le=1000)] = 50) -> list[Alert]:
    """List the newest changes of alerts."""
    return await autopilot.alerts.history(limit)


@router.get("/alerts/live", dependencies=[Viewer, Depends(counted)], response_class=EventSourceResponse)
async def live(request: Request) -> EventSourceResponse:
    """Stream alerts as they change. A reader that is 1,000 alerts behind misses the oldest."""

    async def stream() -> AsyncIterator[dict[str, str]]:
        async for text in request.app.state.alerts.listen():
            yield {"event": "alert", "data": text}

    return EventSourceResponse(stream(), send_timeout=STREAM_SEND_S)


@router.post("/subscriptions", status_code=201, dependencies=[Operator])
async def subscribe(body: NewSubscription, autopilot: Autopilot) -> Subscription:
    """Create a subscription that posts alerts to a URL. Its secret is returned only here."""
    return await autopilot.alerts.subscribe(**body.model_dump())


@router.get("/subscriptions")
async def subscriptions(
    autopilot: Autopilot, caller: Annotated[Caller, Depends(require(Role.viewer))]
) -> list[Subscription]:
    """List subscriptions without their secrets. Only an admin sees more of a URL than its host."""
    found = [s.model_copy(update={"secret": "whsec_hidden"}) for s in await autopilot.alerts.subscriptions()]
    return found if caller.role is Role.admin else [s.model_copy(update={"url": _host_only(s.url)}) for s in found]


@router.delete("/subscriptions/{subscription_id}", status_code=204, dependencies=[Operator])
async def unsubscribe(subscription_id: Id, autopilot: Autopilot) -> None:
    """Delete a subscription."""
    await autopilot.alerts.unsubscribe(subscription_id)


@router.post("/subscriptions/{subscription_id}/test", dependencies=[Operator])
async def try_out(subscription_id: Id, autopilot: Autopilot) -> DeliveryReply:
    """Send a test alert to a receiver."""
    return await autopilot.alerts.deliver(subscription_id)


@router.post("/subscriptions/{subscription_id}/deliveries", dependencies=[Operator])
async def redeliver(subscription_id: Id, alert: Alert, autopilot: Autopilot) -> DeliveryReply:
    """Send an alert to a receiver again."""
    return await autopilot.alerts.deliver(subscription_id, alert)


@router.get("/deliveries", dependencies=[Viewer])
async def deliveries(autopilot: Autopilot, limit: Annotated[int, Query(ge=1, le=1000)] = 50) -> list[AuditRecord]:
    """List the newest deliveries and their outcomes."""
    return await autopilot.alerts.deliveries(limit)


@router.post("/alerts/{alert_id}/acknowledge", dependencies=[Operator])
async def acknowledge(alert_id: Id, body: Note, autopilot: Autopilot) -> Acknowledgement:
    """Acknowledge an open alert, which stops its escalation."""
    return await autopilot.alerts.acknowledge(alert_id, body.note)


@router.get("/alerts/acknowledged", dependencies=[Viewer])
async def acknowledged(autopilot: Autopilot) -> list[Acknowledgement]:
    """List acknowledgements."""
    return list((await autopilot.alerts.acknowledgements()).values())


@router.post("/silences", status_code=201, dependencies=[Operator])
async def silence(body: NewSilence, autopilot: Autopilot) -> Silence:
    """Silence matching alerts until a time, or for a planned maintenance window."""
    return await autopilot.alerts.silence(**body.model_dump())


@router.get("/silences", dependencies=[Viewer])
async def silences(autopilot: Autopilot) -> list[Silence]:
    """List silences that have not ended."""
    return await autopilot.alerts.silences()


@router.delete("/silences/{silence_id}", status_code=204, dependencies=[Operator])
async def unsilence(silence_id: Id, autopilot: Autopilot) -> None:
    """End a silence."""
    await autopilot.alerts.unsilence(silence_id)


def _host_only(url: AnyHttpUrl) -> AnyHttpUrl:
    """Remove the parts of a receiver's URL that may be secret: a Slack webhook's path, a user's password."""
    port = f":{url.port}" if url.port else ""
    host = f"[{url.host.strip('[]')}]" if url.host and ":" in url.host else url.host
    return AnyHttpUrl(f"{url.scheme}://{host}{port}/hidden")
