"""The last values of a number, and the most of it over a sliding window, for many pools."""

from __future__ import annotations

import numpy as np

from accelerator_autopilot.scheduler.domain.pool_arrays import Doubles


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


class LastValues:
    """[W, P] the newest first; what was never told is zero."""

    def __init__(self, pools: int, most: int) -> None:
        self._most = most
        # Twice as long as the window, so that to push is to write one row, and only now and then to move all.
        self._kept = np.zeros((2 * most, pools))
        self._at = most

    def push(self, value: Doubles) -> Doubles:
        """Take [P] in, give [W, P] out; valid until the next push."""
        if self._at == 0:
            self._kept[self._most :] = self._kept[: self._most]
            self._at = self._most
        self._at -= 1
        self._kept[self._at] = value
        return self._kept[self._at : self._at + self._most]
