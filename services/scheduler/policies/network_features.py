"""The network's input features: dimensionless numbers, so that one network serves pools of any size and speed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from accelerator_autopilot.scheduler.domain.pool_arrays import Doubles, PoolFacts, PoolObservations, relative_time
from accelerator_autopilot.scheduler.policies.action_mapping import proposed
from accelerator_autopilot.scheduler.policies.demand import WINDOWS_S, Demand
from accelerator_autopilot.scheduler.policies.forecasting import HORIZONS_MIN

Floats = NDArray[np.float32]
LATE_PRICES = (2.0, 80.0)  # cost of a late job, in mean energies of a job

FEATURES = (
    "ready", "busy", "loading", "queued", "drain", "oldest_wait", "idle_share", "demand",
    *(f"peak_{w:g}s" for w in WINDOWS_S),
    *(f"peak_now_{w:g}s" for w in WINDOWS_S[2::2]),
    "offered",
    *(f"offered_{w:g}s" for w in WINDOWS_S),
    "quiet", "late_share", "caution", "late_price", "plain", "missing", "power",
    "slow_now", "slow_cheapest", "energy_cheapest", "idle_cost", "load_cost",
    "load_to_slack", "work_to_slack", "interval_to_slack", "load_to_interval", "size", "slots",
    *(f"{name}_{minutes}min" for minutes in HORIZONS_MIN for name in ("forecast", "forecast_high")),
)  # fmt: skip


def features(
    facts: PoolFacts, seen: PoolObservations, demand: Demand, rule: Doubles, caution: Doubles, late_price: Doubles
) -> Floats:
    """Return [P, len(FEATURES)], each within about -3 and 3; `rule` [P, len(OUTPUTS)] are the gains to correct."""
    at = np.arange(len(facts))
    asked = proposed(facts, seen, demand, rule)
    plain = asked.replicas
    cheapest = facts.cheapest
    per_slack = np.minimum(1.0, demand.work_s / facts.slack_s)
    full_w = facts.power_w[:, -1]
    low, high = np.log(LATE_PRICES)
    columns = [
        *(_few(x) for x in (seen.ready, seen.busy, seen.loading, seen.queue_depth, seen.queue_depth * per_slack)),
        np.clip(seen.oldest_wait_s / facts.slack_s, 0, 3),
        np.clip(seen.ready - seen.busy, 0, None) / np.maximum(seen.ready, 1),
        _few(demand.now),
        *_few(demand.peak).T,
        *_few(demand.peak_now[:, 2::2]).T,
        _few(demand.offered),
        *_few(demand.rate * demand.work_s[:, None]).T,
        np.log1p(demand.quiet_s / facts.load_time_s),
        np.clip(demand.late_share / 0.01, 0, 4) / 2,
        caution,
        (np.log(late_price) - (low + high) / 2) / (high - low) * 2,
        _few(plain),
        np.clip((plain - seen.ready - seen.loading) / np.sqrt(1 + plain), -3, 3),
        asked.power,
        relative_time(facts, seen.power_cap_w) - 1.0,
        facts.relative_time[at, cheapest] - 1.0,
        1.0 - facts.relative_energy[at, cheapest],
        facts.idle_w / full_w * 2,
        facts.load_w / full_w * 2,
        _about(facts.load_time_s / facts.slack_s),
        _about(demand.work_s / facts.slack_s),
        _about(facts.interval_s / facts.slack_s),
        _about(facts.load_time_s / facts.interval_s),
        _few(facts.max_replicas) - 2,
        np.log2(facts.slots) / 2,
        *_few(demand.forecast * demand.work_s[:, None]).T,
    ]
    return np.stack(columns, axis=1).astype(np.float32)


def _few(count: NDArray[np.int64] | Doubles) -> Doubles:
    spread: Doubles = np.log1p(count) - 1.0
    return spread


def _about(ratio: Doubles) -> Doubles:
    spread: Doubles = np.clip(np.log(ratio), -3, 3)
    return spread
