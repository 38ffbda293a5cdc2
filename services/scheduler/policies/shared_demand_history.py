"""Share one demand history between policies that track the same pools with the same parameters."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

import numpy as np

from accelerator_autopilot.scheduler.domain.pool_arrays import Doubles, PoolObservations
from accelerator_autopilot.scheduler.policies.demand import Demand


class ObservedDemand(Protocol):
    """Tracks each pool's demand."""

    def observe(self, seen: PoolObservations) -> Demand:
        """Process one observation."""
        ...


@runtime_checkable
class PolicyWithHistory(Protocol):
    """A policy with a history, and the numbers [P, n] that determine its content."""

    history: ObservedDemand
    numbers: Doubles


class SharedHistory:
    """One history of several policies that receive the same observations: each is processed once."""

    def __init__(self, history: ObservedDemand) -> None:
        self._history = history
        self._last: tuple[PoolObservations, Demand] | None = None

    def observe(self, seen: PoolObservations) -> Demand:
        """Process one observation, unless another policy was shown it before."""
        if self._last is None or self._last[0] is not seen:
            self._last = seen, self._history.observe(seen)
        return self._last[1]


def share_histories(policies: Iterable[object]) -> None:
    """Share histories between policies that were just reset to the same pools and receive the same observations."""
    known: list[tuple[Doubles, SharedHistory]] = []
    for policy in policies:
        if not isinstance(policy, PolicyWithHistory):
            continue
        same = next((shared for numbers, shared in known if np.array_equal(numbers, policy.numbers)), None)
        if same is None:
            same = SharedHistory(policy.history)
            known.append((policy.numbers, same))
        policy.history = same
