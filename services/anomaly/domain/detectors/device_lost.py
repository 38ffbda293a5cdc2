"""A device whose samples stopped, or whose driver does not answer.

The agent reports both for each device of a source. If all devices of a source are affected, the source is the cause and
the alert is never critical: only a fault of a single device among working ones is evidence about the device itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from accelerator_autopilot.anomaly.domain.findings import Finding, NullDetector
from accelerator_autopilot.anomaly.domain.source_topology import SourceTopology
from accelerator_autopilot.contracts.messages.alerts import Alert, Evidence, Severity
from accelerator_autopilot.contracts.messages.telemetry import DeviceEvent


@dataclass(frozen=True)
class _Kind:
    name: str
    summary: str
    action: str
    critical_after: timedelta  # for one device among others of its source
    alone_after: timedelta  # for the only one of its source


_BEGIN: Mapping[str, _Kind] = {
    "lost": _Kind(
        "device_lost",
        "the device no longer responds",
        "drain; check for an XID; reboot or replace the GPU",
        timedelta(seconds=3),
        timedelta(seconds=30),
    ),
    "probe_hung": _Kind(
        "driver_hung",
        "a driver call does not return",
        "drain; reset the GPU or reboot the node",
        timedelta(seconds=30),
        timedelta(seconds=120),
    ),
}
_END = {"appeared": ("device_lost", "driver_hung"), "probe_recovered": ("driver_hung",)}
_BY_NAME = {kind.name: kind for kind in _BEGIN.values()}
_CHECK_SOURCE = "check the node's driver or exporter: all devices of this source are affected"


@dataclass
class _Absence:
    event: DeviceEvent
    since: datetime | None  # on the listener's clock
    severity: Severity = "warning"


class DeviceLostDetector(NullDetector):
    """Follows the agent's events: a warning at once, critical if only this device is affected and it lasts."""

    name = "device_lost"

    def __init__(self, fleet: SourceTopology | None = None) -> None:
        self._fleet = fleet or SourceTopology()
        self._absent: dict[tuple[str, str, str], _Absence] = {}

    def on_event(self, event: DeviceEvent) -> list[Finding]:
        """Process an event: lost and hung open, appeared and recovered resolve."""
        kind = _BEGIN.get(event.kind)
        if kind is not None:
            absence = self._absent.setdefault((kind.name, event.node, event.device), _Absence(event, None))
            return [self._finding(kind, absence)]
        return [self._over(name, event) for name in _END.get(event.kind, ())]

    def on_time(self, now: datetime) -> list[Finding]:
        """Escalate to critical what lasts and concerns only this device."""
        found = []
        for (name, _, _), absence in self._absent.items():
            if absence.since is None or absence.since > now:
                absence.since = now
            if absence.severity != "critical" and self._own(_BY_NAME[name], absence, now):
                absence.severity = "critical"
                found.append(self._finding(_BY_NAME[name], absence))
        return found

    def restore(self, alert: Alert) -> None:
        """Continue with an alert that was open before a restart."""
        if alert.kind in _BY_NAME:
            event = DeviceEvent(
                id=alert.id, node=alert.node, device=alert.device, at=alert.at, kind=alert.kind,
                simulated=alert.simulated,
            )  # fmt: skip
            self._absent[alert.kind, alert.node, alert.device] = _Absence(event, None, alert.severity)

    def forget(self, node: str, device: str) -> None:
        """Forget a device that was removed: it is not lost."""
        for name in _BY_NAME:
            self._absent.pop((name, node, device), None)

    def _own(self, kind: _Kind, absence: _Absence, now: datetime) -> bool:
        """Whether this says something about the device, not about its source."""
        node, device = absence.event.node, absence.event.device
        lasted = now - (absence.since or now)
        others = self._fleet.source_peers(node, device) - {device}
        if self._fleet.source_fails(node, device):
            return False
        if not others:
            # Without other devices to compare with, or without an inventory, the event alone decides.
            unlisted = self._fleet.of(node) is None
            after = kind.critical_after if unlisted else kind.alone_after
            return lasted >= after and not self._fleet.from_exporter(node, device)
        absent = {other for other in others if any((name, node, other) in self._absent for name in _BY_NAME)}
        return lasted >= kind.critical_after and absent != others

    def _over(self, name: str, event: DeviceEvent) -> Finding:
        self._absent.pop((name, event.node, event.device), None)
        return Finding(event.node, event.device, name, False, severity="critical", simulated=event.simulated)

    def _finding(self, kind: _Kind, absence: _Absence) -> Finding:
        event = absence.event
        evidence = Evidence(metric="samples", value=0.0, expected="one per tick", at=event.at)
        return Finding(
            event.node,
            event.device,
            kind.name,
            True,
            severity=absence.severity,
            summary=kind.summary,
            action=kind.action if absence.severity == "critical" else _CHECK_SOURCE,
            evidence=(evidence,),
            simulated=event.simulated,
            at=event.at,
        )


def make(_: float, fleet: SourceTopology | None = None) -> DeviceLostDetector:
    """Create the detector."""
    return DeviceLostDetector(fleet)
