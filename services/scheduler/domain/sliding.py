"""The most of a number over a sliding window, for many pools."""

from __future__ import annotations

import numpy as np

from services.scheduler.domain.pool import Doubles


class SlidingMax:
    """Over the last `window_s`, the newest included."""

    def __init__(self, pools: int, window_s: float, period_s: float) -> None:
        self._ring = np.zeros((pools, max(1, round(window_s / period_s) + 1)))
        self._next = 0

    def push(self, value: Doubles) -> Doubles:
        """Take [P] in, give [P] out."""
        self._ring[:, self._next] = value
        self._next = (self._next + 1) % self._ring.shape[1]
        most: Doubles = self._ring.max(axis=1)
        return most
