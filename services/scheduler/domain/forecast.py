"""Demand forecast: damped Holt smoothing (Gardner and McKenzie 1985), one number at a time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

LEVEL_TIME_S, TREND_TIME_S, DAMPING = 10.0, 60.0, 0.9


@dataclass
class HoltForecast:
    """Level and trend of a rate; steps of any length."""

    level: float | None = None
    trend: float = 0.0
    at: datetime | None = None

    def observe(self, value: float, at: datetime) -> None:
        """Take one more observation in."""
        if self.level is None or self.at is None:
            self.level, self.at = value, at
            return
        dt_s = (at - self.at).total_seconds()
        if dt_s <= 0:
            return
        alpha, beta = min(1.0, dt_s / LEVEL_TIME_S), min(1.0, dt_s / TREND_TIME_S)
        before = self.level
        expected = self.level + self.trend * dt_s
        self.level = expected + alpha * (value - expected)
        self.trend += beta * ((self.level - before) / dt_s - self.trend)
        self.at = at

    def ahead(self, horizon_s: float) -> float:
        """The rate expected after a while, never negative."""
        if self.level is None:
            return 0.0
        return max(0.0, self.level + DAMPING * self.trend * horizon_s)
