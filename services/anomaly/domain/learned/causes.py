"""What a device should draw and how warm it should be, given what is asked of it.

Each effect is guessed from its causes alone: power from load and clocks, heat from the power of the last minute and
from the neighbours. (Given everything else, a fan that rises with the temperature would explain the temperature
away.) The guess is linear, by least squares on an exponentially fading covariance; what remains, in the spreads that
are usual at such a load, is bounded and averaged with its sign over some rows: a fault stays on one side while jobs
come and go.
"""

from __future__ import annotations

import torch
from torch import Tensor

from services.anomaly.domain.learned.channels import NAMES
from services.anomaly.domain.learned.slots import Slots

EFFECTS: dict[str, tuple[str, ...]] = {
    "power_w": ("gpu_util_pct", "mem_util_pct", "clock_sm_mhz", "clock_mem_mhz"),
    "temp_c": ("power_slow_w", "peer_temp_c", "peer_power_w"),
    "temp_mem_c": ("power_slow_w", "mem_util_pct", "peer_temp_c", "peer_power_w"),
}
TARGETS = [NAMES.index(name) for name in EFFECTS]
SPAN = 10_000
RIDGE = 0.003
WARM_UP_ROWS = 120
REFRESH_ROWS = 20
LEVEL_ROWS, SCALE_SPAN = 15, 3_000
BUSY_PCT = 5.0
FLOOR_SHARE = 0.004  # of the largest value seen: what is closer is exact enough
CLIP = 6.0


class Causes:
    """Follows the covariance of each slot's channels and what remains of each effect."""

    def __init__(self) -> None:
        k, m = len(NAMES), len(EFFECTS)
        self._causes = torch.zeros(m, k)
        for row, causes in enumerate(EFFECTS.values()):
            self._causes[row, [NAMES.index(name) for name in causes]] = 1.0
        self.slots = Slots(
            {
                "count": (), "mean": (k,), "peak": (k,), "cov": (k, k), "weights": (m, k),
                "scale": (2, m), "level": (m,),
            }
        )  # fmt: skip

    @torch.no_grad()
    def step(self, slots: Tensor, x: Tensor, learn: Tensor) -> tuple[Tensor, Tensor]:
        """How far each effect stays from its guess, 0 to CLIP [rows, EFFECTS], and the guesses themselves."""
        s = self.slots.read(slots)
        known = torch.isfinite(x)
        mean = torch.where(s["count"][:, None] == 0, torch.nan_to_num(x), s["mean"])
        peak = torch.maximum(s["peak"], torch.nan_to_num(x).abs())
        unit = peak.clamp(min=1e-6)
        d = torch.where(known, (x - mean) / unit, torch.zeros(()))
        guess = (s["weights"] @ d[:, :, None])[:, :, 0]
        there = known[:, TARGETS]
        rest = torch.where(there, d[:, TARGETS] - guess, torch.zeros(()))
        ready = s["count"] > WARM_UP_ROWS
        # Idle devices are still, busy ones are not.
        busy = torch.nan_to_num(x[:, NAMES.index("gpu_util_pct")]) > BUSY_PCT
        state = busy.long()[:, None, None].expand(-1, 1, len(EFFECTS))
        usual = s["scale"].gather(1, state)[:, 0]
        scale = usual + FLOOR_SHARE
        level = s["level"] + 2 / (LEVEL_ROWS + 1) * ((rest / scale).clamp(-CLIP, CLIP) - s["level"])
        level = torch.where(ready[:, None] & there, level, torch.zeros(()))
        takes = learn.float()
        count = s["count"] + takes
        once = (1 / count.clamp(min=1))[:, None]
        rate = once.clamp(min=2 / (SPAN + 1)) * takes[:, None]
        slow = once.clamp(min=2 / (SCALE_SPAN + 1)) * takes[:, None]
        rescale = torch.where(s["peak"] > 0, s["peak"] / unit, torch.ones(()))
        old = s["cov"] * rescale[:, :, None] * rescale[:, None, :]
        cov = old + rate[:, :, None] * (d[:, :, None] * d[:, None, :] - old)
        settled = ((count > WARM_UP_ROWS / 2)[:, None] & (usual > 0)).float()
        bounded = torch.where(settled > 0, torch.minimum(rest.abs(), CLIP * scale), rest.abs())
        fresh = torch.where(learn[:, None], usual + (settled * slow + (1 - settled)) * (bounded - usual), usual)
        s["scale"] = s["scale"].scatter(1, state, fresh[:, None])
        s["mean"], s["peak"], s["cov"], s["level"], s["count"] = mean + rate * d * unit, peak, cov, level, count
        due = (count % REFRESH_ROWS == 0) & learn
        if bool(due.any()):
            s["weights"][due] = self._weights(cov[due])
        self.slots.write(slots, s)
        expected = mean[:, TARGETS] + guess * unit[:, TARGETS]
        return level.abs(), expected

    def _weights(self, cov: Tensor) -> Tensor:
        """Least squares of each effect on its own causes, [rows, EFFECTS, channels]."""
        k = cov.shape[1]
        variance = torch.diagonal(cov, dim1=1, dim2=2)
        sd = (variance + 1e-8).sqrt()
        correlation = cov / sd[:, :, None] / sd[:, None, :]
        weights = []
        for row, target in enumerate(TARGETS):
            mask = self._causes[row]
            among = correlation * mask[:, None] * mask[None, :] + torch.diag(1 - mask) + RIDGE * torch.eye(k)
            solved = torch.linalg.solve(among.double(), (correlation[:, :, target] * mask).double()).float()
            weights.append(solved * mask * sd[:, target, None] / sd)
        return torch.stack(weights, 1)
