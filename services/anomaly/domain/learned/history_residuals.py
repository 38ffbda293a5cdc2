"""Measure how far each metric is from its own past, on three horizons.

`long` and `short` are |x - m| / s with m an exponential mean over `span` rows and s the long-run mean of such
residuals, so that a channel that always fluctuates counts less. `local` is |x - median| / (1.4826 MAD + 0.1 standard
deviation): median and MAD are updated in steps of bounded size (the Huber form of stochastic approximation, Robbins and
Monro 1951), which a single spike hardly moves.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from accelerator_autopilot.anomaly.domain.last_values import Bools
from accelerator_autopilot.anomaly.domain.last_values import Slots as Indices
from accelerator_autopilot.anomaly.domain.learned.slot_tensors import Floats, Slots, quietly

LONG_SPAN, SHORT_SPAN, LOCAL_SPAN = 20_000, 3, 200
SCALE_SPAN = 20_000
SHORT_RATE = 2 / (SHORT_SPAN + 1)
LONG_CLIP, SHORT_CLIP, LOCAL_CLIP = 100.0, 10.0, 100.0
RANGE_SHARE = 0.01  # share of the largest value seen: the assumed minimum spread
SETTLED = 20  # rows before residuals are clipped, when the spread is unknown
MAD_TO_SIGMA, STD_SHARE = 1.4826, 0.1
TINY = 1e-12


@dataclass(frozen=True)
class Residual:
    """Distances of shape [rows, metrics], in spreads; zero where a value is missing or nothing is known yet."""

    long: Floats
    short: Floats
    local: Floats
    center: Floats


class HistoryResiduals:
    """Tracks each metric of each slot."""

    def __init__(self, metrics: int) -> None:
        names = ("count", "peak", "long_mean", "long_spread", "short_mean", "short_spread", "median", "mad")
        self.slots = Slots(dict.fromkeys((*names, "mean", "variance"), (metrics,)))

    @quietly
    def step(self, slots: Indices, x: Floats, learn: Bools) -> Residual:
        """Measure rows `x` [rows, metrics] (NaN: missing) and learn from those that `learn` [rows] allows."""
        s = self.slots.read(slots)
        known = np.isfinite(x)
        first = s["count"] == 0
        x = np.where(known, x, s["median"])
        for name in ("long_mean", "short_mean", "median", "mean"):
            s[name] = np.where(first, x, s[name])
        s["peak"] = np.maximum(s["peak"], np.abs(x))
        seen = known & (s["count"] > 1)
        takes = known & learn[:, None]
        s["count"] = s["count"] + takes.astype(np.float32)
        # The short horizon adapts even while learning is paused: otherwise any ongoing change would stay far
        # from it.
        recent = known & (s["count"] > 0)
        warm = s["count"] > SETTLED
        once = 1.0 / np.maximum(s["count"], 1)
        floor = RANGE_SHARE * s["peak"] + TINY
        long = self._horizon(s, "long", x, floor, once, takes, warm, LONG_SPAN, LONG_CLIP)
        short = self._horizon(s, "short", x, floor, once, takes, warm, SHORT_SPAN, SHORT_CLIP)
        s["short_mean"] = np.where(
            recent & ~takes, s["short_mean"] + SHORT_RATE * (x - s["short_mean"]), s["short_mean"]
        )
        local = self._local(s, x, once, recent)
        self.slots.write(slots, s)
        zero = np.float32(0)
        return Residual(
            np.where(seen, long, zero),
            np.where(seen, short, zero),
            np.where(known & (s["count"] > SETTLED / 2), local, zero),
            s["median"],
        )

    @staticmethod
    def _horizon(
        s: dict[str, Floats],
        name: str,
        x: Floats,
        floor: Floats,
        once: Floats,
        takes: Bools,
        warm: Bools,
        span: int,
        clip: float,
    ) -> Floats:
        mean, spread = s[f"{name}_mean"], s[f"{name}_spread"]
        away = np.abs(x - mean)
        scale = spread + floor
        z: Floats = np.minimum(away / scale, clip)
        bounded = np.where(warm, np.minimum(away, clip * scale), away)
        rate = np.maximum(once, 2 / (span + 1)) * takes
        s[f"{name}_mean"] = mean + rate * (x - mean)
        s[f"{name}_spread"] = spread + np.maximum(once, 2 / (SCALE_SPAN + 1)) * takes * (bounded - spread)
        return z

    @staticmethod
    def _local(s: dict[str, Floats], x: Floats, once: Floats, takes: Bools) -> Floats:
        median, mad = s["median"], s["mad"]
        scale = MAD_TO_SIGMA * mad + STD_SHARE * np.sqrt(s["variance"]) + 1e-6 * np.abs(median) + TINY
        away = x - median
        z: Floats = np.minimum(np.abs(away) / scale, LOCAL_CLIP)
        rate = np.maximum(once, 2 / (LOCAL_SPAN + 1)) * takes
        early = s["count"] <= SETTLED / 2
        s["median"] = median + rate * np.where(early, away, np.clip(away, -scale, scale))
        change = np.abs(away) - mad
        s["mad"] = mad + rate * np.where(early, change, np.clip(change, -scale, scale))
        off = x - s["mean"]
        s["mean"] = s["mean"] + rate * off
        s["variance"] = (1 - rate) * (s["variance"] + rate * off * off)
        return z
