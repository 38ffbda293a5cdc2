"""Power caps as leases: request, clamp, apply, read back, expire. Pure: time is handed in."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from shared.messages.commands import FleetPolicy, PowerCommand
from shared.messages.telemetry import DeviceInfo


@dataclass(frozen=True)
class Refusal:
    """Why a command is not carried out; `expired` tells lateness from a forbidden request."""

    detail: str
    expired: bool = False


@dataclass(frozen=True)
class Grant:
    """The cap to apply, and the clock to hold if any."""

    cap_w: float
    clamped: bool
    restores: bool
    clock_mhz: float | None = None


@dataclass(frozen=True)
class Lease:
    """A cap in force and who answers for it."""

    device: str
    cap_w: float
    until: datetime
    command_id: str
    clock_mhz: float | None = None


@dataclass
class LeaseBook:
    """All caps of one node, and the highest fencing token that any command carried."""

    leases: dict[str, Lease] = field(default_factory=dict)
    highest_token: int = 0

    def judge(
        self, command: PowerCommand, device: DeviceInfo | None, policy: FleetPolicy, now: datetime
    ) -> Grant | Refusal:
        """Decide what a command may do; the device's own limits clamp it, the operator's policy forbids."""
        refusal = self._late(command, now) or _forbidden(command, device, policy)
        if refusal is not None:
            return refusal
        assert device is not None  # noqa: S101  _forbidden looked
        low, high, default = device.power_min_w or 0.0, device.power_max_w or 0.0, device.power_default_w or 0.0
        self.highest_token = max(self.highest_token, command.fencing_token or 0)
        if command.cap_w is None and command.clock_mhz is None:
            return Grant(default, clamped=False, restores=True)
        asked = command.cap_w if command.cap_w is not None else default
        floor = policy.power_floor_fraction * default
        if asked < floor:
            return Refusal(f"cap_w={asked:g} is below the policy's floor of {floor:g} W")
        clock = _clock(command.clock_mhz, device, policy)
        if isinstance(clock, Refusal):
            return clock
        cap = min(max(asked, low), high)
        return Grant(cap, clamped=cap != asked or clock != command.clock_mhz, restores=False, clock_mhz=clock)

    def _late(self, command: PowerCommand, now: datetime) -> Refusal | None:
        if now >= command.expires_at:
            return Refusal(f"expired at {command.expires_at.isoformat()}", expired=True)
        if command.fencing_token is not None and command.fencing_token < self.highest_token:
            return Refusal(f"fencing token {command.fencing_token} is older than {self.highest_token}")
        return None

    def record(self, command: PowerCommand, grant: Grant, now: datetime) -> None:
        """Remember an applied grant."""
        if grant.restores:
            self.leases.pop(command.device, None)
        else:
            until = now + timedelta(seconds=command.lease_s)
            self.leases[command.device] = Lease(command.device, grant.cap_w, until, command.id, grant.clock_mhz)

    def expired(self, now: datetime) -> list[Lease]:
        """Leases that ran out; they stay until `drop` says that the default was restored."""
        return [lease for lease in self.leases.values() if now >= lease.until]

    def drop(self, device: str) -> None:
        """Forget a lease."""
        self.leases.pop(device, None)


def _clock(clock_mhz: float | None, device: DeviceInfo, policy: FleetPolicy) -> float | Refusal | None:
    highest = device.clock_max_sm_mhz
    if clock_mhz is None:
        return None
    if highest is None:
        return Refusal(f"device {device.device!r} has no clock control")
    floor = policy.power_floor_fraction * highest
    if clock_mhz < floor:
        return Refusal(f"clock_mhz={clock_mhz:g} is below the policy's floor of {floor:g} MHz")
    return min(clock_mhz, highest)


def _forbidden(command: PowerCommand, device: DeviceInfo | None, policy: FleetPolicy) -> Refusal | None:
    if device is None:
        return Refusal(f"device {command.device!r} is not on this node")
    if not device.can_cap:
        return Refusal(f"device {command.device!r} has no power control")
    if policy.power == "off" or (policy.power == "simulated" and not device.simulated):
        return Refusal(f"policy power={policy.power!r} forbids capping {command.device!r}")
    return None
