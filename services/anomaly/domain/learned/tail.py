"""From a score to a false-alarm rate: how high a score must be to come once in a given time by chance.

The highest score of each block of six hours of a healthy device follows a Gumbel law (Gumbel, Statistics of Extremes,
1958): with mean m and deviation s of such maxima, the level that is passed once in R blocks is
m + s sqrt(6) / pi (ln R - 0.5772). A device's own blocks count beside those of all devices, and before there are any,
beside what the caller expects.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from services.anomaly.domain.learned.slots import Slots

BLOCK_S = 6 * 3600.0
WEEK_S = 7 * 86_400.0
GUMBEL, EULER = math.sqrt(6) / math.pi, 0.5772
OWN_SPAN, ALL_SPAN = 60.0, 1_000.0  # blocks: two weeks of a device
ALL_WEIGHT = 6.0  # blocks that the others' experience counts for
ABOVE_HIGHEST = 1.1
FADE = 0.02
DOUBT = 0.8
BOUND = 1.3


class Tail:
    """Follows the highest scores of each slot's blocks, for several scores at once."""

    def __init__(
        self, false_alarms_per_week: float, expected_mean: Sequence[float], expected_sd: Sequence[float]
    ) -> None:
        scores = len(expected_mean)
        blocks = scores * WEEK_S / BLOCK_S / false_alarms_per_week
        self._reach = GUMBEL * (math.log(max(blocks, math.e)) - EULER)
        per_score = ("highest", "mean", "variance", "record")
        self.slots = Slots({"elapsed_s": (), "blocks": (), **dict.fromkeys(per_score, (scores,))})
        self.all_blocks = 1.0
        self.all_mean, self.all_variance = torch.tensor(expected_mean), torch.tensor(expected_sd) ** 2

    @torch.no_grad()
    def step(self, slots: Tensor, score: Tensor, period_s: Tensor, learn: Tensor) -> Tensor:
        """Scores [rows, scores] as shares of their thresholds: above 1 is an alarm. Then learns."""
        s = self.slots.read(slots)
        weight = (s["blocks"] / (s["blocks"] + ALL_WEIGHT))[:, None]
        mean = weight * s["mean"] + (1 - weight) * self.all_mean
        apart = (s["mean"] - self.all_mean) ** 2 * weight * (1 - weight)
        variance = weight * s["variance"] + (1 - weight) * self.all_variance + apart
        threshold = torch.maximum(mean + self._reach * variance.sqrt(), ABOVE_HIGHEST * s["record"])
        # A device that is new has not shown yet all that it does.
        threshold = threshold * (1 + DOUBT * torch.exp(-s["blocks"]))[:, None]
        self._learn(s, score, period_s, learn, threshold)
        self.slots.write(slots, s)
        return score / threshold.clamp(min=1e-6)

    def _learn(self, s: dict[str, Tensor], score: Tensor, period_s: Tensor, learn: Tensor, threshold: Tensor) -> None:
        # Of what passes the threshold and does not last, it is experience that it happens, not how high it went.
        bounded = torch.minimum(score, BOUND * threshold)
        s["highest"] = torch.where(learn[:, None], torch.maximum(s["highest"], bounded), s["highest"])
        s["elapsed_s"] = s["elapsed_s"] + period_s * learn
        ended = s["elapsed_s"] >= BLOCK_S
        if not bool(ended.any()):
            return
        first = (s["blocks"] == 0)[:, None]
        once = (ended / (s["blocks"] + 1).clamp(max=OWN_SPAN))[:, None]
        start = torch.where(first, s["highest"], s["mean"])
        off = s["highest"] - start
        s["mean"] = torch.where(ended[:, None], start + once * off, s["mean"])
        s["variance"] = torch.where(ended[:, None], (1 - once) * (s["variance"] + once * off * off), s["variance"])
        faded = torch.maximum(s["record"] * (1 - FADE), s["highest"])
        s["record"] = torch.where(ended[:, None], faded, s["record"])
        s["blocks"] = s["blocks"] + ended.float()
        for highest in s["highest"][ended]:
            self.all_blocks += 1
            rate = 1 / min(self.all_blocks, ALL_SPAN)
            away = highest - self.all_mean
            self.all_mean = self.all_mean + rate * away
            self.all_variance = (1 - rate) * (self.all_variance + rate * away * away)
        s["highest"] = torch.where(ended[:, None], torch.zeros(()), s["highest"])
        s["elapsed_s"] = torch.where(ended, torch.zeros(()), s["elapsed_s"])
