"""How rarely a metric was near its present value, level and restlessness before.

Six views of a metric: its value, its level over 20 rows, the level of its logarithm over 20 and 100 rows, the
logarithm of its restlessness (mean absolute step over 20 rows), and how far it is off what it was a season ago. Each
view keeps a histogram of its whole past; its surprise is -log10 of the share of the past that lay within a window
around the present. Leaving the range seen so far adds to it. Evidence of the views adds up, as logarithms of
probabilities do.
"""

from __future__ import annotations

import torch
from torch import Tensor

from services.anomaly.domain.learned.seasons import Seasons
from services.anomaly.domain.learned.slots import Slots

WARM_UP_ROWS = 100
BINS, BIN_WIDTH = 64, 0.2  # of asinh((x - c) / q): even steps near the middle, even ratios far out
VIEWS = ("value", "level", "log_level", "log_level_slow", "restless", "off_season")
WINDOW = (1.0, 1.0, 0.3, 0.3, 0.3, 0.3)  # half width of "near", in mean absolute deviations
WEIGHT = (0.2, 0.9, 0.35, 0.15, 1.0, 0.5)
RANGE_WEIGHT, RANGE_GAIN, RANGE_MOST = (1.25, 0.3, 0.5), 20.0, 2.0
RANGE_FORGET = 0.1 * 2 / 5001
FAST, SLOW = 2 / 21, 2 / 101
TINY = 1e-9


class Surprise:
    """Follows the histograms of each slot's metrics."""

    def __init__(self, metrics: int) -> None:
        views = (len(VIEWS), metrics)
        self._window = torch.tensor(WINDOW)[:, None]
        self._weight = torch.tensor(WEIGHT)[:, None]
        self.seasons = Seasons(metrics)
        self.slots = Slots(
            {
                "count": (metrics,), "last": (metrics,), "unit": (metrics,), "steps": (metrics,),
                "level": (metrics,), "log_level": (metrics,), "log_level_slow": (metrics,), "step_level": (metrics,),
                "mean": views, "spread": views, "early": (*views, WARM_UP_ROWS), "center": views, "width": views,
                "bins": (*views, BINS), "high": (3, metrics), "low": (3, metrics),
            }
        )  # fmt: skip

    def step(self, slots: Tensor, x: Tensor, learn: Tensor) -> Tensor:
        """Surprise [rows, metrics] of rows `x` [rows, metrics] (NaN: missing, no surprise)."""
        s = self.slots.read(slots)
        known = torch.isfinite(x)
        x = torch.where(known, x, s["last"])
        takes = known & learn[:, None]
        off, anew = self.seasons.step(slots, x, s["spread"][:, 0], takes)
        self._begin_anew(s, off, anew)
        views = torch.cat([self._views(s, x), off[:, None]], 1)
        score = self._rarity(s, views, takes) + self._beyond(s, x, views, takes)
        warm = known & (s["count"] > WARM_UP_ROWS)
        s["count"] = s["count"] + takes.float()
        self.slots.write(slots, s)
        return torch.where(warm, score, torch.zeros(()))

    @staticmethod
    def _begin_anew(s: dict[str, Tensor], off: Tensor, anew: Tensor) -> None:
        """Forget how far off the season a metric was where that means something else from now on."""
        if bool(anew.any()):
            s["bins"][:, 5] = torch.where(anew[..., None], torch.zeros(()), s["bins"][:, 5])
            for side in ("high", "low"):
                s[side][:, 2] = torch.where(anew, off, s[side][:, 2])

    @staticmethod
    def _views(s: dict[str, Tensor], x: Tensor) -> Tensor:
        """The views but the last, [rows, views, metrics]; the smoothed values move on also where nothing is learnt."""
        n = s["count"]
        first = n == 0
        once = 1 / (n + 1)
        # The logarithm's unit is the usual size of the first values, for ever: a view must not change its meaning.
        s["unit"] = torch.where(n < WARM_UP_ROWS, s["unit"] + once * (x.abs() - s["unit"]), s["unit"])
        log = torch.asinh(x / s["unit"].clamp(min=TINY))
        step = torch.where(first, torch.zeros(()), (x - s["last"]).abs())
        s["steps"] = s["steps"] + once * (step - s["steps"])
        fast, slow = once.clamp(min=FAST), once.clamp(min=SLOW)
        s["level"] = s["level"] + fast * (x - s["level"])
        s["log_level"] = s["log_level"] + fast * (log - s["log_level"])
        s["log_level_slow"] = s["log_level_slow"] + slow * (log - s["log_level_slow"])
        s["step_level"] = s["step_level"] + fast * (step - s["step_level"])
        s["last"] = x
        restless = (s["step_level"] + 1e-3 * s["steps"] + TINY).log()
        return torch.stack([x, s["level"], s["log_level"], s["log_level_slow"], restless], 1)

    def _rarity(self, s: dict[str, Tensor], views: Tensor, takes: Tensor) -> Tensor:
        count = s["count"][:, None, :]
        rate = takes[:, None, :] / (count + 1)
        start = torch.where(count == 0, views, s["mean"])
        s["spread"] = s["spread"] + rate * ((views - start).abs() - s["spread"])
        s["mean"] = start + rate * (views - start)
        self._settle(s, views, takes)
        center, width = s["center"], s["width"].clamp(min=1e-30)
        reach = self._window * s["spread"]
        low, high = _bin(views - reach, center, width), _bin(views + reach, center, width)
        total = s["bins"].cumsum(-1)
        upto = total.gather(-1, high[..., None])[..., 0]
        below = torch.where(low > 0, total.gather(-1, (low - 1).clamp(min=0)[..., None])[..., 0], torch.zeros(()))
        near = upto - below
        rarity = -((near + 1) / (total[..., -1] + 1)).log10()
        counts = (takes & (s["count"] >= WARM_UP_ROWS))[:, None, :].expand_as(views).float()
        here = _bin(views, center, width)[..., None]
        s["bins"] = s["bins"].scatter_add(-1, here, counts[..., None])
        return (self._weight * rarity).sum(1)

    @staticmethod
    def _settle(s: dict[str, Tensor], views: Tensor, takes: Tensor) -> None:
        """Keep the first rows as they are, then choose the histogram's middle and width by them."""
        early = takes & (s["count"] < WARM_UP_ROWS)
        if not bool(early.any()):
            return
        at = s["count"].long().clamp(max=WARM_UP_ROWS - 1)[:, None, :, None].expand(*views.shape, 1)
        kept = torch.where(early[:, None, :], views, s["early"].gather(-1, at)[..., 0])
        s["early"] = s["early"].scatter(-1, at, kept[..., None])
        full = (early & (s["count"] == WARM_UP_ROWS - 1))[:, None, :]
        if not bool(full.any()):
            return
        center = s["early"].median(-1).values
        width = (0.5 * (s["early"] - center[..., None]).abs().mean(-1)).maximum(1e-3 * center.abs() + TINY)
        s["center"] = torch.where(full, center, s["center"])
        s["width"] = torch.where(full, width, s["width"])
        bins = _bin(s["early"], s["center"][..., None], s["width"][..., None].clamp(min=1e-30))
        filled = torch.zeros_like(s["bins"]).scatter_add(-1, bins, torch.ones_like(s["early"]))
        s["bins"] = torch.where(full[..., None], filled, s["bins"])

    @staticmethod
    def _beyond(s: dict[str, Tensor], x: Tensor, views: Tensor, takes: Tensor) -> Tensor:
        """How far the logarithm of the value, the restlessness and the last view lie outside the range seen so far."""
        log = torch.asinh(x / s["unit"].clamp(min=TINY))
        now = torch.stack([log, views[:, 4], views[:, 5]], 1)
        first = (s["count"] < 1)[:, None, :]
        high = torch.where(first, now, s["high"])
        low = torch.where(first, now, s["low"])
        over = torch.maximum(now - high, low - now).clamp(min=0) / (high - low + TINY)
        middle = (high + low) / 2
        fade = torch.where(takes[:, None, :], RANGE_FORGET, 0.0)
        s["high"] = torch.where(takes[:, None, :], torch.maximum(now, high - fade * (high - middle)), high)
        s["low"] = torch.where(takes[:, None, :], torch.minimum(now, low + fade * (middle - low)), low)
        weight = torch.tensor(RANGE_WEIGHT)[:, None]
        return (weight * (RANGE_GAIN * over).clamp(max=RANGE_MOST)).sum(1)


def _bin(x: Tensor, center: Tensor, width: Tensor) -> Tensor:
    half = BINS // 2
    place = (torch.asinh((x - center) / width) / BIN_WIDTH).floor() + half
    return place.nan_to_num(half, BINS - 1, 0).clamp(0, BINS - 1).long()
