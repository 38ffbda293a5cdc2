"""What a pool tells of its devices as alerts: workers that stood still, devices on which jobs fail."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

from services.inference.supervisor import PoolSupervisor
from shared.bus import Bus
from shared.client.reading import bucket_items
from shared.clock import utc_now
from shared.ids import new_id
from shared.messages.alerts import POOL_ALERT_KINDS, Alert, Severity
from shared.open_alerts import BUCKET, tell

log = logging.getLogger(__name__)

SEVERITY: dict[str, Severity] = {"worker_stuck": "warning", "worker_failing": "critical"}
ACTION = {
    "worker_stuck": "look at the pool's log for the jobs that ran; if it comes again on this device only, drain it",
    "worker_failing": "look at the device and its driver, then restore it: autopilot drain DEVICE restore",
}


@dataclass
class PoolAlerts:
    """Opens and resolves this pool's alerts, as its supervisor finds its devices. Raises UnavailableError."""

    bus: Bus
    supervisor: PoolSupervisor
    _open: dict[tuple[str, str], Alert] = field(default_factory=dict)

    @property
    def _prefix(self) -> str:
        return f"pool-{self.supervisor.settings.pool}-"

    async def recall(self) -> None:
        """Go on with what was open before a restart."""
        node = self.supervisor.settings.node
        for alert in (await bucket_items(self.bus.js, BUCKET, Alert)).values():
            if alert.kind in POOL_ALERT_KINDS and alert.node == node and alert.id.startswith(self._prefix):
                self._open[alert.device, alert.kind] = alert

    async def settle(self) -> None:
        """Open what is not told yet and resolve what is over."""
        wanted = self._wanted()
        for (device, kind), summary in wanted.items():
            if (device, kind) not in self._open:
                now = utc_now()
                alert = Alert(
                    id=f"{self._prefix}{new_id()}", node=self.supervisor.settings.node, device=device, kind=kind,
                    severity=SEVERITY[kind], state="opened", summary=summary, action=ACTION[kind], opened_at=now,
                    at=now, runbook=f"docs/alerts.md#{kind}",
                )  # fmt: skip
                await self._send(alert)
                self._open[device, kind] = alert
        for key in self._open.keys() - wanted.keys():
            await self._send(self._open[key].model_copy(update={"state": "resolved", "at": utc_now()}))
            del self._open[key]

    def _wanted(self) -> Mapping[tuple[str, str], str]:
        pool = self.supervisor.settings.pool
        stuck = {
            (device, "worker_stuck"): f"a worker of pool {pool} on {device} stood still and was killed"
            for device in self.supervisor.stuck
        }
        failing = {
            (device, "worker_failing"): f"jobs fail on {device} and succeed elsewhere: pool {pool} uses it no longer"
            for device in self.supervisor.set_aside
        }
        return stuck | failing

    async def _send(self, alert: Alert) -> None:
        await tell(self.bus, alert, f"{alert.id}-{alert.state}")
        log.warning("alert", extra={"kind": alert.kind, "device": alert.device, "state": alert.state})
