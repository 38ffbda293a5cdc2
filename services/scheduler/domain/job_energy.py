"""Estimate the joules that a node needs per job of a pool, from its workers' results and its devices' power. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from accelerator_autopilot.contracts.messages.jobs import PoolStatus, WorkerStatus
from accelerator_autopilot.scheduler.domain.latest_readings import Readings

MEMORY = 0.2


@dataclass
class WorkerCounts:
    """What workers completed since the previous observation."""

    _before: dict[str, tuple[int, float]] = field(default_factory=dict)

    def since(self, workers: Sequence[WorkerStatus]) -> tuple[int, float]:
        """Return jobs done and seconds of work."""
        now = {w.worker: (w.jobs_done, w.busy_s) for w in workers}
        before = {name: self._before.get(name, (0, 0.0)) for name in now}
        self._before = now
        done = sum(max(0, now[name][0] - before[name][0]) for name in now)
        return done, sum(max(0.0, now[name][1] - before[name][1]) for name in now)


@dataclass
class NodeEfficiency:
    """Energy per job of each pool on each node."""

    _counts: dict[tuple[str, str], WorkerCounts] = field(default_factory=dict)
    _joules: dict[tuple[str, str], float] = field(default_factory=dict)
    _seen: dict[tuple[str, str], list[WorkerStatus]] = field(default_factory=dict)

    def known(self, part: PoolStatus) -> float:
        """Return the estimate; 0 until a job ended on a device with a power reading."""
        return self._joules.get((part.pool, part.node), 0.0)

    def update(self, part: PoolStatus, power_w: Readings) -> float:
        """Process an observation; returns 0 until a job ended on a device with a power reading."""
        key = part.pool, part.node
        if self._seen.get(key) is part.workers:
            # The same status as before: nothing ended.
            return self._joules.get(key, 0.0)
        self._seen[key] = part.workers
        done, busy_s = self._counts.setdefault(key, WorkerCounts()).since(part.workers)
        devices = {(part.node, device) for w in part.workers if w.running for device in w.device.split("+")}
        watts = [watts_of_device for device in devices if (watts_of_device := power_w.get(device)) is not None]
        if done and busy_s > 0 and watts:
            # All of a worker's devices draw power while it works.
            of_worker = sum(watts) / max(1, sum(bool(w.running) for w in part.workers))
            fresh = busy_s / done * of_worker
            old = self._joules.get(key, fresh)
            self._joules[key] = old + MEMORY * (fresh - old)
        return self._joules.get(key, 0.0)
