"""A device whose samples stopped, or whose driver does not answer."""

from __future__ import annotations

from services.anomaly.domain.finding import Finding, QuietDetector
from shared.messages.alerts import Evidence
from shared.messages.telemetry import DeviceEvent

_KINDS = {
    "lost": ("device_lost", True, "device no longer answers", "drain, look for an XID, reboot or replace"),
    "appeared": ("device_lost", False, "", ""),
    "probe_hung": ("driver_hung", True, "driver call does not return", "drain, reset the GPU or reboot"),
    "probe_recovered": ("driver_hung", False, "", ""),
}


class DeviceLostDetector(QuietDetector):
    """Follows the agent's own word."""

    name = "device_lost"

    def on_event(self, event: DeviceEvent) -> list[Finding]:
        """Lost and hung fire, appeared and recovered clear."""
        if event.kind not in _KINDS:
            return []
        kind, firing, summary, action = _KINDS[event.kind]
        evidence = Evidence(metric="samples", value=0.0, expected="one each tick", at=event.at)
        return [
            Finding(
                event.node,
                event.device,
                kind,
                firing,
                severity="critical",
                summary=summary,
                action=action,
                evidence=(evidence,),
                simulated=event.simulated,
            )
        ]


def make(_: float) -> DeviceLostDetector:
    """Build it."""
    return DeviceLostDetector()
