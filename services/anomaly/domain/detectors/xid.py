"""XID errors: the code and the other devices affected show whether the application or the hardware is at fault.

An application error on many devices at once is the application's fault; the same error on one device alone, repeatedly,
is the device's (NVIDIA/NVSentinel, docs on its health events analyzer: RepeatedXIDErrorOnSameGPU and its bursts). An
application's fault expires. What the catalogue says to reset, reboot or replace for is held (`holds`): a drained GPU is
quiet, and a restart of the agent or of the detector fixes nothing.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from accelerator_autopilot.anomaly.domain.findings import Finding, NullDetector
from accelerator_autopilot.anomaly.domain.reset_evidence import RECOVERY_CHANGED, asks_for_nothing
from accelerator_autopilot.anomaly.domain.source_topology import SourceTopology
from accelerator_autopilot.anomaly.domain.xid_catalogue import ADVICE, look_up
from accelerator_autopilot.contracts.messages.alerts import Alert, Evidence, Severity
from accelerator_autopilot.contracts.messages.telemetry import DeviceEvent

TEARDOWN = 45  # the driver's clean-up after another error or a killed job: no information by itself
REPEAT_WITHIN = timedelta(days=1)
BURST = timedelta(minutes=3)  # repetitions within it are one occurrence
REPEATS = 3
MANY_WITHIN = timedelta(minutes=3)
MANY_DEVICES = 3
MAX_REMEMBERED = 100


@dataclass
class _Seen:
    """Bursts of one application code: on each device, and anywhere recently."""

    bursts: dict[tuple[str, str], deque[datetime]] = field(default_factory=dict)
    lately: deque[tuple[datetime, str, str]] = field(default_factory=lambda: deque(maxlen=MAX_REMEMBERED))


class XidDetector(NullDetector):
    """Resolves an XID some time after its last occurrence, unless the fault is held."""

    name = "xid"

    def __init__(self, hold_s: float) -> None:
        self._hold = timedelta(seconds=hold_s)
        self._last: dict[tuple[str, str, int], DeviceEvent] = {}
        self._seen: dict[int, _Seen] = defaultdict(_Seen)

    def on_event(self, event: DeviceEvent) -> list[Finding]:
        """Open an alert for an XID."""
        if event.kind != "xid" or event.code is None or event.code == TEARDOWN or asks_for_nothing(event):
            return []
        self._last[event.node, event.device, event.code] = event
        return [_finding(event, *self._judge(event))]

    def on_time(self, now: datetime) -> list[Finding]:
        """Resolve XIDs that have not recurred for the hold time."""
        for key, event in self._last.items():
            if event.at > now:
                # From a clock that runs ahead: it must not hold an alert for that long.
                self._last[key] = event.model_copy(update={"at": now})
        return self._clear(lambda e: now - e.at > self._hold)

    def release(self, node: str, device: str, until: datetime) -> list[Finding]:
        """Clear what happened before a reset."""
        return self._clear(lambda e: (e.node, e.device) == (node, device) and e.at <= until)

    def forget(self, node: str, device: str) -> None:
        """Forget a device that is gone."""
        for key in [key for key in self._last if key[:2] == (node, device)]:
            del self._last[key]

    def restore(self, alert: Alert) -> None:
        """Continue with an alert that was open before a restart."""
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

    def _judge(self, event: DeviceEvent) -> tuple[Severity, str, str]:
        """Return severity, meaning and action."""
        xid = look_up(event.code or 0)
        if not xid.application:
            return xid.severity, xid.meaning, ADVICE[xid.action]
        seen = self._seen[event.code or 0]
        device = (event.node, event.device)
        bursts = seen.bursts.setdefault(device, deque(maxlen=MAX_REMEMBERED))
        while bursts and event.at - bursts[0] > REPEAT_WITHIN:
            bursts.popleft()
        if not bursts or event.at - bursts[-1] > BURST:
            bursts.append(event.at)
        seen.lately.append((event.at, *device))
        others = {(n, d) for at, n, d in seen.lately if event.at - at <= MANY_WITHIN} - {device}
        if len(others) + 1 >= MANY_DEVICES:
            return (
                "info",
                f"{xid.meaning}; on {len(others) + 1} devices at once, so caused by the application",
                ADVICE["restart_job"],
            )
        if len(bursts) >= REPEATS:
            text = f"{xid.meaning}; {len(bursts)} times within a day on this device alone, so the hardware is suspect"
            return "warning", text, ADVICE["drain"]
        return xid.severity, xid.meaning, ADVICE[xid.action]

    def _clear(self, over: Callable[[DeviceEvent], bool]) -> list[Finding]:
        cleared = [key for key, event in self._last.items() if over(event)]
        return [_finding(self._last.pop(key)) for key in cleared]


def _finding(event: DeviceEvent, severity: Severity | None = None, meaning: str = "", action: str = "") -> Finding:
    code = event.code or 0
    evidence = Evidence(metric="xid", value=float(code), expected="none", at=event.at)
    return Finding(
        event.node,
        event.device,
        f"xid_{code}",
        severity is not None,
        severity=severity or "info",
        summary=f"XID {code}: {meaning}",
        action=action,
        runbook="docs/reference/alerts.md#xids",
        evidence=(evidence,),
        simulated=event.simulated,
        at=event.at,
        holds=severity is not None and needs_reset(code),
        boot_id=event.boot_id,
        driver_epoch=event.driver_epoch,
    )


def needs_reset(code: int) -> bool:
    """Whether only a reset, a reboot or another card fixes the fault behind this code."""
    return code == RECOVERY_CHANGED or look_up(code).action in {"reset_device", "reboot", "replace", "reduced_memory"}


def make(xid_hold_s: float, _fleet: SourceTopology | None = None) -> XidDetector:
    """Create the detector."""
    return XidDetector(xid_hold_s)
