"""Who is told of alerts, who is not for a while, and who has taken one on."""

from __future__ import annotations

from datetime import time
from fnmatch import fnmatchcase
from typing import Literal

from pydantic import AnyHttpUrl, Field, model_validator

from accelerator_autopilot.contracts.messages.alerts import Alert, AlertState
from accelerator_autopilot.contracts.messages.base import Message, Name, Text, Timestamp

Channel = Literal["webhook", "cloudevents", "alertmanager", "slack", "pagerduty", "template"]


class Subscription(Message):
    """A receiver, how it wants to be told, and of what; KV `subscriptions`, key = id. Empty filters take all."""

    id: Name
    url: AnyHttpUrl
    secret: str = Field(
        description="Standard Webhooks secret, whsec_…; of PagerDuty the routing key",
        min_length=10,
        max_length=500,
        repr=False,
    )
    channel: Channel = "webhook"
    template: str = Field(default="", max_length=20_000, description="body of a template: $id, $node, $summary, …")
    severities: list[Name] = Field(default=[], max_length=1000)
    kinds: list[Name] = Field(default=[], max_length=1000)
    nodes: list[Name] = Field(default=[], max_length=1000)
    devices: list[Name] = Field(default=[], max_length=1000)
    states: list[AlertState] = Field(default=[], max_length=10)
    by_incident: bool = Field(default=False, description="of an incident only the first alert and what is worse")
    per_minute: int | None = Field(default=None, ge=1, le=100_000, description="more wait their turn")
    quiet_from: time | None = Field(default=None, description="UTC; until quiet_to only critical alerts are told")
    quiet_to: time | None = None
    escalate_after_s: float = Field(
        default=0.0, ge=0, le=86_400, description="tell only what is still open and not acknowledged after this time"
    )
    created_at: Timestamp
    active: bool = True

    @model_validator(mode="after")
    def _complete(self) -> Subscription:
        if (self.quiet_from is None) != (self.quiet_to is None):
            raise ValueError("quiet_from and quiet_to come together")
        if self.channel == "template" and not self.template:
            raise ValueError("a template channel needs a template")
        return self


class Silence(Message):
    """Alerts that match are not told between two times: a silence, or a planned maintenance window.

    Patterns are of the shell: `*` is anything. KV `silences`, key = id.
    """

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
        """Whether an alert is not to be told at a time."""
        pairs = (
            (alert.node, self.node),
            (alert.device, self.device),
            (alert.kind, self.kind),
            (alert.severity, self.severity),
        )
        return self.starts_at <= at < self.ends_at and all(fnmatchcase(value, pattern) for value, pattern in pairs)


class Acknowledgement(Message):
    """Somebody has taken an alert on; KV `acknowledged`, key = the alert's id."""

    alert_id: Name
    by: Name
    at: Timestamp
    note: str = Field(default="", max_length=500)


class DeliveryRequest(Message):
    """Tell a subscription of an alert now, whatever its filters say; of a test alert when none is given."""

    subscription_id: Name
    alert: Alert | None = None


class DeliveryReply(Message):
    """Whether the receiver took it, and what it said."""

    ok: bool
    detail: Text = ""
