"""The governor: limits that no policy can cross. Pure: time is handed in."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from services.scheduler.domain.observation import PoolObservation, Proposal, Reason

SETTLE_TIMEOUT = timedelta(seconds=15)


@dataclass(frozen=True)
class Verdict:
    """The number of workers to command, or None to leave the pool as it is, and why."""

    replicas: int | None
    reason: Reason


@dataclass
class _PoolMemory:
    pending: int | None = None
    pending_since: datetime | None = None
    surplus_since: datetime | None = None


@dataclass
class Governor:
    """One action in flight, bounded steps, up at once, down after a while."""

    _memory: dict[str, _PoolMemory] = field(default_factory=dict)

    def judge(self, seen: PoolObservation, proposal: Proposal) -> Verdict:
        """Bound a proposal by the operator's policy and by what happened before."""
        memory = self._memory.setdefault(seen.pool, _PoolMemory())
        waiting = self._waiting(memory, seen)
        if waiting:
            return Verdict(None, "waiting_to_settle")
        bounds = seen.bounds
        ceiling = max(bounds.floor, bounds.ceiling)
        wanted = min(max(proposal.replicas, bounds.floor), ceiling)
        reason = proposal.reason
        if wanted < proposal.replicas:
            reason = "at_ceiling"
        elif wanted > proposal.replicas:
            reason = "at_floor"
        if wanted >= seen.desired:
            memory.surplus_since = None
        if wanted == seen.desired:
            return Verdict(None, reason if reason in ("at_ceiling", "at_floor") else "no_change")
        if wanted < seen.desired and seen.desired <= ceiling:
            memory.surplus_since = memory.surplus_since or seen.at
            if (seen.at - memory.surplus_since).total_seconds() < bounds.scale_down_after_s:
                return Verdict(None, "waiting_to_scale_down")
        step = min(max(wanted, seen.desired - bounds.step_down), seen.desired + bounds.step_up)
        if seen.desired > ceiling:
            step = ceiling
        memory.pending, memory.pending_since = step, seen.at
        return Verdict(step, "step_limited" if step != wanted else reason)

    @staticmethod
    def _waiting(memory: _PoolMemory, seen: PoolObservation) -> bool:
        if memory.pending is None or memory.pending_since is None:
            return False
        settled = seen.desired == memory.pending and seen.starting == 0
        # With a time limit: a worker that never starts must not freeze the pool.
        if settled or seen.at - memory.pending_since > SETTLE_TIMEOUT:
            memory.pending = None
            return False
        return True
