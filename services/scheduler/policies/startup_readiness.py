"""Learn which share of starts is ready by the next observation: models load fast from a cache and slowly without."""

from __future__ import annotations

import numpy as np

from accelerator_autopilot.scheduler.domain.pool_arrays import Doubles, PoolFacts, PoolObservations

PRIOR_READY, PRIOR_STARTS = 1.0, 4.0
MIN_READY_SHARE = 0.12  # share above which it pays to start more than is missing, and to cancel what is not ready
EXTRA_START_FACTOR = 1.3  # starts per missing replica where hardly any is fast


class StartupLatency:
    """[P] learned from observations before which nothing was loading."""

    def __init__(self, facts: PoolFacts) -> None:
        self._came, self._began = np.full(len(facts), PRIOR_READY), np.full(len(facts), PRIOR_STARTS)
        self._before: PoolObservations | None = None

    def observe(self, seen: PoolObservations) -> Doubles:
        """Process one observation."""
        if self._before is not None:
            began = (seen.ready + seen.loading) - (self._before.ready + self._before.loading)
            known = (self._before.loading == 0) & (began > 0)
            came = np.clip(seen.ready - self._before.ready, 0, began)
            self._came += np.where(known, came, 0)
            self._began += np.where(known, began, 0)
        self._before = seen
        share: Doubles = self._came / self._began
        return share


def starts_for_one(prompt: Doubles, spare: Doubles) -> Doubles:
    """Return [P] how many to start per missing replica: with `spare` 1, enough that one is ready by the next time."""
    more: Doubles = np.where(
        prompt > MIN_READY_SHARE, 1.0 / np.maximum(prompt, MIN_READY_SHARE), EXTRA_START_FACTOR
    ) ** np.maximum(spare, 0.0)
    return more
