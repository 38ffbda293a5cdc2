"""What each metric should be given the others: the residual of the best linear guess.

With S the covariance of the standardised metrics and R = (S + ridge I)^-1, the residual of metric j given all
others, in its own standard deviations, is (R d)_j / sqrt(R_jj) (Lauritzen, Graphical Models, 1996, 5.1.3). A fan,
a pump, a paste, a miner or a stuck clock breaks such a relation while every single metric stays in its usual range.
"""

from __future__ import annotations

import torch
from torch import Tensor

from services.anomaly.domain.learned.slots import Slots

SPAN = 10_000
RIDGE = 0.02
WARM_UP_ROWS = 200
REFRESH_ROWS = 50
CLIP = 30.0
SPREAD_SHARE = 1e-3  # of the largest value seen


class Relations:
    """Follows mean and covariance of each slot's metrics; the inverse is renewed every few rows."""

    def __init__(self, metrics: int) -> None:
        self._metrics = metrics
        square = (metrics, metrics)
        self.slots = Slots(
            {"count": (), "mean": (metrics,), "peak": (metrics,), "cov": square, "precision": square, "sd": (metrics,)},
            {"sd": 1.0},
        )

    def step(self, slots: Tensor, x: Tensor, learn: Tensor) -> Tensor:
        """Residuals [rows, metrics] of rows `x` (NaN: missing, guessed by the mean), in standard deviations."""
        if self._metrics < 2:
            return torch.zeros_like(x)
        s = self.slots.read(slots)
        known = torch.isfinite(x)
        mean = torch.where(s["count"][:, None] == 0, torch.nan_to_num(x), s["mean"])
        d = torch.where(known, x - mean, torch.zeros(()))
        precision = s["precision"]
        guess = (precision @ (d / s["sd"])[:, :, None])[:, :, 0]
        own = torch.diagonal(precision, dim1=1, dim2=2).clamp(min=1e-6).sqrt()
        ready = (s["count"] > WARM_UP_ROWS)[:, None] & known
        z = torch.where(ready, (guess / own).clamp(-CLIP, CLIP), torch.zeros(()))
        count = s["count"] + learn.float()
        rate = ((1 / count.clamp(min=1)).clamp(min=2 / (SPAN + 1)) * learn)[:, None]
        mean = mean + rate * d
        peak = torch.maximum(s["peak"], torch.where(known, x, mean).abs())
        # Standardised by the largest value, so that bytes squared stay within float32.
        e = d / peak.clamp(min=1e-30)
        rescale = s["peak"] / peak.clamp(min=1e-30)
        old = s["cov"] * rescale[:, :, None] * rescale[:, None, :]
        square = rate[:, :, None]
        cov = old + square * (e[:, :, None] * e[:, None, :] - old)
        self.slots.write(slots, {"count": count, "mean": mean, "peak": peak, "cov": cov})
        due = torch.nonzero((count % REFRESH_ROWS == 0) & learn)[:, 0]
        if len(due):
            self._renew(slots[due], cov[due], peak[due])
        return z

    def _renew(self, slots: Tensor, cov: Tensor, peak: Tensor) -> None:
        variance = torch.diagonal(cov, dim1=1, dim2=2)
        sd = (variance + SPREAD_SHARE**2).sqrt()
        correlation = cov / sd[:, :, None] / sd[:, None, :]
        ridge = RIDGE * torch.eye(self._metrics)
        floor = torch.diag_embed(SPREAD_SHARE**2 / sd**2)
        precision = torch.linalg.inv((correlation + ridge + floor).double()).float()
        self.slots.write(slots, {"precision": precision, "sd": sd * peak.clamp(min=1e-30)})
