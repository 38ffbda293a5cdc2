"""Derive each device's share of a batch, and a simulated device's speed, from this node's frames and alerts."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field

from accelerator_autopilot.contracts.errors import UnavailableError
from accelerator_autopilot.contracts.frames import TelemetryFrame
from accelerator_autopilot.contracts.messages.alerts import Alert
from accelerator_autopilot.contracts.severity_ranks import SEVERITY_RANK
from accelerator_autopilot.inference.pool.application.worker_supervisor import PoolSupervisor
from accelerator_autopilot.inference.pool.domain.throttling import Severity, share, speed
from accelerator_autopilot.runtime.bus import BUS_ERRORS
from accelerator_autopilot.runtime.supervision import beat

log = logging.getLogger(__name__)

RECONCILE_INTERVAL_S = 15.0


@dataclass
class BatchThrottling:
    """Maintains the supervisor's shares and speeds."""

    supervisor: PoolSupervisor
    _samples: dict[str, dict[str, float]] = field(default_factory=dict)
    _alerts: dict[str, Alert] = field(default_factory=dict)

    def on_frame(self, frame: TelemetryFrame) -> None:
        """Process every device in a frame of this node."""
        for device, sample in frame.latest().items():
            self._samples.setdefault(device, {}).update(sample)
        self._update()

    def on_alerts(self, alerts: Iterable[Alert]) -> None:
        """Process alerts; those of other nodes are ignored."""
        for alert in alerts:
            if alert.node != self.supervisor.settings.node:
                continue
            if alert.state == "resolved":
                self._alerts.pop(alert.id, None)
            else:
                self._alerts[alert.id] = alert
        self._update()

    async def keep_in_step(self, read: Callable[[], Awaitable[Iterable[Alert]]]) -> None:
        """Reconcile with the open alerts until cancelled: core NATS may lose alert messages."""
        while True:
            beat()
            known = {identity: alert.at for identity, alert in self._alerts.items()}
            try:
                now_open = {alert.id: alert for alert in await read()}
            except (UnavailableError, *BUS_ERRORS) as error:
                log.info("open alerts not read", extra={"error": type(error).__name__})
            else:
                # Alerts received while they were read are newer than what was read.
                for identity, at in known.items():
                    alert = self._alerts.get(identity)
                    if identity not in now_open and alert is not None and alert.at == at:
                        del self._alerts[identity]
                self.on_alerts(alert for alert in now_open.values() if alert.id not in known)
            await asyncio.sleep(RECONCILE_INTERVAL_S)

    def _update(self) -> None:
        worst: dict[str, Severity] = {}
        for alert in self._alerts.values():
            worst[alert.device] = max(worst.get(alert.device, "info"), alert.severity, key=SEVERITY_RANK.__getitem__)
        self.supervisor.shares = {
            d.device: share(self._samples.get(d.device, {}), worst.get(d.device), d.power_default_w)
            for d in self.supervisor.devices
        }
        self.supervisor.speeds |= {
            d.device: device_speed
            for d in self.supervisor.devices
            if d.simulated and (device_speed := speed(self._samples.get(d.device, {}), d.clock_max_sm_mhz)) is not None
        }
