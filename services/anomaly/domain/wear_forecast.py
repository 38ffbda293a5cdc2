"""Forecast failures from wear: spares that are used up one by one, and when the last one is likely to go.

The events are modelled as a Poisson process. With n events in a time T the rate is Gamma(n + 1/2, T) (Jeffreys' prior),
so the time until the next k events is T times a ratio of two gamma variables, a beta prime; its quantiles are those of
Paulson's normal approximation (1942), which is accurate within some per cent for two events and more.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from accelerator_autopilot.anomaly.domain.last_values import Bools, Doubles, View, all_of
from accelerator_autopilot.anomaly.domain.rules.base import Kind, filled
from accelerator_autopilot.anomaly.domain.trend_forecast import Extrapolation

DAY_S = 86_400.0
HORIZON_S, WINDOW_S = 30 * DAY_S, 60 * DAY_S
MIN_SPAN_S, MIN_EVENTS = DAY_S, 3.0
Z = 1.645  # nine out of ten lie within
# NVIDIA, "GPU Memory Error Management": frame buffer retirements, and remappings for uncorrected errors.
MAX_RETIRED_PAGES, MAX_REMAPPED_ROWS = 64.0, 512.0


class Wear:
    """Tracks counters of spares that are used up; its state survives restarts."""

    unit_s, unit = DAY_S, "d"

    def __init__(self, kind: Kind, counters: tuple[str, ...], limit: float) -> None:
        self.kind, self._counters, self._limit = kind, counters, limit
        self._since_s: Doubles = np.empty(0)
        self._first: Doubles = np.empty(0)

    def grow(self, slots: int) -> None:
        """Grow to at least this many slots."""
        self._since_s, self._first = filled(self._since_s, slots, np.inf), filled(self._first, slots, np.inf)

    def test(self, view: View) -> Extrapolation:
        """Process the rows and extrapolate."""
        parts = np.stack([view.read(name).astype(np.float64) for name in self._counters])
        known: Bools = ~all_of(np.isnan(parts.T))
        if not known.any():
            never = np.full(len(view), np.inf)
            return Extrapolation(known, known, never, never, never)
        used = np.where(known, np.nansum(parts, axis=0), np.nan)
        since_s, first = self._begin(view, used, known)
        return self._course(known, used - first, view.at_s - since_s, self._limit - used)

    def _begin(self, view: View, used: Doubles, known: Bools) -> tuple[Doubles, Doubles]:
        """Return for each row since when its counter is tracked, and its value then."""
        times, counts, there = view.grid(view.at_s), view.grid(used), view.grid(known)
        since_s, first = self._since_s[view.each], self._first[view.each]
        begins, firsts = np.empty(times.shape), np.empty(times.shape)
        settled = ~there | ((counts >= first) & (times >= since_s) & (times - since_s <= WINDOW_S))
        if settled.all():
            begins[:], firsts[:] = since_s, first
            return begins.ravel(), firsts.ravel()
        for t, (at_s, now, here) in enumerate(zip(times, counts, there, strict=True)):
            since_s, first = begins[t], firsts[t] = self._follow(since_s, first, at_s, now, here)
        self._since_s[view.each], self._first[view.each] = since_s, first
        return begins.ravel(), firsts.ravel()

    @staticmethod
    def _follow(
        since_s: Doubles, first: Doubles, at_s: Doubles, used: Doubles, known: Bools
    ) -> tuple[Doubles, Doubles]:
        # A counter that fell belongs to another device; after a clock was set back, the span is meaningless.
        anew = known & ~((used >= first) & (at_s >= since_s))
        since_s, first = np.where(anew, at_s, since_s), np.where(anew, used, first)
        # The older half of a long history is forgotten: wear accelerates.
        old = known & (at_s - since_s > WINDOW_S)
        return np.where(old, at_s - WINDOW_S / 2, since_s), np.where(old, (first + used) / 2, first)

    @staticmethod
    def _course(known: Bools, events: Doubles, span_s: Doubles, left: Doubles) -> Extrapolation:
        ready = known & (events >= MIN_EVENTS) & (span_s >= MIN_SPAN_S) & (left > 0)
        in_s, earliest_s, latest_s = (np.full(len(known), np.inf) for _ in range(3))
        if ready.any():
            n, k, t = events[ready] + 0.5, left[ready], span_s[ready]
            for bound_s, z in ((in_s, 0.0), (earliest_s, -Z), (latest_s, Z)):
                bound_s[ready] = t * k / n * paulson(k, n, z)
        return Extrapolation(ready & (in_s < HORIZON_S), known, in_s, earliest_s, latest_s)

    def snapshot(self) -> dict[str, Doubles]:
        """Return its state, to be saved."""
        return {"since_s": self._since_s, "first": self._first}

    def load(self, saved: dict[str, npt.NDArray[Any]]) -> None:
        """Restore a snapshot; without its state, start over."""
        if {"since_s", "first"} <= set(saved):
            self._since_s, self._first = (np.array(saved[name], np.float64) for name in ("since_s", "first"))


def paulson(a: Doubles, b: Doubles, z: float) -> Doubles:
    """Return the quantile at `z` standard deviations of the ratio of two gamma variables, these shapes, mean one."""
    p, q = 1.0 / (9.0 * a), 1.0 / (9.0 * b)
    below = (1.0 - q) ** 2 - q * z**2
    root = np.sqrt(np.maximum(p * (1.0 - q) ** 2 + q * (1.0 - p) ** 2 - p * q * z**2, 0.0))
    cube = ((1.0 - p) * (1.0 - q) + z * root) / np.where(below > 0, below, np.nan)
    found: Doubles = np.where(below > 0, np.maximum(cube, 0.0) ** 3, np.inf)
    return found


def make() -> list[Wear]:
    """Create one of each."""
    return [
        Wear(
            Kind(
                "spare_rows",
                "warning",
                "spare memory rows will be used up in {in_d:.0f} days at the current rate "
                "(between {from_d:.0f} and {to_d:.0f})",
                "plan the replacement of the GPU; run diagnostics when it is idle",
                ("remapped_rows", "ecc_dbe_total"),
                f"fewer than {MAX_REMAPPED_ROWS:.0f} for years",
                disturbs=False,
            ),
            ("remapped_rows",),
            MAX_REMAPPED_ROWS,
        ),
        Wear(
            Kind(
                "spare_pages",
                "warning",
                "the limit of retired memory pages will be reached in {in_d:.0f} days at the current rate "
                "(between {from_d:.0f} and {to_d:.0f})",
                "plan the replacement of the GPU; run diagnostics when it is idle",
                ("retired_pages_sbe", "retired_pages_dbe", "ecc_dbe_total"),
                f"fewer than {MAX_RETIRED_PAGES:.0f} for years",
                disturbs=False,
            ),
            ("retired_pages_sbe", "retired_pages_dbe"),
            MAX_RETIRED_PAGES,
        ),
    ]
