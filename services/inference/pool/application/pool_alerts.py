"""Alerts of a pool about its devices: unresponsive workers, and devices on which jobs fail."""

from __future__ import annotations

from dataclasses import dataclass, field

from accelerator_autopilot.contracts.messages.alerts import POOL_ALERT_KINDS, Alert
from accelerator_autopilot.inference.pool.application.worker_supervisor import PoolSupervisor
from accelerator_autopilot.runtime.bus import Bus
from accelerator_autopilot.runtime.condition_alerts import Condition, ConditionAlerts


@dataclass
class PoolAlerts:
    """Opens and resolves this pool's alerts from its supervisor's view of its devices."""

    bus: Bus
    supervisor: PoolSupervisor
    _alerts: ConditionAlerts = field(init=False)

    def __post_init__(self) -> None:
        self._alerts = ConditionAlerts(self.bus, self._is_mine, actor="pool", prefix=self._prefix)

    @property
    def _prefix(self) -> str:
        return f"pool-{self.supervisor.settings.pool}-"

    def _is_mine(self, alert: Alert) -> bool:
        node = self.supervisor.settings.node
        return alert.kind in POOL_ALERT_KINDS and alert.node == node and alert.id.startswith(self._prefix)

    async def restore(self) -> None:
        """Resume with the alerts that were open before a restart. Raises UnavailableError."""
        await self._alerts.restore()

    async def settle(self) -> None:
        """Open new alerts and resolve those that are over. Raises UnavailableError; the next call continues."""
        await self._alerts.settle(self._conditions())

    def _conditions(self) -> list[Condition]:
        pool, node = self.supervisor.settings.pool, self.supervisor.settings.node
        stuck = [
            Condition(
                node, device, "worker_stuck", "warning",
                f"a worker of pool {pool} on {device} hung and was killed",
                "check the pool's log for the jobs that ran; if it happens again only on this device, drain it",
            )
            for device in self.supervisor.stuck
        ]  # fmt: skip
        failing = [
            Condition(
                node, device, "worker_failing", "critical",
                f"jobs fail on {device} and succeed elsewhere, so pool {pool} no longer uses it",
                "check the device and its driver, then restore it: autopilot drain DEVICE restore",
            )
            for device in self.supervisor.set_aside
        ]  # fmt: skip
        return stuck + failing
