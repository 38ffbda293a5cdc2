"""Carries out power commands: judge, apply, read back, and restore when a lease ends."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import TypeVar

from services.telemetry.adapters.cap_file import CapFile
from services.telemetry.adapters.guarded import GuardedSource
from services.telemetry.domain.power_lease import LeaseBook, Refusal
from services.telemetry.errors import PowerControlError, SourceHungError
from services.telemetry.ports import ClockActuator, PowerActuator
from shared.clock import utc_now
from shared.ids import new_id
from shared.messages.commands import CommandOutcome, FleetPolicy, PowerCommand
from shared.messages.telemetry import DeviceInfo

log = logging.getLogger(__name__)

T = TypeVar("T")
Find = Callable[[str], tuple[DeviceInfo, GuardedSource] | None]


class PowerControl:
    """The power caps of one node's devices."""

    def __init__(self, node: str, find: Find, file: CapFile) -> None:
        self._node, self._find, self._file = node, find, file
        self._book = LeaseBook()

    async def carry_out(self, command: PowerCommand, policy: FleetPolicy) -> CommandOutcome:
        """Do what a command asks, or say why not, with what was read back."""
        now = utc_now()
        found = self._find(command.device)
        verdict = self._book.judge(command, found[0] if found else None, policy, now)
        if isinstance(verdict, Refusal):
            return self._outcome(command, "expired" if verdict.expired else "refused", verdict.detail)
        self._file.save(self._capped() | {command.device})
        try:
            applied, enforced = await self._apply(command.device, verdict.cap_w, verdict.clock_mhz)
        except (PowerControlError, SourceHungError) as error:
            return self._outcome(command, "refused", str(error))
        self._book.record(command, verdict, now)
        self._file.save(self._capped())
        detail = "restored to default" if verdict.restores else f"lease of {command.lease_s:g} s"
        if verdict.clamped:
            detail += ", clamped to the device's limits"
        if verdict.clock_mhz is not None:
            detail += f", clock held at {verdict.clock_mhz:g} MHz"
        return self._outcome(command, "applied", detail, applied=applied, read_back=enforced)

    async def restore_expired(self, now: datetime) -> list[CommandOutcome]:
        """Give devices whose lease ran out their default back."""
        outcomes = []
        for lease in self._book.expired(now):
            restored = await self._restore(lease.device)
            if restored is not None:
                self._book.drop(lease.device)
                self._file.save(self._capped())
                outcomes.append(
                    CommandOutcome(
                        id=new_id(),
                        command_id=lease.command_id,
                        command="power",
                        status="expired",
                        target=f"{self._node}/{lease.device}",
                        detail="lease ended, default restored",
                        requested=lease.cap_w,
                        applied=restored[0],
                        read_back=restored[1],
                        at=now,
                        executor="agent",
                    )
                )
        return outcomes

    async def restore_all(self) -> None:
        """Restore every device that this or a crashed process capped; others are never touched."""
        for device in self._file.load() | self._capped():
            if await self._restore(device) is not None:
                self._book.drop(device)
                log.info("power cap restored to default", extra={"device": device})
        self._file.save(self._capped())

    def _capped(self) -> set[str]:
        return set(self._book.leases)

    async def reassert(self) -> None:
        """Apply leased caps again that the device forgot: a driver that is loaded anew starts from its default."""
        for lease in list(self._book.leases.values()):
            try:
                applied = await self._call(lease.device, partial(_applied, lease.device))
                if abs(applied - lease.cap_w) > 1.0:
                    await self._apply(lease.device, lease.cap_w, lease.clock_mhz)
                    log.warning("cap was gone and is applied again", extra={"device": lease.device, "found_w": applied})
            except (PowerControlError, SourceHungError) as error:
                log.info("cap not checked", extra={"device": lease.device, "error": str(error)})

    async def _restore(self, device: str) -> tuple[float, float] | None:
        found = self._find(device)
        if found is None or found[0].power_default_w is None:
            return None
        try:
            return await self._apply(device, found[0].power_default_w, None)
        except (PowerControlError, SourceHungError) as error:
            log.warning("cap not restored yet", extra={"device": device, "error": str(error)})
            return None

    async def _apply(self, device: str, cap_w: float, clock_mhz: float | None) -> tuple[float, float]:
        """Set cap and clock; returns the cap as applied and as enforced."""
        lease = self._book.leases.get(device)
        locked = lease is not None and lease.clock_mhz is not None

        def work(actuator: PowerActuator) -> tuple[float, float]:
            if clock_mhz is not None or locked:
                if not isinstance(actuator, ClockActuator):
                    raise PowerControlError(f"device {device!r} has no clock control")
                actuator.lock_clock_mhz(device, clock_mhz)
            actuator.set_cap_w(device, cap_w)
            return actuator.applied_cap_w(device), actuator.enforced_cap_w(device)

        return await self._call(device, work)

    async def _call(self, device: str, work: Callable[[PowerActuator], T]) -> T:
        found = self._find(device)
        if found is None:
            raise PowerControlError(f"device {device!r} is gone")
        actuator = found[1].source
        if not isinstance(actuator, PowerActuator):
            raise PowerControlError(f"source {found[1].name} controls no power")
        return await found[1].call(lambda: work(actuator))

    def _outcome(
        self,
        command: PowerCommand,
        status: str,
        detail: str,
        *,
        applied: float | None = None,
        read_back: float | None = None,
    ) -> CommandOutcome:
        return CommandOutcome.model_validate(
            {
                "id": new_id(),
                "command_id": command.id,
                "command": "power",
                "status": status,
                "detail": detail,
                "target": f"{self._node}/{command.device}",
                "requested": command.cap_w,
                "applied": applied,
                "read_back": read_back,
                "at": utc_now(),
                "executor": "agent",
            }
        )


def _applied(device: str, actuator: PowerActuator) -> float:
    return actuator.applied_cap_w(device)
