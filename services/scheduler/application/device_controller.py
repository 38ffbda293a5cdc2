"""Control devices: drain those with critical alerts, restore recovered ones, and set power caps."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from pydantic import ValidationError

from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.messages.commands import (
    DeviceSet,
    DrainCommand,
    DrainNote,
    DrainNotes,
    FleetPolicy,
    PowerCommand,
)
from accelerator_autopilot.scheduler.application.autonomy_gate import AutonomyGate
from accelerator_autopilot.scheduler.application.bounded_concurrency import in_flight
from accelerator_autopilot.scheduler.application.power_cap_state import PowerCapState
from accelerator_autopilot.scheduler.domain.device_facts import DeviceRegistry
from accelerator_autopilot.scheduler.domain.drain_decisions import (
    CriticalAlerts,
    Device,
    DrainDecision,
    DrainMemory,
    Epochs,
    drains,
    operator_drained,
    operator_restored,
)
from accelerator_autopilot.scheduler.domain.latest_readings import Readings
from accelerator_autopilot.scheduler.domain.observation import PoolObservation
from accelerator_autopilot.scheduler.domain.power_capping import CapDecision, caps

log = logging.getLogger(__name__)

DRAIN_SETTLE_TIME = timedelta(seconds=5)
MAX_COMMAND_LOOKUPS = 200  # critical devices per round whose last operator command is looked up; the others wait
LOOKUPS_AT_ONCE = 32


@dataclass
class DeviceController:
    """Decides for all devices at once."""

    actor: AutonomyGate
    cap_lease_s: float
    _drains: dict[Device, datetime] = field(default_factory=dict)
    _memory: DrainMemory = field(default_factory=DrainMemory)
    _written: bool = True
    _kept: PowerCapState = field(default_factory=PowerCapState)

    async def drain(
        self,
        sight: CriticalAlerts,
        cordoned: set[Device],
        epochs: Mapping[Device, Epochs],
        heard: Collection[str],
        policy: FleetPolicy,
        token: int,
    ) -> None:
        """Run one round of drains.

        Each drain is recorded before it is sent, so that no device is out of service without a record.
        """
        now = self.actor.clock()
        on_the_way = {d for d, at in self._drains.items() if timedelta(0) <= now - at < DRAIN_SETTLE_TIME}
        memory = await self._restored(now)
        before = dict(memory.notes) if self._written else {}
        memory.update(sight, cordoned, on_the_way, epochs, heard, now)
        to_ask = sorted(d for d in sight.critical if d in epochs and d not in cordoned)
        waiting = set(to_ask[MAX_COMMAND_LOOKUPS:])
        unreported = waiting | {d for d in {*sight.critical, *memory.notes} if d[0] not in heard}
        overridden = operator_restored(sight.critical, await self._operator_commands(to_ask[:MAX_COMMAND_LOOKUPS]))
        held = memory.held(sight, now)
        for device in operator_drained(
            memory.notes, await self._operator_commands(sorted(memory.notes.keys() & cordoned - held))
        ):
            del memory.notes[device]
        decided = drains(
            sight.critical,
            memory.notes,
            cordoned,
            epochs,
            policy,
            overridden=overridden,
            held=held,
            unreported=unreported,
        )
        evidence = {"cordoned": float(len(cordoned)), "fleet": float(len(epochs))}
        if policy.mode == "act":
            for decision in decided:
                if decision.action == "drain" and decision.device not in on_the_way:
                    memory.add(decision.device, epochs[decision.device], now)
        if memory.notes != before:
            await self._remember(memory.notes)
        for decision in decided:
            self.actor.count(decision.reason)
            if decision.action is None or decision.device in on_the_way:
                continue
            if await self._send_drain(decision, evidence, policy, token):
                self._drains[decision.device] = now
        self._drains = {d: at for d, at in self._drains.items() if d in on_the_way or at == now}

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
        devices: DeviceRegistry,
        caps_now_w: Readings,
        wanted_levels: Mapping[Device, float],
        policy: FleetPolicy,
        token: int,
    ) -> None:
        """Run one round of caps. A device that no pool uses stays at its default, subject to every limit."""
        await self._kept.follow(devices)
        board = self._kept.board(caps_now_w, wanted_levels, policy.cap_fraction)
        now = self.actor.clock()
        # Each of these steps processes every device at once; other tasks may run between them.
        await asyncio.sleep(0)
        decided = caps(board, policy, now, self.cap_lease_s)
        await asyncio.sleep(0)

        async def command(decision: CapDecision) -> None:
            self.actor.count(decision.reason)
            default_w = devices.devices[decision.device].power_default_w or 0.0
            await self._send_cap(decision, default_w, wanted_levels.get(decision.device), policy, token, now)

        await in_flight(decided, command)

    async def _send_cap(
        self,
        decision: CapDecision,
        default_w: float,
        level: float | None,
        policy: FleetPolicy,
        token: int,
        now: datetime,
    ) -> None:
        node, device = decision.device
        evidence = {"default_w": default_w} | ({"power_level": level} if level is not None else {})
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
            effect="less energy per job" if decision.cap_w else "jobs in time",
        )
        if sent and decision.cap_w is not None:
            self._kept.remember(decision.device, decision.cap_w, now)

    async def _restored(self, now: datetime) -> DrainMemory:
        """Load the stored state, whoever wrote it last: another process may have led meanwhile."""
        try:
            kept = await self.actor.bus.read("scheduler", "drain_notes", DrainNotes)
            drained = await self.actor.bus.read("scheduler", "drained", DeviceSet)
        except ValidationError:
            log.warning("list of drained devices is unreadable: an operator must restore them")
            kept = drained = None
        if kept is None and drained is not None:
            # Written by a version that stored only this.
            kept = DrainNotes(notes=[DrainNote(node=node, device=device, at=now) for node, device in drained.devices])
        self._written = kept is not None
        if kept is not None:
            self._memory.notes = {(n.node, n.device): n for n in kept.notes}
        # A leader with no drained devices stores an empty list: a missing value means that the bucket was lost,
        # and the state in memory is used.
        return self._memory

    async def _operator_commands(self, devices: Sequence[Device]) -> dict[Device, DrainCommand]:
        """Return the last operator command for each of some devices, a few dozen requests at a time."""
        commands: dict[Device, DrainCommand] = {}

        async def read(device: Device) -> None:
            try:
                command = await self.actor.bus.read("scheduler", subjects.operator_drain_key(*device), DrainCommand)
            except ValidationError:
                return
            if command is not None:
                commands[device] = command

        for start in range(0, len(devices), LOOKUPS_AT_ONCE):
            await asyncio.gather(*(read(device) for device in devices[start : start + LOOKUPS_AT_ONCE]))
        return commands

    async def _remember(self, notes: Mapping[Device, DrainNote]) -> None:
        await self.actor.bus.write("scheduler", "drain_notes", DrainNotes(notes=[notes[d] for d in sorted(notes)]))
        await self.actor.bus.write("scheduler", "drained", DeviceSet(devices=sorted(notes), actor="scheduler"))


def levels_by_device(pools: list[PoolObservation], levels: Mapping[str, float]) -> dict[Device, float]:
    """Return the power level of each device; where pools share one, the highest."""
    wanted: dict[Device, float] = {}
    for pool in pools:
        level = levels.get(pool.pool)
        if level is None:
            continue
        for device in pool.devices:
            wanted[device] = max(wanted.get(device, 0.0), level)
    return wanted
