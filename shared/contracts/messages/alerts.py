"""Alerts: one condition of one device, from opened to resolved."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from accelerator_autopilot.contracts.messages.base import Count, Label, Message, Name, OwnedMessage, Text, Timestamp

Severity = Literal["info", "warning", "critical"]
# Published by pools about their devices. Detection neither opens nor ends these and the next one.
POOL_ALERT_KINDS = frozenset({"worker_stuck", "worker_failing"})
# Published by the supervisor of an embedded product about its node.
DISK_FULL = "disk_full"
UNDETECTED_KINDS = POOL_ALERT_KINDS | {DISK_FULL}
# Published by pools about streams.
STREAM_FULL = "stream_full"
# Alerts that their publisher renews every minute; one that is no longer renewed has lost its publisher.
RENEWED_KINDS = UNDETECTED_KINDS | {STREAM_FULL}
AlertState = Literal["opened", "updated", "resolved"]


class Evidence(Message):
    """A measured value that supports an alert, and the value that was expected."""

    metric: Label
    value: float | None
    expected: Text
    at: Timestamp


class Alert(OwnedMessage):
    """A change of an alert. Its `id` stays the same from opened to resolved."""

    DEFAULT_ACTOR: ClassVar[str] = "anomaly"

    id: Name
    node: Name
    device: Name
    kind: Name
    severity: Severity
    state: AlertState
    summary: Text
    action: Text = ""
    evidence: list[Evidence] = Field(default=[], max_length=50)
    opened_at: Timestamp
    at: Timestamp
    count: Count = 1
    simulated: bool = False
    score: float = Field(default=1.0, ge=0, le=1)
    runbook: Label = Field(default="", description="link to the documentation of what to do")
    incident: Label = Field(default="", description="id shared by the alerts of one incident; empty if there is none")
    escalated: bool = Field(default=False, description="whether this update was sent because the severity rose")
    worsened_at: Timestamp | None = Field(default=None, description="when the severity last rose; none if it never did")
    holds: bool = Field(default=False, description="stays open until the device is reset or an operator restores it")
    boot_id: Label = Field(default="", description="boot id of the node when the fault was seen, if known")
    driver_epoch: Label = Field(default="", description="id of the driver load when the fault was seen, if known")
    end_reason: Label = Field(default="", description="why a resolved alert was ended, if it did not clear by itself")
