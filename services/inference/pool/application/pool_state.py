"""A pool's state in KV: its status for everyone, and its size and cordons across restarts."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import Any

from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.errors import UnavailableError
from accelerator_autopilot.contracts.messages.commands import DeviceSet
from accelerator_autopilot.contracts.messages.jobs import JobState, PoolStatus
from accelerator_autopilot.contracts.messages.telemetry import NodeInventory
from accelerator_autopilot.inference.jobs.retry_records import RetryRecords
from accelerator_autopilot.inference.pool.application.pool_alerts import PoolAlerts
from accelerator_autopilot.inference.pool.application.worker_devices import places
from accelerator_autopilot.inference.pool.application.worker_supervisor import PoolSupervisor
from accelerator_autopilot.runtime.bus import BUS_ERRORS, Bus
from accelerator_autopilot.runtime.health import HealthState
from accelerator_autopilot.transport.direct_reads import bucket_items

log = logging.getLogger(__name__)

STATUS_PERIOD_S = 0.5
# How often an unchanged status is rewritten and the node's devices are read: each write costs a disk write.
IDLE_PERIOD_S = 2.0


@dataclass
class PoolState:
    """Reads and writes the buckets of one supervisor."""

    bus: Bus
    supervisor: PoolSupervisor
    alerts: PoolAlerts = field(init=False)
    _kept: tuple[set[str], dict[str, str]] = field(default_factory=lambda: (set(), {}))
    _published: dict[str, Any] | None = None
    _done_s: dict[str, float] = field(default_factory=dict)
    _writing: asyncio.Lock = field(default_factory=asyncio.Lock)

    def __post_init__(self) -> None:
        self.alerts = PoolAlerts(self.bus, self.supervisor)

    @property
    def _node(self) -> str:
        return self.supervisor.settings.node

    @property
    def status_key(self) -> str:
        """Return the key of its status in the bucket `pools`."""
        return f"{self.supervisor.settings.pool}.{subjects.token(self._node)}"

    async def restore(self) -> None:
        """Restore the state from before a restart: the desired size and the cordoned devices."""
        kept = await self.bus.read("pools", self.status_key, PoolStatus)
        cordons = await self._cordons()
        if kept is not None:
            self.supervisor.desired, self.supervisor.restarts = kept.desired, kept.restarts
        if cordons is not None:
            self.supervisor.cordoned = {device for _, device in cordons.devices}
            self.supervisor.set_aside = dict(cordons.reasons)
            self._kept = (set(self.supervisor.cordoned), dict(self.supervisor.set_aside))
        await self.alerts.restore()

    @property
    def _cordons_key(self) -> str:
        return f"{subjects.token(self._node)}.{self.supervisor.settings.pool}"

    async def _cordons(self) -> DeviceSet | None:
        """Return this pool's cordons or, where the pool is new here, what the node's other pools drained."""
        own = await self.bus.read("cordons", self._cordons_key, DeviceSet)
        if own is not None:
            return own
        node = subjects.token(self._node)
        try:
            kept = await bucket_items(self.bus.js, "cordons", DeviceSet)
        except BUS_ERRORS as error:
            raise UnavailableError(f"the cordons could not be read: {type(error).__name__}") from error
        others = [devices for key, devices in kept.items() if key == node or key.startswith(f"{node}.")]
        drained = {place for one in others for place in one.devices if place[1] not in one.reasons}
        return DeviceSet(devices=sorted(drained)) if others else None

    async def save_cordons(self, devices: set[str]) -> None:
        """Save the cordoned devices."""
        reasons = {device: why for device, why in self.supervisor.set_aside.items() if device in devices}
        entries = DeviceSet(devices=[(self._node, device) for device in sorted(devices)], reasons=reasons, actor="pool")
        await self.bus.write("cordons", self._cordons_key, entries)
        self._kept = (set(devices), dict(entries.reasons))

    async def keep_reporting(self, health: HealthState) -> None:
        """Read this node's devices and publish the pool's status, until cancelled."""
        while True:
            try:
                if not self.supervisor.devices or self._is_due("devices"):
                    await self._read_devices(health)
                await self._count_kills()
                if self._kept != (self.supervisor.cordoned, self.supervisor.set_aside):
                    await self.save_cordons(set(self.supervisor.cordoned))
                await self._publish_status()
            except UnavailableError as error:
                log.info("status not published", extra={"error": type(error).__name__})
            try:
                await self.alerts.settle()
            except UnavailableError as error:
                log.info("alerts not published yet", extra={"error": str(error)})
            hung = self.supervisor.waiting_for
            reason = f"workers on {', '.join(hung)} hung and are not back yet"
            health.report("hung workers", ok=not hung, reason=reason)
            reason = "every device in use is too hot or has a critical alert, so jobs wait: see `autopilot alerts`"
            health.report("device health", ok=not self.supervisor.all_rest, reason=reason)
            health.report("workers", ok=self._enough(), reason="no worker is ready yet", max_age_s=10.0)
            await asyncio.sleep(STATUS_PERIOD_S)

    def _is_due(self, what: str) -> bool:
        """Whether the idle interval has passed since the last time; if so, restarts it."""
        now_s = asyncio.get_running_loop().time()
        due = now_s - self._done_s.get(what, float("-inf")) >= IDLE_PERIOD_S
        if due:
            self._done_s[what] = now_s
        return due

    async def save_size(self) -> None:
        """Store the wanted size. Raises UnavailableError."""
        await self._write_status()

    async def _publish_status(self) -> None:
        """Write the status when it changed, and occasionally to confirm it."""
        content = self.supervisor.status().model_dump(exclude={"at"})
        if content != self._published or self._is_due("status"):
            await self._write_status()

    async def _write_status(self) -> None:
        # One at a time, or an older status could be stored after a newer one.
        async with self._writing:
            status = self.supervisor.status()
            self._published = None
            await self.bus.write("pools", self.status_key, status)
            self._published = status.model_dump(exclude={"at"})
            self._done_s["status"] = asyncio.get_running_loop().time()

    async def _read_devices(self, health: HealthState) -> None:
        inventory = await self.bus.read("inventory", subjects.token(self._node), NodeInventory)
        if inventory is not None:
            self.supervisor.devices = places(inventory.devices)
        # An unreadable inventory says nothing: workers stay where they are.
        known = bool(self.supervisor.devices)
        health.report("devices", ok=known, reason="the agent has reported no device that workers can run on")

    async def _count_kills(self) -> None:
        """Record that a job killed its worker, or must run alone from now on."""
        blamed = self.supervisor.take_blamed()
        while blamed:
            job_id, counts = blamed[0]
            try:
                records = RetryRecords(await self.bus.js.key_value("jobs"))
                await records.change(job_id, killed if counts else died_in_batch)
            except (UnavailableError, *BUS_ERRORS) as error:
                self.supervisor.requeue_blame(blamed)
                raise UnavailableError(f"{len(blamed)} kills not recorded yet: {error}") from error
            blamed.pop(0)

    def _enough(self) -> bool:
        ready = any(w.state == "ready" for w in self.supervisor.status().workers)
        usable = {d.device for d in self.supervisor.devices} - self.supervisor.cordoned
        return ready or self.supervisor.desired == 0 or not usable


def killed(state: JobState) -> JobState:
    """A worker died of this job."""
    return state.model_copy(update={"kills": state.kills + 1, "alone": True})


def died_in_batch(state: JobState) -> JobState:
    """A worker died of this job or of another in its batch."""
    return state.model_copy(update={"alone": True})
