"""Which caps were asked for, and whether a device is capped longer than anybody's lease. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

Device = tuple[str, str]
SAME_CAP_W = 0.6


@dataclass
class Lease:
    """A cap that was asked for; it begins when the device is first seen with it, at the latest when it expires."""

    cap_w: float
    asked_s: float
    expires_s: float
    lease_s: float
    seen_s: float | None = None

    @property
    def ends_s(self) -> float:
        """When the device must be free of it."""
        return (self.seen_s if self.seen_s is not None else self.expires_s) + self.lease_s


@dataclass
class CapLedger:
    """Power commands as the stream has them, and what each frame says of its devices' caps.

    A device may be late by the margin, counted while its agent runs: frames that come without a pause prove that.
    """

    margin_s: float = 5.0
    pause_s: float = 3.0
    observed: int = 0
    violations: list[str] = field(default_factory=list)
    _leases: dict[Device, list[Lease]] = field(default_factory=dict)
    _over_since: dict[Device, float] = field(default_factory=dict)
    _last_frame: dict[str, float] = field(default_factory=dict)
    _told: set[Device] = field(default_factory=set)

    def asked(self, device: Device, cap_w: float, asked_s: float, expires_s: float, lease_s: float) -> None:
        """A power command that caps."""
        self._leases.setdefault(device, []).append(Lease(cap_w, asked_s, expires_s, lease_s))

    def frame(self, node: str, at_s: float, capped: dict[str, float]) -> None:
        """The devices of a node that have less than their default, with their caps."""
        paused = at_s - self._last_frame.get(node, at_s) > self.pause_s
        self._last_frame[node] = at_s
        for device in [d for d in self._over_since if d[0] == node]:
            if paused or device[1] not in capped:
                del self._over_since[device]
        for name, cap_w in capped.items():
            self.observed += 1
            self._look((node, name), cap_w, at_s)

    def _look(self, device: Device, cap_w: float, at_s: float) -> None:
        known = [x for x in self._leases.get(device, []) if abs(x.cap_w - cap_w) <= SAME_CAP_W]
        asked = [x for x in known if x.asked_s <= at_s + 1.0]
        for lease in asked:
            if lease.seen_s is None and at_s >= lease.asked_s:
                # Of two leases with the same cap a device does not tell which it follows: each as long as it may.
                lease.seen_s = at_s if len(asked) == 1 else lease.expires_s
        if any(at_s <= lease.ends_s for lease in asked):
            self._over_since.pop(device, None)
            return
        since = self._over_since.setdefault(device, at_s)
        if at_s - since > self.margin_s and device not in self._told:
            self._told.add(device)
            ended = max((lease.ends_s for lease in asked), default=None)
            why = f"its lease ended at {ended:.1f} s" if ended else "nobody asked for that"
            self.violations.append(f"{device[0]}/{device[1]} is capped at {cap_w:.1f} W at {at_s:.1f} s: {why}")

    def over(self) -> list[Device]:
        """Devices that are capped now without a lease."""
        return sorted(self._over_since)
