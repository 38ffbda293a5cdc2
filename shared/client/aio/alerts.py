"""Alerts in asynchronous programs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from datetime import time

from accelerator_autopilot.client.autopilot_client import AutopilotClient
from accelerator_autopilot.client.error_translation import call, translated
from accelerator_autopilot.client.submit_options import When, moment
from accelerator_autopilot.contracts.dataframe_conversion import Rows
from accelerator_autopilot.contracts.failure_risk import Risk
from accelerator_autopilot.contracts.messages.alerts import Alert, AlertState, Severity
from accelerator_autopilot.contracts.messages.audit import AuditRecord
from accelerator_autopilot.contracts.messages.notifications import (
    Acknowledgement,
    Channel,
    DeliveryReply,
    Silence,
    Subscription,
)
from accelerator_autopilot.transport.clock import utc_now


class AsyncAlerts:
    """Read alerts, follow them, and manage their notifications."""

    def __init__(self, autopilot: AutopilotClient) -> None:
        self._autopilot = autopilot

    @call
    async def open(self) -> Rows[Alert]:
        """Return the open alerts, oldest first."""
        return Rows(await self._autopilot.alerts.open())

    @call
    async def history(self, limit: int = 50) -> Rows[Alert]:
        """Return the newest changes of alerts, oldest first."""
        return Rows(await self._autopilot.alerts.history(limit))

    async def follow(self) -> AsyncIterator[Alert]:
        """Yield alerts as they open, change and resolve, from now on."""
        with translated("follow"):
            async for alert in self._autopilot.alerts.follow():
                yield alert

    @call
    async def risks(self) -> list[Risk]:
        """Return devices by their risk, from the alerts of the last months."""
        return await self._autopilot.alerts.risks()

    @call
    async def acknowledge(self, alert: str | Alert, note: str = "") -> Acknowledgement:
        """Acknowledge an open alert, given as such or by id: it is not escalated further. Raises NotFoundError."""
        identity = alert.id if isinstance(alert, Alert) else alert
        return await self._autopilot.alerts.acknowledge(identity, note)

    @call
    async def silence(
        self,
        until: When,
        *,
        node: str = "*",
        device: str = "*",
        kind: str = "*",
        severity: str = "*",
        reason: str = "",
        starts: When | None = None,
    ) -> Silence:
        """Suppress notifications of matching alerts, until a time or for a duration; `*` in a pattern matches anything.

        Raises InvalidInputError, and ConflictError when there are too many silences.
        """
        now = utc_now()
        return await self._autopilot.alerts.silence(
            moment("until", until, now),
            starts_at=None if starts is None else moment("starts", starts, now),
            node=node,
            device=device,
            kind=kind,
            severity=severity,
            reason=reason,
        )

    @call
    async def silences(self) -> Rows[Silence]:
        """Return silences that have not ended, the first to end first."""
        return Rows(await self._autopilot.alerts.silences())

    @call
    async def unsilence(self, silence: str | Silence) -> None:
        """End a silence, given as such or by id. Raises NotFoundError."""
        await self._autopilot.alerts.unsilence(silence.id if isinstance(silence, Silence) else silence)

    @call
    async def subscribe(
        self,
        url: str,
        *,
        channel: Channel = "webhook",
        secret: str | None = None,
        template: str = "",
        severities: Collection[Severity] = (),
        kinds: Collection[str] = (),
        nodes: Collection[str] = (),
        devices: Collection[str] = (),
        states: Collection[AlertState] = (),
        by_incident: bool = False,
        per_minute: int | None = None,
        quiet_from: time | None = None,
        quiet_to: time | None = None,
        escalate_after: float = 0.0,
    ) -> Subscription:
        """Post alerts to a URL; empty filters match all. docs/how-to/receive-alerts.md explains the options.

        Raises InvalidInputError, and ConflictError when there are too many.
        """
        return await self._autopilot.alerts.subscribe(
            url,
            channel=channel,
            secret=secret,
            template=template,
            severities=list(severities),
            kinds=list(kinds),
            nodes=list(nodes),
            devices=list(devices),
            states=list(states),
            by_incident=by_incident,
            per_minute=per_minute,
            quiet_from=quiet_from,
            quiet_to=quiet_to,
            escalate_after_s=escalate_after,
        )

    @call
    async def subscriptions(self) -> Rows[Subscription]:
        """Return all subscriptions."""
        return Rows(await self._autopilot.alerts.subscriptions())

    @call
    async def unsubscribe(self, subscription: str | Subscription) -> None:
        """Remove a subscription, given as such or by id. Raises NotFoundError."""
        identity = subscription.id if isinstance(subscription, Subscription) else subscription
        await self._autopilot.alerts.unsubscribe(identity)

    @call
    async def deliver(self, subscription: str | Subscription, alert: Alert | None = None) -> DeliveryReply:
        """Send an alert, or a test alert, to a subscription now. Raises UnavailableError without a notifier."""
        identity = subscription.id if isinstance(subscription, Subscription) else subscription
        return await self._autopilot.alerts.deliver(identity, alert)

    @call
    async def deliveries(self, limit: int = 50) -> Rows[AuditRecord]:
        """Return the newest deliveries and their outcomes, oldest first."""
        return Rows(await self._autopilot.alerts.deliveries(limit))
