"""A source of readings that fails: an exporter that does not answer says nothing about its devices."""

from __future__ import annotations

from accelerator_autopilot.anomaly.domain.findings import Finding, QuietDetector
from accelerator_autopilot.anomaly.domain.source_topology import SourceTopology
from accelerator_autopilot.contracts.messages.alerts import Evidence
from accelerator_autopilot.contracts.messages.telemetry import DeviceEvent

KIND = "source_failed"


class SourceFailedDetector(QuietDetector):
    """Follows the agent's own word; the alert stands for the source, never for a device."""

    name = KIND

    def on_event(self, event: DeviceEvent) -> list[Finding]:
        """A source that failed fires, one that answers again clears."""
        if event.kind not in {"source_failed", "source_recovered"}:
            return []
        evidence = Evidence(metric="pages", value=0.0, expected="one each tick", at=event.at)
        return [
            Finding(
                event.node,
                event.device,
                KIND,
                event.kind == "source_failed",
                severity="warning",
                summary=f"source gives no readings: {event.message}"[:500],
                action="look at the exporter; its devices are not watched meanwhile",
                evidence=(evidence,),
                simulated=event.simulated,
            )
        ]


def make(_: float, _fleet: SourceTopology | None = None) -> SourceFailedDetector:
    """Build it."""
    return SourceFailedDetector()
