"""The interface of a scaling policy, classical or learned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from accelerator_autopilot.scheduler.domain.pool_arrays import Action, PoolFacts, PoolObservations


class PoolPolicy(Protocol):
    """Proposes replicas and power for many pools at once.

    It may remember its observations; the governor decides what is allowed.
    """

    name: str

    def reset(self, facts: PoolFacts) -> None:
        """Start over with these pools."""

    def decide(self, seen: PoolObservations) -> Action:
        """Observe all pools and return an action for each."""


PoolPolicyMaker = Callable[[], PoolPolicy]
