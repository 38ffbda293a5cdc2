"""Many pools at once as arrays: facts, observations, and actions.

Every array has one entry per pool (P), so that one policy call decides for all pools of a fleet, for one pool, or for
all environments of a training run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class PoolFacts:
    """What does not change between decisions. A curve is padded by repeating its last point."""

    max_replicas: Ints  # [P]
    interval_s: Doubles  # [P] between decisions
    load_time_s: Doubles  # [P] from start to ready, median
    slack_s: Doubles  # [P] how long a job may take beyond its own work
    slots: Ints  # [P] jobs that a replica can run together
    idle_w: Doubles  # [P] power of a ready replica without work
    load_w: Doubles  # [P] power of a loading replica
    cap_w: Doubles  # [P, C] caps, ascending
    relative_time: Doubles  # [P, C] time of a job at this cap
    power_w: Doubles  # [P, C] power at work at this cap

    def __len__(self) -> int:
        """Return the number of pools."""
        return len(self.max_replicas)

    @property
    def relative_energy(self) -> Doubles:
        """Return [P, C] the energy of a job at each cap, 1 at full power."""
        energy = self.relative_time * self.power_w
        full: Doubles = energy / energy[:, -1:]
        return full

    @property
    def cheapest(self) -> Ints:
        """Return [P] the index of the cap with the least energy per job."""
        return np.asarray(self.relative_energy.argmin(axis=1), np.int64)


@dataclass(frozen=True)
class PoolObservations:
    """The input of a decision. Counts and means are since the previous decision."""

    time_s: Doubles
    queue_depth: Ints
    oldest_wait_s: Doubles
    arrivals: Ints
    completions: Ints
    mean_service_s: Doubles  # replica time per job, divided among those that ran together; NaN: nothing completed
    ready: Ints
    busy: Ints
    loading: Ints
    power_cap_w: Doubles
    power_w: Doubles
    late_weight: float = 1.0  # how much lateness weighs against energy, by the operator's objective


@dataclass(frozen=True)
class Action:
    """Replicas and power cap for each pool, and how long the first job waits for a fuller batch."""

    replicas: Ints
    power_cap_w: Doubles
    batch_delay_s: Doubles

    @classmethod
    def at_once(cls, replicas: Ints, power_cap_w: Doubles) -> Self:
        """Return an action without batch delays."""
        return cls(replicas, power_cap_w, np.zeros(len(replicas)))


def relative_time(facts: PoolFacts, cap_w: Doubles) -> Doubles:
    """Return [P] the relative job time at this cap, interpolated linearly on the pool's curve."""
    caps = facts.cap_w
    right = np.clip((caps < cap_w[:, None]).sum(axis=1), 1, caps.shape[1] - 1)
    at = np.arange(len(facts))
    low, high = caps[at, right - 1], caps[at, right]
    share = np.clip((cap_w - low) / np.maximum(high - low, 1e-9), 0.0, 1.0)
    before, after = facts.relative_time[at, right - 1], facts.relative_time[at, right]
    slower: Doubles = before + share * (after - before)
    return slower
