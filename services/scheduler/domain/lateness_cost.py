"""The current cost of a late job, from the operator's weights, prices and carbon intensity. Pure."""

from __future__ import annotations

from datetime import datetime

from accelerator_autopilot.contracts.messages.commands import FleetPolicy, TimedValue
from accelerator_autopilot.scheduler.domain.time_of_day import mean_of, value_at


def late_weight(policy: FleetPolicy, now: datetime) -> float:
    """Return how much lateness weighs against energy, 1 by default.

    When a kWh costs more than the day's mean, or emits more carbon, and the operator gives that weight, energy
    counts for more and lateness for less.
    """
    objective = policy.objective
    price, carbon = _against_mean(policy.prices, now), _against_mean(policy.carbon, now)
    saving = objective.energy + objective.cost * price + objective.carbon * carbon
    if saving <= 0:
        return objective.latency
    # With equal weights for energy and latency, and no prices, this is one.
    return objective.latency / saving


def _against_mean(table: list[TimedValue], now: datetime) -> float:
    mean = mean_of(table, 0.0)
    return value_at(table, now, mean) / mean if mean > 0 else 1.0
