"""predictive: size the pool for the load forecast one load time ahead, as Dynamo's planner does, at full power."""

from __future__ import annotations

import numpy as np

from accelerator_autopilot.scheduler.domain.pool_arrays import Action, Doubles, PoolFacts, PoolObservations
from accelerator_autopilot.scheduler.policies.sliding_window import SlidingMax

ALPHA, BETA, HEAD_ROOM, HOLD_S = 0.3, 0.05, 1.3, 120.0
UNKNOWN_WORK_S = 20.0


class Predictive:
    """Holt's level and trend of the arrival rate, Little's law, headroom."""

    name = "predictive"

    def reset(self, facts: PoolFacts) -> None:
        """Start over with these pools."""
        self._facts = facts
        p = len(facts)
        self._level, self._trend = np.zeros(p), np.zeros(p)
        self._service_s = np.full(p, UNKNOWN_WORK_S)
        self._held = SlidingMax(p, HOLD_S, float(facts.interval_s[0]))

    def decide(self, seen: PoolObservations) -> Action:
        """Return replicas for the rate expected when what starts now is ready."""
        return Action.at_once(self._replicas(seen), self._cap_w(seen))

    def _replicas(self, seen: PoolObservations) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        facts = self._facts
        rate = seen.arrivals / facts.interval_s
        before = self._level
        self._level = ALPHA * rate + (1 - ALPHA) * (before + self._trend)
        self._trend = BETA * (self._level - before) + (1 - BETA) * self._trend
        fresh = np.where(seen.completions > 0, seen.mean_service_s, self._service_s)
        self._service_s = self._service_s + 0.1 * (fresh - self._service_s)
        ahead = np.maximum(0.0, self._level + self._trend * facts.load_time_s / facts.interval_s)
        wanted = np.ceil(HEAD_ROOM * ahead * self._service_s + seen.queue_depth * 0.5 + 1)
        return np.minimum(self._held.push(wanted), facts.max_replicas).astype(np.int64)

    def _cap_w(self, seen: PoolObservations) -> Doubles:  # noqa: ARG002
        return self._facts.cap_w[:, -1]


def make() -> Predictive:
    """Create the policy."""
    return Predictive()
