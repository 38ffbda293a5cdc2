"""Run a policy on the twin and measure its results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from accelerator_autopilot.scheduler.domain.champion_challenger import Replayed
from accelerator_autopilot.scheduler.domain.pool_arrays import Action, Doubles, Ints
from accelerator_autopilot.scheduler.policies.contract import PoolPolicyMaker
from accelerator_autopilot.scheduler.twin.simulation import PoolModel, Trace, Twin


@dataclass(frozen=True)
class Outcome:
    """A policy's results on each of P pools."""

    jobs: Ints
    in_time: Doubles  # share
    joules: Doubles
    ratio_to_bound: Doubles
    starts: Ints
    decisions: int
    course: Doubles  # [T, 3] joules, jobs done and jobs late of all pools in each interval

    def blocks(self, intervals: int) -> Replayed:
        """Sum the intervals in blocks; an incomplete last block is dropped."""
        whole = len(self.course) // intervals * intervals
        sums = self.course[:whole].reshape(-1, intervals, 3).sum(axis=1)
        return Replayed(joules=sums[:, 0], jobs=sums[:, 1], late=sums[:, 2])


def play(make: PoolPolicyMaker, models: Sequence[PoolModel], traces: Sequence[Trace], seed: int) -> Outcome:
    """Simulate until every pool has ended. Finished pools are frozen, so none pays for a longer neighbour."""
    twin = Twin(models, traces, seed)
    policy = make()
    policy.reset(twin.facts)
    decisions = 0
    course = []
    joules = np.full(len(models), np.nan)
    while True:
        ended = twin.ended
        joules = np.where(ended & np.isnan(joules), twin.pools["joules"], joules)
        if ended.all():
            break
        action = policy.decide(twin.seen())
        stopped = np.where(ended, 0, action.replicas)
        twin.act(Action(stopped, action.power_cap_w, action.batch_delay_s))
        decisions += int((~ended).sum())
        pools = twin.pools[~ended]
        course.append([float(pools[name].sum()) for name in ("new_joules", "new_completions", "new_late")])
    jobs = twin.pools["last"] - twin.pools["first"]
    late = twin.pools["late"] + (jobs - twin.pools["done"])
    return Outcome(
        jobs=jobs,
        in_time=1.0 - late / jobs,
        joules=joules,
        ratio_to_bound=joules / twin.bound_j,
        starts=twin.pools["starts"].copy(),
        decisions=decisions,
        course=np.array(course).reshape(-1, 3),
    )
