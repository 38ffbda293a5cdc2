"""reserve: the tuned heuristic of `reserve_rule`."""

from __future__ import annotations

from services.scheduler.domain.caution import Caution
from services.scheduler.domain.gains import action, proposed
from services.scheduler.domain.pool import Action, PoolFacts, Seen
from services.scheduler.domain.reserve_rule import ReserveNumbers, gains, history, shipped_numbers


class Reserve:
    """A share of recent peaks, or what would have been enough, is held; what waits and what arrives is answered."""

    name = "reserve"

    def __init__(self, numbers: ReserveNumbers) -> None:
        self._numbers = numbers

    def reset(self, facts: PoolFacts) -> None:
        """These pools from now on."""
        self._facts = facts
        self._per_pool = self._numbers.of(facts)
        self._history = history(facts, self._per_pool)
        self._caution = Caution(len(facts))

    def decide(self, seen: Seen) -> Action:
        """What the rule says."""
        demand = self._history.observe(seen)
        output = gains(self._per_pool, self._caution.observe(demand))
        return action(self._facts, proposed(self._facts, seen, demand, output))


def make() -> Reserve:
    """Build it."""
    return Reserve(shipped_numbers())
