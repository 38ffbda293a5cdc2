"""Decide which devices to drain and restore. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from accelerator_autopilot.contracts.messages.commands import DrainCommand, DrainNote, FleetPolicy
from accelerator_autopilot.scheduler.domain.observation import Reason

Device = tuple[str, str]
Epochs = tuple[str, str]  # boot of the node and driver load; empty where unreported

# Long enough for the detector to rewrite alerts that a bucket lost.
RESTORE_AFTER = timedelta(seconds=10)


@dataclass(frozen=True)
class DrainDecision:
    """Take a device out of service or back; `action` is None when the policy or the breaker forbids it."""

    device: Device
    action: str | None
    reason: Reason


@dataclass(frozen=True)
class CriticalAlerts:
    """What open alerts say: devices with a critical one and since when, and those with an unreadable one.

    `kept_since` is when the bucket of alerts was created: it knows nothing of older faults.
    """

    critical: Mapping[Device, datetime] = field(default_factory=dict)
    doubtful: Collection[Device] = ()
    kept_since: datetime | None = None


def drains(
    critical: Collection[Device],
    drained_by_us: Collection[Device],
    cordoned: Collection[Device],
    fleet: Collection[Device],
    policy: FleetPolicy,
    *,
    overridden: Collection[Device] = (),
    held: Collection[Device] = (),
    unreported: Collection[Device] = (),
) -> list[DrainDecision]:
    """Drain devices with a critical alert, and restore those that the scheduler drained and that have none.

    `overridden` are devices that an operator restored in spite of their alerts, `held` those that must not be restored
    yet, `unreported` those whose cordon state is currently unknown. A breaker keeps the fleet in service when too
    large a share of it would be drained at once: then a fault in the observations is more likely than one in every
    device.
    """
    decisions = []
    # Devices that the scheduler drained and that nobody reports now are still out.
    out = sum(device in fleet for device in {*cordoned, *drained_by_us})
    limit = max(1, int(policy.max_drained_fraction * len(fleet))) if policy.max_drained_fraction else 0
    for device in sorted(device for device in {*critical}.difference(cordoned) if device in fleet):
        if device in overridden:
            decisions.append(DrainDecision(device, None, "restored_by_operator"))
            continue
        if device in unreported:
            decisions.append(DrainDecision(device, None, "not_heard"))
            continue
        known = device in drained_by_us
        if out - known >= limit:
            decisions.append(DrainDecision(device, None, "too_many_drained"))
            continue
        out += not known
        decisions.append(DrainDecision(device, "drain", "critical_alert"))
    # Devices outside the fleet were not seen: their state is unknown.
    healthy = (set(drained_by_us) & set(cordoned)).difference(critical, held, unreported)
    return decisions + [DrainDecision(d, "restore", "alert_resolved") for d in sorted(healthy) if d in fleet]


@dataclass
class DrainMemory:
    """What is known of devices that the scheduler drained: since when, in which boot, whether they left the fleet."""

    notes: dict[Device, DrainNote] = field(default_factory=dict)
    _ill_at: dict[Device, datetime] = field(default_factory=dict)

    def update(
        self,
        sight: CriticalAlerts,
        cordoned: Collection[Device],
        on_the_way: Collection[Device],
        epochs: Mapping[Device, Epochs],
        heard: Collection[str],
        now: datetime,
    ) -> None:
        """Process an observation.

        `epochs` are the boot and driver load of the fleet's devices: a new one is a reset. `heard` are the
        nodes whose pools reported their cordons.
        """
        # In a large fleet, listing its nodes costs more than checking what was drained.
        some_left = any(device not in epochs for device in self.notes)
        listed_nodes = {node for node, _ in epochs} if some_left else set()
        for device, note in list(self.notes.items()):
            if device in sight.critical or device in sight.doubtful or device not in self._ill_at:
                self._ill_at[device] = now
            self._ill_at[device] = min(self._ill_at[device], now)
            if device[0] in heard and device not in cordoned and device not in on_the_way:
                # Forget it once it is back in service, by whoever: until then a lost restore command is
                # resent.
                del self.notes[device], self._ill_at[device]
            elif device not in epochs and device[0] in listed_nodes:
                self.notes[device] = note.model_copy(update={"left": True})
            elif note.left and device in epochs and _was_reset(note, epochs[device]):
                self.notes[device] = note.model_copy(update={"left": False})
            elif device in sight.critical and sight.kept_since is not None and note.at < sight.kept_since:
                self.notes[device] = note.model_copy(update={"at": now})

    def add(self, device: Device, epochs: Epochs, now: datetime) -> None:
        """Record a device that is about to be drained."""
        if device not in self.notes:
            boot_id, load = epochs
            self.notes[device] = DrainNote(node=device[0], device=device[1], at=now, boot_id=boot_id, driver_epoch=load)
        self._ill_at[device] = now

    def held(self, sight: CriticalAlerts, now: datetime) -> set[Device]:
        """Return devices that must not be restored: drained recently, back without a reset, or with unknown faults."""
        return {
            device
            for device, note in self.notes.items()
            if now - self._ill_at.get(device, now) < RESTORE_AFTER
            or device in sight.doubtful
            or note.left
            or (sight.kept_since is not None and note.at < sight.kept_since)
        }


def _was_reset(note: DrainNote, epochs: Epochs) -> bool:
    pairs = zip((note.boot_id, note.driver_epoch), epochs, strict=True)
    return any(before and now and before != now for before, now in pairs)


def operator_restored(critical: Mapping[Device, datetime], commands: Mapping[Device, DrainCommand]) -> set[Device]:
    """Return devices that an operator restored after their alerts opened or worsened."""
    return {
        d
        for d, command in commands.items()
        if command.action == "restore" and d in critical and command.at >= critical[d]
    }


def operator_drained(notes: Mapping[Device, DrainNote], commands: Mapping[Device, DrainCommand]) -> set[Device]:
    """Return devices that an operator drained after the scheduler did: only an operator restores them."""
    return {
        d for d, command in commands.items() if command.action != "restore" and d in notes and command.at > notes[d].at
    }
