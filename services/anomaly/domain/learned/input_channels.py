"""Input of the learned detector for a device: means over some seconds, its own slow power, and its neighbours."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from accelerator_autopilot.anomaly.domain.decaying_sums import fading
from accelerator_autopilot.anomaly.domain.last_values import Bools, Doubles, Floats, Slots, View
from accelerator_autopilot.anomaly.domain.metric_columns import COLUMN
from accelerator_autopilot.anomaly.domain.peer_groups import median_of_others

OWN = (
    "gpu_util_pct", "mem_util_pct", "power_w", "temp_c", "temp_mem_c", "fan_pct", "clock_sm_mhz", "clock_mem_mhz",
    "memory_used_bytes",
)  # fmt: skip
NAMES = (*OWN, "power_slow_w", "peer_temp_c", "peer_power_w")
TEMP, POWER = OWN.index("temp_c"), OWN.index("power_w")
LEARN_S, TURNS = 10.0, 10
DUE_SHARE = 0.95
SLOW_S = 60.0  # temperature follows power with a time constant of about a minute
MAX_PEERS = 16


@dataclass(frozen=True)
class Span:
    """Aggregates of some slots up to a row of a block: means of their own channels, slow power, seconds."""

    row: int
    slots: Slots
    own: Doubles
    slow_w: Doubles
    period_s: Doubles

    def of(self, here: Bools) -> Span:
        """Return a subset of its slots."""
        return Span(self.row, self.slots[here], self.own[here], self.slow_w[here], self.period_s[here])


class InputChannels:
    """Accumulates rows until a learning tick is due."""

    def __init__(self, learn_s: float = LEARN_S) -> None:
        self._learn_s = learn_s
        self._columns = [COLUMN[name] for name in OWN]
        self._sum = np.empty((0, len(OWN)))
        self._count = np.empty((0, len(OWN)))
        self._slow_w = np.empty(0)
        self._since_s = np.empty(0)

    def grow(self, slots: int) -> None:
        """Grow to at least this many slots."""
        more = slots - len(self._since_s)
        if more > 0:
            more = max(more, len(self._since_s))
            nothing = np.zeros((more, len(OWN)))
            self._sum, self._count = np.concatenate([self._sum, nothing]), np.concatenate([self._count, nothing])
            self._slow_w = np.concatenate([self._slow_w, np.full(more, np.nan)])
            self._since_s = np.concatenate([self._since_s, np.full(more, np.nan)])

    def add(self, view: View, node: Slots) -> Slots:
        """Add rows of these nodes; returns the indices of rows whose slots are due."""
        slots = view.slots
        now = view.pick(view.now, self._columns)
        there = ~np.isnan(now)
        self._sum[slots] += np.where(there, now, 0)
        self._count[slots] += there
        power = view.get("power_w")
        before = np.where(np.isnan(self._slow_w[slots]), power, self._slow_w[slots])
        self._slow_w[slots] = before + (1 - np.exp(-view.dt_s / SLOW_S)) * (np.nan_to_num(power) - before)
        # Nodes are staggered, so that a fleet is not learned all at once; a node's devices stay together.
        begun_s = view.at_s - view.dt_s - self._learn_s * (node % TURNS) / TURNS
        since_s = np.where(np.isnan(self._since_s[slots]), begun_s, self._since_s[slots])
        self._since_s[slots] = np.minimum(since_s, view.at_s)
        return np.flatnonzero(view.at_s - self._since_s[slots] >= self._learn_s * DUE_SHARE)

    def take(self, view: View, due: Slots, node_of: Slots) -> tuple[Floats, Doubles]:
        """Return the channels [rows, NAMES] of due rows and the seconds they cover, and restart their accumulation."""
        slots = view.slots[due]
        with np.errstate(invalid="ignore", divide="ignore"):
            own = self._sum[slots] / self._count[slots]
        period_s = view.at_s[due] - self._since_s[slots]
        self._sum[slots] = self._count[slots] = 0
        self._since_s[slots] = view.at_s[due]
        return beside_peers(own, self._slow_w[slots], node_of[due]), period_s

    def spans(self, view: View, node: Slots) -> list[Span]:
        """Add rows of several moments, of slots of these nodes; returns the spans that ended, in order of time."""
        s, at_s = view.each, view.grid(view.at_s)
        now = view.grid(view.pick(view.now, self._columns))
        there = ~np.isnan(now)
        sums = np.concatenate([self._sum[s][None], np.where(there, now, 0).astype(np.float64)])
        counts = np.concatenate([self._count[s][None], there.astype(np.float64)])
        sums, counts = np.add.accumulate(sums, axis=0), np.add.accumulate(counts, axis=0)
        slow_w = self._slow_power(view)
        begun_s = at_s[0] - view.grid(view.dt_s)[0] - self._learn_s * (node % TURNS) / TURNS
        since_s = np.minimum(np.where(np.isnan(self._since_s[s]), begun_s, self._since_s[s]), at_s[0])
        start = np.zeros(len(s), np.int64)
        begun_sums, begun_counts = np.zeros(sums.shape[1:]), np.zeros(sums.shape[1:])
        ended: list[Span] = []
        times = np.ascontiguousarray(at_s.T)
        due = np.array([_due(times[c], 0, since_s[c], self._learn_s) for c in range(len(s))])
        while len(due) and (row := int(due.min())) < len(at_s):
            here = np.flatnonzero(due == row)
            with np.errstate(invalid="ignore", divide="ignore"):
                own = (sums[row + 1, here] - begun_sums[here]) / (counts[row + 1, here] - begun_counts[here])
            ended.append(Span(row, s[here], own, slow_w[row, here], at_s[row, here] - since_s[here]))
            begun_sums[here], begun_counts[here] = sums[row + 1, here], counts[row + 1, here]
            since_s[here], start[here] = at_s[row, here], row + 1
            due[here] = [_due(times[c], row + 1, since_s[c], self._learn_s) for c in here]
        self._sum[s], self._count[s] = sums[-1] - begun_sums, counts[-1] - begun_counts
        self._since_s[s] = since_s
        return ended

    def _slow_power(self, view: View) -> Doubles:
        """Return the power of the last minute in each row [moments, slots]."""
        s, power = view.each, view.grid(view.get("power_w")).astype(np.float64)
        known = ~np.isnan(power)
        ever, first = known.any(axis=0), known.argmax(axis=0)
        before = np.where(np.isnan(self._slow_w[s]) & ever, power[first, np.arange(len(s))], self._slow_w[s])
        gained = np.where(known, 1 - np.exp(-view.grid(view.dt_s) / SLOW_S), 0.0)
        slow_w = fading(np.nan_to_num(before), 1 - gained, gained * np.nan_to_num(power))
        slow_w[~known] = np.nan
        self._slow_w[s] = slow_w[-1]
        return slow_w


def beside_peers(own: Doubles, slow_w: Doubles, node_of: Slots) -> Floats:
    """Return the channels [rows, NAMES] of devices, compared with the others of their nodes among the rows."""
    peers = np.stack([median_of_others(own[:, column], node_of) for column in (TEMP, POWER)], 1)
    return np.concatenate([own, slow_w[:, None], peers], 1).astype(np.float32)


def _due(at_s: Doubles, first: int, since_s: float, learn_s: float) -> int:
    """Return the first row that is late enough; the number of rows when there is none."""
    return max(first, int(np.searchsorted(at_s, since_s + learn_s * DUE_SHARE)))
