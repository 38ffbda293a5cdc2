"""Which devices to drain and restore. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from accelerator_autopilot.contracts.messages.commands import DrainCommand, DrainNote, FleetPolicy
from accelerator_autopilot.scheduler.domain.observation import Reason

Device = tuple[str, str]
Epochs = tuple[str, str]  # boot of the node, load of the driver; empty where they are not told

# Long enough for the detector to write alerts again that a bucket lost.
RESTORE_AFTER = timedelta(seconds=10)


@dataclass(frozen=True)
class DrainDecision:
    """Take a device out of service, or back; `action` is None when policy or the breaker says no."""

    device: Device
    action: str | None
    reason: Reason


@dataclass(frozen=True)
class CriticalAlerts:
    """What open alerts say: devices with a critical one and since when, those with one that cannot be read.

    `kept_since` is when the bucket that holds them was made: of a fault that is older, it knows nothing.
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
    vouched: Collection[Device] = (),
    held: Collection[Device] = (),
    unheard: Collection[Device] = (),
) -> list[DrainDecision]:
    """Drain what has a critical alert, restore what we drained and has none.

    `vouched` are devices that an operator put back to work in spite of their alerts, `held` those that must not be
    restored yet, `unheard` those of which nobody says now whether they are out. A breaker keeps the fleet in service
    when too large a share of it would be drained at once: then the fault is more likely in what we see than in every
    device.
    """
    decisions = []
    # What we drained and nobody reports now is out all the same.
    out = sum(device in fleet for device in {*cordoned, *drained_by_us})
    limit = max(1, int(policy.max_drained_fraction * len(fleet))) if policy.max_drained_fraction else 0
    for device in sorted(device for device in {*critical}.difference(cordoned) if device in fleet):
        if device in vouched:
            decisions.append(DrainDecision(device, None, "restored_by_operator"))
            continue
        if device in unheard:
            decisions.append(DrainDecision(device, None, "not_heard"))
            continue
        known = device in drained_by_us
        if out - known >= limit:
            decisions.append(DrainDecision(device, None, "too_many_drained"))
            continue
        out += not known
        decisions.append(DrainDecision(device, "drain", "critical_alert"))
    # What is not in the fleet was not seen: it may be anything.
    healthy = (set(drained_by_us) & set(cordoned)).difference(critical, held, unheard)
    return decisions + [DrainDecision(d, "restore", "alert_resolved") for d in sorted(healthy) if d in fleet]


@dataclass
class DrainMemory:
    """What is known of the devices that we drained: since when, of which boot, and whether they left the fleet."""

    notes: dict[Device, DrainNote] = field(default_factory=dict)
    _ill_at: dict[Device, datetime] = field(default_factory=dict)

    def look(
        self,
        sight: CriticalAlerts,
        cordoned: Collection[Device],
        on_the_way: Collection[Device],
        epochs: Mapping[Device, Epochs],
        heard: Collection[str],
        now: datetime,
    ) -> None:
        """Take in what is seen.

        `epochs` are boot and load of the driver of the fleet's devices: another one is a reset. `heard` are the nodes
        whose pools told of their cordons.
        """
        # Of a large fleet it costs more to list its nodes than to look at what was drained.
        some_left = any(device not in epochs for device in self.notes)
        listed_nodes = {node for node, _ in epochs} if some_left else set()
        for device, note in list(self.notes.items()):
            if device in sight.critical or device in sight.doubtful or device not in self._ill_at:
                self._ill_at[device] = now
            self._ill_at[device] = min(self._ill_at[device], now)
            if device[0] in heard and device not in cordoned and device not in on_the_way:
                # Seen back in service, by whoever's doing: a restore that got lost is sent again until then.
                del self.notes[device], self._ill_at[device]
            elif device not in epochs and device[0] in listed_nodes:
                self.notes[device] = note.model_copy(update={"left": True})
            elif note.left and device in epochs and _was_reset(note, epochs[device]):
                self.notes[device] = note.model_copy(update={"left": False})
            elif device in sight.critical and sight.kept_since is not None and note.at < sight.kept_since:
                self.notes[device] = note.model_copy(update={"at": now})

    def add(self, device: Device, epochs: Epochs, now: datetime) -> None:
        """It is about to be drained."""
        if device not in self.notes:
            boot_id, load = epochs
            self.notes[device] = DrainNote(node=device[0], device=device[1], at=now, boot_id=boot_id, driver_epoch=load)
        self._ill_at[device] = now

    def held(self, sight: CriticalAlerts, now: datetime) -> set[Device]:
        """Devices that must not be restored: too fresh, back without a reset, or of whose fault nothing is known."""
        return {
            device
            for device, note in self.notes.items()
            if now - self._ill_at.get(device, now) < RESTORE_AFTER
            or device in sight.doubtful
            or note.left
            or (sight.kept_since is not None and note.at < sight.kept_since)
        }


def _was_reset(note: DrainNote, epochs: Epochs) -> bool:
    told = zip((note.boot_id, note.driver_epoch), epochs, strict=True)
    return any(before and now and before != now for before, now in told)


def operator_restored(critical: Mapping[Device, datetime], words: Mapping[Device, DrainCommand]) -> set[Device]:
    """Devices that an operator put back to work after their alerts opened or got worse."""
    return {d for d, word in words.items() if word.action == "restore" and d in critical and word.at >= critical[d]}


def operator_drained(notes: Mapping[Device, DrainNote], words: Mapping[Device, DrainCommand]) -> set[Device]:
    """Devices that an operator took out after we did: only an operator puts them back."""
    return {d for d, word in words.items() if word.action != "restore" and d in notes and word.at > notes[d].at}
