"""Energy as the integral of power at the sensor's own rate, and its check against the counter. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

# Between readings further apart than this, the power is unknown.
MAX_GAP_S = 5.0
CHECK_AFTER_S = 60.0
# The longest time between two samples of an agent; exporters refresh their pages at least as often.
MAX_PERIOD_S = 60.0
# A counter that is stuck for this long, over this much energy, is broken (ROCm/amdsmi issue 38).
STILL_S, STILL_J = 130.0, 500.0
MAX_W = 1e6  # no device draws more: larger values are not readings


@dataclass
class EnergyIntegral:
    """Integrates (time in s, power in W) by the trapezoidal rule, in joules; repeated times are skipped."""

    energy_j: float = 0.0
    max_gap_s: float = MAX_GAP_S
    _last: tuple[float, float] | None = None

    def add(self, readings: Iterable[tuple[float, float]]) -> None:
        """Add readings in order of time."""
        for at_s, power_w in readings:
            if not 0 <= power_w <= MAX_W:
                continue
            if self._last is not None:
                gap = at_s - self._last[0]
                if gap <= 0:
                    continue
                if gap <= self.max_gap_s:
                    self.energy_j += gap * (power_w + self._last[1]) / 2
            self._last = (at_s, power_w)


@dataclass
class _DeviceEnergy:
    """Energy of one device: what is reported, and the integral of its power beside it."""

    integral: EnergyIntegral = field(default_factory=lambda: EnergyIntegral(max_gap_s=MAX_PERIOD_S))
    counter_j: float | None = None
    moved_s: float = 0.0
    at_move_j: float = 0.0
    out_j: float = 0.0
    offset_j: float = 0.0


@dataclass
class EnergyWatch:
    """Provides energy for devices whose counter is stuck while they draw power.

    The reported value never falls unless the counter does: a counter that moves again continues from it.
    """

    _devices: dict[str, _DeviceEnergy] = field(default_factory=dict)

    def complete(self, device: str, sample: Mapping[str, float], now_s: float) -> dict[str, float]:
        """Return the sample with its energy from the counter or, while that is stuck, from the power."""
        power_w, counter_j = sample.get("power_w"), sample.get("energy_j")
        state = self._devices.setdefault(device, _DeviceEnergy())
        if power_w is not None:
            state.integral.add([(now_s, power_w)])
        if counter_j is None:
            return dict(sample)
        if state.counter_j is None or counter_j != state.counter_j:
            self._move(state, counter_j, now_s)
        elif now_s - state.moved_s > STILL_S and state.integral.energy_j - state.at_move_j > STILL_J:
            state.out_j = state.counter_j + state.offset_j + state.integral.energy_j - state.at_move_j
        return {**sample, "energy_j": state.out_j}

    @staticmethod
    def _move(state: _DeviceEnergy, counter_j: float, now_s: float) -> None:
        if state.counter_j is not None and counter_j < state.counter_j:
            state.offset_j = 0.0  # the counter restarted, and so does the reported value
        else:
            state.offset_j = max(state.offset_j, state.out_j - counter_j)
        state.counter_j, state.moved_s, state.at_move_j = counter_j, now_s, state.integral.energy_j
        state.out_j = counter_j + state.offset_j


@dataclass
class EnergyCheck:
    """Compares the gains of integral and counter, about once a minute."""

    _begin: tuple[float, float, float] | None = None
    ratio: float | None = field(default=None, init=False)

    def compare(self, at_s: float, integral_j: float, counter_j: float) -> float | None:
        """Return integral over counter when a minute has passed, else None.

        A counter that fell restarts the comparison.
        """
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

    When it would pass `limit` it restarts from the previous reading, like a counter that was reset; readers that
    handle resets lose nothing. They detect a reset only when the value falls, so a step larger than the previous
    value is deferred.
    """

    limit: float
    _base: float = 0.0
    _last: float | None = None

    def apply(self, value: float) -> float:
        """Return the bounded counter."""
        last = self._last
        self._last = value
        if last is None:
            self._base = value if value > self.limit else 0.0
        elif value < last:
            self._base = 0.0
        elif value - self._base > self.limit and value - last < last - self._base:
            self._base = last
        return value - self._base
