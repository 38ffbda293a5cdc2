"""Findings of detectors, and the interface of event detectors."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from accelerator_autopilot.contracts.messages.alerts import Alert, Evidence, Severity
from accelerator_autopilot.contracts.messages.telemetry import DeviceEvent


@dataclass(frozen=True)
class Finding:
    """A detector's verdict on one condition of one device: it holds, or it does not.

    `open_after_s` and `clear_after_s` are how long the condition must hold, or clear, to count. `score` is the
    confidence: 1 for a rule; for the learned detector, the ratio s to its threshold as s / (1 + s). A finding that
    `holds` is of a fault that quiet does not fix: its alert ends by a reset or by an operator. `boot_id` and
    `driver_epoch` are what the node reported when it happened.
    """

    node: str
    device: str
    kind: str
    firing: bool
    severity: Severity = "warning"
    summary: str = ""
    action: str = ""
    evidence: tuple[Evidence, ...] = field(default_factory=tuple)
    open_after_s: float = 0.0
    clear_after_s: float = 0.0
    simulated: bool = False
    at: datetime | None = None
    score: float = 1.0
    runbook: str = ""
    holds: bool = False
    boot_id: str = ""
    driver_epoch: str = ""


class EventDetector(Protocol):
    """Processes events one by one; keeps state and never reads a clock."""

    name: str

    def on_event(self, event: DeviceEvent) -> list[Finding]:
        """Process an event."""

    def on_time(self, now: datetime) -> list[Finding]:
        """Process the passage of time; called every second."""

    def restore(self, alert: Alert) -> None:
        """Learn of an open alert after a restart."""

    def release(self, node: str, device: str, until: datetime) -> list[Finding]:
        """Clear earlier findings: the device was reset, or an operator vouches for it."""

    def forget(self, node: str, device: str) -> None:
        """Forget a device that is gone."""


class NullDetector:
    """Finds nothing; detectors override what they need."""

    def on_event(self, event: DeviceEvent) -> list[Finding]:  # noqa: ARG002
        """Find nothing."""
        return []

    def on_time(self, now: datetime) -> list[Finding]:  # noqa: ARG002
        """Find nothing."""
        return []

    def restore(self, alert: Alert) -> None:
        """Ignore it."""

    def release(self, node: str, device: str, until: datetime) -> list[Finding]:  # noqa: ARG002
        """Find nothing."""
        return []

    def forget(self, node: str, device: str) -> None:
        """Ignore it."""
