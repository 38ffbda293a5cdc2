"""reserve: the tuned heuristic of `reserve_parameters` and `action_mapping`."""

from __future__ import annotations

from accelerator_autopilot.scheduler.domain.pool_arrays import Action, PoolFacts, PoolObservations
from accelerator_autopilot.scheduler.policies.action_mapping import action, proposed
from accelerator_autopilot.scheduler.policies.lateness_controller import LatenessController
from accelerator_autopilot.scheduler.policies.reserve_parameters import (
    ReserveParameters,
    gains,
    history,
    shipped_numbers,
)
from accelerator_autopilot.scheduler.policies.shared_demand_history import ObservedDemand


class Reserve:
    """Reserves a share of recent peaks, or what would have been sufficient, and answers queued and arriving work."""

    name = "reserve"

    def __init__(self, rule: ReserveParameters) -> None:
        self._rule = rule

    def reset(self, facts: PoolFacts) -> None:
        """Start over with these pools."""
        self._facts = facts
        self.numbers = self._rule.of(facts)
        self.history: ObservedDemand = history(facts, self.numbers)
        self._caution = LatenessController(len(facts))

    def decide(self, seen: PoolObservations) -> Action:
        """Apply the rule."""
        demand = self.history.observe(seen)
        output = gains(self.numbers, self._caution.observe(demand))
        return action(self._facts, proposed(self._facts, seen, demand, output))


def make() -> Reserve:
    """Create the policy."""
    return Reserve(shipped_numbers())
