"""Predict a device's power and temperature from its load.

Each effect is predicted from its causes alone: power from load and clocks, temperature from the power of the last
minute and from the neighbours. (Given everything else, a fan that rises with the temperature would explain the
temperature away.) The prediction is linear, by least squares on an exponentially fading covariance; the residual, in
spreads that are usual at such a load, is clipped and averaged with its sign over some rows: a fault stays on one side
while jobs come and go.
"""

from __future__ import annotations

import numpy as np

from accelerator_autopilot.anomaly.domain.last_values import Bools
from accelerator_autopilot.anomaly.domain.last_values import Slots as Indices
from accelerator_autopilot.anomaly.domain.learned.input_channels import NAMES
from accelerator_autopilot.anomaly.domain.learned.slot_tensors import Floats, Slots, quietly

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
FLOOR_SHARE = 0.004  # share of the largest value seen: closer predictions are exact enough
CLIP = 6.0


class PhysicsModel:
    """Tracks the covariance of each slot's channels and the residual of each effect."""

    def __init__(self) -> None:
        k, m = len(NAMES), len(EFFECTS)
        self._causes = np.zeros((m, k), np.float32)
        for row, causes in enumerate(EFFECTS.values()):
            self._causes[row, [NAMES.index(name) for name in causes]] = 1.0
        self.slots = Slots(
            {
                "count": (), "mean": (k,), "peak": (k,), "cov": (k, k), "weights": (m, k),
                "scale": (2, m), "level": (m,),
            }
        )  # fmt: skip

    @quietly
    def step(self, slots: Indices, x: Floats, learn: Bools) -> tuple[Floats, Floats]:
        """Return how far each effect stays from its prediction, 0 to CLIP [rows, EFFECTS], and the predictions."""
        s = self.slots.read(slots)
        zero = np.float32(0)
        known = np.isfinite(x)
        mean = np.where(s["count"][:, None] == 0, np.nan_to_num(x), s["mean"])
        peak = np.maximum(s["peak"], np.abs(np.nan_to_num(x)))
        unit = np.maximum(peak, 1e-6)
        d = np.where(known, (x - mean) / unit, zero)
        guess = np.einsum("rij,rj->ri", s["weights"], d)
        there = known[:, TARGETS]
        rest = np.where(there, d[:, TARGETS] - guess, zero)
        ready = s["count"] > WARM_UP_ROWS
        # Idle devices fluctuate little, busy ones a lot.
        busy = np.nan_to_num(x[:, NAMES.index("gpu_util_pct")]) > BUSY_PCT
        rows, state = np.arange(len(x)), busy.astype(np.int64)
        usual = s["scale"][rows, state]
        scale = usual + FLOOR_SHARE
        level = s["level"] + 2 / (LEVEL_ROWS + 1) * (np.clip(rest / scale, -CLIP, CLIP) - s["level"])
        level = np.where(ready[:, None] & there, level, zero)
        takes = learn.astype(np.float32)
        count = s["count"] + takes
        once = (1 / np.maximum(count, 1))[:, None]
        rate = np.maximum(once, 2 / (SPAN + 1)) * takes[:, None]
        slow = np.maximum(once, 2 / (SCALE_SPAN + 1)) * takes[:, None]
        rescale = np.where(s["peak"] > 0, s["peak"] / unit, np.float32(1))
        old = s["cov"] * rescale[:, :, None] * rescale[:, None, :]
        cov = old + rate[:, :, None] * (d[:, :, None] * d[:, None, :] - old)
        settled = ((count > WARM_UP_ROWS / 2)[:, None] & (usual > 0)).astype(np.float32)
        bounded = np.where(settled > 0, np.minimum(np.abs(rest), CLIP * scale), np.abs(rest))
        fresh = np.where(learn[:, None], usual + (settled * slow + (1 - settled)) * (bounded - usual), usual)
        s["scale"][rows, state] = fresh
        s["mean"], s["peak"], s["cov"], s["level"], s["count"] = mean + rate * d * unit, peak, cov, level, count
        due = (count % REFRESH_ROWS == 0) & learn
        if due.any():
            s["weights"][due] = self._weights(cov[due])
        self.slots.write(slots, s)
        expected = mean[:, TARGETS] + guess * unit[:, TARGETS]
        return np.abs(level), expected

    def _weights(self, cov: Floats) -> Floats:
        """Return the least-squares weights of each effect on its own causes, [rows, EFFECTS, channels]."""
        k = cov.shape[1]
        variance = np.diagonal(cov, axis1=1, axis2=2)
        sd = np.sqrt(variance + np.float32(1e-8))
        correlation = cov / sd[:, :, None] / sd[:, None, :]
        weights = np.empty((len(cov), len(TARGETS), k), np.float32)
        for row, target in enumerate(TARGETS):
            mask = self._causes[row]
            among = correlation * mask[:, None] * mask[None, :] + np.diag(1 - mask) + RIDGE * np.eye(k)
            solved = np.linalg.solve(among, (correlation[:, :, target] * mask)[:, :, None])[:, :, 0]
            weights[:, row] = solved * mask * sd[:, target, None] / sd
        return weights
