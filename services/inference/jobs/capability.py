"""Match what jobs need with what workers offer. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from accelerator_autopilot.contracts.messages.jobs import JobNeeds, PoolStatus


@dataclass(frozen=True)
class Capability:
    """What one worker, or every worker of a pool, can run."""

    models: frozenset[str]
    accelerator: str
    memory_bytes: int | None
    devices: int
    pool: str = ""

    def lacks(self, needs: JobNeeds | None) -> str | None:  # noqa: PLR0911  a reason each
        """Return why a job with these needs cannot run here; None when it can."""
        if needs is None:
            return None
        if needs.pool is not None and needs.pool != self.pool:
            return f"it needs pool {needs.pool!r}, not {self.pool!r}"
        if needs.model is not None and needs.model not in self.models:
            return f"model {needs.model!r} is not offered"
        if needs.device is not None and needs.device != self.accelerator:
            return f"it needs a {needs.device}"
        if needs.devices > self.devices:
            return f"it needs {needs.devices} devices in one worker, this one has {self.devices}"
        if needs.memory_bytes is not None and self.memory_bytes is not None and needs.memory_bytes > self.memory_bytes:
            return f"it needs {needs.memory_bytes} bytes of device memory, this one has {self.memory_bytes}"
        return None


def offered(pools: Iterable[PoolStatus], kind: str) -> list[Capability]:
    """Return what the workers of all pools that run this kind can do."""
    return [
        Capability(frozenset(pool.models), worker.accelerator, worker.memory_bytes, worker.devices, pool.pool)
        for pool in pools
        if kind in pool.kinds
        for worker in pool.workers
    ]


def unschedulable_reason(pools: list[PoolStatus], kind: str, needs: JobNeeds | None) -> str | None:
    """Return why no worker in the fleet can run a job; None when one can, or when one may be about to start."""
    willing = [pool for pool in pools if kind in pool.kinds]
    if not willing:
        kinds = sorted({kind for pool in pools for kind in pool.kinds})
        return f"no pool runs {kind!r}; there are {', '.join(kinds) or 'no pools'}"
    if any(not pool.workers for pool in willing):
        return None
    reasons = [worker.lacks(needs) for worker in offered(pools, kind)]
    return None if None in reasons else f"no worker can run it: {'; '.join(sorted({r for r in reasons if r}))}"
