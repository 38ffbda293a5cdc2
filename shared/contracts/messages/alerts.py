"""Alerts: one condition of one device, from opened to resolved."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from accelerator_autopilot.contracts.messages.base import Count, Label, Message, Name, Text, Timestamp

Severity = Literal["info", "warning", "critical"]
# Told by pools of their devices. Detection neither opens nor ends these and the next one.
POOL_ALERT_KINDS = frozenset({"worker_stuck", "worker_failing"})
# Told by the supervisor of an embedded product of its node.
DISK_FULL = "disk_full"
UNDETECTED_KINDS = POOL_ALERT_KINDS | {DISK_FULL}
# Told by whoever keeps the queue in order, of streams.
STREAM_FULL = "stream_full"
# Those that their publisher renews each minute: one that is not renewed any more has lost its publisher.
RENEWED_KINDS = UNDETECTED_KINDS | {STREAM_FULL}
AlertState = Literal["opened", "updated", "resolved"]


class Evidence(Message):
    """One number that speaks for an alert, and what was expected of it."""

    metric: Label
    value: float | None
    expected: Text
    at: Timestamp


class Alert(Message):
    """One state of one alert; `id` stays the same from opened to resolved."""

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
    runbook: Label = Field(default="", description="where the documents say what to do")
    incident: Label = Field(default="", description="alerts of one incident share it; empty where there is none")
    escalated: bool = Field(default=False, description="this state tells that it got worse, not that it goes on")
    worsened_at: Timestamp | None = Field(default=None, description="when its severity last rose; none: never")
    holds: bool = Field(default=False, description="stays open until the device is reset or an operator restores it")
    boot_id: Label = Field(default="", description="the boot of the node in which the fault was seen, if it is told")
    driver_epoch: Label = Field(default="", description="the load of the driver in which it was seen, if it is told")
    end_reason: Label = Field(default="", description="of a resolved alert: why it ended, if anything ended it")
