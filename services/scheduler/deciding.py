"""One round of decisions: look at pools and devices, decide for both."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from services.scheduler.adapters.fleet_reader import FleetReader
from services.scheduler.device_deciding import DeviceDecider, levels_by_device
from services.scheduler.domain.drains import Device
from services.scheduler.domain.efficiency import NodeEfficiency
from services.scheduler.domain.observation import PoolObservation
from services.scheduler.domain.spread import NodeRoom
from services.scheduler.pool_deciding import PoolDecider
from shared.messages.commands import FleetPolicy
from shared.messages.jobs import PoolStatus
from shared.messages.telemetry import DeviceInfo


@dataclass
class Decider:
    """Decides for the whole fleet while this process leads."""

    reader: FleetReader
    pools: PoolDecider
    devices: DeviceDecider
    _wanted: dict[Device, float] = field(default_factory=dict)
    _efficiency: NodeEfficiency = field(default_factory=NodeEfficiency)

    async def decide(self, token: int) -> None:
        """One round with this fencing token."""
        actor = self.pools.actor
        now = actor.clock()
        policy = await actor.bus.policy()
        parts = await self.reader.pools(now)
        devices = await self.reader.devices()
        for _ in self.reader.held:
            actor.count("missing_data")
        if not parts:
            # Without pools nobody knows what is wanted: what was wanted is held, and budgets with it.
            actor.count("missing_data")
            await self.devices.cap(devices, self.reader.samples("power_cap_w", now), self._wanted, policy, token)
            return
        seen = await self._observe(parts, devices, policy)
        cordoned = {(part.node, device) for each in parts.values() for part in each for device in part.cordoned}
        heat_c, power_w = (self.reader.samples(metric, now) for metric in ("temp_c", "power_w"))
        rooms = {
            pool: [_room(part, devices, cordoned, heat_c, self._efficiency.look(part, power_w)) for part in each]
            for pool, each in parts.items()
        }
        await self.pools.decide(seen, rooms, policy, token)
        await self.devices.drain(await self.reader.critical(), cordoned, set(devices), policy, token)
        self._wanted = levels_by_device(seen, self.pools.levels)
        await self.devices.cap(devices, self.reader.samples("power_cap_w", now), self._wanted, policy, token)

    async def _observe(
        self, parts: Mapping[str, Sequence[PoolStatus]], devices: Mapping[Device, DeviceInfo], policy: FleetPolicy
    ) -> list[PoolObservation]:
        now = self.pools.actor.clock()
        power_w = self.reader.samples("power_w", now)
        looks = [
            self.reader.observe(pool, each, devices, power_w, policy.pool(pool), now) for pool, each in parts.items()
        ]
        observed = []
        for pool in await asyncio.gather(*looks):
            if pool is None:
                self.pools.actor.count("missing_data")
                continue
            observed.append(replace(pool, power_level=self.pools.levels.get(pool.pool, 1.0)))
        return observed


def _room(
    part: PoolStatus,
    devices: Mapping[Device, DeviceInfo],
    cordoned: set[Device],
    heat_c: Mapping[Device, float],
    joules_per_job: float,
) -> NodeRoom:
    here = [d for d in devices if d[0] == part.node]
    used = {d for w in part.workers for d in w.device.split("+")}
    kinds = {w.accelerator for w in part.workers}
    return NodeRoom(
        node=part.node,
        kind="gpu" if "gpu" in kinds or (not kinds and any(devices[d].power_default_w for d in here)) else "cpu",
        workers=part.desired,
        devices=sum(d not in cordoned for d in here),
        hottest_c=max((heat_c[(part.node, d)] for d in used if (part.node, d) in heat_c), default=0.0),
        joules_per_job=joules_per_job,
        models_loaded=sum(len(w.models) for w in part.workers),
    )
