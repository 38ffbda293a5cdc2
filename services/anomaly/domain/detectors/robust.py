"""One robust streaming statistic per device and metric: distance from the running median in spreads.

The median and the mean absolute deviation follow by small bounded steps (a stochastic approximation,
Robbins and Monro 1951), so an outlier moves them no further than any other sample. All metrics of
one tick are updated together as arrays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from services.anomaly.domain.finding import Finding, QuietDetector, Tick
from shared.messages.alerts import Evidence
from shared.metrics_catalogue import METRICS

if TYPE_CHECKING:
    from services.anomaly.domain.detectors import Tuning

WATCHED = tuple(m for m in METRICS if m.noise_floor is not None)
FLOORS = np.array([m.noise_floor for m in WATCHED])
WARM_UP_TICKS = 60
RATE = 0.02
MAD_TO_SIGMA = 1.4826
OPEN_AFTER_S, CLEAR_AFTER_S = 10.0, 10.0


class RobustDetector(QuietDetector):
    """Fires while a watched metric is further from its usual than `threshold` spreads."""

    name = "robust"

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._state: dict[tuple[str, str], tuple[Any, Any, int]] = {}

    def on_tick(self, tick: Tick) -> list[Finding]:
        """Score each device, then learn from its sample."""
        findings = []
        for device, sample in tick.samples.items():
            values = np.array([sample.get(m.name, np.nan) for m in WATCHED])
            if np.isnan(values).all():
                continue
            median, spread, count = self._state.get((tick.node, device), (values.copy(), FLOORS / 2, 0))
            median = np.where(np.isnan(median), values, median)
            sigma = np.maximum(FLOORS, MAD_TO_SIGMA * spread)
            score = np.abs(values - median) / sigma
            if count >= WARM_UP_TICKS:
                findings += self._findings(tick, device, values, median, score)
            step = np.nan_to_num(RATE * sigma * np.clip((values - median) / sigma, -1, 1))
            deviation = np.minimum(np.abs(values - median), 3 * sigma)
            spread = spread + np.nan_to_num(RATE * (deviation - spread))
            self._state[tick.node, device] = (median + step, spread, count + 1)
        return findings

    def _findings(self, tick: Tick, device: str, values: Any, median: Any, score: Any) -> list[Finding]:
        return [
            Finding(
                tick.node,
                device,
                f"unusual_{metric.name}",
                bool(score[i] > self._threshold),
                summary=f"{metric.name} is {values[i]:.1f} {metric.unit}, usually {median[i]:.1f}",
                action="compare with load and neighbours",
                open_after_s=OPEN_AFTER_S,
                clear_after_s=CLEAR_AFTER_S,
                evidence=(
                    Evidence(
                        metric=metric.name,
                        value=float(values[i]),
                        expected=f"about {median[i]:.1f}",
                        at=tick.at,
                    ),
                    Evidence(
                        metric="score",
                        value=float(score[i]),
                        expected=f"below {self._threshold:g}",
                        at=tick.at,
                    ),
                ),
                simulated=device in tick.simulated,
            )
            for i, metric in enumerate(WATCHED)
            if not np.isnan(values[i])
        ]


def make(tuning: Tuning) -> RobustDetector:
    """Build it."""
    return RobustDetector(tuning.robust_threshold)
