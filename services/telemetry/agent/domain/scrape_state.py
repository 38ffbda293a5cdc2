"""State kept between two pages of one exporter: its devices, and their XIDs. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from accelerator_autopilot.contracts.messages.telemetry import DeviceInfo
from accelerator_autopilot.telemetry.agent.domain.scrape_readings import PageReading
from accelerator_autopilot.telemetry.samples import SourceEvent

# A device that left the page may be broken: it is forgotten when another takes its place, or after this time.
FORGET_AFTER_S = 24 * 3600.0

MAX_AT_ONCE = 100  # a count that jumps indicates a storm; further events add no information


@dataclass
class PageDevices:
    """Devices of an exporter and their hosts, including those that its page currently lacks."""

    infos: dict[str, DeviceInfo] = field(default_factory=dict)
    hosts: dict[str, str] = field(default_factory=dict)
    _seen_s: dict[str, float] = field(default_factory=dict)

    def take(self, page: PageReading, now_s: float) -> None:
        """Process a page: MIG instances missing from a complete page are gone, and so are replaced devices."""
        self.infos |= page.infos
        self.hosts |= page.hosts
        self._seen_s |= dict.fromkeys(page.infos, now_s)
        places = {self._place(info): info.device for info in page.infos.values() if info.parent is None}
        for device, info in list(self.infos.items()):
            if device in page.infos:
                continue
            reconfigured = info.parent is not None and (info.parent in page.infos or info.parent not in self.infos)
            replaced = info.parent is None and places.get(self._place(info), device) != device
            if reconfigured or replaced or now_s - self._seen_s[device] > FORGET_AFTER_S:
                self._forget(device)

    def _forget(self, device: str) -> None:
        for gone in [device, *(d for d, info in self.infos.items() if info.parent == device)]:
            self.infos.pop(gone, None)
            self.hosts.pop(gone, None)
            self._seen_s.pop(gone, None)

    def _place(self, info: DeviceInfo) -> tuple[str, str]:
        host = self.hosts.get(info.device, "")
        return (host, info.pci_bus_id or f"{info.vendor} {info.index}")


@dataclass
class PageXids:
    """Turns last values and counts into events. XIDs on a device's first page happened earlier, at an unknown time."""

    _last: dict[str, int] = field(default_factory=dict)
    _counts: dict[tuple[str, int], int] = field(default_factory=dict)
    _known: set[str] = field(default_factory=set)

    def take(self, page: PageReading) -> list[SourceEvent]:
        """Return the events since the previous page."""
        grown: dict[tuple[str, int], int] = {}
        for device, code in page.xids.items():
            if code and device in self._known and code != self._last.get(device, 0):
                grown[device, code] = 1
        for key, count in page.xid_counts.items():
            if key[0] in self._known and key[1]:
                grown[key] = max(grown.get(key, 0), count - self._counts.get(key, 0))
        self._last |= page.xids
        self._counts = dict(page.xid_counts)
        self._known |= page.samples.keys()
        return [
            SourceEvent(device, "xid", code, f"the exporter's page tells XID {code}", origin="page")
            for (device, code), times in grown.items()
            for _ in range(min(times, MAX_AT_ONCE))
        ]
