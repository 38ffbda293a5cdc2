"""A failing source of readings: an exporter that does not respond says nothing about its devices."""

from __future__ import annotations

from accelerator_autopilot.anomaly.domain.findings import Finding, NullDetector
from accelerator_autopilot.anomaly.domain.source_topology import SourceTopology
from accelerator_autopilot.contracts.messages.alerts import Evidence
from accelerator_autopilot.contracts.messages.telemetry import DeviceEvent

KIND = "source_failed"


class SourceFailedDetector(NullDetector):
    """Follows the agent's events. The alert is about the source, never about a device."""

    name = KIND

    def on_event(self, event: DeviceEvent) -> list[Finding]:
        """Process an event: a failed source opens an alert, one that answers again resolves it."""
        if event.kind not in {"source_failed", "source_recovered"}:
            return []
        evidence = Evidence(metric="pages", value=0.0, expected="one per tick", at=event.at)
        return [
            Finding(
                event.node,
                event.device,
                KIND,
                event.kind == "source_failed",
                severity="warning",
                summary=f"the source provides no readings: {event.message}"[:500],
                action="check the exporter; its devices are not monitored until it responds",
                evidence=(evidence,),
                simulated=event.simulated,
            )
        ]


def make(_: float, _fleet: SourceTopology | None = None) -> SourceFailedDetector:
    """Create the detector."""
    return SourceFailedDetector()
