"""queue_lag: KEDA's rule, replicas by jobs waiting and running, held for its cooldown, at full power."""

from __future__ import annotations

import numpy as np

from accelerator_autopilot.scheduler.domain.pool_arrays import Action, PoolFacts, PoolObservations
from accelerator_autopilot.scheduler.policies.sliding_window import SlidingMax

JOBS_PER_REPLICA = 1.0
COOLDOWN_S = 300.0  # KEDA's default


class QueueLag:
    """One replica per number of jobs."""

    name = "queue_lag"

    def reset(self, facts: PoolFacts) -> None:
        """Start over with these pools."""
        self._facts = facts
        self._held = SlidingMax(len(facts), COOLDOWN_S, float(facts.interval_s[0]))

    def decide(self, seen: PoolObservations) -> Action:
        """Return the most that was wanted during the cooldown."""
        load = seen.queue_depth + seen.busy
        wanted = self._held.push(np.maximum(1.0, np.ceil(load / JOBS_PER_REPLICA)))
        replicas = np.minimum(wanted, self._facts.max_replicas).astype(np.int64)
        return Action.at_once(replicas, self._facts.cap_w[:, -1])


def make() -> QueueLag:
    """Create the policy."""
    return QueueLag()
