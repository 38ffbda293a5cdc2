"""Alerts in programs without an event loop."""
# Written by `make docs-generate` from client.aio.alerts: change that instead.

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import time

from accelerator_autopilot.client.submit_options import When
from accelerator_autopilot.client.sync.base import Blocking
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


class Alerts(Blocking):
    """Read alerts, follow them, and manage their notifications."""

    def open(self) -> Rows[Alert]:
        """Return the open alerts, oldest first."""
        return self._wait(self._client.alerts.open())

    def history(self, limit: int = 50) -> Rows[Alert]:
        """Return the newest changes of alerts, oldest first."""
        return self._wait(self._client.alerts.history(limit))

    def follow(self) -> Iterator[Alert]:
        """Yield alerts as they open, change and resolve, from now on."""
        return self._iterate(self._client.alerts.follow())

    def risks(self) -> list[Risk]:
        """Return devices by their risk, from the alerts of the last months."""
        return self._wait(self._client.alerts.risks())

    def acknowledge(self, alert: str | Alert, note: str = "") -> Acknowledgement:
        """Acknowledge an open alert, given as such or by id: it is not escalated further. Raises NotFoundError."""
        return self._wait(self._client.alerts.acknowledge(alert, note))

    def silence(
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
        return self._wait(
            self._client.alerts.silence(
                until,
                node=node,
                device=device,
                kind=kind,
                severity=severity,
                reason=reason,
                starts=starts,
            )
        )

    def silences(self) -> Rows[Silence]:
        """Return silences that have not ended, the first to end first."""
        return self._wait(self._client.alerts.silences())

    def unsilence(self, silence: str | Silence) -> None:
        """End a silence, given as such or by id. Raises NotFoundError."""
        self._wait(self._client.alerts.unsilence(silence))

    def subscribe(
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
        return self._wait(
            self._client.alerts.subscribe(
                url,
                channel=channel,
                secret=secret,
                template=template,
                severities=severities,
                kinds=kinds,
                nodes=nodes,
                devices=devices,
                states=states,
                by_incident=by_incident,
                per_minute=per_minute,
                quiet_from=quiet_from,
                quiet_to=quiet_to,
                escalate_after=escalate_after,
            )
        )

    def subscriptions(self) -> Rows[Subscription]:
        """Return all subscriptions."""
        return self._wait(self._client.alerts.subscriptions())

    def unsubscribe(self, subscription: str | Subscription) -> None:
        """Remove a subscription, given as such or by id. Raises NotFoundError."""
        self._wait(self._client.alerts.unsubscribe(subscription))

    def deliver(self, subscription: str | Subscription, alert: Alert | None = None) -> DeliveryReply:
        """Send an alert, or a test alert, to a subscription now. Raises UnavailableError without a notifier."""
        return self._wait(self._client.alerts.deliver(subscription, alert))

    def deliveries(self, limit: int = 50) -> Rows[AuditRecord]:
        """Return the newest deliveries and their outcomes, oldest first."""
        return self._wait(self._client.alerts.deliveries(limit))
