"""How far each metric lies from its own past, on three horizons.

`long` and `short` are |x - m| / s with m an exponential mean over `span` rows and s the long-run mean of such
residuals, so that a channel that is always restless counts less. `local` is |x - median| / (1.4826 MAD + 0.1
standard deviation): median and MAD are followed by steps of bounded size (the Huber form of stochastic
approximation, Robbins and Monro 1951), which one spike can hardly move.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from services.anomaly.domain.learned.slots import Slots

LONG_SPAN, SHORT_SPAN, LOCAL_SPAN = 20_000, 3, 200
SCALE_SPAN = 20_000
SHORT_RATE = 2 / (SHORT_SPAN + 1)
LONG_CLIP, SHORT_CLIP, LOCAL_CLIP = 100.0, 10.0, 100.0
RANGE_SHARE = 0.01  # of the largest value seen: no spread is taken for smaller
SETTLED = 20  # rows before residuals are clipped, when nothing is known of the spread
MAD_TO_SIGMA, STD_SHARE = 1.4826, 0.1
TINY = 1e-12


@dataclass(frozen=True)
class Residual:
    """Distances of shape [rows, metrics], in spreads; zero where a value is missing or nothing is known yet."""

    long: Tensor
    short: Tensor
    local: Tensor
    center: Tensor


class Residuals:
    """Follows each metric of each slot."""

    def __init__(self, metrics: int) -> None:
        names = ("count", "peak", "long_mean", "long_spread", "short_mean", "short_spread", "median", "mad")
        self.slots = Slots(dict.fromkeys((*names, "mean", "variance"), (metrics,)))

    def step(self, slots: Tensor, x: Tensor, learn: Tensor) -> Residual:
        """Measure rows `x` [rows, metrics] (NaN: missing) and learn from those that `learn` [rows] allows."""
        s = self.slots.read(slots)
        known = torch.isfinite(x)
        first = s["count"] == 0
        x = torch.where(known, x, s["median"])
        for name in ("long_mean", "short_mean", "median", "mean"):
            s[name] = torch.where(first, x, s[name])
        s["peak"] = torch.maximum(s["peak"], x.abs())
        seen = known & (s["count"] > 1)
        takes = known & learn[:, None]
        s["count"] = s["count"] + takes.float()
        # What is short forgets by itself: were it held, whatever goes on would be far from it.
        recent = known & (s["count"] > 0)
        warm = s["count"] > SETTLED
        once = 1.0 / s["count"].clamp(min=1)
        floor = RANGE_SHARE * s["peak"] + TINY
        long = self._horizon(s, "long", x, floor, once, takes, warm, LONG_SPAN, LONG_CLIP)
        short = self._horizon(s, "short", x, floor, once, takes, warm, SHORT_SPAN, SHORT_CLIP)
        s["short_mean"] = torch.where(
            recent & ~takes, s["short_mean"] + SHORT_RATE * (x - s["short_mean"]), s["short_mean"]
        )
        local = self._local(s, x, once, recent)
        self.slots.write(slots, s)
        zero = torch.zeros(())
        return Residual(
            torch.where(seen, long, zero),
            torch.where(seen, short, zero),
            torch.where(known & (s["count"] > SETTLED / 2), local, zero),
            s["median"],
        )

    @staticmethod
    def _horizon(
        s: dict[str, Tensor],
        name: str,
        x: Tensor,
        floor: Tensor,
        once: Tensor,
        takes: Tensor,
        warm: Tensor,
        span: int,
        clip: float,
    ) -> Tensor:
        mean, spread = s[f"{name}_mean"], s[f"{name}_spread"]
        away = (x - mean).abs()
        scale = spread + floor
        z = (away / scale).clamp(max=clip)
        bounded = torch.where(warm, torch.minimum(away, clip * scale), away)
        rate = once.clamp(min=2 / (span + 1)) * takes
        s[f"{name}_mean"] = mean + rate * (x - mean)
        s[f"{name}_spread"] = spread + once.clamp(min=2 / (SCALE_SPAN + 1)) * takes * (bounded - spread)
        return z

    @staticmethod
    def _local(s: dict[str, Tensor], x: Tensor, once: Tensor, takes: Tensor) -> Tensor:
        median, mad = s["median"], s["mad"]
        scale = MAD_TO_SIGMA * mad + STD_SHARE * s["variance"].sqrt() + 1e-6 * median.abs() + TINY
        away = x - median
        z = (away.abs() / scale).clamp(max=LOCAL_CLIP)
        rate = once.clamp(min=2 / (LOCAL_SPAN + 1)) * takes
        early = s["count"] <= SETTLED / 2
        s["median"] = median + rate * torch.where(early, away, away.clamp(-scale, scale))
        change = away.abs() - mad
        s["mad"] = mad + rate * torch.where(early, change, change.clamp(-scale, scale))
        off = x - s["mean"]
        s["mean"] = s["mean"] + rate * off
        s["variance"] = (1 - rate) * (s["variance"] + rate * off * off)
        return z
