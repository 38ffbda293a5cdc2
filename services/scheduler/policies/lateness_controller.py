"""How careful to be: it rises with every job that was late and falls slowly with every one that was not.

The update of a multiplier for the constraint "at most this share is late": over many jobs the share settles
there, whatever the pool, since what is spent too early has to be earned back.
"""

from __future__ import annotations

import numpy as np

from accelerator_autopilot.scheduler.domain.pool_arrays import Doubles
from accelerator_autopilot.scheduler.policies.demand import Demand

LATE_GOAL = 0.008
STEP = 0.05  # for one late job
LOWEST, HIGHEST = -2.0, 1.0


class LatenessController:
    """[P] zero at first; a step of one is a factor of e on what is held."""

    def __init__(self, pools: int) -> None:
        self.level: Doubles = np.zeros(pools)

    def observe(self, demand: Demand) -> Doubles:
        """Take in what was late since the look before."""
        self.level = np.clip(self.level + STEP * (demand.late - LATE_GOAL * demand.started), LOWEST, HIGHEST)
        return self.level
