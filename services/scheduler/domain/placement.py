"""Place a pool's workers on nodes: healthy, cool, efficient, few, in the operator's shares. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

HOT_C = 85.0


@dataclass(frozen=True)
class NodeRoom:
    """A node as a place for workers."""

    node: str
    kind: str  # kind of accelerator: gpu, cpu, npu, tpu
    workers: int  # desired there now
    devices: int  # healthy devices in service
    hottest_c: float = 0.0
    joules_per_job: float = 0.0  # 0: unknown
    models_loaded: int = 0


def spread(replicas: int, rooms: Sequence[NodeRoom], shares: Mapping[str, float]) -> dict[str, int]:
    """Return workers for each node, `replicas` in total where any node is healthy.

    Nodes keep their workers unless they have too many; new ones go to nodes with a free device, preferably those
    with workers already, so that idle nodes stay idle.
    """
    wanted: dict[str, int] = {room.node: 0 for room in rooms}
    healthy = [room for room in rooms if room.devices > 0]
    if not healthy:
        return {room.node: room.workers for room in rooms}
    by_kind: defaultdict[str, list[NodeRoom]] = defaultdict(list)
    for room in healthy:
        by_kind[room.kind].append(room)
    for kind, count in _by_share(replicas, sorted(by_kind), shares).items():
        wanted |= _within(count, by_kind[kind])
    return wanted


def _by_share(replicas: int, kinds: Sequence[str], shares: Mapping[str, float]) -> dict[str, int]:
    weights = {kind: max(0.0, shares.get(kind, 0.0)) for kind in kinds}
    if not sum(weights.values()):
        return {kinds[0]: replicas} if len(kinds) == 1 else dict.fromkeys(kinds, 0) | {_default(kinds): replicas}
    total = sum(weights.values())
    counts = {kind: int(replicas * weight / total) for kind, weight in weights.items()}
    # What rounding left goes to the largest remainders.
    order = sorted(kinds, key=lambda k: (replicas * weights[k] / total) % 1.0, reverse=True)
    for kind in order[: replicas - sum(counts.values())]:
        counts[kind] += 1
    return counts


def _default(kinds: Sequence[str]) -> str:
    return next((kind for kind in ("gpu", "tpu", "npu") if kind in kinds), kinds[0])


def _within(count: int, rooms: Sequence[NodeRoom]) -> dict[str, int]:
    now = {room.node: room for room in rooms}
    while sum(room.workers for room in now.values()) > count:
        # The node with the fewest workers is emptied first; of those the hottest.
        leave = min(
            (r for r in now.values() if r.workers), key=lambda r: (r.hottest_c < HOT_C, r.workers, -r.hottest_c, r.node)
        )
        now[leave.node] = replace(leave, workers=leave.workers - 1)
    while sum(room.workers for room in now.values()) < count:
        best = min(now.values(), key=_cost)
        now[best.node] = replace(best, workers=best.workers + 1)
    return {node: room.workers for node, room in now.items()}


def _cost(room: NodeRoom) -> tuple[object, ...]:
    crowding = room.workers // room.devices
    return (
        crowding,
        room.hottest_c >= HOT_C,
        room.workers == 0,
        -room.models_loaded,
        room.joules_per_job,
        room.hottest_c,
        room.node,
    )
