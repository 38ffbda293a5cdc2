"""Subscriptions to alerts, silences and acknowledgements."""

from __future__ import annotations

from datetime import time
from fnmatch import fnmatchcase
from typing import ClassVar, Literal

from pydantic import AnyHttpUrl, Field, model_validator

from accelerator_autopilot.contracts.messages.alerts import Alert, AlertState
from accelerator_autopilot.contracts.messages.base import Message, Name, OwnedMessage, Text, Timestamp

Channel = Literal["webhook", "cloudevents", "alertmanager", "slack", "pagerduty", "template"]


class Subscription(OwnedMessage):
    """A webhook receiver with its format and filters; KV `subscriptions`, key = id. Empty filters match all."""

    id: Name
    url: AnyHttpUrl
    secret: str = Field(
        description="Standard Webhooks secret (whsec_…), or PagerDuty's routing key",
        min_length=10,
        max_length=500,
        repr=False,
    )
    channel: Channel = "webhook"
    template: str = Field(
        default="", max_length=20_000, description="body for the template channel, with $id, $node, $summary, …"
    )
    severities: list[Name] = Field(default=[], max_length=1000)
    kinds: list[Name] = Field(default=[], max_length=1000)
    nodes: list[Name] = Field(default=[], max_length=1000)
    devices: list[Name] = Field(default=[], max_length=1000)
    states: list[AlertState] = Field(default=[], max_length=10)
    by_incident: bool = Field(default=False, description="deliver only the first alert of an incident and worse ones")
    per_minute: int | None = Field(
        default=None, ge=1, le=100_000, description="most deliveries per minute; further ones wait"
    )
    quiet_from: time | None = Field(
        default=None, description="time in UTC from which, until quiet_to, only critical alerts are delivered"
    )
    quiet_to: time | None = None
    escalate_after_s: float = Field(
        default=0.0,
        ge=0,
        le=86_400,
        description="deliver only alerts that are still open and unacknowledged after this time",
    )
    created_at: Timestamp
    active: bool = True

    @model_validator(mode="after")
    def _complete(self) -> Subscription:
        if (self.quiet_from is None) != (self.quiet_to is None):
            raise ValueError("quiet_from and quiet_to must be given together")
        if self.channel == "template" and not self.template:
            raise ValueError("the channel template needs a template")
        return self


class Silence(OwnedMessage):
    """Suppresses delivery of matching alerts between two times: a silence or a maintenance window.

    Patterns are shell patterns: `*` matches anything. KV `silences`, key = id.
    """

    ACTOR_FIELD: ClassVar[str] = "created_by"

    id: Name
    node: Name = "*"
    device: Name = "*"
    kind: Name = "*"
    severity: Name = "*"
    starts_at: Timestamp
    ends_at: Timestamp
    reason: str = Field(default="", max_length=500)
    created_by: Name

    @model_validator(mode="after")
    def _forwards(self) -> Silence:
        if self.ends_at <= self.starts_at:
            raise ValueError("ends_at must be after starts_at")
        return self

    def covers(self, alert: Alert, at: Timestamp) -> bool:
        """Whether it suppresses an alert at a time."""
        pairs = (
            (alert.node, self.node),
            (alert.device, self.device),
            (alert.kind, self.kind),
            (alert.severity, self.severity),
        )
        return self.starts_at <= at < self.ends_at and all(fnmatchcase(value, pattern) for value, pattern in pairs)


class Acknowledgement(OwnedMessage):
    """Acknowledges an alert; KV `acknowledged`, key = the alert's id."""

    ACTOR_FIELD: ClassVar[str] = "by"

    alert_id: Name
    by: Name
    at: Timestamp
    note: str = Field(default="", max_length=500)


class DeliveryRequest(OwnedMessage):
    """Deliver an alert to a subscription now, ignoring its filters; without an alert, deliver a test alert."""

    subscription_id: Name
    alert: Alert | None = None


class DeliveryReply(Message):
    """Whether the receiver accepted the delivery, and its answer."""

    ok: bool
    detail: Text = ""
