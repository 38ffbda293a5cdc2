"""energy_sweep: the predictive rule at the power cap with the least energy per job, as Zeus finds it."""

from __future__ import annotations

import numpy as np

from accelerator_autopilot.scheduler.domain.pool_arrays import Doubles, PoolObservations
from accelerator_autopilot.scheduler.policies.builtin.predictive import Predictive


class EnergySweep(Predictive):
    """Always uses the cheapest point of the measured curve."""

    name = "energy_sweep"

    def _cap_w(self, seen: PoolObservations) -> Doubles:  # noqa: ARG002
        facts = self._facts
        cheapest: Doubles = facts.cap_w[np.arange(len(facts)), facts.cheapest]
        return cheapest


def make() -> EnergySweep:
    """Create the policy."""
    return EnergySweep()
