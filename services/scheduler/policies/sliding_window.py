"""The last values of a number, and its maximum over a sliding window, for many pools."""

from __future__ import annotations

import numpy as np

from accelerator_autopilot.scheduler.domain.pool_arrays import Doubles


class SlidingMax:
    """Maximum over the last `window_s`, including the newest."""

    def __init__(self, pools: int, window_s: float, period_s: float) -> None:
        self._ring = np.zeros((pools, max(1, round(window_s / period_s) + 1)))
        self._next = 0

    def push(self, value: Doubles) -> Doubles:
        """Add [P], return [P]."""
        self._ring[:, self._next] = value
        self._next = (self._next + 1) % self._ring.shape[1]
        most: Doubles = self._ring.max(axis=1)
        return most


class LastValues:
    """[W, P] values, the newest first; missing ones are zero."""

    def __init__(self, pools: int, most: int) -> None:
        self._most = most
        # Twice as long as the window, so that a push writes one row, and only occasionally moves all.
        self._kept = np.zeros((2 * most, pools))
        self._at = most

    def push(self, value: Doubles) -> Doubles:
        """Add [P], return [W, P]; valid until the next push."""
        if self._at == 0:
            self._kept[self._most :] = self._kept[: self._most]
            self._at = self._most
        self._at -= 1
        self._kept[self._at] = value
        return self._kept[self._at : self._at + self._most]
