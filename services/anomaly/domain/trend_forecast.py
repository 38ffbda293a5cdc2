"""Forecast failures: a linear trend through recent memory use and temperature, and when it reaches the limit.

Weighted least squares with exponentially decaying weights; sums are kept relative to the newest row, so that nothing
grows with time (West 1979). The interval is that of the slope, plus and minus two standard errors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from accelerator_autopilot.anomaly.domain.decaying_sums import CHUNK, fading
from accelerator_autopilot.anomaly.domain.last_values import Bools, Doubles, View
from accelerator_autopilot.anomaly.domain.rules.base import Kind, filled

FADE_S = 1800.0
MIN_SPAN_S = 3600.0
STEADY = 0.97  # share of the variance that the trend explains
HORIZON_S = 6 * 3600.0
FALL = 0.1
AFTER_FALL_ROWS = 8
BEYOND_HIGHEST = 1.5  # an unreported limit is assumed to be half as much again as the highest value seen

Sums = tuple[Doubles, ...]


@dataclass(frozen=True)
class Extrapolation:
    """For each row: whether the limit is reached within the horizon, whether that can be determined, and when."""

    firing: Bools
    known: Bools
    in_s: Doubles
    earliest_s: Doubles
    latest_s: Doubles

    def reported(self, unit_s: float, unit: str) -> dict[str, Doubles]:
        """Return when, from and to, in this unit of time, named with its suffix."""
        named = {"in": self.in_s, "from": self.earliest_s, "to": self.latest_s}
        return {f"{name}_{unit}": seconds / unit_s for name, seconds in named.items()}


def _one(sums: Sums, share: Doubles, known: Bools, dt: Doubles, fade: Doubles) -> Sums:
    """Update the sums, and the time span that they cover, with one row of each slot."""
    w, t, tt, y, ty, yy, span_s = sums
    # A fall by a tenth of the limit ends the trend.
    fallen = known & (w > 0) & (share < y / np.maximum(w, 1e-9) - FALL)
    tt, t, ty = tt - 2 * dt * t + dt * dt * w, t - dt * w, ty - dt * y
    keep = np.where(fallen, 0.0, fade)
    w, t, tt = w * keep + known, t * keep, tt * keep
    y, ty, yy = y * keep + share, ty * keep, yy * keep + share * share
    return w, t, tt, y, ty, yy, np.where(fallen, 0.0, span_s + dt)


def _many(sums: Sums, share: Doubles, known: Bools, dt: Doubles, fade: Doubles) -> list[Doubles]:
    """Update with many rows of each slot: as many at once as there are without a fall."""
    parts: list[Sums] = []
    first, ahead = 0, CHUNK
    while first < len(share):
        here = slice(first, first + ahead)
        risen, falls = _rising(sums, share[here], known[here], dt[here], fade[here])
        if falls == len(risen[0]):
            parts.append(risen)
            first, ahead = first + falls, min(2 * ahead, CHUNK)
        else:
            # Where one has fallen, it or another soon falls again.
            first, ahead = first + falls, max(2 * falls, AFTER_FALL_ROWS)
            parts.append(tuple(values[:falls] for values in risen))
            sums = tuple(values[-1] for values in parts[-1]) if falls else sums
            for row in range(first, min(first + AFTER_FALL_ROWS, len(share))):
                sums = _one(sums, share[row], known[row], dt[row], fade[row])
                parts.append(tuple(values[None] for values in sums))
                first += 1
        sums = tuple(values[-1] for values in parts[-1])
    return [np.concatenate(values) for values in zip(*parts, strict=True)]


def _rising(sums: Sums, share: Doubles, known: Bools, dt: Doubles, fade: Doubles) -> tuple[Sums, int]:
    """Update as if no row fell; returns also the first row in which one does, the number of rows if none.

    Sums relative to the first row's time, moved to each row's.
    """
    if len(share) == 1:
        return tuple(values[None] for values in _one(sums, share[0], known[0], dt[0], fade[0])), 1
    w0, t0, tt0, y0, ty0, yy0, span_s = sums
    since = np.add.accumulate(dt, axis=0)
    start = np.concatenate([w0, t0, tt0, y0, ty0, yy0])
    add = np.concatenate([known, known * since, known * since**2, share, share * since, share**2], axis=1)
    w, a, b, y, c, yy = np.split(fading(start, np.tile(fade, 6), add), 6, axis=1)
    earlier_w, earlier_y = np.concatenate([w0[None], w[:-1]]), np.concatenate([y0[None], y[:-1]])
    falls = known & (earlier_w > 0) & (share < earlier_y / np.maximum(earlier_w, 1e-9) - FALL)
    first = int(falls.any(axis=1).argmax()) if falls.any() else len(share)
    return (w, a - since * w, b - 2 * since * a + since**2 * w, y, c - since * y, yy, span_s + since), first


class Trend:
    """Follows one metric towards its limit."""

    unit_s, unit = 3600.0, "h"

    def __init__(self, kind: Kind, metric: str, limit: str, least_share: float, least_rise: float) -> None:
        self.kind, self._metric, self._limit = kind, metric, limit
        self._least_share, self._least_rise = least_share, least_rise
        # Sums of weight, time, time squared, value, time times value, value squared; time is seconds before now.
        self._sums: list[Doubles] = [np.empty(0) for _ in range(6)]
        self._span_s: Doubles = np.empty(0)

    def grow(self, slots: int) -> None:
        """Grow to at least this many slots."""
        self._sums = [filled(values, slots, 0.0) for values in self._sums]
        self._span_s = filled(self._span_s, slots, 0.0)

    def test(self, view: View) -> Extrapolation:
        """Process the rows and extrapolate."""
        value, limit = view.read(self._metric).astype(np.float64), view.get(self._limit).astype(np.float64)
        limit = np.where(np.isnan(limit), BEYOND_HIGHEST * view.highest(self._metric), limit)
        known = ~np.isnan(value) & (limit > 0)
        share = np.where(known, value / np.where(known, limit, 1.0), 0.0)
        sums: Sums = tuple(values[view.each] for values in (*self._sums, self._span_s))
        fade = np.exp(-view.dt_s / FADE_S)
        shares, there, steps, fades = view.grid(share), view.grid(known), view.grid(view.dt_s), view.grid(fade)
        courses = _many(sums, shares, there, steps, fades)
        for array, course in zip((*self._sums, self._span_s), courses, strict=True):
            array[view.each] = course[-1]
        *lines, span_s = (course.ravel() for course in courses)
        return self._course(known, span_s, tuple(lines))

    def _course(self, known: Bools, span_s: Doubles, sums: tuple[Doubles, ...]) -> Extrapolation:
        w, t, tt, y, ty, yy = sums
        n = np.maximum(w, 1e-9)
        var_t, var_y, cov = tt / n - (t / n) ** 2, yy / n - (y / n) ** 2, ty / n - (t / n) * (y / n)
        slope = cov / np.maximum(var_t, 1e-9)
        explained = cov**2 / np.maximum(var_t * var_y, 1e-30)
        error = np.sqrt(np.maximum(var_y * (1 - explained), 0) / np.maximum(var_t * np.maximum(n - 2, 1), 1e-9))
        level = y / n - slope * t / n
        left = 1.0 - level

        def when(rate: Doubles) -> Doubles:
            return np.where(rate > 0, left / np.maximum(rate, 1e-12), np.inf)

        in_s = when(slope)
        ready = known & (span_s >= MIN_SPAN_S) & (n > 10)
        rise = slope * np.minimum(span_s, 2 * FADE_S)
        firing = (
            ready
            & (explained > STEADY)
            & (when(slope - 2 * error) < HORIZON_S)
            & (level > self._least_share)
            & (rise > self._least_rise)
        )
        return Extrapolation(firing, known, in_s, when(slope + 2 * error), when(slope - 2 * error))


def make() -> list[Trend]:
    """Create one of each."""
    return [
        Trend(
            Kind(
                "memory_leak",
                "warning",
                "memory use grows steadily; full in {in_h:.1f} h (between {from_h:.1f} and {to_h:.1f} h)",
                "find the leaking process; restart it before the device runs out of memory",
                ("memory_used_bytes", "memory_total_bytes", "processes"),
                "no steady growth",
                open_after_s=300.0,
                clear_after_s=300.0,
            ),
            "memory_used_bytes",
            "memory_total_bytes",
            least_share=0.3,
            least_rise=0.02,
        ),
        Trend(
            Kind(
                "heating",
                "warning",
                "temperature rises steadily; limit reached in {in_h:.1f} h ({from_h:.1f} to {to_h:.1f} h)",
                "check airflow, filters and coolant before the device throttles",
                ("temp_c", "temp_slowdown_c", "power_w", "fan_pct"),
                "no steady rise",
                open_after_s=300.0,
                clear_after_s=300.0,
            ),
            "temp_c",
            "temp_slowdown_c",
            least_share=0.75,
            least_rise=0.03,
        ),
    ]
