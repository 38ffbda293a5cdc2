"""Power caps as leases: request, clamp, apply, read back, expire. Pure: time is an argument."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from accelerator_autopilot.contracts.messages.commands import FleetPolicy, PowerCommand
from accelerator_autopilot.contracts.messages.telemetry import DeviceInfo

ANY = "*"  # stands for every device: which ones were capped is unknown


@dataclass(frozen=True)
class CappedDevices:
    """What outlives a process: devices that may be capped, those whose clock may be locked, and their defaults in W."""

    devices: set[str] = field(default_factory=set)
    clocks: set[str] = field(default_factory=set)
    defaults_w: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Refusal:
    """Why a command is not executed; `expired` distinguishes a late command from a forbidden one."""

    detail: str
    expired: bool = False


@dataclass(frozen=True)
class LeaseGrant:
    """The cap to apply, and the clock limit if any."""

    cap_w: float
    clamped: bool
    restores: bool
    clock_mhz: float | None = None


@dataclass(frozen=True)
class Moment:
    """One moment on two clocks: `steady_s` is monotonic, `wall` continues while a machine is suspended."""

    wall: datetime
    steady_s: float


@dataclass(frozen=True)
class Lease:
    """A cap in force, and the command and issuer behind it."""

    device: str
    cap_w: float
    until: datetime
    command_id: str
    clock_mhz: float | None = None
    until_s: float = float("inf")

    def is_over(self, now: Moment) -> bool:
        """Whether either clock has reached the end: setting the wall clock back extends no cap, nor does a suspend."""
        return now.steady_s >= self.until_s or now.wall >= self.until


@dataclass
class LeaseBook:
    """All leases of one node. Who may command is decided by the fence.

    `to_restore` holds the devices whose default must be restored, including those where it is unknown whether a cap was
    applied: by device, the lease to report when that is done, if any. `clocks` holds the devices whose clock may be
    locked.
    """

    leases: dict[str, Lease] = field(default_factory=dict)
    to_restore: dict[str, Lease | None] = field(default_factory=dict)
    clocks: set[str] = field(default_factory=set)

    @property
    def touched(self) -> set[str]:
        """Devices that may not be at their default."""
        return self.leases.keys() | self.to_restore.keys()

    def judge(
        self, command: PowerCommand, device: DeviceInfo | None, policy: FleetPolicy, now: datetime
    ) -> LeaseGrant | Refusal:
        """Decide what a command may do: the device's limits clamp it, the operator's policy may forbid it."""
        restores = command.cap_w is None and command.clock_mhz is None
        # A policy that forbids caps still allows existing ones to be lifted; other devices are never touched.
        allowed = policy.model_copy(update={"power": "all"}) if restores and command.device in self.touched else policy
        refusal = _late(command, now) or _forbidden(command, device, allowed)
        if refusal is not None:
            return refusal
        assert device is not None  # noqa: S101  _forbidden looked
        low, high, default = device.power_min_w or 0.0, device.power_max_w or 0.0, device.power_default_w or 0.0
        if restores:
            return LeaseGrant(default, clamped=False, restores=True)
        asked = command.cap_w if command.cap_w is not None else default
        floor = policy.power_floor_fraction * default
        if asked < floor:
            return Refusal(f"cap_w={asked:g} is below the policy's floor of {floor:g} W")
        clock = _clock(command.clock_mhz, device, policy)
        if isinstance(clock, Refusal):
            return clock
        cap = min(max(asked, low), high)
        return LeaseGrant(cap, clamped=cap != asked or clock != command.clock_mhz, restores=False, clock_mhz=clock)

    def begin(self, device: str, grant: LeaseGrant) -> None:
        """Record what is about to be applied: whatever happens next, the default is owed."""
        self.to_restore.setdefault(device, None)
        if grant.clock_mhz is not None:
            self.clocks.add(device)

    def record(self, command: PowerCommand, grant: LeaseGrant, now: Moment) -> None:
        """Record an applied grant."""
        if grant.restores:
            self.drop(command.device)
            return
        lease_s = command.lease_s
        self.leases[command.device] = Lease(
            command.device,
            grant.cap_w,
            now.wall + timedelta(seconds=lease_s),
            command.id,
            grant.clock_mhz,
            now.steady_s + lease_s,
        )
        self.to_restore.pop(command.device, None)
        if grant.clock_mhz is None:
            self.clocks.discard(command.device)

    def fall_back(self, device: str, lease: Lease) -> None:
        """Keep the previous lease: its replacement was not applied."""
        self.leases[device] = lease
        self.to_restore.pop(device, None)
        if lease.clock_mhz is None:
            self.clocks.discard(device)

    def mark_for_restore(self, device: str) -> None:
        """End a device's lease, if it has one: its default is owed from now on."""
        lease = self.leases.pop(device, None)
        self.to_restore[device] = lease or self.to_restore.get(device)

    def end_leases(self, now: Moment) -> None:
        """Expire leases; their devices are owed their default until `drop` confirms that they have it."""
        for lease in list(self.leases.values()):
            if lease.is_over(now):
                self.mark_for_restore(lease.device)

    def drop(self, device: str) -> None:
        """Record that the device has its default again."""
        self.leases.pop(device, None)
        self.to_restore.pop(device, None)
        self.clocks.discard(device)


def _late(command: PowerCommand, now: datetime) -> Refusal | None:
    if now >= command.expires_at:
        return Refusal(f"expired at {command.expires_at.isoformat()}", expired=True)
    return None


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
