"""Convert observations of pools to the arrays that policies read, and back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from accelerator_autopilot.scheduler.domain.observation import PoolObservation
from accelerator_autopilot.scheduler.domain.pool_arrays import Action, Doubles, PoolFacts, PoolObservations

COLUMNS = (
    "time_s", "queue_depth", "oldest_wait_s", "arrivals", "completions", "mean_service_s", "ready", "busy", "loading",
    "power_cap_w", "power_w",
)  # fmt: skip
MISSING_POOL = (0.0,) * len(COLUMNS)


def facts_of(pools: Sequence[PoolObservation], interval_s: float) -> PoolFacts:
    """Return the facts that do not change between decisions."""
    most = max(len(p.curve.cap_w) for p in pools)
    return PoolFacts(
        max_replicas=np.array([p.bounds.ceiling for p in pools], np.int64),
        interval_s=np.full(len(pools), interval_s),
        load_time_s=np.array([p.load_time_s for p in pools]),
        slack_s=np.array([p.bounds.target_wait_s for p in pools]),
        slots=np.array([p.slots for p in pools], np.int64),
        idle_w=np.array([p.curve.idle_w for p in pools]),
        load_w=np.array([p.curve.load_w for p in pools]),
        cap_w=_padded([p.curve.cap_w for p in pools], most),
        relative_time=_padded([p.curve.relative_time for p in pools], most),
        power_w=_padded([p.curve.power_w for p in pools], most),
    )


def _padded(rows: Sequence[Doubles], length: int) -> Doubles:
    return np.stack([np.concatenate([row, np.full(length - len(row), row[-1])]) for row in rows])


def columns_of(pools: Sequence[PoolObservation | None]) -> Doubles:
    """Return [len(COLUMNS), P] the current observations; None is a pool that is missing."""
    columns: Doubles = np.array(
        [
            (
                p.at.timestamp(),
                p.waiting,
                p.oldest_wait_s,
                p.arrivals,
                p.completions,
                np.nan if p.service_s is None else p.service_s,
                p.ready,
                p.busy,
                p.starting,
                p.curve.cap_at(p.power_level),
                p.power_w,
            )
            if p
            else MISSING_POOL
            for p in pools
        ],
        float,
    ).T
    return columns


def seen_from(columns: Doubles, late_weight: float = 1.0) -> PoolObservations:
    """Return the observations for policies. Impossible values (negative, not finite) count as unobserved."""
    clean = np.where(np.isfinite(columns) & (columns >= 0), columns, 0.0)
    counts = clean.astype(np.int64)
    service_s = np.where(clean[5] > 0, clean[5], np.nan)
    return PoolObservations(
        time_s=clean[0],
        queue_depth=counts[1],
        oldest_wait_s=clean[2],
        arrivals=counts[3],
        completions=np.where(np.isnan(service_s), 0, counts[4]),
        mean_service_s=service_s,
        ready=counts[6],
        busy=counts[7],
        loading=counts[8],
        power_cap_w=clean[9],
        power_w=clean[10],
        late_weight=late_weight,
    )


def power_levels(facts: PoolFacts, action: Action) -> Doubles:
    """Return [P] where each cap lies between the pool's cheapest (0) and full power (1)."""
    low = facts.cap_w[np.arange(len(facts)), facts.cheapest]
    span = facts.cap_w[:, -1] - low
    levels: Doubles = np.where(span > 0, (action.power_cap_w - low) / np.where(span > 0, span, 1.0), 1.0)
    return np.clip(levels, 0.0, 1.0)
