"""Forecast arrivals with an interval: simple forecasters weighted by their recent errors, for many pools at once.

No single forecaster wins on published traces: the last value does over a minute, means do on bursty code traffic, the
time of day over hours. The weights are those of exponentially weighted experts with sharing (Herbster and Warmuth
1998), so that what was bad yesterday can win today; the interval is the spread of the mixture's own recent errors,
which needs no assumption about their distribution.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from accelerator_autopilot.scheduler.domain.pool_arrays import Doubles, Ints

MEANS = (3, 6, 12, 30)
SMOOTHINGS = (0.5, 0.2, 0.05)
DAMPING, TREND = 0.9, 0.1
LEARNING, SHARING, FADE = 2.0, 0.02, 0.98
RESIDUALS = 60
LOW, HIGH = 0.1, 0.9
MINUTE_S, HORIZONS_MIN = 60.0, (1, 5)


@dataclass(frozen=True)
class Forecast:
    """[P, H] arrivals in each period, H horizons."""

    mean: Doubles
    low: Doubles  # 10th percentile
    high: Doubles  # 90th percentile


class Forecaster:
    """One call of `observe` per period. A `season` of this many periods is a day; 0: no season."""

    def __init__(self, pools: int, horizons: tuple[int, ...], season: int = 0) -> None:
        self.horizons, self._season = horizons, season
        self._kept = max(*MEANS, season + max(horizons)) + 1
        self._values = np.zeros((pools, 0))
        self._smooth = np.zeros((pools, len(SMOOTHINGS)))
        self._level, self._trend = np.zeros(pools), np.zeros(pools)
        experts = 1 + len(MEANS) + len(SMOOTHINGS) + 1 + (2 if season else 0)
        self._weights = np.full((pools, len(horizons), experts), 1.0 / experts)
        self._scale = np.full((pools, len(horizons)), np.nan)
        self._pending: list[list[Doubles]] = [[] for _ in horizons]  # each: [P, experts], oldest first
        self._residuals = np.full((pools, len(horizons), RESIDUALS), np.nan)
        self._count = 0

    def observe(self, arrivals: Doubles) -> Forecast:
        """Process a period, and forecast the next ones."""
        value = arrivals.astype(float)
        self._learn(value)
        self._values = np.concatenate([self._values, value[:, None]], axis=1)[:, -self._kept :]
        rates = np.array(SMOOTHINGS) if self._count else np.ones(len(SMOOTHINGS))
        self._smooth += rates * (value[:, None] - self._smooth)
        before = self._level
        self._level = value if not self._count else before + DAMPING * self._trend
        self._level = self._level + 0.3 * (value - self._level)
        self._trend = DAMPING * self._trend + TREND * (self._level - before - DAMPING * self._trend)
        self._count += 1
        means = []
        for index, horizon in enumerate(self.horizons):
            forecasts = self._experts(horizon)
            self._pending[index].append(forecasts)
            means.append((self._weights[:, index] * forecasts).sum(axis=1))
        mean = np.stack(means, axis=1)
        low, high = self._spread()
        return Forecast(mean, np.maximum(0.0, mean + low), np.maximum(mean + high, 0.0))

    def _spread(self) -> tuple[Doubles, Doubles]:
        low, high = np.zeros(self._scale.shape), np.zeros(self._scale.shape)
        for index, horizon in enumerate(self.horizons):
            count = min(RESIDUALS, self._count - horizon)
            if count > 0:
                ordered = np.sort(self._residuals[:, index, :count], axis=1)
                low[:, index] = ordered[:, int(LOW * (count - 1))]
                high[:, index] = ordered[:, int(np.ceil(HIGH * (count - 1)))]
        return low, high

    def _experts(self, horizon: int) -> Doubles:
        values = self._values
        damped = sum(DAMPING**step for step in range(1, horizon + 1))
        forecasts = [values[:, -1], *(values[:, -n:].mean(axis=1) for n in MEANS), *self._smooth.T]
        forecasts.append(self._level + damped * self._trend)
        if self._season:
            forecasts += self._seasonal(horizon)
        answers: Doubles = np.maximum(np.stack(forecasts, axis=1), 0.0)
        return answers

    def _seasonal(self, horizon: int) -> list[Doubles]:
        values = self._values
        if values.shape[1] < self._season:
            return [values[:, -1], values[:, -1]]
        then = values[:, values.shape[1] - 1 - self._season + horizon]
        around = values[:, -self._season - 1 :][:, : MEANS[1]].mean(axis=1)
        level = values[:, -MEANS[1] :].mean(axis=1) / np.maximum(around, 1e-9)
        return [then, then * np.clip(level, 0.25, 4.0)]

    def _learn(self, value: Doubles) -> None:
        for index, horizon in enumerate(self.horizons):
            if len(self._pending[index]) < horizon:
                continue
            forecasts = self._pending[index].pop(0)
            weights = self._weights[:, index]
            residual = value - (weights * forecasts).sum(axis=1)
            self._residuals[:, index, (self._count - horizon) % RESIDUALS] = residual
            error = np.abs(forecasts - value[:, None])
            scale = self._scale[:, index]
            typical = error.mean(axis=1)
            scale = np.where(np.isnan(scale), typical, FADE * scale + (1 - FADE) * typical)
            self._scale[:, index] = scale
            gain = np.exp(-LEARNING * (1 - FADE) * 10 * error / np.maximum(scale, 1e-9)[:, None])
            weights = weights * gain
            weights /= weights.sum(axis=1, keepdims=True)
            self._weights[:, index] = (1 - SHARING) * weights + SHARING / weights.shape[1]


class MinuteForecasts:
    """Forecasts of arrivals for the next minute and the fifth, updated each minute."""

    def __init__(self, pools: int) -> None:
        self._forecaster = Forecaster(pools, HORIZONS_MIN)
        self._minute = np.zeros(pools)
        self._lasted_s = 0.0
        self.latest: Forecast | None = None

    def observe(self, arrivals: Ints, period_s: float) -> Forecast | None:
        """Process a period. None until the first minute is over."""
        self._minute = self._minute + arrivals
        self._lasted_s += period_s
        if self._lasted_s >= MINUTE_S:
            self.latest = self._forecaster.observe(self._minute * (MINUTE_S / self._lasted_s))
            self._minute, self._lasted_s = np.zeros(len(self._minute)), 0.0
        return self.latest
