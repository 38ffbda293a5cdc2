"""The policies side by side: each sees every pool, one of them decides for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from services.scheduler.domain.observation import PoolObservation, Proposal, reason_for
from services.scheduler.domain.policy import PoolPolicy, PoolPolicyMaker
from services.scheduler.domain.pool import PoolFacts
from services.scheduler.domain.pool_rows import facts_of, power_levels, seen_of

MOST_COHORTS = 8


@dataclass
class _Cohort:
    """Pools that came together and share one instance of each policy."""

    pools: list[str]
    shapes: list[object]
    live: set[str]
    facts: PoolFacts
    policies: dict[str, PoolPolicy]


@dataclass
class Panel:
    """Proposals of several policies for every pool; memory of a pool lasts while its facts stay the same."""

    makers: Mapping[str, PoolPolicyMaker]
    interval_s: float
    _cohorts: list[_Cohort] = field(default_factory=list)

    def propose(self, pools: Sequence[PoolObservation]) -> dict[str, dict[str, Proposal]]:
        """By pool, by policy."""
        by_name = {p.pool: p for p in pools}
        self._arrange(by_name)
        proposals: dict[str, dict[str, Proposal]] = {}
        for cohort in self._cohorts:
            its = [by_name.get(name) if name in cohort.live else None for name in cohort.pools]
            seen = seen_of(its)
            for name, policy in cohort.policies.items():
                action = policy.decide(seen)
                levels = power_levels(cohort.facts, action)
                for pool, replicas, level in zip(its, action.replicas.tolist(), levels.tolist(), strict=True):
                    if pool is None or not np.isfinite(level):
                        continue
                    reason = reason_for(pool, replicas)
                    proposals.setdefault(pool.pool, {})[name] = Proposal(name, replicas, level, reason)
        return proposals

    def _arrange(self, pools: Mapping[str, PoolObservation]) -> None:
        shapes = {name: _shape(pool) for name, pool in pools.items()}
        known: set[str] = set()
        for cohort in self._cohorts:
            # A pool that went, or whose bounds or devices changed, is an empty row from now on.
            same = {n for n, s in zip(cohort.pools, cohort.shapes, strict=True) if shapes.get(n) == s}
            cohort.live &= same
            known |= cohort.live
        self._cohorts = [c for c in self._cohorts if c.live]
        new = [name for name in pools if name not in known]
        if new and len(self._cohorts) >= MOST_COHORTS:
            self._cohorts, new = [], list(pools)
        if new:
            facts = facts_of([pools[name] for name in new], self.interval_s)
            policies = {name: make() for name, make in self.makers.items()}
            for policy in policies.values():
                policy.reset(facts)
            self._cohorts.append(_Cohort(new, [shapes[n] for n in new], set(new), facts, policies))


def _shape(pool: PoolObservation) -> object:
    bounds = pool.bounds
    # Load times are measured and wander: only a change by half makes another pool of it.
    load = round(np.log2(max(pool.load_time_s, 1e-3)) * 2)
    return bounds.ceiling, bounds.target_wait_s, load, pool.curve.cap_w.tobytes(), pool.curve.relative_time.tobytes()
