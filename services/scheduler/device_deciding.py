"""Devices: drain what has a critical alert, restore what is well again, cap what should draw less."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from pydantic import ValidationError

from services.scheduler.acting import Actor
from services.scheduler.cap_board import CapBoard
from services.scheduler.domain.caps import caps
from services.scheduler.domain.drains import Device, DrainDecision, drains
from services.scheduler.domain.observation import PoolObservation
from shared import subjects
from shared.messages.commands import DeviceSet, DrainCommand, FleetPolicy, PowerCommand
from shared.messages.telemetry import DeviceInfo

log = logging.getLogger(__name__)

DRAIN_SETTLES = timedelta(seconds=5)


@dataclass
class DeviceDecider:
    """Decides for all devices at once."""

    actor: Actor
    cap_lease_s: float
    _drains: dict[Device, datetime] = field(default_factory=dict)
    _known: Mapping[Device, DeviceInfo] = field(default_factory=dict)
    _kept: CapBoard = field(default_factory=lambda: CapBoard({}))

    async def drain(
        self,
        critical: set[Device],
        cordoned: set[Device],
        fleet: set[Device],
        policy: FleetPolicy,
        token: int,
    ) -> None:
        """One round of drains."""
        now = self.actor.clock()
        on_the_way = {d for d, at in self._drains.items() if now - at < DRAIN_SETTLES}
        known = await self._drained_by_us()
        # A device is ours until it was seen back in service: a restore that got lost is sent again.
        ours = known & (cordoned | on_the_way)
        if ours != known:
            await self._remember_drained(ours)
        evidence = {"cordoned": float(len(cordoned)), "fleet": float(len(fleet))}
        for decision in drains(critical, ours, cordoned, fleet, policy):
            self.actor.count(decision.reason)
            if decision.action is None or decision.device in on_the_way:
                continue
            if not await self._send_drain(decision, evidence, policy, token):
                continue
            self._drains[decision.device] = now
            if decision.action == "drain":
                ours = ours | {decision.device}
                await self._remember_drained(ours)

    async def _send_drain(
        self, decision: DrainDecision, evidence: dict[str, float], policy: FleetPolicy, token: int
    ) -> bool:
        node, device = decision.device
        command = DrainCommand(
            **self.actor.base(token, decision.reason, evidence), node=node, device=device, action=decision.action
        )
        return await self.actor.act(
            policy.mode,
            subjects.drain_command(node, device),
            command,
            scope=f"{node}/{device}",
            action=str(decision.action),
            effect="no job runs on a device with a critical alert",
        )

    async def cap(
        self,
        devices: Mapping[Device, DeviceInfo],
        caps_now_w: Mapping[Device, float],
        wanted_levels: Mapping[Device, float],
        policy: FleetPolicy,
        token: int,
    ) -> None:
        """One round of caps. A device that no pool uses is left at its default, under every limit."""
        if devices is not self._known:
            self._known, self._kept = devices, CapBoard(devices, self._kept)
        board = self._kept.board(caps_now_w, wanted_levels, policy.cap_fraction)
        now = self.actor.clock()
        for decision in caps(board, policy, now, self.cap_lease_s):
            self.actor.count(decision.reason)
            node, device = decision.device
            level = wanted_levels.get(decision.device)
            evidence = {"default_w": devices[decision.device].power_default_w or 0.0}
            evidence |= {"power_level": level} if level is not None else {}
            command = PowerCommand(
                **self.actor.base(token, decision.reason, evidence),
                node=node,
                device=device,
                cap_w=decision.cap_w,
                lease_s=self.cap_lease_s,
            )
            sent = await self.actor.act(
                policy.mode,
                subjects.power_command(node, device),
                command,
                scope=f"{node}/{device}",
                action=f"cap at {decision.cap_w:g} W" if decision.cap_w else "lift the cap",
                effect="less energy a job" if decision.cap_w else "jobs in time",
            )
            if sent and decision.cap_w is not None:
                self._kept.remember(decision.device, decision.cap_w, now)

    async def _drained_by_us(self) -> set[Device]:
        try:
            kept = await self.actor.bus.read("scheduler", "drained", DeviceSet)
        except ValidationError:
            log.warning("list of drained devices is unreadable: those are for an operator to restore")
            kept = None
        return set(kept.devices) if kept else set()

    async def _remember_drained(self, devices: set[Device]) -> None:
        await self.actor.bus.write("scheduler", "drained", DeviceSet(devices=sorted(devices)))


def levels_by_device(pools: list[PoolObservation], levels: Mapping[str, float]) -> dict[Device, float]:
    """The power level of each device; where pools share one, the highest."""
    wanted: dict[Device, float] = {}
    for pool in pools:
        level = levels.get(pool.pool)
        if level is None:
            continue
        for device in pool.devices:
            wanted[device] = max(wanted.get(device, 0.0), level)
    return wanted
