"""How many replicas would have been sufficient, in hindsight: a pool's history replayed at several sizes at once.

Where a model loads slower than a job may wait, what is started when a burst is seen comes too late for its first jobs:
only the reserve counts. The work of each interval is given to one imagined pool per size; each keeps its size, reacts
as the rule does, and is late with the jobs that a fluid queue would be late with. The answer is the smallest size with
few enough late jobs. Deviations of work from its mean are inflated by a margin that shrinks as more history is known.
Pure.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from accelerator_autopilot.scheduler.domain.pool_arrays import Doubles, PoolFacts, PoolObservations
from accelerator_autopilot.scheduler.policies.scale_up_rule import ScaleUpRule

SIZES, SMALLEST = 14, 0.03  # shares of the pool's maximum replicas, in even logarithmic steps
FIRST_OBSERVATIONS, SPREADS = 10.0, (0.1, 1.0)  # until then, work is assumed to vary by its mean, and by no more
PROMPT_PART, LOADED_PART = 0.8, 0.5  # share of an interval that replicas work which became ready in it


@dataclass(frozen=True)
class WhatIfParameters:
    """How much history counts, and how strictly; one number each, or [P]."""

    margin: float | Doubles  # factor on deviations of work from its mean
    doubt: float | Doubles  # additional factor at first
    doubt_s: float | Doubles  # after which half of the doubt is left
    late_goal: float | Doubles  # allowed share of late jobs
    memory_s: float | Doubles  # half-life of history


class WhatIfSizing:
    """Imagined pools, [S, P] for S sizes. Called once per decision, in order."""

    def __init__(
        self, facts: PoolFacts, numbers: WhatIfParameters, reaction: ScaleUpRule, patience_s: Doubles, slowness: Doubles
    ) -> None:
        self._facts, self._numbers, self._reaction, self._patience_s = facts, numbers, reaction, patience_s
        self._slowness = slowness
        self._sizes = np.geomspace(SMALLEST, 1.0, SIZES)[:, None] * facts.max_replicas
        self._fade = 0.5 ** (facts.interval_s / numbers.memory_s)
        nothing = np.zeros(self._sizes.shape)
        self._ready, self._loading, self._waiting_s = self._sizes.copy(), nothing, nothing
        self._wait_s, self._late = nothing, nothing
        self._jobs = np.zeros(len(facts))
        self._rate = np.zeros(len(facts))  # work, as the imagined pools last saw it
        self._mean, self._square, self._looks = np.zeros(len(facts)), np.zeros(len(facts)), 0
        self._quiet_s = np.zeros(len(facts))

    @property
    def doubt(self) -> Doubles:
        """Return [P] 1 while nothing is known, half after `doubt_s` where work varies by its mean, less if steadier."""
        spread = np.maximum(self._square - self._mean**2, 0.0) ** 0.5 / np.maximum(self._mean, 1e-9)
        spread = (spread * self._looks + FIRST_OBSERVATIONS) / (self._looks + FIRST_OBSERVATIONS)
        age_s = self._looks * self._facts.interval_s
        left: Doubles = 1.0 / (1.0 + age_s / (self._numbers.doubt_s * np.clip(spread, *SPREADS)))
        return left

    def observe(self, seen: PoolObservations, work_s: Doubles, prompt: Doubles, quiet_s: Doubles) -> Doubles:
        """Process one interval.

        Returns [P] the replicas that would have been sufficient at the power of quiet times.
        """
        numbers = self._numbers
        work_s = work_s * self._slowness
        self._looks += 1
        arrived = seen.arrivals * work_s
        weight = np.maximum(1.0 / self._looks, 1.0 - self._fade)
        self._mean = self._mean + weight * (arrived - self._mean)
        self._square = self._square + weight * (arrived**2 - self._square)
        margin = numbers.margin + numbers.doubt * self.doubt
        feared = np.maximum(0.0, self._mean + margin * (arrived - self._mean))
        self._replay(feared, work_s, prompt)
        self._quiet_s = quiet_s
        return self._enough()

    def _replay(self, arrived: Doubles, work_s: Doubles, prompt: Doubles) -> None:
        facts = self._facts
        held = self._sizes * np.exp(-self._quiet_s / self._patience_s)
        wanted = self._reaction.wanted(facts, held, self._ready, self._waiting_s, self._rate, prompt)
        wanted = np.minimum(wanted, facts.max_replicas)
        started = np.maximum(wanted - self._ready - self._loading, 0.0)
        surplus = np.maximum(self._ready + self._loading - wanted, 0.0)
        called_back = np.minimum(surplus, self._loading)
        loading, ready = self._loading - called_back, self._ready - (surplus - called_back)
        at_once = prompt * started
        loaded = loading * np.minimum(1.0, facts.interval_s / facts.load_time_s)
        at_work = ready + PROMPT_PART * at_once + LOADED_PART * loaded
        self._waiting_s = np.maximum(self._waiting_s + arrived - at_work * facts.interval_s, 0.0)
        self._ready, self._loading = ready + at_once + loaded, loading - loaded + started - at_once
        self._count_late(arrived / np.maximum(work_s, 1e-3))
        self._rate = arrived / facts.interval_s

    def _count_late(self, jobs: Doubles) -> None:
        before, now = self._wait_s, self._waiting_s / np.maximum(self._ready, 1e-3)
        longest = np.maximum(before, now)
        share = np.clip((longest - self._facts.slack_s) / np.maximum(np.abs(now - before), 1e-9), 0.0, 1.0)
        self._wait_s = now
        self._late = self._late * self._fade + share * jobs
        self._jobs = self._jobs * self._fade + jobs

    def _enough(self) -> Doubles:
        late = self._late / np.maximum(self._jobs, 1.0)
        goal = np.broadcast_to(self._numbers.late_goal, self._jobs.shape)
        fine = late <= goal
        at = np.arange(len(goal))
        upper = np.where(fine.any(axis=0), fine.argmax(axis=0), SIZES - 1)
        lower = np.maximum(upper - 1, 0)
        too_late, enough = late[lower, at], late[upper, at]
        share = np.clip((too_late - goal) / np.maximum(too_late - enough, 1e-12), 0.0, 1.0)
        share = np.where(lower == upper, 1.0, share)
        between: Doubles = self._sizes[lower, at] ** (1.0 - share) * self._sizes[upper, at] ** share
        return between
