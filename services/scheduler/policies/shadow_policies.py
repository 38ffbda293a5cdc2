"""Run policies side by side: each sees every pool, and one of them decides for it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from accelerator_autopilot.scheduler.domain.observation import PoolObservation, Proposal, reason_for
from accelerator_autopilot.scheduler.domain.observation_arrays import columns_of, facts_of, power_levels, seen_from
from accelerator_autopilot.scheduler.domain.pool_arrays import Action, PoolFacts
from accelerator_autopilot.scheduler.policies.contract import PoolPolicy, PoolPolicyMaker
from accelerator_autopilot.scheduler.policies.forecasting import HORIZONS_MIN, Forecast, MinuteForecasts
from accelerator_autopilot.scheduler.policies.policy_warmup import PolicyWarmup, Rows
from accelerator_autopilot.scheduler.policies.shared_demand_history import share_histories

MAX_COHORTS = 20
MAX_ABSENT = 60  # observations without a pool before its state is dropped


@dataclass
class _Cohort:
    """Pools that appeared together and share one instance of each policy."""

    pools: list[str]
    shapes: list[object]
    live: set[str]
    facts: PoolFacts
    policies: dict[str, PoolPolicy]
    forecasts: MinuteForecasts
    absent: Counter[str] = field(default_factory=Counter)

    def keep(self, shapes: Mapping[str, object]) -> None:
        """Blank the rows of pools that are long gone, or whose bounds or devices changed."""
        for name, shape in zip(self.pools, self.shapes, strict=True):
            if name not in shapes:
                self.absent[name] += 1
                if self.absent[name] > MAX_ABSENT:
                    self.live.discard(name)
                continue
            self.absent.pop(name, None)
            if shapes[name] != shape:
                self.live.discard(name)


@dataclass(frozen=True)
class Said:
    """One policy's output for all pools of a cohort, as plain numbers."""

    replicas: list[int]
    levels: list[float]
    delays_s: list[float]

    @classmethod
    def of(cls, facts: PoolFacts, action: Action) -> Said:
        """Convert from arrays: taking single numbers out of these would cost more than deciding."""
        return cls(action.replicas.tolist(), power_levels(facts, action).tolist(), action.batch_delay_s.tolist())


@dataclass(frozen=True, slots=True)
class PolicyProposals:
    """Each policy's output for one pool; converted to proposals only when accessed."""

    pool: PoolObservation
    row: int
    said: Mapping[str, Said]
    forecast: Forecast | None = None

    @property
    def expected(self) -> dict[str, float]:
        """Return the arrivals forecast for the next minute and the fifth, with their 90th percentiles."""
        if self.forecast is None:
            return {}
        mean, high = self.forecast.mean[self.row], self.forecast.high[self.row]
        names = [f"arrivals_in_{horizon}_min" for horizon in HORIZONS_MIN]
        expected_arrivals = dict(zip(names, mean.round(2).tolist(), strict=True))
        return expected_arrivals | {
            f"{name}_high": value for name, value in zip(names, high.round(2).tolist(), strict=True)
        }

    def by(self, policy: str) -> Proposal | None:
        """Return this policy's proposal; None for an unknown policy or an invalid number."""
        said = self.said.get(policy)
        if said is None:
            return None
        level, delay_s = said.levels[self.row], said.delays_s[self.row]
        if not math.isfinite(level + delay_s):
            return None
        replicas = said.replicas[self.row]
        return Proposal(policy, replicas, level, reason_for(self.pool, replicas), delay_s)

    def all(self) -> list[Proposal]:
        """Return the proposals of every policy."""
        return [proposal for name in self.said if (proposal := self.by(name)) is not None]


@dataclass
class ShadowPolicies:
    """Runs several policies on every pool.

    A pool whose facts change, or that is seen for the first time since a restart, is a new pool to the policies:
    they are shown its recent observations again.
    """

    makers: Mapping[str, PoolPolicyMaker]
    interval_s: float
    looks: PolicyWarmup = field(init=False)
    _cohorts: list[_Cohort] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.looks = PolicyWarmup(self.interval_s)

    def restore(self, kept: Mapping[str, Rows]) -> None:
        """Continue from the observations of a previous leader. Raises ValueError."""
        self.looks.restore(kept)
        self._cohorts = []

    def propose(self, pools: Sequence[PoolObservation], late_weight: float = 1.0) -> dict[str, PolicyProposals]:
        """Return proposals by pool."""
        by_name = {p.pool: p for p in pools}
        self._arrange(by_name)
        proposals: dict[str, PolicyProposals] = {}
        for cohort in self._cohorts:
            its = [by_name.get(name) if name in cohort.live else None for name in cohort.pools]
            columns = columns_of(its)
            self.looks.add([pool.pool if pool else None for pool in its], columns)
            seen = seen_from(columns, late_weight)
            forecast = cohort.forecasts.observe(seen.arrivals, self.interval_s)
            said = {name: Said.of(cohort.facts, policy.decide(seen)) for name, policy in cohort.policies.items()}
            proposals |= {
                pool.pool: PolicyProposals(pool, row, said, forecast)
                for row, pool in enumerate(its)
                if pool is not None
            }
        return proposals

    def _arrange(self, pools: Mapping[str, PoolObservation]) -> None:
        shapes = {name: _shape(pool) for name, pool in pools.items()}
        known: set[str] = set()
        for cohort in self._cohorts:
            cohort.keep(shapes)
            known |= cohort.live
        self._cohorts = [c for c in self._cohorts if c.live]
        new = [name for name in pools if name not in known]
        if new and len(self._cohorts) >= MAX_COHORTS:
            self._cohorts, new = [], list(pools)
        self._cohorts += [self._gather(names, pools, shapes) for names in self.looks.group_by_length(new)]
        if new:
            self.looks.forget_all_but(pool for cohort in self._cohorts for pool in cohort.pools)

    def _gather(self, names: list[str], pools: Mapping[str, PoolObservation], shapes: Mapping[str, object]) -> _Cohort:
        facts = facts_of([pools[name] for name in names], self.interval_s)
        policies = {name: make() for name, make in self.makers.items()}
        for policy in policies.values():
            policy.reset(facts)
        share_histories(policies.values())
        forecasts = MinuteForecasts(len(names))
        for seen in self.looks.shown(names):
            forecasts.observe(seen.arrivals, self.interval_s)
            for policy in policies.values():
                policy.decide(seen)
        return _Cohort(names, [shapes[name] for name in names], set(names), facts, policies, forecasts)


def _shape(pool: PoolObservation) -> object:
    bounds = pool.bounds
    # Measured load times vary: only a change by half counts as a new pool.
    load = round(math.log2(max(pool.load_time_s, 1e-3)) * 2)
    return bounds.ceiling, bounds.target_wait_s, load, pool.slots, id(pool.curve)
