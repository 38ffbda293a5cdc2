"""Score how rarely a metric was near its present value, level and variability before.

Six views of a metric: its value, its level over 20 rows, the level of its logarithm over 20 and 100 rows, the logarithm
of its variability (mean absolute step over 20 rows), and its difference from one season ago. Each view keeps a
histogram of its whole past; its surprise is -log10 of the share of the past that lay within a window around the
present. Leaving the range seen so far adds to it. Surprises of the views add up, as log-probabilities do.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from accelerator_autopilot.anomaly.domain.last_values import Bools
from accelerator_autopilot.anomaly.domain.last_values import Slots as Indices
from accelerator_autopilot.anomaly.domain.learned.seasonal_memory import SeasonalMemory
from accelerator_autopilot.anomaly.domain.learned.slot_tensors import Floats, Slots, quietly

WARM_UP_ROWS = 100
BINS, BIN_WIDTH = 64, 0.2  # bins of asinh((x - c) / q): even steps near the middle, even ratios far out
VIEWS = ("value", "level", "log_level", "log_level_slow", "variability", "off_season")
WINDOW = (1.0, 1.0, 0.3, 0.3, 0.3, 0.3)  # half width of "near", in mean absolute deviations
WEIGHT = (0.2, 0.9, 0.35, 0.15, 1.0, 0.5)
RANGE_WEIGHT, RANGE_GAIN, MAX_RANGE = (1.25, 0.3, 0.5), 20.0, 2.0
RANGE_FORGET = 0.1 * 2 / 5001
FAST, SLOW = 2 / 21, 2 / 101
TINY = 1e-9
ZERO = np.float32(0)


class DensityScore:
    """Tracks the histograms of each slot's metrics."""

    def __init__(self, metrics: int) -> None:
        views = (len(VIEWS), metrics)
        self._window = np.array(WINDOW, np.float32)[:, None]
        self._weight = np.array(WEIGHT, np.float32)[:, None]
        self.seasons = SeasonalMemory(metrics)
        self.slots = Slots(
            {
                "count": (metrics,), "last": (metrics,), "unit": (metrics,), "steps": (metrics,),
                "level": (metrics,), "log_level": (metrics,), "log_level_slow": (metrics,), "step_level": (metrics,),
                "mean": views, "spread": views, "early": (*views, WARM_UP_ROWS), "center": views, "width": views,
                "bins": (*views, BINS), "high": (3, metrics), "low": (3, metrics),
            }
        )  # fmt: skip

    @quietly
    def step(self, slots: Indices, x: Floats, learn: Bools) -> Floats:
        """Return the surprise [rows, metrics] of rows `x` [rows, metrics] (NaN: missing, no surprise)."""
        s = self.slots.read(slots)
        known = np.isfinite(x)
        x = np.where(known, x, s["last"])
        takes = known & learn[:, None]
        off, anew = self.seasons.step(slots, x, s["spread"][:, 0], takes)
        self._restart(s, off, anew)
        views = np.concatenate([self._views(s, x), off[:, None]], 1)
        score = self._rarity(s, views, takes) + self._beyond(s, x, views, takes)
        warm = known & (s["count"] > WARM_UP_ROWS)
        s["count"] = s["count"] + takes.astype(np.float32)
        self.slots.write(slots, s)
        return np.where(warm, score, ZERO)

    @staticmethod
    def _restart(s: dict[str, Floats], off: Floats, anew: Bools) -> None:
        """Reset the seasonal view where its season changed, and with it the view's meaning."""
        if anew.any():
            s["bins"][:, 5] = np.where(anew[..., None], ZERO, s["bins"][:, 5])
            for side in ("high", "low"):
                s[side][:, 2] = np.where(anew, off, s[side][:, 2])

    @staticmethod
    def _views(s: dict[str, Floats], x: Floats) -> Floats:
        """Return all views but the last, [rows, views, metrics]; smoothing continues where nothing is learned."""
        n = s["count"]
        first = n == 0
        once = 1 / (n + 1)
        # The logarithm's unit is the usual size of the first values, permanently: a view must not change its
        # meaning.
        s["unit"] = np.where(n < WARM_UP_ROWS, s["unit"] + once * (np.abs(x) - s["unit"]), s["unit"])
        log = np.arcsinh(x / np.maximum(s["unit"], TINY))
        step = np.where(first, ZERO, np.abs(x - s["last"]))
        s["steps"] = s["steps"] + once * (step - s["steps"])
        fast, slow = np.maximum(once, FAST), np.maximum(once, SLOW)
        s["level"] = s["level"] + fast * (x - s["level"])
        s["log_level"] = s["log_level"] + fast * (log - s["log_level"])
        s["log_level_slow"] = s["log_level_slow"] + slow * (log - s["log_level_slow"])
        s["step_level"] = s["step_level"] + fast * (step - s["step_level"])
        s["last"] = x
        variability = np.log(s["step_level"] + 1e-3 * s["steps"] + TINY)
        return np.stack([x, s["level"], s["log_level"], s["log_level_slow"], variability], 1)

    def _rarity(self, s: dict[str, Floats], views: Floats, takes: Bools) -> Floats:
        count = s["count"][:, None, :]
        rate = takes[:, None, :] / (count + 1)
        start = np.where(count == 0, views, s["mean"])
        s["spread"] = s["spread"] + rate * (np.abs(views - start) - s["spread"])
        s["mean"] = start + rate * (views - start)
        self._settle(s, views, takes)
        center, width = s["center"], np.maximum(s["width"], 1e-30)
        reach = self._window * s["spread"]
        low, high = _bin(views - reach, center, width), _bin(views + reach, center, width)
        total = s["bins"].cumsum(-1)
        upto = _at(total, high)
        below = np.where(low > 0, _at(total, np.maximum(low - 1, 0)), ZERO)
        near = upto - below
        rarity = -np.log10((near + 1) / (total[..., -1] + 1))
        counts = (takes & (s["count"] >= WARM_UP_ROWS))[:, None, :].astype(np.float32)
        here = _bin(views, center, width)
        np.put_along_axis(s["bins"], here[..., None], (_at(s["bins"], here) + counts)[..., None], axis=-1)
        rare: Floats = (self._weight * rarity).sum(1)
        return rare

    @staticmethod
    def _settle(s: dict[str, Floats], views: Floats, takes: Bools) -> None:
        """Buffer the first rows, then choose the histogram's centre and width from them."""
        early = takes & (s["count"] < WARM_UP_ROWS)
        if not early.any():
            return
        place = np.minimum(s["count"].astype(np.int64), WARM_UP_ROWS - 1)[:, None, :]
        at = np.broadcast_to(place, views.shape)
        kept = np.where(early[:, None, :], views, _at(s["early"], at))
        np.put_along_axis(s["early"], at[..., None], kept[..., None], axis=-1)
        full = (early & (s["count"] == WARM_UP_ROWS - 1))[:, None, :]
        if not full.any():
            return
        middle = (WARM_UP_ROWS - 1) // 2
        center = np.partition(s["early"], middle, axis=-1)[..., middle]
        width = np.maximum(0.5 * np.abs(s["early"] - center[..., None]).mean(-1), 1e-3 * np.abs(center) + TINY)
        s["center"] = np.where(full, center, s["center"])
        s["width"] = np.where(full, width, s["width"])
        bins = _bin(s["early"], s["center"][..., None], np.maximum(s["width"], 1e-30)[..., None])
        s["bins"] = np.where(full[..., None], _histograms(bins), s["bins"])

    @staticmethod
    def _beyond(s: dict[str, Floats], x: Floats, views: Floats, takes: Bools) -> Floats:
        """Return how far the log value, the variability and the seasonal view lie outside the range seen so far."""
        log = np.arcsinh(x / np.maximum(s["unit"], TINY))
        now = np.stack([log, views[:, 4], views[:, 5]], 1)
        first = (s["count"] < 1)[:, None, :]
        high = np.where(first, now, s["high"])
        low = np.where(first, now, s["low"])
        over = np.maximum(np.maximum(now - high, low - now), 0) / (high - low + TINY)
        middle = (high + low) / 2
        fade = takes[:, None, :] * np.float32(RANGE_FORGET)
        s["high"] = np.where(takes[:, None, :], np.maximum(now, high - fade * (high - middle)), high)
        s["low"] = np.where(takes[:, None, :], np.minimum(now, low + fade * (middle - low)), low)
        weight = np.array(RANGE_WEIGHT, np.float32)[:, None]
        far: Floats = (weight * np.minimum(RANGE_GAIN * over, MAX_RANGE)).sum(1)
        return far


def _bin(x: Floats, center: Floats, width: Floats) -> Indices:
    half = BINS // 2
    place = np.floor(np.arcsinh((x - center) / width) / BIN_WIDTH) + half
    bins: Indices = np.clip(np.nan_to_num(place, nan=half, posinf=BINS - 1, neginf=0), 0, BINS - 1).astype(np.int64)
    return bins


def _at(values: Floats, places: npt.NDArray[np.int64]) -> Floats:
    """Pick one value of the last axis for each index."""
    return np.take_along_axis(values, places[..., None], axis=-1)[..., 0]


def _histograms(bins: npt.NDArray[np.int64]) -> Floats:
    """Count how often each bin occurs along the last axis."""
    rows = bins.reshape(-1, bins.shape[-1])
    flat = rows + BINS * np.arange(len(rows))[:, None]
    counts = np.bincount(flat.ravel(), minlength=BINS * len(rows))
    return counts.reshape(*bins.shape[:-1], BINS).astype(np.float32)
