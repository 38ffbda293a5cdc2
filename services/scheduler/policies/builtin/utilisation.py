"""utilisation: the Kubernetes HPA's rule, replicas in proportion to utilisation over target, at full power."""

from __future__ import annotations

import numpy as np

from accelerator_autopilot.scheduler.domain.pool_arrays import Action, PoolFacts, PoolObservations
from accelerator_autopilot.scheduler.policies.sliding_window import SlidingMax

TARGET, TOLERANCE, STABILISATION_S = 0.6, 0.1, 300.0  # tolerance and stabilisation are the HPA's defaults


class Utilisation:
    """Keeps utilisation near the target."""

    name = "utilisation"

    def reset(self, facts: PoolFacts) -> None:
        """Start over with these pools."""
        self._facts = facts
        self._held = SlidingMax(len(facts), STABILISATION_S, float(facts.interval_s[0]))

    def decide(self, seen: PoolObservations) -> Action:
        """Return replicas x utilisation / target, unless that is within the tolerance."""
        have = np.maximum(1, seen.ready + seen.loading)
        use = (seen.busy + np.minimum(seen.queue_depth, have)) / have
        wanted = np.where(np.abs(use / TARGET - 1) < TOLERANCE, have, np.maximum(1.0, np.ceil(have * use / TARGET)))
        replicas = np.minimum(self._held.push(wanted), self._facts.max_replicas).astype(np.int64)
        return Action.at_once(replicas, self._facts.cap_w[:, -1])


def make() -> Utilisation:
    """Create the policy."""
    return Utilisation()
