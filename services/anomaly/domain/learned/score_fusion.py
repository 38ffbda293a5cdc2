"""The learned detector: every horizon, the relations and the surprises of each slot, combined into one score.

Fusion: the fourth-power mean of four parts, each in spreads of its own past: relations (squared over metrics), long
residuals (fourth power: one far channel counts), short residuals (squared), local residuals (square root: most channels
have to agree). Smoothed over 4 rows, with a peak that decays over 10.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from accelerator_autopilot.anomaly.domain.last_values import Bools
from accelerator_autopilot.anomaly.domain.last_values import Slots as Indices
from accelerator_autopilot.anomaly.domain.learned.density_score import DensityScore
from accelerator_autopilot.anomaly.domain.learned.history_residuals import HistoryResiduals, Residual
from accelerator_autopilot.anomaly.domain.learned.metric_relations import MetricRelations
from accelerator_autopilot.anomaly.domain.learned.slot_tensors import Floats, Saved, Slots, quietly
from accelerator_autopilot.contracts.errors import InvalidInputError

LONG_WEIGHT, SHORT_WEIGHT, LOCAL_WEIGHT = 0.5, 1.0, 1.25
SMOOTH_ROWS, HOLD_ROWS = 4, 10
# Among many metrics one is surprising by chance: Bonferroni's correction, for a sum of several logarithms.
MANY_METRICS = 1.5


@dataclass(frozen=True)
class Scores:
    """For each row: `anomaly_score` [rows] ranks, `surprise` [rows] alarms, `by_metric` [rows, metrics] explains.

    `expected` [rows, metrics] is the usual value of each metric.
    """

    anomaly_score: Floats
    surprise: Floats
    by_metric: Floats
    expected: Floats


class ScoreFusion:
    """Learns online, all slots of a batch at once; nothing is pretrained."""

    def __init__(self, metrics: int, *, surprise: bool = True) -> None:
        self.metrics = metrics
        self._residuals, self._relations = HistoryResiduals(metrics), MetricRelations(metrics)
        # Histograms take most of the memory: 3.4 kB per metric.
        self._surprise = DensityScore(metrics) if surprise else None
        self._smooth = Slots({"count": (), "level": (), "held": ()})
        self._parts = {
            "residuals": self._residuals.slots,
            "relations": self._relations.slots,
            "smooth": self._smooth,
        } | ({"surprise": self._surprise.slots, "seasons": self._surprise.seasons.slots} if self._surprise else {})

    @property
    def bytes_per_slot(self) -> int:
        """Memory of one slot."""
        return sum(part.bytes_per_slot for part in self._parts.values())

    def grow(self, slots: int) -> None:
        """Grow to at least this many slots."""
        for part in self._parts.values():
            part.grow(slots)

    def forget(self, slots: Indices) -> None:
        """Relearn these slots."""
        for part in self._parts.values():
            part.forget(slots)

    @quietly
    def step(self, slots: Indices, x: Floats, learn: Bools) -> Scores:
        """Score rows `x` [rows, metrics] (NaN: missing) of `slots` [rows], then learn where `learn` [rows] is true."""
        residual = self._residuals.step(slots, x, learn)
        related = self._relations.step(slots, x, learn)
        surprise = self._surprise.step(slots, x, learn) if self._surprise else np.zeros_like(x)
        known = np.isfinite(x)
        fused = fuse(residual, related, known)
        by_metric = np.maximum.reduce(
            [np.abs(related), LONG_WEIGHT * residual.long, SHORT_WEIGHT * residual.short, LOCAL_WEIGHT * residual.local]
        )
        rarest = surprise.max(1) - MANY_METRICS * math.log10(self.metrics)
        return Scores(self._smoothed(slots, fused), rarest, by_metric, residual.center)

    def _smoothed(self, slots: Indices, fused: Floats) -> Floats:
        s = self._smooth.read(slots)
        count = s["count"] + 1
        level = s["level"] + np.maximum(1 / count, 2 / (SMOOTH_ROWS + 1)) * (fused - s["level"])
        held: Floats = np.maximum(level, s["held"] * math.exp(-1 / HOLD_ROWS))
        self._smooth.write(slots, {"count": count, "level": level, "held": held})
        return held

    def snapshot(self) -> dict[str, Floats]:
        """Return all state, to be saved."""
        return {f"{name}.{key}": t for name, part in self._parts.items() for key, t in part.snapshot().items()}

    def load(self, saved: Saved) -> None:
        """Restore a snapshot. Raises InvalidInputError for one of another version, and then changes nothing."""
        parts = {
            name: {key.removeprefix(f"{name}."): t for key, t in saved.items() if key.startswith(f"{name}.")}
            for name in self._parts
        }
        lengths = {len(t) for t in saved.values()}
        if len(lengths) != 1:
            raise InvalidInputError("snapshot", sorted(lengths), "must have the same number of slots")
        for name, part in self._parts.items():
            part.check(parts[name])
        for name, part in self._parts.items():
            part.load(parts[name])


def fuse(residual: Residual, related: Floats, known: Bools) -> Floats:
    """Combine the four parts into one number per row; missing metrics do not count."""
    parts = np.stack(
        [
            _mean(np.abs(related), 2.0, known),
            LONG_WEIGHT * _mean(residual.long, 4.0, known),
            SHORT_WEIGHT * _mean(residual.short, 2.0, known),
            LOCAL_WEIGHT * _mean(residual.local, 0.5, known),
        ]
    )
    fused: Floats = (parts**4).mean(0) ** 0.25
    return fused


def _mean(z: Floats, power: float, known: Bools) -> Floats:
    share = (z**power * known).sum(1) / np.maximum(known.sum(1, dtype=np.float32), 1)
    mean: Floats = share ** (1 / power)
    return mean
