"""The last sample of each device, for interfaces that are asked rather than told. Bounded. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

from services.telemetry.ports import Sample
from shared.messages.telemetry import DeviceInfo

STALE_AFTER_S = 30.0


@dataclass
class Latest:
    """One device: what it read last, with slower readings kept from before."""

    node: str
    device: str
    at_s: float
    sample: Sample
    info: DeviceInfo | None = None
    last_xid: int | None = None


@dataclass
class LatestSamples:
    """At most `limit` devices, those that told something last; the others are counted."""

    limit: int
    untold: int = 0
    _devices: OrderedDict[tuple[str, str], Latest] = field(default_factory=OrderedDict)

    def update(self, node: str, device: str, sample: Sample, now_s: float, info: DeviceInfo | None = None) -> None:
        """Take a sample."""
        known = self._devices.get((node, device))
        if known is None:
            self._make_room(now_s)
            if len(self._devices) >= self.limit:
                self.untold += 1
                return
            known = self._devices[node, device] = Latest(node, device, now_s, {})
        known.at_s = now_s
        known.sample = known.sample | sample
        known.info = info or known.info
        self._devices.move_to_end((node, device))

    def _make_room(self, now_s: float) -> None:
        """Devices that fell silent leave; a reading that is not renewed must not look like one that is."""
        while self._devices:
            oldest = next(iter(self._devices.values()))
            if now_s - oldest.at_s <= STALE_AFTER_S:
                return
            self._devices.popitem(last=False)

    def note_xid(self, node: str, device: str, code: int | None) -> None:
        """Remember the last XID of a device."""
        known = self._devices.get((node, device))
        if known is not None:
            known.last_xid = code

    def fresh(self, now_s: float) -> Iterator[Latest]:
        """Devices that told something lately."""
        return (d for d in list(self._devices.values()) if now_s - d.at_s <= STALE_AFTER_S)
