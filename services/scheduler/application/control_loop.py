"""The control loop: each round observes pools and devices, and decides for both."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime

from accelerator_autopilot.contracts.messages.commands import FleetPolicy
from accelerator_autopilot.contracts.messages.jobs import PoolStatus
from accelerator_autopilot.runtime.cooperative_loops import CooperativeLoop
from accelerator_autopilot.scheduler.application.autonomy_gate import AutonomyGate
from accelerator_autopilot.scheduler.application.device_controller import DeviceController, levels_by_device
from accelerator_autopilot.scheduler.application.pool_controller import DecisionError, PoolController
from accelerator_autopilot.scheduler.domain.device_facts import DeviceRegistry
from accelerator_autopilot.scheduler.domain.drain_decisions import Device
from accelerator_autopilot.scheduler.domain.job_energy import NodeEfficiency
from accelerator_autopilot.scheduler.domain.latest_readings import Readings
from accelerator_autopilot.scheduler.domain.observation import PoolObservation
from accelerator_autopilot.scheduler.domain.placement import NodeRoom
from accelerator_autopilot.scheduler.ports import FleetState

log = logging.getLogger(__name__)


@dataclass
class Failures:
    """Errors in parts of a round, raised at its end, so that one part does not stop the others."""

    actor: AutonomyGate
    _first: list[tuple[str, Exception]] = field(default_factory=list)

    @asynccontextmanager
    async def noting(self, part: str) -> AsyncIterator[None]:
        """Collect an error raised in this context."""
        try:
            yield
        except Exception as error:  # noqa: BLE001  whatever it is, the other parts go on
            self.actor.count("failed")
            log.warning("part of a round failed", extra={"part": part, "error": f"{type(error).__name__}: {error}"})
            self._first.append((part, error))

    def raise_if_failed(self) -> None:
        """Raise DecisionError if anything failed."""
        if self._first:
            part, error = self._first[0]
            raise DecisionError(f"{part}: {type(error).__name__}: {error}") from error


@dataclass
class ControlLoop:
    """Decides for the whole fleet while this process leads."""

    reader: FleetState
    pools: PoolController
    devices: DeviceController
    _wanted: dict[Device, float] = field(default_factory=dict)
    _efficiency: NodeEfficiency = field(default_factory=NodeEfficiency)
    _cordons: dict[str, set[str]] = field(default_factory=dict)

    async def decide(self, token: int) -> None:
        """Run one round with this fencing token."""
        actor = self.pools.actor
        policy = await actor.bus.policy()
        devices = await self.reader.devices()
        await self.reader.refresh()
        now = actor.clock()
        parts = await self.reader.pools(now)
        for _ in self.reader.held:
            actor.count("missing_data")
        if not parts:
            # Without pool states the demand is unknown: previous decisions are held, including budgets.
            actor.count("missing_data")
            await self.devices.cap(devices, self.reader.samples("power_cap_w", now), self._wanted, policy, token)
            return
        heard = {part.node for each in parts.values() for part in each}
        cordoned = self._cordoned(parts)
        seen = await self._observe(parts, devices, policy, now)
        heat_c, power_w = (self.reader.samples(metric, now) for metric in ("temp_c", "power_w"))
        turns = CooperativeLoop()
        for part in (part for each in parts.values() for part in each):
            self._efficiency.update(part, power_w)
            await turns.give()

        def rooms(pool: str) -> list[NodeRoom]:
            return [_room(p, devices, cordoned, heat_c, self._efficiency.known(p)) for p in parts[pool]]

        failed = Failures(actor)
        async with failed.noting("pools"):
            await self.pools.decide(seen, rooms, policy, token)
        async with failed.noting("drains"):
            sight = await self.reader.critical()
            await self.devices.drain(sight, cordoned, devices.epochs, heard, policy, token)
        async with failed.noting("caps"):
            self._wanted = levels_by_device(seen, self.pools.levels)
            await asyncio.sleep(0)
            await self.devices.cap(devices, self.reader.samples("power_cap_w", now), self._wanted, policy, token)
        failed.raise_if_failed()

    def _cordoned(self, parts: Mapping[str, Sequence[PoolStatus]]) -> set[Device]:
        """Return devices out of service; for silent nodes, as they last reported."""
        cordons: dict[str, set[str]] = {}
        for part in (part for each in parts.values() for part in each):
            cordons.setdefault(part.node, set()).update(part.cordoned)
        self._cordons |= cordons
        return {(node, device) for node, its in self._cordons.items() for device in its}

    async def _observe(
        self, parts: Mapping[str, Sequence[PoolStatus]], devices: DeviceRegistry, policy: FleetPolicy, now: datetime
    ) -> list[PoolObservation]:
        power_w, turns = self.reader.samples("power_w", now), CooperativeLoop()
        observed = []
        for name, each in parts.items():
            try:
                level = self.pools.levels.get(name, 1.0)
                pool = self.reader.observe(name, each, devices, power_w, policy.pool(name), level, now)
            except Exception as error:
                log.exception("pool not observed", extra={"pool": name, "error": type(error).__name__})
                pool = None
            if pool is None:
                self.pools.actor.count("missing_data")
            else:
                observed.append(pool)
            await turns.give()
        return observed


def _room(
    part: PoolStatus,
    devices: DeviceRegistry,
    cordoned: set[Device],
    heat_c: Readings,
    joules_per_job: float,
) -> NodeRoom:
    here = devices.nodes.get(part.node, ())
    used = {d for w in part.workers for d in w.device.split("+")}
    kinds = {w.accelerator for w in part.workers}
    return NodeRoom(
        node=part.node,
        kind="gpu" if "gpu" in kinds or (not kinds and any(d.power_default_w for d in here)) else "cpu",
        workers=part.desired,
        devices=sum((part.node, d.device) not in cordoned for d in here),
        hottest_c=max((heat_c.get((part.node, d)) or 0.0 for d in used), default=0.0),
        joules_per_job=joules_per_job,
        models_loaded=sum(len(w.models) for w in part.workers),
    )
