"""Execute power commands: validate, persist, apply, read back, and restore when a lease ends."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime

from accelerator_autopilot.contracts.errors import AutopilotError
from accelerator_autopilot.contracts.messages.commands import CommandOutcome, FleetPolicy, PowerCommand
from accelerator_autopilot.telemetry.agent.application.device_power import Find, PowerDriver, close_to
from accelerator_autopilot.telemetry.agent.application.power_outcomes import lease_ended, outcome_of
from accelerator_autopilot.telemetry.agent.domain.power_lease import ANY, Lease, LeaseBook, LeaseGrant, Moment, Refusal
from accelerator_autopilot.telemetry.agent.ports import CapStore
from accelerator_autopilot.telemetry.errors import PowerControlError, SourceBusyError, SourceHungError
from accelerator_autopilot.transport.clock import utc_now

log = logging.getLogger(__name__)

# A failed restore is retried with pauses that grow to this, in seconds.
FIRST_PAUSE_S, MAX_PAUSE_S = 0.5, 5.0
REMINDER_INTERVAL_S = 60.0
# After an unreadable cap file, newly found devices are checked for this long, in seconds.
SUSPECT_S = 600.0


@dataclass
class _Trouble:
    """A default that could not be restored yet."""

    pause_s: float = FIRST_PAUSE_S
    next_s: float = 0.0
    logged_s: float = -math.inf


@dataclass
class PowerControl:
    """The power caps and locked clocks of one node's devices.

    A change is written to the file before it is applied, and stays there until the default was restored and read
    back, by this process or the next.
    """

    node: str
    find: Find
    file: CapStore
    devices: Callable[[], Iterable[str]] = tuple
    steady: Callable[[], float] = time.monotonic
    clock: Callable[[], datetime] = utc_now
    _book: LeaseBook = field(default_factory=LeaseBook)
    _locks: dict[str, asyncio.Lock] = field(default_factory=lambda: defaultdict(asyncio.Lock))
    _troubles: dict[str, _Trouble] = field(default_factory=dict)
    _loaded: bool = False
    _closed: bool = False
    _unsaved: bool = False
    _suspect_until_s: float = -math.inf
    _cleared: set[str] = field(default_factory=set)
    _driver: PowerDriver = field(init=False)

    def __post_init__(self) -> None:
        self._driver = PowerDriver(self.find)

    async def carry_out(self, command: PowerCommand, policy: FleetPolicy) -> CommandOutcome:
        """Execute a command, or refuse it with the reason; the outcome includes what was read back."""
        self._load()
        async with self._locks[command.device]:
            found = self.find(command.device)
            verdict = self._book.judge(command, found[0] if found else None, policy, self.clock())
            if isinstance(verdict, Refusal):
                return self._outcome(command, "expired" if verdict.expired else "refused", verdict.detail)
            if self._closed:
                return self._outcome(command, "refused", "the agent is stopping")
            if found is not None:
                self._driver.note(found[0])
            if verdict.restores:
                return await self._lift(command)
            return await self._grant(command, verdict)

    async def _grant(self, command: PowerCommand, grant: LeaseGrant) -> CommandOutcome:
        device = command.device
        before, restore_pending = self._book.leases.get(device), device in self._book.to_restore
        self._book.begin(device, grant)
        if not self._save():
            self._take_back(device, before, restore_pending=restore_pending)
            return self._outcome(command, "refused", "the cap cannot be persisted: check the agent's data folder")
        try:
            applied, enforced = await self._apply(device, grant.cap_w, grant.clock_mhz)
        except SourceBusyError as error:
            self._take_back(device, before, restore_pending=restore_pending)
            self._save()
            return self._outcome(command, "refused", str(error))
        except SourceHungError as error:
            self._book.mark_for_restore(device)
            return self._outcome(command, "refused", f"{error}; the default is restored when it responds")
        except PowerControlError as error:
            await self._undo(device, before)
            return self._outcome(command, "refused", str(error))
        self._book.record(command, grant, self._now())
        self._troubles.pop(device, None)
        self._save()
        detail = f"lease of {command.lease_s:g} s"
        if grant.clamped:
            detail += ", clamped to the device's limits"
        if grant.clock_mhz is not None:
            detail += f", clock held at {grant.clock_mhz:g} MHz"
        return self._outcome(command, "applied", detail, applied=applied, read_back=enforced)

    async def _lift(self, command: PowerCommand) -> CommandOutcome:
        """Restore a device's default before its lease ends."""
        device = command.device
        self._book.leases.pop(device, None)
        self._book.to_restore[device] = None
        self._save()
        try:
            applied, enforced = await self._apply_default(device)
        except AutopilotError as error:
            return self._outcome(command, "refused", f"{error}; it is tried again until it is done")
        self._given_back(device)
        return self._outcome(command, "applied", "restored to default", applied=applied, read_back=enforced)

    def _take_back(self, device: str, before: Lease | None, *, restore_pending: bool) -> None:
        """Nothing was applied: return to the previous state."""
        if before is not None:
            self._book.fall_back(device, before)
        elif not restore_pending:
            self._book.drop(device)

    async def _undo(self, device: str, before: Lease | None) -> None:
        """Something may have been applied: restore the previous lease, or else the default."""
        try:
            if before is not None and not before.is_over(self._now()):
                await self._apply(device, before.cap_w, before.clock_mhz)
                self._book.fall_back(device, before)
            else:
                self._book.mark_for_restore(device)
                await self._apply_default(device)
                self._given_back(device)
        except AutopilotError as error:
            self._book.mark_for_restore(device)
            log.warning("refused cap not rolled back yet", extra={"device": device, "error": str(error)})
        self._save()

    async def restore_expired(self, now: datetime) -> list[CommandOutcome]:
        """Restore the default of devices whose lease expired, and retry failed restores."""
        self._load()
        self._book.end_leases(Moment(now, self.steady()))
        self._suspect()
        to_restore = list(self._book.to_restore.items())
        restored = await asyncio.gather(*(self._give_back(device) for device, _ in to_restore))
        if self._unsaved:
            self._save()
        pairs = zip(to_restore, restored, strict=True)
        return [
            lease_ended(self.node, lease, read_back, now)
            for (_, lease), read_back in pairs
            if read_back is not None and lease is not None
        ]

    async def restore_all(self) -> None:
        """Restore every device that this or a crashed process capped; others are never touched.

        What cannot be restored now stays pending, in the file and for `restore_expired`.
        """
        self._load()
        for device in list(self._book.leases):
            self._book.mark_for_restore(device)
        self._troubles.clear()
        await self.restore_expired(self.clock())
        if self._book.to_restore:
            log.warning("defaults not restored yet", extra={"devices": sorted(self._book.to_restore)})
        self._save()

    async def close(self) -> None:
        """Accept no more caps, and restore every device."""
        self._closed = True
        await self.restore_all()

    def _load(self) -> None:
        """Load the state of the previous process, once."""
        if self._loaded:
            return
        self._loaded = True
        kept = self.file.load()
        if ANY in kept.devices:
            self._suspect_until_s = self.steady() + SUSPECT_S
        for device in kept.devices - {ANY} - self._book.touched:
            self._book.to_restore[device] = None
        self._book.clocks |= kept.clocks - {ANY}
        self._driver.defaults_w = kept.defaults_w | self._driver.defaults_w

    def _suspect(self) -> None:
        """After an unreadable cap file: assume that every device with power control was capped."""
        if self._suspect_until_s == -math.inf:
            return
        if self.steady() >= self._suspect_until_s:
            self._suspect_until_s, self._unsaved = -math.inf, True
            return
        for device in [d for d in self.devices() if d not in self._cleared]:
            found = self.find(device)
            if found is None or not found[0].can_cap:
                continue
            self._cleared.add(device)
            if device not in self._book.leases:
                self._book.mark_for_restore(device)
                self._book.clocks.add(device)

    async def reassert(self) -> None:
        """Reapply leased caps that a device lost: a driver that is reloaded starts from its default."""
        for device in list(self._book.leases):
            async with self._locks[device]:
                lease = self._book.leases.get(device)
                if lease is None or lease.is_over(self._now()):
                    continue
                try:
                    applied = await self._driver.applied_w(device)
                    gone = not close_to(applied, lease.cap_w)
                    # No driver reports a locked clock, so it is locked again each time.
                    if gone or lease.clock_mhz is not None:
                        await self._apply(device, lease.cap_w, lease.clock_mhz)
                    if gone:
                        log.warning("cap was lost; reapplied", extra={"device": device, "found_w": applied})
                except AutopilotError as error:
                    log.info("cap not checked", extra={"device": device, "error": str(error)})

    async def _give_back(self, device: str) -> tuple[float, float] | None:
        """Try to restore a device's default; None when that has to be retried later."""
        trouble = self._troubles.get(device)
        if trouble is not None and self.steady() < trouble.next_s:
            return None
        async with self._locks[device]:
            if device not in self._book.to_restore:
                return None
            try:
                restored = await self._apply_default(device)
            except AutopilotError as error:
                self._record_failure(device, str(error))
                return None
            self._given_back(device)
        return restored

    def _given_back(self, device: str) -> None:
        self._book.drop(device)
        self._troubles.pop(device, None)
        self._save()
        log.info("power cap restored to default", extra={"device": device})

    def _record_failure(self, device: str, reason: str) -> None:
        trouble, now_s = self._troubles.setdefault(device, _Trouble()), self.steady()
        trouble.next_s = now_s + trouble.pause_s
        trouble.pause_s = min(2 * trouble.pause_s, MAX_PAUSE_S)
        if now_s - trouble.logged_s >= REMINDER_INTERVAL_S:
            trouble.logged_s = now_s
            log.warning("cap not restored yet", extra={"device": device, "error": reason})

    async def _apply_default(self, device: str) -> tuple[float, float]:
        return await self._driver.apply_default(device, may_be_locked=device in self._book.clocks)

    async def _apply(self, device: str, cap_w: float, clock_mhz: float | None) -> tuple[float, float]:
        return await self._driver.apply(device, cap_w, clock_mhz, may_be_locked=device in self._book.clocks)

    def _outcome(self, command: PowerCommand, status: str, detail: str, **watts: float) -> CommandOutcome:
        return outcome_of(command, status, detail, self.clock(), **watts)

    def _save(self) -> bool:
        """Save what may not be at its default; returns whether that succeeded."""
        devices = self._book.touched | ({ANY} if self._suspect_until_s > self.steady() else set())
        try:
            self.file.save(devices, self._book.clocks, self._driver.defaults_w)
        except OSError as error:
            self._unsaved = True
            log.critical("cap file not written", extra={"error": str(error)})
            return False
        self._unsaved = False
        return True

    def _now(self) -> Moment:
        return Moment(self.clock(), self.steady())
