"""Sensors that are frozen, report impossible values, or stop reporting."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from accelerator_autopilot.anomaly.domain.decaying_sums import fading, running_extremes
from accelerator_autopilot.anomaly.domain.last_values import Bools, Doubles, Floats, View, all_of, any_of
from accelerator_autopilot.anomaly.domain.metric_columns import COLUMN
from accelerator_autopilot.anomaly.domain.rules.base import Kind, Rule, Stateless, Tested, filled

STILL_TICKS, STILL_S = 30.0, 25.0
ALL = ("power_w", "temp_c", "clock_sm_mhz", "gpu_util_pct", "memory_used_bytes")
USUAL_FACTOR = 3.0
KNOWN_ROWS, KNOWN_STILL_TICKS = 500.0, 12.0
# Until a value has changed twice, its exporter's refresh period is unknown: 30 s, a minute, or five.
CHANGES_KNOWN, UNKNOWN_STILL_S = 2.0, 330.0
IDLE_ROWS = 100.0
SETTLE_TICKS = 12.0
BUSY_PCT = 5.0
MOVED = {"power_w": 0.3, "temp_c": 0.3, "gpu_util_pct": 40.0}  # share of the highest power; points of utilisation
STUCK_S = 120.0
LEVEL_RATE = 0.2
MISSING_ROWS, MISSING_SHARE = 20.0, 0.5
LIMITS: dict[str, tuple[float, float]] = {
    "gpu_util_pct": (0.0, 100.5), "mem_util_pct": (0.0, 100.5), "power_w": (0.0, 20_000.0), "temp_c": (1.0, 130.0),
    "temp_mem_c": (1.0, 140.0), "fan_pct": (0.0, 130.0), "clock_sm_mhz": (0.0, 6_000.0),
    "clock_mem_mhz": (0.0, 40_000.0), "memory_used_bytes": (0.0, 1e13), "sm_util_pct": (0.0, 150.5),
    "tensor_util_pct": (0.0, 150.5), "dram_util_pct": (0.0, 150.5),
}  # fmt: skip


@dataclass(frozen=True)
class Unchanged:
    """For each row: for how many rows and seconds the value has been unchanged, compared with its history.

    `usual` is the longest time it was unchanged before, in rows, and `rows` how many there were in this state;
    `changes` counts how often it changed, including its first value.
    """

    busy: Bools
    ticks: Doubles
    still_s: Doubles
    usual: Doubles
    rows: Doubles
    changes: Doubles

    def lasts(self, least_s: float) -> Bools:
        """Whether it has been unchanged for much longer than ever before."""
        seen_before = self.rows - self.ticks
        least = np.where(seen_before >= KNOWN_ROWS, KNOWN_STILL_TICKS, STILL_TICKS)
        # Some devices are static when idle: that must be known before it counts as anomalous.
        judged = self.busy | (seen_before >= IDLE_ROWS)
        lasting: Bools = judged & (self.ticks >= np.maximum(USUAL_FACTOR * self.usual, least))
        # The first value was seen for only part of its time.
        paced = self.changes > CHANGES_KNOWN
        return lasting & (self.still_s >= np.where(paced, least_s, np.maximum(least_s, UNKNOWN_STILL_S)))


class UnchangedTracker:
    """Tracks how long a value has repeated, compared with the longest time it did before, idle and busy."""

    def __init__(self) -> None:
        self._ticks: Doubles = np.empty(0)
        self._still_s: Doubles = np.empty(0)
        self._rows = [np.empty(0), np.empty(0)]
        self._longest = [np.empty(0), np.empty(0)]
        self._changes: Doubles = np.empty(0)

    def grow(self, slots: int) -> None:
        """Grow to at least this many slots."""
        self._ticks, self._still_s = filled(self._ticks, slots, 0.0), filled(self._still_s, slots, 0.0)
        self._rows = [filled(values, slots, 0.0) for values in self._rows]
        self._longest = [filled(values, slots, 0.0) for values in self._longest]
        self._changes = filled(self._changes, slots, 0.0)

    def count(self, view: View, same: Bools, known: Bools) -> Unchanged:
        """Process rows; returns how long the value has been unchanged in each."""
        if view.moments > 1:
            return self._count_many(view, same, known)
        s, busy = view.slots, self._busy(view)
        before = self._ticks[s]
        ticks = np.where(same, before + 1, 0.0)
        for state, (longest, rows) in enumerate(zip(self._longest, self._rows, strict=True)):
            rows[s] += known & (busy == bool(state))
            ended = known & ~same & (busy == bool(state))
            longest[s] = np.where(ended, np.maximum(longest[s], before), longest[s])
        self._changes[s] += known & ~same
        self._ticks[s] = np.where(known, ticks, before)
        self._still_s[s] = np.where(known, np.where(same, self._still_s[s] + view.dt_s, 0.0), self._still_s[s])
        usual = np.where(busy, self._longest[1][s], self._longest[0][s])
        rows = np.where(busy, self._rows[1][s], self._rows[0][s])
        return Unchanged(busy, self._ticks[s], self._still_s[s], usual, rows, self._changes[s])

    def _count_many(self, view: View, same: Bools, known: Bools) -> Unchanged:
        """Process several moments."""
        s, busy, same, known = view.each, view.grid(self._busy(view)), view.grid(same), view.grid(known)
        counted = np.add.accumulate(known, axis=0)
        # Where the value last changed: how many known rows, and how much time, had passed by then.
        moved = known & ~same
        ago = np.maximum.accumulate(np.where(moved, counted, -1), axis=0)
        ticks = np.where(ago >= 0, counted - ago, self._ticks[s] + counted).astype(np.float64)
        unchanged_s = np.add.accumulate(np.where(known & same, view.grid(view.dt_s), 0.0), axis=0)
        by_then = np.maximum.accumulate(np.where(moved, unchanged_s, -1.0), axis=0)
        still_s = np.where(by_then >= 0, unchanged_s - by_then, self._still_s[s] + unchanged_s)
        before = np.concatenate([self._ticks[s][None], ticks[:-1]])
        usual, rows = np.empty(ticks.shape), np.empty(ticks.shape)
        for state in (False, True):
            here = busy == state
            seen = self._rows[state][s] + np.add.accumulate(known & here, axis=0)
            ended = np.where(moved & here, before, 0.0)
            longest = np.maximum(self._longest[state][s], np.maximum.accumulate(ended, axis=0))
            self._rows[state][s], self._longest[state][s] = seen[-1], longest[-1]
            rows[here], usual[here] = seen[here], longest[here]
        changes = self._changes[s] + np.add.accumulate(moved, axis=0)
        self._ticks[s], self._still_s[s], self._changes[s] = ticks[-1], still_s[-1], changes[-1]
        return Unchanged(busy.ravel(), ticks.ravel(), still_s.ravel(), usual.ravel(), rows.ravel(), changes.ravel())

    @staticmethod
    def _busy(view: View) -> Bools:
        busy: Bools = view.get("gpu_util_pct") > BUSY_PCT
        return busy


class Frozen:
    """All values repeat exactly."""

    kind = Kind(
        "frozen_sensor",
        "warning",
        "identical samples for much longer than ever before",
        "do not trust this device's readings; reload the driver",
        ("power_w", "temp_c", "clock_sm_mhz", "gpu_util_pct"),
        "changing values",
        open_after_s=0.0,
        clear_after_s=0.0,
    )
    reads = ("power_w",)

    def __init__(self) -> None:
        self._columns = [COLUMN[name] for name in ALL]
        self._still = UnchangedTracker()

    def grow(self, slots: int) -> None:
        """Grow to at least this many slots."""
        self._still.grow(slots)

    def test(self, view: View) -> Tested:
        """Count rows that repeat the previous one; what a device did while it was healthy is usual."""
        now, before = view.pick(view.now, self._columns), view.pick(view.before, self._columns)
        known = ~np.isnan(now[:, 0])
        same = known & all_of((now == before) | np.isnan(now))
        return self._still.count(view, same, known).lasts(STILL_S), known


class Stuck:
    """A value repeats exactly while another one that it normally follows has changed a lot."""

    def __init__(self, metric: str, follows: str, share_of_peak: float, points: float, text: str) -> None:
        self._metric, self._follows, self._share, self._points = metric, follows, share_of_peak, points
        self.kind = Kind(
            f"stuck_{metric}",
            "warning",
            f"{metric} stays at exactly {{{metric}:g}} while {follows} changes",
            f"do not trust this device's {text} readings; reload the driver",
            (metric, follows),
            f"to follow {follows}",
            clear_after_s=0.0,
        )
        self.reads = (metric,)
        self._still = UnchangedTracker()
        self._high: Doubles = np.empty(0)
        self._low: Doubles = np.empty(0)
        self._level: Doubles = np.empty(0)

    def grow(self, slots: int) -> None:
        """Grow to at least this many slots."""
        self._still.grow(slots)
        self._high, self._low = filled(self._high, slots, -np.inf), filled(self._low, slots, np.inf)
        self._level = filled(self._level, slots, np.nan)

    def test(self, view: View) -> Tested:
        """Measure how far the other's mean over a few rows has moved since this one last changed."""
        now, other = view.read(self._metric), view.read(self._follows)
        known = ~np.isnan(now) & ~np.isnan(other)
        same = known & (now == view.pick(view.before, [COLUMN[self._metric]])[:, 0])
        unchanged = self._still.count(view, same, known)
        # The mean lags behind by some rows.
        begun = unchanged.ticks <= SETTLE_TICKS
        high, low = (self._span if view.moments == 1 else self._span_many)(view, other, known, begun)
        moved = (high - low) >= np.maximum(self._share * np.nan_to_num(view.highest(self._follows)), self._points)
        extreme = (now <= 0) | (now >= 100) if self._metric.endswith("_pct") else np.zeros(len(view), bool)
        return unchanged.lasts(STUCK_S) & known & moved & ~extreme, known

    def _span(self, view: View, other: Floats, known: Bools, begun: Bools) -> tuple[Doubles, Doubles]:
        """Return the range of the other's mean since this one last changed."""
        s = view.slots
        level = np.where(np.isnan(self._level[s]), other, self._level[s] + LEVEL_RATE * (other - self._level[s]))
        high = np.where(begun, level, np.maximum(self._high[s], level))
        low = np.where(begun, level, np.minimum(self._low[s], level))
        for array, fresh in ((self._high, high), (self._low, low), (self._level, level)):
            array[s] = np.where(known, fresh, array[s])
        return high, low

    def _span_many(self, view: View, other: Floats, known: Bools, begun: Bools) -> tuple[Doubles, Doubles]:
        """Process several moments."""
        s, other_values, there = view.each, view.grid(other).astype(np.float64), view.grid(known)
        ever = there.any(axis=0)
        first = other_values[there.argmax(axis=0), np.arange(len(s))]
        start = np.where(np.isnan(self._level[s]) & ever, first, self._level[s])
        kept = np.where(there, 1 - LEVEL_RATE, 1.0)
        level = fading(np.nan_to_num(start), kept, np.where(there, LEVEL_RATE * other_values, 0.0))
        high, low = running_extremes(level, view.grid(begun), there, self._high[s], self._low[s])
        for array, fresh in ((self._high, high), (self._low, low), (self._level, level)):
            array[s] = np.where(ever, fresh[-1], array[s])
        return high.ravel(), low.ravel()


class Impossible(Stateless):
    """Values that no device can have."""

    kind = Kind(
        "impossible_value",
        "warning",
        "a sensor reports a physically impossible value",
        "do not trust this device's readings; reload the driver",
        tuple(LIMITS),
        "a value within physical limits",
        clear_after_s=60.0,
    )
    reads = tuple(LIMITS)

    def __init__(self) -> None:
        self._columns = [COLUMN[name] for name in LIMITS]
        self._low = np.array([low for low, _ in LIMITS.values()], np.float32)
        self._high = np.array([high for _, high in LIMITS.values()], np.float32)

    def test(self, view: View) -> Tested:
        """Compare with the limits, and used memory with total memory."""
        now = view.pick(view.now, self._columns)
        # Missing sensors report 0: from a sensor that never reported anything else, it is not a reading.
        absent = (now == 0) & ~(view.pick(view.peak, self._columns) > 0)
        out = any_of(((now < self._low) & ~absent) | (now > self._high))
        out |= view.get("memory_used_bytes") > 1.02 * view.get("memory_total_bytes")
        cap = view.highest("power_cap_w")
        out |= view.get("power_w") > 2.0 * cap
        return out, ~all_of(np.isnan(now))


class Missing:
    """A device's readings fail more and more often, as they do before a device falls off the bus."""

    kind = Kind(
        "samples_missing",
        "warning",
        "power, temperature or utilisation could not be read in half of the last samples",
        "drain; check for XIDs and bus errors; reboot",
        ("power_w", "temp_c", "gpu_util_pct", "read_errors"),
        "one per tick",
        open_after_s=0.0,
        clear_after_s=30.0,
    )
    reads = ("power_w", "temp_c", "gpu_util_pct")

    def __init__(self) -> None:
        self._columns = [COLUMN[name] for name in ("power_w", "temp_c", "gpu_util_pct")]
        self._share: Doubles = np.empty(0)

    def grow(self, slots: int) -> None:
        """Grow to at least this many slots."""
        self._share = filled(self._share, slots, 0.0)

    def test(self, view: View) -> Tested:
        """Track the share of rows in which a metric that was read before was missing."""
        now = view.pick(view.now, self._columns)
        gone = any_of(np.isnan(now) & ~np.isnan(view.pick(view.before, self._columns)))
        # A row without failed readings only lacks what its source no longer reports.
        gone &= view.read("read_errors") != 0
        rate = np.full(len(view), 2 / (MISSING_ROWS + 1))
        if gone.any():
            # A row with nothing but a failed reading comes from a failing source and says nothing about its
            # devices.
            alone = (~np.isnan(view.now)).sum(axis=1) == 1
            rate[alone & ~np.isnan(view.get("read_errors"))] = 0.0
        shares = fading(self._share[view.each], view.grid(1 - rate), view.grid(gone * rate))
        self._share[view.each] = shares[-1]
        return shares.ravel() > MISSING_SHARE, np.ones(len(view), bool)


def make() -> list[Rule]:
    """Create one of each."""
    return [
        Frozen(),
        Stuck("temp_c", "power_w", MOVED["power_w"], 20.0, "temperature"),
        Stuck("power_w", "gpu_util_pct", 0.0, MOVED["gpu_util_pct"], "power"),
        Stuck("gpu_util_pct", "power_w", 0.4, 40.0, "utilisation"),
        Impossible(),
        Missing(),
    ]
