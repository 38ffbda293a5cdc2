"""Alerts and the webhooks that tell of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field
from sse_starlette import EventSourceResponse

from services.gateway.auth import Operator, Viewer
from services.gateway.deps import Autopilot
from shared.messages.alerts import Alert
from shared.messages.audit import Subscription

router = APIRouter(prefix="/v1", tags=["alerts"])


class NewSubscription(BaseModel):
    """A receiver and its filters; an empty filter takes all."""

    url: str = Field(max_length=2000, examples=["https://example.com/hooks/autopilot"])
    severities: list[str] = []
    kinds: list[str] = []
    nodes: list[str] = []


@router.get("/alerts", dependencies=[Viewer])
async def open_alerts(autopilot: Autopilot) -> list[Alert]:
    """Alerts that are open now."""
    return await autopilot.alerts.open()


@router.get("/alerts/history", dependencies=[Viewer])
async def history(autopilot: Autopilot, limit: Annotated[int, Query(ge=1, le=1000)] = 50) -> list[Alert]:
    """The newest changes of alerts."""
    return await autopilot.alerts.history(limit)


@router.get("/alerts/live", dependencies=[Viewer], response_class=EventSourceResponse)
async def live(autopilot: Autopilot) -> EventSourceResponse:
    """Alerts as they change."""

    async def stream() -> AsyncIterator[dict[str, str]]:
        async for alert in autopilot.alerts.follow():
            yield {"event": "alert", "data": alert.model_dump_json()}

    return EventSourceResponse(stream())


@router.post("/subscriptions", status_code=201, dependencies=[Operator])
async def subscribe(body: NewSubscription, autopilot: Autopilot) -> Subscription:
    """Have alerts posted to a URL; the secret is shown this once."""
    return await autopilot.alerts.subscribe(body.url, severities=body.severities, kinds=body.kinds, nodes=body.nodes)


@router.get("/subscriptions", dependencies=[Viewer])
async def subscriptions(autopilot: Autopilot) -> list[Subscription]:
    """All subscriptions, without their secrets."""
    return [s.model_copy(update={"secret": "whsec_hidden"}) for s in await autopilot.alerts.subscriptions()]


@router.delete("/subscriptions/{subscription_id}", status_code=204, dependencies=[Operator])
async def unsubscribe(subscription_id: str, autopilot: Autopilot) -> None:
    """Remove a subscription."""
    await autopilot.alerts.unsubscribe(subscription_id)
