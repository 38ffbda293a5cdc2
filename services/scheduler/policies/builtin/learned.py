"""learned: the tuned rule, corrected by a network."""

from __future__ import annotations

from functools import cache
from importlib import resources
from pathlib import Path

import numpy as np

from accelerator_autopilot.scheduler.domain.pool_arrays import Action, PoolFacts, PoolObservations
from accelerator_autopilot.scheduler.policies.action_mapping import action, corrected, proposed
from accelerator_autopilot.scheduler.policies.lateness_controller import LatenessController
from accelerator_autopilot.scheduler.policies.network import Checkpoint, load_checkpoint
from accelerator_autopilot.scheduler.policies.network_features import LATE_PRICES, features
from accelerator_autopilot.scheduler.policies.reserve_parameters import gains, history, shipped_numbers
from accelerator_autopilot.scheduler.policies.shared_demand_history import ObservedDemand

LATE_PRICE = 5.0  # cost of a late job in mean energies of a job, unless the operator's objective differs


class Learned:
    """The tuned rule, its gains corrected by one network for every pool."""

    name = "learned"

    def __init__(self, checkpoint: Checkpoint, late_price: float = LATE_PRICE) -> None:
        self._checkpoint, self._late_price = checkpoint, late_price

    def reset(self, facts: PoolFacts) -> None:
        """Start over with these pools."""
        self._facts = facts
        self.numbers = shipped_numbers().of(facts)
        self.history: ObservedDemand = history(facts, self.numbers)
        self._caution = LatenessController(len(facts))

    def decide(self, seen: PoolObservations) -> Action:
        """Run the network once for all pools."""
        facts = self._facts
        demand = self.history.observe(seen)
        caution = self._caution.observe(demand)
        rule = gains(self.numbers, caution)
        price = np.full(len(facts), np.clip(self._late_price * seen.late_weight, *LATE_PRICES))
        output = self._checkpoint.output(features(facts, seen, demand, rule, caution, price))
        return action(facts, proposed(facts, seen, demand, corrected(facts, rule, output)))


@cache
def shipped_checkpoint() -> Checkpoint:
    """Return the packaged checkpoint. Raises SettingsError."""
    return load_checkpoint(Path(str(resources.files("accelerator_autopilot.scheduler") / "data" / "policy.npz")))


def make() -> Learned:
    """Create the policy."""
    return Learned(shipped_checkpoint())
