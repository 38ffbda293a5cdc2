"""What a pool keeps on the bus: its status for all to see, and its size and cordons across restarts."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from services.inference.device_group import places
from services.inference.supervisor import PoolSupervisor
from shared import subjects
from shared.bus import Bus
from shared.errors import UnavailableError
from shared.health import HealthState
from shared.messages.commands import DeviceSet
from shared.messages.jobs import PoolStatus
from shared.messages.telemetry import NodeInventory

log = logging.getLogger(__name__)

STATUS_PERIOD_S = 0.5


@dataclass
class PoolMemory:
    """Reads and writes the buckets for one supervisor."""

    bus: Bus
    supervisor: PoolSupervisor

    @property
    def _node(self) -> str:
        return self.supervisor.settings.node

    @property
    def _status_key(self) -> str:
        return f"{self.supervisor.settings.pool}.{subjects.token(self._node)}"

    async def recall(self) -> None:
        """Go on as before a restart: the wanted size and the cordoned devices."""
        kept = await self.bus.read("pools", self._status_key, PoolStatus)
        cordons = await self.bus.read("cordons", subjects.token(self._node), DeviceSet)
        if kept is not None:
            self.supervisor.desired, self.supervisor.restarts = kept.desired, kept.restarts
        if cordons is not None:
            self.supervisor.cordoned = {device for _, device in cordons.devices}

    async def save_cordons(self, devices: set[str]) -> None:
        """Keep the cordoned devices."""
        entries = DeviceSet(devices=[(self._node, device) for device in sorted(devices)])
        await self.bus.write("cordons", subjects.token(self._node), entries)

    async def keep_reporting(self, health: HealthState) -> None:
        """Read this node's devices and publish the pool's status, until cancelled."""
        while True:
            try:
                await self._read_devices(health)
                await self.bus.write("pools", self._status_key, self.supervisor.status())
            except UnavailableError as error:
                log.info("status not published", extra={"error": type(error).__name__})
            health.report("workers", ok=self._enough(), reason="no worker is ready yet", max_age_s=10.0)
            await asyncio.sleep(STATUS_PERIOD_S)

    async def _read_devices(self, health: HealthState) -> None:
        inventory = await self.bus.read("inventory", subjects.token(self._node), NodeInventory)
        if inventory is not None:
            self.supervisor.devices = places(inventory.devices)
        # An inventory that cannot be read says nothing: workers stay where they are.
        known = bool(self.supervisor.devices)
        health.report("devices", ok=known, reason="the agent has told of no device that workers can run on")

    def _enough(self) -> bool:
        ready = any(w.state == "ready" for w in self.supervisor.status().workers)
        usable = {d.device for d in self.supervisor.devices} - self.supervisor.cordoned
        return ready or self.supervisor.desired == 0 or not usable
