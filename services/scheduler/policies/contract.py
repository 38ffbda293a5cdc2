"""The contract of a scaling policy, classical or learned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from accelerator_autopilot.scheduler.domain.pool_arrays import Action, PoolFacts, PoolObservations


class PoolPolicy(Protocol):
    """Proposes replicas and power for many pools at once.

    It may remember what it saw; what may be done is the governor's word.
    """

    name: str

    def reset(self, facts: PoolFacts) -> None:
        """Forget everything; these are the pools from now on."""

    def decide(self, seen: PoolObservations) -> Action:
        """Look at all pools and say what each needs."""


PoolPolicyMaker = Callable[[], PoolPolicy]
