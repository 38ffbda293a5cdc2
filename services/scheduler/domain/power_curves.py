"""Speed and power of a device at each power cap: the best fitting published sweep, scaled to the device."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np

from accelerator_autopilot.contracts.published_power_curves import published_sweeps
from accelerator_autopilot.scheduler.domain.pool_arrays import Doubles

REFERENCE = "resnet50"
TYPICAL = "a40"
IDLE_SHARE = 0.25  # share of the default power with a context open: A40 0.23, V100 0.28, A100 0.2 (Zeus, Perseus)
LOADING_SHARE = 0.2  # share of the range between idle and full power


@dataclass(frozen=True)
class PowerCurve:
    """[C] each, caps ascending to the device's default; one point where nothing can be capped."""

    cap_w: Doubles
    relative_time: Doubles
    power_w: Doubles
    idle_w: float

    @property
    def load_w(self) -> float:
        """The power while a model is loaded."""
        return self.idle_w + LOADING_SHARE * (float(self.cap_w[-1]) - self.idle_w)

    def cap_at(self, level: float) -> float:
        """Return the cap at a power level between the cheapest cap (0) and full power (1)."""
        low, high = self.span_w
        return low + min(max(level, 0.0), 1.0) * (high - low)

    @cached_property
    def span_w(self) -> tuple[float, float]:
        """Return the cap with the least energy per job, and full power."""
        return float(self.cap_w[(self.relative_time * self.power_w).argmin()]), float(self.cap_w[-1])


@cache
def published() -> dict[tuple[str, str], Doubles]:
    """Return [3, C] caps, relative time and watts of the published sweeps, by GPU and network."""
    return {key: np.array(sweep) for key, sweep in published_sweeps().items()}


@cache
def curve_of(model: str, default_w: float | None, low_w: float | None) -> PowerCurve:
    """Return the curve of a device model, the same object each time.

    A device that cannot be capped has one point.
    """
    if not default_w or not low_w or low_w >= default_w:
        watts = np.array([default_w or 1.0])
        return PowerCurve(watts, np.ones(1), watts, IDLE_SHARE * float(watts[0]))
    gpus = {gpu for gpu, _ in published()}
    gpu = next((g for g in gpus if g in model.lower()), TYPICAL)
    caps, relative_time, power_w = published()[gpu, REFERENCE]
    scale = default_w / caps[-1]
    keep = caps * scale >= low_w - 1e-6
    return PowerCurve(caps[keep] * scale, relative_time[keep], power_w[keep] * scale, IDLE_SHARE * default_w)
