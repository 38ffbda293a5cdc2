"""The governor: limits that no policy can exceed. Pure: time is an argument."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from accelerator_autopilot.scheduler.domain.observation import PoolObservation, Proposal, Reason

SETTLE_TIMEOUT = timedelta(seconds=15)
TIMEOUTS_TO_OPEN = 3
OPEN_FOR = timedelta(seconds=60)


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
    manual_at: datetime | None = None
    timeouts: int = 0
    open_until: datetime | None = None
    changes: deque[datetime] = field(default_factory=deque)


@dataclass
class Governor:
    """One action in flight, bounded steps, fast up, slow down, and no interference with an operator's choice."""

    _memory: dict[str, _PoolMemory] = field(default_factory=dict)

    def manual(self, pool: str, at: datetime) -> None:
        """Record that an operator set the size of this pool."""
        memory = self._of(pool)
        memory.manual_at, memory.pending = at, None

    def not_sent(self, pool: str) -> None:
        """Record that the last verdict was not sent: there is nothing to wait for."""
        memory = self._of(pool)
        memory.pending = None
        if memory.changes:
            memory.changes.pop()

    def judge(self, seen: PoolObservation, proposal: Proposal, *, acts: bool | None = None) -> Verdict:
        """Bound a proposal by the operator's policy and by earlier actions.

        Where the operator allows no actions (`acts` is false), a verdict is advice: it has no effect to wait
        for, and no breaker opens when none follows.
        """
        memory = self._of(seen.pool)
        held = self._held(memory, seen)
        if held:
            return Verdict(None, held)
        if not math.isfinite(proposal.replicas) or not math.isfinite(proposal.power_level):
            return Verdict(None, "absurd_data")
        wanted, reason = self._bounded(seen, proposal)
        if wanted >= seen.desired:
            memory.surplus_since = None
        if wanted == seen.desired:
            return Verdict(None, reason if reason in ("at_ceiling", "at_floor") else "no_change")
        ceiling = max(seen.bounds.floor, seen.bounds.ceiling)
        inside = seen.bounds.floor <= seen.desired <= ceiling
        if inside:
            reluctant = self._reluctant(memory, seen, wanted)
            if reluctant:
                return Verdict(None, reluctant)
        step = min(max(wanted, seen.desired - seen.bounds.step_down), seen.desired + seen.bounds.step_up)
        # What an operator forbade ends at once, not step by step.
        step = min(max(step, seen.bounds.floor), ceiling)
        if acts if acts is not None else seen.bounds.autonomy in (None, "act"):
            memory.pending, memory.pending_since = step, seen.at
            memory.changes.append(seen.at)
        return Verdict(step, "step_limited" if step != wanted else reason)

    @staticmethod
    def _bounded(seen: PoolObservation, proposal: Proposal) -> tuple[int, Reason]:
        bounds = seen.bounds
        wanted = min(max(proposal.replicas, bounds.floor), max(bounds.floor, bounds.ceiling))
        if wanted < proposal.replicas:
            return wanted, "at_ceiling"
        return (wanted, "at_floor") if wanted > proposal.replicas else (wanted, proposal.reason)

    @staticmethod
    def _reluctant(memory: _PoolMemory, seen: PoolObservation, wanted: int) -> Reason | None:
        if wanted < seen.desired:
            memory.surplus_since = min(memory.surplus_since or seen.at, seen.at)
            if (seen.at - memory.surplus_since).total_seconds() < seen.bounds.scale_down_after_s:
                return "waiting_to_scale_down"
        # A clock that was set back must neither hold a pool nor count steps forever.
        while memory.changes and not timedelta(0) <= seen.at - memory.changes[0] < timedelta(minutes=1):
            memory.changes.popleft()
        return "rate_limited" if len(memory.changes) >= seen.bounds.actions_per_min else None

    def _held(self, memory: _PoolMemory, seen: PoolObservation) -> Reason | None:
        if memory.open_until is not None and timedelta(0) < memory.open_until - seen.at <= OPEN_FOR:
            return "breaker_open"
        if memory.pending is not None and memory.pending_since is not None:
            if seen.desired == memory.pending:
                # Accepted is enough: models load for a minute and more, and a burst cannot wait for
                # them.
                memory.pending, memory.timeouts = None, 0
            elif timedelta(0) <= seen.at - memory.pending_since <= SETTLE_TIMEOUT:
                return "waiting_to_settle"
            else:
                # With a time limit: a pool that does not respond must not be frozen forever.
                return self._timed_out(memory, seen)
        manual_s = (seen.at - memory.manual_at).total_seconds() if memory.manual_at else math.inf
        ceiling = max(seen.bounds.floor, seen.bounds.ceiling)
        within = seen.bounds.floor <= seen.desired <= ceiling
        return "manual_change" if within and 0 <= manual_s < seen.bounds.manual_hold_s else None

    @staticmethod
    def _timed_out(memory: _PoolMemory, seen: PoolObservation) -> Reason | None:
        memory.pending = None
        memory.timeouts += 1
        if memory.timeouts < TIMEOUTS_TO_OPEN:
            return None
        memory.timeouts, memory.open_until = 0, seen.at + OPEN_FOR
        return "breaker_open"

    def _of(self, pool: str) -> _PoolMemory:
        return self._memory.setdefault(pool, _PoolMemory())
