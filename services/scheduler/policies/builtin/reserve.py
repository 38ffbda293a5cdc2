"""reserve: the tuned heuristic of `reserve_rule`."""

from __future__ import annotations

from accelerator_autopilot.scheduler.domain.pool_arrays import Action, PoolFacts, PoolObservations
from accelerator_autopilot.scheduler.policies.action_mapping import action, proposed
from accelerator_autopilot.scheduler.policies.demand_sharing import ObservedDemand
from accelerator_autopilot.scheduler.policies.lateness_controller import LatenessController
from accelerator_autopilot.scheduler.policies.reserve_parameters import (
    ReserveParameters,
    gains,
    history,
    shipped_numbers,
)


class Reserve:
    """A share of recent peaks, or what would have been enough, is held; what waits and what arrives is answered."""

    name = "reserve"

    def __init__(self, rule: ReserveParameters) -> None:
        self._rule = rule

    def reset(self, facts: PoolFacts) -> None:
        """These pools from now on."""
        self._facts = facts
        self.numbers = self._rule.of(facts)
        self.history: ObservedDemand = history(facts, self.numbers)
        self._caution = LatenessController(len(facts))

    def decide(self, seen: PoolObservations) -> Action:
        """What the rule says."""
        demand = self.history.observe(seen)
        output = gains(self.numbers, self._caution.observe(demand))
        return action(self._facts, proposed(self._facts, seen, demand, output))


def make() -> Reserve:
    """Build it."""
    return Reserve(shipped_numbers())
