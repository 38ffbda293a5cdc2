"""The policies side by side: each sees every pool, one of them decides for it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from services.scheduler.domain.forecasting import HORIZONS_MIN, Forecast, MinuteForecasts
from services.scheduler.domain.observation import PoolObservation, Proposal, reason_for
from services.scheduler.domain.policy import PoolPolicy, PoolPolicyMaker
from services.scheduler.domain.pool import Action, Doubles, PoolFacts
from services.scheduler.domain.pool_rows import facts_of, power_levels, seen_of

MOST_COHORTS = 8
MOST_ABSENT = 60  # looks without a pool before its memory is dropped


@dataclass
class _Cohort:
    """Pools that came together and share one instance of each policy."""

    pools: list[str]
    shapes: list[object]
    live: set[str]
    facts: PoolFacts
    policies: dict[str, PoolPolicy]
    forecasts: MinuteForecasts
    absent: Counter[str] = field(default_factory=Counter)

    def keep(self, shapes: Mapping[str, object]) -> None:
        """A pool that is long gone, or whose bounds or devices changed, is an empty row from now on."""
        for name, shape in zip(self.pools, self.shapes, strict=True):
            if name not in shapes:
                self.absent[name] += 1
                if self.absent[name] > MOST_ABSENT:
                    self.live.discard(name)
                continue
            self.absent.pop(name, None)
            if shapes[name] != shape:
                self.live.discard(name)


@dataclass(frozen=True)
class Opinions:
    """What each policy said of one pool; made into proposals only where somebody looks."""

    pool: PoolObservation
    row: int
    said: Mapping[str, tuple[Action, Doubles]]
    forecast: Forecast | None = None

    @property
    def expected(self) -> dict[str, float]:
        """Arrivals forecast for the next minute and for the fifth, with what nine in ten stay below."""
        if self.forecast is None:
            return {}
        mean, high = self.forecast.mean[self.row], self.forecast.high[self.row]
        names = [f"arrivals_in_{horizon}_min" for horizon in HORIZONS_MIN]
        told = dict(zip(names, mean.round(2).tolist(), strict=True))
        return told | {f"{name}_high": value for name, value in zip(names, high.round(2).tolist(), strict=True)}

    def by(self, policy: str) -> Proposal | None:
        """What this policy proposes; None where there is no such policy or its number is none."""
        if policy not in self.said:
            return None
        action, levels = self.said[policy]
        level, delay_s = float(levels[self.row]), float(action.batch_delay_s[self.row])
        if not math.isfinite(level + delay_s):
            return None
        replicas = int(action.replicas[self.row])
        return Proposal(policy, replicas, level, reason_for(self.pool, replicas), delay_s)

    def all(self) -> list[Proposal]:
        """Of every policy."""
        return [proposal for name in self.said if (proposal := self.by(name)) is not None]


@dataclass
class Panel:
    """Opinions of several policies on every pool; memory of a pool lasts while its facts stay the same."""

    makers: Mapping[str, PoolPolicyMaker]
    interval_s: float
    _cohorts: list[_Cohort] = field(default_factory=list)

    def propose(self, pools: Sequence[PoolObservation], late_weight: float = 1.0) -> dict[str, Opinions]:
        """By pool."""
        by_name = {p.pool: p for p in pools}
        self._arrange(by_name)
        opinions: dict[str, Opinions] = {}
        for cohort in self._cohorts:
            its = [by_name.get(name) if name in cohort.live else None for name in cohort.pools]
            seen = seen_of(its, late_weight)
            forecast = cohort.forecasts.observe(seen.arrivals, self.interval_s)
            said: dict[str, tuple[Action, Doubles]] = {}
            for name, policy in cohort.policies.items():
                action = policy.decide(seen)
                said[name] = action, power_levels(cohort.facts, action)
            opinions |= {
                pool.pool: Opinions(pool, row, said, forecast) for row, pool in enumerate(its) if pool is not None
            }
        return opinions

    def _arrange(self, pools: Mapping[str, PoolObservation]) -> None:
        shapes = {name: _shape(pool) for name, pool in pools.items()}
        known: set[str] = set()
        for cohort in self._cohorts:
            cohort.keep(shapes)
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
            forecasts = MinuteForecasts(len(new))
            self._cohorts.append(_Cohort(new, [shapes[n] for n in new], set(new), facts, policies, forecasts))


def _shape(pool: PoolObservation) -> object:
    bounds = pool.bounds
    # Load times are measured and wander: only a change by half makes another pool of it.
    load = round(math.log2(max(pool.load_time_s, 1e-3)) * 2)
    return bounds.ceiling, bounds.target_wait_s, load, pool.slots, id(pool.curve)
