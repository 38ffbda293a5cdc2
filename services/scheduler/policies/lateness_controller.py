"""Control how much to reserve: more with every late job, slowly less with every one in time.

It is the update of a Lagrange multiplier for the constraint "at most this share is late": over many jobs the share
converges to it, whatever the pool.
"""

from __future__ import annotations

import numpy as np

from accelerator_autopilot.scheduler.domain.pool_arrays import Doubles
from accelerator_autopilot.scheduler.policies.demand import Demand

LATE_GOAL = 0.008
STEP = 0.05  # per late job
LOWEST, HIGHEST = -2.0, 1.0


class LatenessController:
    """[P] zero at first; an increase by one multiplies the reserve by e."""

    def __init__(self, pools: int) -> None:
        self.level: Doubles = np.zeros(pools)

    def observe(self, demand: Demand) -> Doubles:
        """Process the jobs that were late since the previous observation."""
        self.level = np.clip(self.level + STEP * (demand.late - LATE_GOAL * demand.started), LOWEST, HIGHEST)
        return self.level
