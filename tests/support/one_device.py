"""A watch that is shown one device."""

from __future__ import annotations

import numpy as np

from accelerator_autopilot.anomaly.domain.detection_engine import DetectionEngine
from accelerator_autopilot.anomaly.domain.metric_columns import matrix


class OneDevice:
    """A watch that is shown one device, tick after tick."""

    def __init__(self, *kinds: str, period_s: float = 1.0) -> None:
        self.watch = DetectionEngine(only=frozenset(kinds) or None)
        self.period_s, self.now_s = period_s, 1_000_000.0
        self.open: set[str] = set()

    def tick(self, **sample: float) -> set[str]:
        """Kinds that are open after one more tick."""
        self.now_s += self.period_s
        names = tuple(sample)
        slots = self.watch.slots("n1", ["gpu-0"])
        values = matrix(np.array([list(sample.values())], np.float32), names)
        one = np.array([self.now_s])
        for found in self.watch.rows(slots, one, values, np.array([self.period_s]), one):
            (self.open.add if found.firing else self.open.discard)(found.kind)
        return set(self.open)

    def ticks(self, count: int, **sample: float) -> set[str]:
        """The same tick several times."""
        for _ in range(count):
            self.tick(**sample)
        return set(self.open)
