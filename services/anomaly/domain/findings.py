"""What detectors say, and those that look at events."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from accelerator_autopilot.contracts.messages.alerts import Alert, Evidence, Severity
from accelerator_autopilot.contracts.messages.telemetry import DeviceEvent


@dataclass(frozen=True)
class Finding:
    """A detector's word on one condition of one device: it holds, or it does not.

    `open_after_s` and `clear_after_s` are how long the condition must hold, or not, to count. `score` is how sure
    it is: 1 for a rule; of what was learnt, the share of the alarm threshold s as s / (1 + s).
    A finding that `holds` is of a fault that quiet does not mend: its alert ends by a reset or by an operator.
    `boot_id` and `driver_epoch` are what the node told of itself when it happened.
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
    """Looks at events one by one; keeps state and never looks at a clock."""

    name: str

    def on_event(self, event: DeviceEvent) -> list[Finding]:
        """Look at an event."""

    def on_time(self, now: datetime) -> list[Finding]:
        """Look at the time that passed; called every second."""

    def restore(self, alert: Alert) -> None:
        """Learn after a restart of an alert that is open."""

    def release(self, node: str, device: str, until: datetime) -> list[Finding]:
        """The device was reset, or an operator vouches for it: what was found before then is over."""

    def forget(self, node: str, device: str) -> None:
        """The device is there no more."""


class NullDetector:
    """Finds nothing; detectors override what they look at."""

    def on_event(self, event: DeviceEvent) -> list[Finding]:  # noqa: ARG002
        """Find nothing."""
        return []

    def on_time(self, now: datetime) -> list[Finding]:  # noqa: ARG002
        """Find nothing."""
        return []

    def restore(self, alert: Alert) -> None:
        """Keep nothing."""

    def release(self, node: str, device: str, until: datetime) -> list[Finding]:  # noqa: ARG002
        """Find nothing."""
        return []

    def forget(self, node: str, device: str) -> None:
        """Keep nothing."""
