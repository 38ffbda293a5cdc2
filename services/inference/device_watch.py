"""What this node's frames and alerts say of each device: its share of a batch, and a simulated one's speed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from services.inference.domain.pressure import Severity, share, speed
from services.inference.supervisor import PoolSupervisor
from shared.frames import TelemetryFrame
from shared.messages.alerts import Alert

RANK: dict[Severity, int] = {"info": 0, "warning": 1, "critical": 2}


@dataclass
class DeviceWatch:
    """Keeps the supervisor's shares and speeds."""

    supervisor: PoolSupervisor
    _samples: dict[str, dict[str, float]] = field(default_factory=dict)
    _alerts: dict[str, Alert] = field(default_factory=dict)

    def on_frame(self, frame: TelemetryFrame) -> None:
        """Look at every device of a frame of this node."""
        for device, sample in frame.latest().items():
            self._samples.setdefault(device, {}).update(sample)
        self._update()

    def on_alerts(self, alerts: Iterable[Alert]) -> None:
        """Learn of alerts; those of other nodes are left out."""
        for alert in alerts:
            if alert.node != self.supervisor.settings.node:
                continue
            if alert.state == "resolved":
                self._alerts.pop(alert.id, None)
            else:
                self._alerts[alert.id] = alert
        self._update()

    def _update(self) -> None:
        worst: dict[str, Severity] = {}
        for alert in self._alerts.values():
            worst[alert.device] = max(worst.get(alert.device, "info"), alert.severity, key=RANK.__getitem__)
        self.supervisor.shares = {
            d.device: share(self._samples.get(d.device, {}), worst.get(d.device), d.power_default_w)
            for d in self.supervisor.devices
        }
        self.supervisor.speeds |= {
            d.device: told
            for d in self.supervisor.devices
            if d.simulated and (told := speed(self._samples.get(d.device, {}), d.clock_max_sm_mhz)) is not None
        }
