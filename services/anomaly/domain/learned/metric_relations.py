"""Predict each metric from the others: the residual of the best linear prediction.

With S the covariance of the standardised metrics and R = (S + ridge I)^-1, the residual of metric j given all others,
in its own standard deviations, is (R d)_j / sqrt(R_jj) (Lauritzen, Graphical Models, 1996, 5.1.3). A faulty fan, pump
or thermal paste, a cryptominer or a stuck clock breaks such a relation while every single metric stays in its usual
range.
"""

from __future__ import annotations

import numpy as np

from accelerator_autopilot.anomaly.domain.last_values import Bools
from accelerator_autopilot.anomaly.domain.last_values import Slots as Indices
from accelerator_autopilot.anomaly.domain.learned.slot_tensors import Floats, Slots, quietly

SPAN = 10_000
RIDGE = 0.02
WARM_UP_ROWS = 200
REFRESH_ROWS = 50
CLIP = 30.0
SPREAD_SHARE = 1e-3  # share of the largest value seen
TINY = 1e-30


class MetricRelations:
    """Tracks mean and covariance of each slot's metrics; the inverse is recomputed every few rows."""

    def __init__(self, metrics: int) -> None:
        self._metrics = metrics
        square = (metrics, metrics)
        self.slots = Slots(
            {"count": (), "mean": (metrics,), "peak": (metrics,), "cov": square, "precision": square, "sd": (metrics,)},
            {"sd": 1.0},
        )

    @quietly
    def step(self, slots: Indices, x: Floats, learn: Bools) -> Floats:
        """Return residuals [rows, metrics] of rows `x` (NaN: missing, replaced by the mean), in standard deviations."""
        if self._metrics < 2:
            return np.zeros_like(x)
        s = self.slots.read(slots)
        known = np.isfinite(x)
        mean = np.where(s["count"][:, None] == 0, np.nan_to_num(x), s["mean"])
        d = np.where(known, x - mean, np.float32(0))
        precision = s["precision"]
        guess = np.einsum("rij,rj->ri", precision, d / s["sd"])
        own = np.sqrt(np.maximum(np.diagonal(precision, axis1=1, axis2=2), 1e-6))
        ready = (s["count"] > WARM_UP_ROWS)[:, None] & known
        z = np.where(ready, np.clip(guess / own, -CLIP, CLIP), np.float32(0))
        count = s["count"] + learn.astype(np.float32)
        rate = (np.maximum(1 / np.maximum(count, 1), 2 / (SPAN + 1)) * learn)[:, None]
        mean = mean + rate * d
        peak = np.maximum(s["peak"], np.abs(np.where(known, x, mean)))
        # Standardised by the largest value, so that squared bytes stay within float32.
        e = d / np.maximum(peak, TINY)
        rescale = s["peak"] / np.maximum(peak, TINY)
        old = s["cov"] * rescale[:, :, None] * rescale[:, None, :]
        square = rate[:, :, None]
        cov = old + square * (e[:, :, None] * e[:, None, :] - old)
        self.slots.write(slots, {"count": count, "mean": mean, "peak": peak, "cov": cov})
        due = np.flatnonzero((count % REFRESH_ROWS == 0) & learn)
        if len(due):
            self._renew(slots[due], cov[due], peak[due])
        return z

    def _renew(self, slots: Indices, cov: Floats, peak: Floats) -> None:
        variance = np.diagonal(cov, axis1=1, axis2=2)
        sd = np.sqrt(variance + SPREAD_SHARE**2)
        correlation = cov / sd[:, :, None] / sd[:, None, :]
        one = np.eye(self._metrics)
        floor = (SPREAD_SHARE**2 / sd**2)[:, :, None] * one
        precision = np.linalg.inv(correlation + RIDGE * one + floor)
        self.slots.write(slots, {"precision": precision.astype(np.float32), "sd": sd * np.maximum(peak, TINY)})
