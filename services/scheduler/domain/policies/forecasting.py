"""forecasting: enough workers for the demand expected soon, and to clear the backlog within the target wait."""

from __future__ import annotations

import math

from services.scheduler.domain.forecast import HoltForecast
from services.scheduler.domain.observation import PoolObservation, Proposal, Reason

HORIZON_S = 10.0
TARGET_UTILISATION = 0.8
UNKNOWN_SERVICE_S = 0.5


class ForecastingPolicy:
    """Little's law on the forecast, plus the backlog over the target wait."""

    name = "forecasting"

    def __init__(self) -> None:
        self._forecasts: dict[str, HoltForecast] = {}

    def propose(self, seen: PoolObservation) -> Proposal:
        """Workers = (forecast x service time / utilisation) + (backlog x service time / target wait)."""
        forecast = self._forecasts.setdefault(seen.pool, HoltForecast())
        forecast.observe(seen.arrival_rate, seen.at)
        rate = forecast.ahead(HORIZON_S)
        service_s = seen.service_s if seen.service_s is not None else UNKNOWN_SERVICE_S
        steady = rate * service_s / TARGET_UTILISATION
        catching_up = seen.backlog * service_s / seen.bounds.target_wait_s
        replicas = math.ceil(max(steady, catching_up) - 1e-9) if seen.backlog or rate > 1e-3 else 0
        reason: Reason = "no_change"
        if replicas > seen.desired:
            reason = "backlog" if catching_up >= steady else "demand_forecast"
        elif replicas < seen.desired:
            reason = "idle"
        evidence = seen.numbers | {
            "forecast_rate": round(rate, 4),
            "steady": round(steady, 3),
            "catching_up": round(catching_up, 3),
        }
        return Proposal(replicas, reason, evidence, full_power=catching_up > max(1, seen.ready))


def make() -> ForecastingPolicy:
    """Build it."""
    return ForecastingPolicy()
