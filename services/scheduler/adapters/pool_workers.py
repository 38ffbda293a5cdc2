"""Aggregate the workers of a pool over all its nodes, cached while their status is unchanged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from operator import is_

from accelerator_autopilot.contracts.messages.jobs import PoolStatus, WorkerStatus
from accelerator_autopilot.scheduler.domain.device_facts import DeviceFacts, DeviceRegistry
from accelerator_autopilot.scheduler.domain.drain_decisions import Device
from accelerator_autopilot.scheduler.domain.power_curves import PowerCurve, curve_of


@dataclass(frozen=True)
class PoolWorkers:
    """Aggregates of workers and their devices."""

    ready: int
    starting: int
    busy: int
    devices: list[Device]
    curve: PowerCurve
    _workers: list[list[WorkerStatus]]
    _nodes: list[tuple[DeviceFacts, ...] | None]

    @classmethod
    def of(cls, parts: Sequence[PoolStatus], book: DeviceRegistry) -> PoolWorkers:
        """Aggregate the workers."""
        workers = [(part.node, w) for part in parts for w in part.workers]
        devices = sorted({(node, device) for node, w in workers for device in w.device.split("+")})
        return cls(
            ready=sum(w.state == "ready" for _, w in workers),
            starting=sum(w.state == "starting" for _, w in workers),
            busy=sum(bool(w.running) for _, w in workers),
            devices=devices,
            curve=_curve([book.devices[d] for d in devices if d in book.devices]),
            _workers=[part.workers for part in parts],
            _nodes=[book.nodes.get(part.node) for part in parts],
        )

    def is_of(self, parts: Sequence[PoolStatus], book: DeviceRegistry) -> bool:
        """Whether nothing changed: an unchanged status is the same object."""
        return (
            len(parts) == len(self._workers)
            and all(map(is_, [part.workers for part in parts], self._workers))
            and all(map(is_, [book.nodes.get(part.node) for part in parts], self._nodes))
        )


def _curve(devices: Sequence[DeviceFacts]) -> PowerCurve:
    """Return the power curve of the most frequent model; devices of other models use the same power level."""
    if not devices:
        return curve_of("", None, None)
    model, _ = Counter(d.model for d in devices).most_common(1)[0]
    typical = next(d for d in devices if d.model == model)
    return curve_of(model, typical.power_default_w, typical.power_min_w)
