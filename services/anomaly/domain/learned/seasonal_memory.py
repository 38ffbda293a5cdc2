"""Seasonal memory: how far a metric is from its value one season ago.

The season is the lag, among those that day and week have at usual periods, at which the past was closest to the
present; it counts as one only where that is much closer than the mean is.
"""

from __future__ import annotations

import numpy as np

from accelerator_autopilot.anomaly.domain.last_values import Bools
from accelerator_autopilot.anomaly.domain.last_values import Slots as Indices
from accelerator_autopilot.anomaly.domain.learned.slot_tensors import Floats, Slots, quietly

# A day and a week in hours, halves, quarters and tenths of hours, and minutes in steps of five.
LAGS = (24, 48, 96, 144, 288, 336, 672, 1008, 2016)
KEPT = 2048
SEASONS_SEEN = 1.5
SEASONAL = 0.5  # error at the lag, relative to the mean absolute deviation, below which it is a season
STAYS = 1.3  # factor on the smallest error up to which the current lag is kept
ERROR_ROWS, SCALE_ROWS = 2000, 1000
SMOOTH = 2 / 11
MIN_SCALE = 0.02  # share of the mean absolute deviation
TINY = 1e-9


class SeasonalMemory:
    """Keeps the last rows of each slot's metrics."""

    def __init__(self, metrics: int) -> None:
        self._lags = np.array(LAGS, np.float32)
        self.slots = Slots(
            {
                "count": (metrics,), "kept": (metrics, KEPT), "error": (metrics, len(LAGS)), "lag": (metrics,),
                "off": (metrics,), "scale": (metrics,), "rows": (metrics,),
            }
        )  # fmt: skip

    @quietly
    def step(self, slots: Indices, x: Floats, spread: Floats, takes: Bools) -> tuple[Floats, Bools]:
        """Return how far rows `x` [rows, metrics] are off, and where a season was found or lost since.

        The distance is in units of its own usual size, as arcsinh; without a season it is 0. `spread` is the
        mean absolute deviation; rows that must not be learned from are stored as their expected values.
        """
        s, zero = self.slots.read(slots), np.float32(0)
        count = s["count"]
        since = count[..., None] - self._lags
        past = np.take_along_axis(s["kept"], (since % KEPT).astype(np.int64), axis=-1)
        rate = np.where(since >= 0, np.maximum(1 / np.maximum(since + 1, 1), 1 / ERROR_ROWS), zero)
        s["error"] = s["error"] + rate * (np.abs(x[..., None] - past) - s["error"])
        known = count[..., None] > SEASONS_SEEN * self._lags
        errors = np.where(known, s["error"], np.float32(np.inf))
        held = np.maximum(s["lag"] - 1, 0).astype(np.int64)[..., None]
        least, nearest = errors.min(-1), errors.argmin(-1)
        error = np.take_along_axis(errors, held, axis=-1)[..., 0]
        stays = (s["lag"] > 0) & (error < STAYS * least)
        best, error = np.where(stays, held[..., 0], nearest), np.where(stays, error, least)
        seasonal = error < SEASONAL * spread
        lag = np.where(seasonal, (best + 1).astype(np.float32), zero)
        expected = np.where(seasonal, np.take_along_axis(past, best[..., None], axis=-1)[..., 0], x)
        off = np.where((lag == s["lag"]) & (count > 0), s["off"] + SMOOTH * (x - expected - s["off"]), zero)
        anew = (lag > 0) != (s["lag"] > 0)
        s["rows"] = np.where(anew, zero, s["rows"])
        s["scale"] = s["scale"] + np.maximum(1 / (s["rows"] + 1), 1 / SCALE_ROWS) * (np.abs(off) - s["scale"])
        remembered = np.where(takes, x, expected)
        np.put_along_axis(s["kept"], (count % KEPT).astype(np.int64)[..., None], remembered[..., None], axis=-1)
        s["off"], s["lag"], s["count"], s["rows"] = off, lag, count + 1, s["rows"] + 1
        self.slots.write(slots, s)
        return np.arcsinh(off / (s["scale"] + MIN_SCALE * spread + TINY)), anew
