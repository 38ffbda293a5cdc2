"""Policies that remember the same of the same pools remember it once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

import numpy as np

from accelerator_autopilot.scheduler.domain.pool_arrays import Doubles, PoolObservations
from accelerator_autopilot.scheduler.policies.demand import Demand


class ObservedDemand(Protocol):
    """What is remembered of each pool's demand."""

    def observe(self, seen: PoolObservations) -> Demand:
        """Take one look in."""
        ...


@runtime_checkable
class PolicyWithHistory(Protocol):
    """A policy with a history, and the numbers [P, n] that decide what is kept in it."""

    history: ObservedDemand
    numbers: Doubles


class SharedHistory:
    """One history of several policies, which are all shown the same looks: each is taken in once."""

    def __init__(self, history: ObservedDemand) -> None:
        self._history = history
        self._told: tuple[PoolObservations, Demand] | None = None

    def observe(self, seen: PoolObservations) -> Demand:
        """Take one look in, unless another policy was shown it before."""
        if self._told is None or self._told[0] is not seen:
            self._told = seen, self._history.observe(seen)
        return self._told[1]


def share_histories(policies: Iterable[object]) -> None:
    """Of policies that were just reset to the same pools, and from now on are shown the same looks in turn."""
    known: list[tuple[Doubles, SharedHistory]] = []
    for policy in policies:
        if not isinstance(policy, PolicyWithHistory):
            continue
        same = next((shared for numbers, shared in known if np.array_equal(numbers, policy.numbers)), None)
        if same is None:
            same = SharedHistory(policy.history)
            known.append((policy.numbers, same))
        policy.history = same
