"""Calibrate scores to a false-alarm rate: how high a score must be to occur by chance once in a given time.

The maximum score in each six-hour block of a healthy device follows a Gumbel distribution (Gumbel, Statistics of
Extremes, 1958): with mean m and deviation s of such maxima, the level that is exceeded once in R blocks is m + s
sqrt(6) / pi (ln R - 0.5772). A device's own blocks count together with those of all devices and, before there are any,
with the caller's expectation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from accelerator_autopilot.anomaly.domain.last_values import Bools
from accelerator_autopilot.anomaly.domain.last_values import Slots as Indices
from accelerator_autopilot.anomaly.domain.learned.slot_tensors import Floats, Slots, quietly

BLOCK_S = 6 * 3600.0
WEEK_S = 7 * 86_400.0
GUMBEL, EULER = math.sqrt(6) / math.pi, 0.5772
OWN_SPAN, ALL_SPAN = 60.0, 1_000.0  # blocks: two weeks of a device
ALL_WEIGHT = 6.0  # blocks that the other devices' experience counts for
ABOVE_HIGHEST = 1.1
FADE = 0.02
DOUBT = 0.8
BOUND = 1.3


class FalseAlarmCalibration:
    """Tracks the block maxima of each slot, for several scores at once."""

    def __init__(
        self, false_alarms_per_week: float, expected_mean: Sequence[float], expected_sd: Sequence[float]
    ) -> None:
        scores = len(expected_mean)
        blocks = scores * WEEK_S / BLOCK_S / false_alarms_per_week
        self._reach = GUMBEL * (math.log(max(blocks, math.e)) - EULER)
        per_score = ("highest", "mean", "variance", "record")
        self.slots = Slots({"elapsed_s": (), "blocks": (), **dict.fromkeys(per_score, (scores,))})
        self.all_blocks = 1.0
        self.all_mean: Floats = np.array(expected_mean, np.float32)
        self.all_variance: Floats = np.array(expected_sd, np.float32) ** 2

    @quietly
    def step(self, slots: Indices, score: Floats, period_s: Floats, learn: Bools) -> Floats:
        """Return scores [rows, scores] relative to their thresholds: above 1 is an alarm. Then learn."""
        s = self.slots.read(slots)
        weight = (s["blocks"] / (s["blocks"] + ALL_WEIGHT))[:, None]
        mean = weight * s["mean"] + (1 - weight) * self.all_mean
        apart = (s["mean"] - self.all_mean) ** 2 * weight * (1 - weight)
        variance = weight * s["variance"] + (1 - weight) * self.all_variance + apart
        threshold = np.maximum(mean + self._reach * np.sqrt(variance), ABOVE_HIGHEST * s["record"])
        # A new device has not shown its full range of behaviour yet.
        threshold = threshold * (1 + DOUBT * np.exp(-s["blocks"]))[:, None]
        self._learn(s, score, period_s, learn, threshold)
        self.slots.write(slots, s)
        share: Floats = score / np.maximum(threshold, 1e-6)
        return share

    def _learn(self, s: dict[str, Floats], score: Floats, period_s: Floats, learn: Bools, threshold: Floats) -> None:
        # Of a short excursion above the threshold, its occurrence is learned, but not its height.
        bounded = np.minimum(score, BOUND * threshold)
        s["highest"] = np.where(learn[:, None], np.maximum(s["highest"], bounded), s["highest"])
        s["elapsed_s"] = s["elapsed_s"] + period_s * learn
        ended = s["elapsed_s"] >= BLOCK_S
        if not ended.any():
            return
        first = (s["blocks"] == 0)[:, None]
        once = (ended / np.minimum(s["blocks"] + 1, OWN_SPAN))[:, None]
        start = np.where(first, s["highest"], s["mean"])
        off = s["highest"] - start
        s["mean"] = np.where(ended[:, None], start + once * off, s["mean"])
        s["variance"] = np.where(ended[:, None], (1 - once) * (s["variance"] + once * off * off), s["variance"])
        faded = np.maximum(s["record"] * (1 - FADE), s["highest"])
        s["record"] = np.where(ended[:, None], faded, s["record"])
        s["blocks"] = s["blocks"] + ended.astype(np.float32)
        for highest in s["highest"][ended]:
            self.all_blocks += 1
            rate = 1 / min(self.all_blocks, ALL_SPAN)
            away = highest - self.all_mean
            self.all_mean = self.all_mean + rate * away
            self.all_variance = (1 - rate) * (self.all_variance + rate * away * away)
        s["highest"] = np.where(ended[:, None], np.float32(0), s["highest"])
        s["elapsed_s"] = np.where(ended, np.float32(0), s["elapsed_s"])
