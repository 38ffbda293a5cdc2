"""Energy as the integral of power at the sensor's own rate, and its check against the counter. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

# Beyond this time between two readings the power between them is not known.
MAX_GAP_S = 5.0
CHECK_AFTER_S = 60.0
MOST_W = 1e6  # no device draws more: what is beyond is no reading


@dataclass
class EnergyIntegral:
    """Joules by the trapezoidal rule over (time in s, power in W); repeated times are skipped."""

    energy_j: float = 0.0
    _last: tuple[float, float] | None = None

    def add(self, readings: Iterable[tuple[float, float]]) -> None:
        """Take readings in order of time."""
        for at_s, power_w in readings:
            if not 0 <= power_w <= MOST_W:
                continue
            if self._last is not None:
                gap = at_s - self._last[0]
                if gap <= 0:
                    continue
                if gap <= MAX_GAP_S:
                    self.energy_j += gap * (power_w + self._last[1]) / 2
            self._last = (at_s, power_w)


@dataclass
class EnergyCheck:
    """Compares what the integral and the counter gained, about once a minute."""

    _begin: tuple[float, float, float] | None = None
    ratio: float | None = field(default=None, init=False)

    def compare(self, at_s: float, integral_j: float, counter_j: float) -> float | None:
        """Integral over counter when a minute has passed, else None; a counter that fell starts anew."""
        if self._begin is None or counter_j < self._begin[2]:
            self._begin = (at_s, integral_j, counter_j)
            return None
        began, integral, counter = self._begin
        if at_s - began < CHECK_AFTER_S or counter_j <= counter:
            return None
        self._begin = (at_s, integral_j, counter_j)
        self.ratio = (integral_j - integral) / (counter_j - counter)
        return self.ratio


@dataclass
class CounterBase:
    """Bounds a counter so that float32 still resolves its growth.

    When it would pass `limit` it starts again from the reading before, like a counter that was
    reset: readers who know resets lose nothing. They see a reset only in a value that falls, so
    a step larger than the value before it is waited out.
    """

    limit: float
    _base: float = 0.0
    _last: float | None = None

    def apply(self, value: float) -> float:
        """The bounded counter."""
        last = self._last
        self._last = value
        if last is None:
            self._base = value if value > self.limit else 0.0
        elif value < last:
            self._base = 0.0
        elif value - self._base > self.limit and value - last < last - self._base:
            self._base = last
        return value - self._base
