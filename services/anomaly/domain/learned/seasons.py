"""Seasonal memory: how far a metric is from what it was a season ago.

The season is the lag, of some that day and week have at usual periods, at which the past was nearest to the present;
it counts as one only where that is much nearer than the mean is.
"""

from __future__ import annotations

import torch
from torch import Tensor

from services.anomaly.domain.learned.slots import Slots

# A day and a week of hours, halves, quarters and tenths of hours, minutes by five.
LAGS = (24, 48, 96, 144, 288, 336, 672, 1008, 2016)
KEPT = 2048
SEASONS_SEEN = 1.5
SEASONAL = 0.5  # error at the lag, as a share of the mean absolute deviation, below which it is a season
STAYS = 1.3  # times the least error: so much a lag may have and be kept
ERROR_ROWS, SCALE_ROWS = 2000, 1000
SMOOTH = 2 / 11
LEAST_SCALE = 0.02  # of the mean absolute deviation
TINY = 1e-9


class Seasons:
    """Keeps the last rows of each slot's metrics."""

    def __init__(self, metrics: int) -> None:
        self._lags = torch.tensor(LAGS)
        self.slots = Slots(
            {
                "count": (metrics,), "kept": (metrics, KEPT), "error": (metrics, len(LAGS)), "lag": (metrics,),
                "off": (metrics,), "scale": (metrics,), "rows": (metrics,),
            }
        )  # fmt: skip

    def step(self, slots: Tensor, x: Tensor, spread: Tensor, takes: Tensor) -> tuple[Tensor, Tensor]:
        """How far rows `x` [rows, metrics] are off, and where that is measured anew since a season was found or lost.

        The first is in units of its own usual size, and of that the arcsinh; without a season it is 0. `spread` is the
        mean absolute deviation; rows that are not to be learnt from are remembered as they were expected.
        """
        s = self.slots.read(slots)
        count = s["count"]
        since = count[..., None] - self._lags
        past = s["kept"].gather(-1, (since % KEPT).long())
        rate = torch.where(since >= 0, (1 / (since + 1).clamp(min=1)).clamp(min=1 / ERROR_ROWS), torch.zeros(()))
        s["error"] = s["error"] + rate * ((x[..., None] - past).abs() - s["error"])
        known = count[..., None] > SEASONS_SEEN * self._lags
        errors = torch.where(known, s["error"], torch.inf)
        held = (s["lag"] - 1).clamp(min=0).long()[..., None]
        least, nearest = errors.min(-1)
        error = errors.gather(-1, held)[..., 0]
        stays = (s["lag"] > 0) & (error < STAYS * least)
        best, error = torch.where(stays, held[..., 0], nearest), torch.where(stays, error, least)
        seasonal = error < SEASONAL * spread
        lag = torch.where(seasonal, best + 1.0, torch.zeros(()))
        expected = torch.where(seasonal, past.gather(-1, best[..., None])[..., 0], x)
        off = torch.where(
            (lag == s["lag"]) & (count > 0), s["off"] + SMOOTH * (x - expected - s["off"]), torch.zeros(())
        )
        anew = (lag > 0) != (s["lag"] > 0)
        s["rows"] = torch.where(anew, torch.zeros(()), s["rows"])
        s["scale"] = s["scale"] + (1 / (s["rows"] + 1)).clamp(min=1 / SCALE_ROWS) * (off.abs() - s["scale"])
        remembered = torch.where(takes, x, expected)
        s["kept"] = s["kept"].scatter(-1, (count % KEPT).long()[..., None], remembered[..., None])
        s["off"], s["lag"], s["count"], s["rows"] = off, lag, count + 1, s["rows"] + 1
        self.slots.write(slots, s)
        return torch.asinh(off / (s["scale"] + LEAST_SCALE * spread + TINY)), anew
