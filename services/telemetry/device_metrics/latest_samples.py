"""The latest sample of each device, for pull-based interfaces. Bounded. Pure."""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from accelerator_autopilot.contracts.messages.telemetry import DeviceInfo
from accelerator_autopilot.contracts.metric_catalogue import METRICS, PERIODS_S
from accelerator_autopilot.telemetry.samples import Sample

STALE_AFTER_S = 30.0
XID_WINDOW_S = 300.0  # dcgm-exporter's default window for its XID count
MAX_XIDS = 1000

_MAX_AGE_S = {m.name: max(STALE_AFTER_S, 2.5 * PERIODS_S[m.rate]) for m in METRICS}
MAX_COUNTED = 100_000


@dataclass
class Latest:
    """One device: its latest readings, where slower readings are kept until their next update is due."""

    node: str
    device: str
    at_s: float
    sample: Sample
    info: DeviceInfo | None = None
    last_xid: int | None = None
    _read_s: dict[str, float] = field(default_factory=dict)
    _xids: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=MAX_XIDS))

    def note_xid(self, code: int) -> None:
        """Record an XID."""
        self.last_xid = code
        self._xids.append((self.at_s, code))

    def xids_within(self, now_s: float) -> Counter[int]:
        """Return how often each XID occurred within the window."""
        return Counter(code for at_s, code in self._xids if now_s - at_s <= XID_WINDOW_S)

    def take(self, sample: Sample, now_s: float) -> None:
        """Add readings, and drop those that are no longer updated."""
        self.at_s = now_s
        self.sample |= sample
        self._read_s |= dict.fromkeys(sample, now_s)
        if len(self._read_s) > len(sample):
            for name in [n for n, s in self._read_s.items() if now_s - s > _MAX_AGE_S.get(n, STALE_AFTER_S)]:
                del self.sample[name], self._read_s[name]


@dataclass
class LatestSamples:
    """The `limit` devices that reported last; the others are only counted."""

    limit: int
    _devices: OrderedDict[tuple[str, str], Latest] = field(default_factory=OrderedDict)
    _omitted: OrderedDict[tuple[str, str], float] = field(default_factory=OrderedDict)

    @property
    def omitted(self) -> int:
        """Return the number of devices beyond the limit that reported recently."""
        return len(self._omitted)

    def update(self, node: str, device: str, sample: Sample, now_s: float, info: DeviceInfo | None = None) -> None:
        """Add a sample."""
        key = (node, device)
        known = self._devices.get(key)
        if known is None:
            self._make_room(now_s)
            if len(self._devices) >= self.limit:
                self._count(key, now_s)
                return
            known = self._devices[key] = Latest(node, device, now_s, {})
        self._omitted.pop(key, None)
        known.take(sample, now_s)
        known.info = info or known.info
        self._devices.move_to_end(key)

    def _count(self, key: tuple[str, str], now_s: float) -> None:
        self._omitted[key] = now_s
        self._omitted.move_to_end(key)
        while len(self._omitted) > MAX_COUNTED or now_s - next(iter(self._omitted.values())) > STALE_AFTER_S:
            self._omitted.popitem(last=False)

    def _make_room(self, now_s: float) -> None:
        """Drop devices that fell silent: a stale reading must not look current."""
        while self._devices:
            oldest = next(iter(self._devices.values()))
            if now_s - oldest.at_s <= STALE_AFTER_S:
                return
            self._devices.popitem(last=False)

    def note_xid(self, node: str, device: str, code: int | None) -> None:
        """Record an XID of a device, at the time of its latest sample."""
        known = self._devices.get((node, device))
        if known is not None and code is not None:
            known.note_xid(code)

    def fresh(self, now_s: float) -> Iterator[Latest]:
        """Return devices that reported recently."""
        return (d for d in list(self._devices.values()) if now_s - d.at_s <= STALE_AFTER_S)
