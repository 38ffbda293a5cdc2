"""XID errors: every occurrence is an event; its code says whether the application or the hardware is at fault.

Meanings and actions: NVIDIA, "XID Errors" (docs.nvidia.com/deploy/xid-errors), and the list of
application errors in NVIDIA/k8s-device-plugin, internal/rm/health.go.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from services.anomaly.domain.finding import Finding, QuietDetector
from shared.messages.alerts import Alert, Evidence, Severity
from shared.messages.telemetry import DeviceEvent

if TYPE_CHECKING:
    from services.anomaly.domain.detectors import Tuning

APPLICATION = {13, 31, 43, 45, 68, 109}
CATALOGUE: dict[int, tuple[Severity, str, str]] = {
    48: ("critical", "double-bit memory error", "drain, reset the GPU"),
    62: ("critical", "micro-controller halt", "drain, reset the GPU"),
    63: ("warning", "memory row remapping recorded", "reset the GPU when idle"),
    64: ("critical", "memory row remapping failed", "drain, replace the GPU"),
    74: ("warning", "NVLink error", "check the links of this GPU"),
    79: ("critical", "GPU has fallen off the bus", "drain, reboot the node, reseat or replace the GPU"),
    92: ("warning", "high rate of corrected memory errors", "watch, run diagnostics when idle"),
    94: ("warning", "contained memory error", "restart the job, reset the GPU when idle"),
    95: ("critical", "uncontained memory error", "drain, reset the GPU"),
    119: ("critical", "GSP does not answer", "drain, reset the GPU"),
    120: ("critical", "GSP error", "drain, reset the GPU"),
    154: ("critical", "recovery action changed", "read the recovery action and follow it"),
}


class XidDetector(QuietDetector):
    """Holds an alert for a while after the last occurrence, or until the device appears anew."""

    name = "xid"

    def __init__(self, hold_s: float) -> None:
        self._hold = timedelta(seconds=hold_s)
        self._last: dict[tuple[str, str, int], DeviceEvent] = {}

    def on_event(self, event: DeviceEvent) -> list[Finding]:
        """An XID fires; a device that appears anew was reset, which clears its XIDs."""
        if event.kind == "xid" and event.code is not None:
            if event.code == 45:
                # The driver's clean-up after another error or a killed job: says nothing by itself.
                return []
            self._last[event.node, event.device, event.code] = event
            return [_finding(event, firing=True)]
        if event.kind == "appeared":
            return self._clear(lambda e: (e.node, e.device) == (event.node, event.device) and e.at <= event.at)
        return []

    def on_time(self, now: datetime) -> list[Finding]:
        """What has not come again for the hold time is over."""
        return self._clear(lambda e: now - e.at > self._hold)

    def restore(self, alert: Alert) -> None:
        """Go on holding an alert that was open before a restart."""
        code = alert.kind.removeprefix("xid_")
        if code != alert.kind and code.isdigit():
            self._last[alert.node, alert.device, int(code)] = DeviceEvent(
                id=alert.id,
                node=alert.node,
                device=alert.device,
                at=alert.at,
                kind="xid",
                code=int(code),
                simulated=alert.simulated,
            )

    def _clear(self, over: Callable[[DeviceEvent], bool]) -> list[Finding]:
        cleared = [key for key, event in self._last.items() if over(event)]
        return [_finding(self._last.pop(key), firing=False) for key in cleared]


def _finding(event: DeviceEvent, *, firing: bool) -> Finding:
    code = event.code or 0
    if code in APPLICATION:
        severity, meaning, action = "info", "application error", "look at the job that ran"
    else:
        severity, meaning, action = CATALOGUE.get(code, ("warning", "hardware error", "look the code up"))
    evidence = Evidence(metric="xid", value=float(code), expected="none", at=event.at)
    return Finding(
        event.node,
        event.device,
        f"xid_{code}",
        firing,
        severity=severity,  # type: ignore[arg-type]
        summary=f"XID {code}: {meaning}",
        action=action,
        evidence=(evidence,),
        simulated=event.simulated,
    )


def make(tuning: Tuning) -> XidDetector:
    """Build it."""
    return XidDetector(tuning.xid_hold_s)
