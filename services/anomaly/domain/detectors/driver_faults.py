"""Driver faults that are not XIDs: SXids of NVSwitches; resets, ring timeouts and RAS errors of AMD's driver.

SXids: NVIDIA, Fabric Manager user guide, "SXid errors"; the others: the Linux kernel's amdgpu.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from accelerator_autopilot.anomaly.domain.findings import Finding, NullDetector
from accelerator_autopilot.anomaly.domain.source_topology import SourceTopology
from accelerator_autopilot.contracts.messages.alerts import Alert, Evidence, Severity
from accelerator_autopilot.contracts.messages.telemetry import DeviceEvent

SXID = "sxid"
_FATAL = re.compile(r"\bfatal\b", re.IGNORECASE)
_NOT_FATAL = re.compile(r"\bnon-?\s?fatal\b", re.IGNORECASE)


@dataclass(frozen=True)
class Fault:
    """The alert that a driver event becomes."""

    kind: str
    severity: Severity
    summary: str
    action: str
    holds: bool = False


_RESET = "drain; reset the GPU; reboot the node if that fails"
FAULTS: dict[str, Fault] = {
    "ring_timeout": Fault("ring_timeout", "warning", "a GPU ring timed out",
                           "check the job that ran; drain if it happens again"),
    "reset_started": Fault("driver_reset", "warning", "the driver is resetting the GPU", "check the job that ran"),
    "reset_failed": Fault("driver_reset_failed", "critical", "the driver could not reset the GPU",
                           "drain; reboot the node", holds=True),
    "ras_uncorrected": Fault("ras_uncorrected", "critical", "uncorrected hardware errors", _RESET, holds=True),
    "ras_corrected": Fault("ras_corrected", "info", "corrected hardware errors", "watch it; run diagnostics when idle"),
}  # fmt: skip
_BY_ALERT = {fault.kind: fault for fault in FAULTS.values()}
_SXID_FATAL = "drain the node; reset its GPUs and NVSwitches together, or reboot it; check the fabric manager's log"


class DriverFaultDetector(NullDetector):
    """Resolves a fault some time after its last occurrence.

    One that needs a reset is held until a reset is detected.
    """

    name = "driver_faults"

    def __init__(self, hold_s: float) -> None:
        self._hold = timedelta(seconds=hold_s)
        self._last: dict[tuple[str, str, str], DeviceEvent] = {}

    def on_event(self, event: DeviceEvent) -> list[Finding]:
        """Open an alert for a fault."""
        fault = _fault_of(event)
        if fault is None:
            return []
        self._last[event.node, event.device, fault.kind] = event
        return [_finding(event, fault, firing=True)]

    def on_time(self, now: datetime) -> list[Finding]:
        """Resolve faults that have not recurred for the hold time."""
        for key, event in self._last.items():
            if event.at > now:
                # From a clock that runs ahead: it must not hold an alert for that long.
                self._last[key] = event.model_copy(update={"at": now})
        return self._clear(lambda _, event: now - event.at > self._hold)

    def release(self, node: str, device: str, until: datetime) -> list[Finding]:
        """Clear what happened before a reset."""
        return self._clear(lambda key, event: key[:2] == (node, device) and event.at <= until)

    def forget(self, node: str, device: str) -> None:
        """Forget a device that is gone."""
        for key in [key for key in self._last if key[:2] == (node, device)]:
            del self._last[key]

    def restore(self, alert: Alert) -> None:
        """Continue with an alert that was open before a restart."""
        if alert.kind in _BY_ALERT or is_sxid(alert.kind):
            code = alert.kind.rpartition("_")[2]
            self._last[alert.node, alert.device, alert.kind] = DeviceEvent(
                id=alert.id, node=alert.node, device=alert.device, at=alert.at, kind=SXID,
                code=int(code) if code.isdigit() else None, simulated=alert.simulated,
            )  # fmt: skip

    def _clear(self, over: Callable[[tuple[str, str, str], DeviceEvent], bool]) -> list[Finding]:
        cleared = [key for key, event in self._last.items() if over(key, event)]
        return [_finding(self._last.pop(key), Fault(key[2], "info", "", ""), firing=False) for key in cleared]


def is_sxid(kind: str) -> bool:
    """Whether an alert is about an NVSwitch, which no inventory lists."""
    return kind.startswith(f"{SXID}_")


def _fault_of(event: DeviceEvent) -> Fault | None:
    if event.kind != SXID or event.code is None:
        return FAULTS.get(event.kind)
    fatal = bool(_FATAL.search(event.message)) and not _NOT_FATAL.search(event.message)
    text = event.message.partition(f"{event.code}")[2].lstrip(" ,") or "NVSwitch error"
    return Fault(
        f"{SXID}_{event.code}",
        "critical" if fatal else "warning",
        f"SXid {event.code} of an NVSwitch: {text}"[:300],
        _SXID_FATAL if fatal else "check the fabric manager's log and the link's errors",
        holds=fatal,
    )


def _finding(event: DeviceEvent, fault: Fault, *, firing: bool) -> Finding:
    value = float(event.code) if event.code is not None else None
    summary = fault.summary if event.kind == SXID or not event.message else f"{fault.summary}: {event.message}"
    return Finding(
        event.node,
        event.device,
        fault.kind,
        firing,
        severity=fault.severity,
        summary=summary[:500],
        action=fault.action,
        runbook="docs/reference/alerts.md#faults-of-drivers-and-nvswitches",
        evidence=(Evidence(metric=event.kind, value=value, expected="none", at=event.at),),
        simulated=event.simulated,
        at=event.at,
        holds=firing and fault.holds,
        boot_id=event.boot_id,
        driver_epoch=event.driver_epoch,
    )


def make(xid_hold_s: float, _fleet: SourceTopology | None = None) -> DriverFaultDetector:
    """Create the detector."""
    return DriverFaultDetector(xid_hold_s)
