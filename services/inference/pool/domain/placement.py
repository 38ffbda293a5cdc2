"""Place workers on devices. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Changes:
    """Workers to drain, and devices to start one on (a device may occur twice)."""

    drain: list[str] = field(default_factory=list)
    start: list[str] = field(default_factory=list)


def idle_devices(
    devices: Sequence[str], cordoned: AbstractSet[str], resting: AbstractSet[str], used: Iterable[str]
) -> set[str]:
    """Return resting devices whose worker should move: at most one for each unused healthy device."""
    used = set(used)
    free = [d for d in devices if d not in cordoned and d not in resting and d not in used]
    return set([d for d in devices if d in resting and d in used and d not in cordoned][: len(free)])


def plan(
    desired: int,
    devices: Sequence[str],
    cordoned: set[str],
    workers: Mapping[str, str],
    busy: AbstractSet[str] = frozenset(),
    starting: AbstractSet[str] = frozenset(),
) -> Changes:
    """Plan the move from `workers` (name to device, without draining ones) to `desired` on healthy devices.

    Workers on devices that are cordoned or gone drain. Surplus workers go in this order: starting, idle, busy. New
    ones start on the devices with the fewest workers; with no device left nothing is started.
    """
    usable = [d for d in devices if d not in cordoned]
    drain = [name for name, device in workers.items() if device not in usable]
    kept = {name: device for name, device in workers.items() if device in usable}
    while len(kept) > desired:
        load = Counter(kept.values())
        # Among equals, the youngest worker on the fullest device goes first.
        name = max(kept, key=lambda n: (n in starting, n not in busy, load[kept[n]], n))
        drain.append(name)
        del kept[name]
    load = Counter(kept.values())
    counts = {device: load[device] for device in usable}
    start: list[str] = []
    while counts and len(kept) + len(start) < desired:
        device = min(counts, key=lambda d: (counts[d], usable.index(d)))
        counts[device] += 1
        start.append(device)
    return Changes(drain=drain, start=start)
