"""What the learned detector sees of a device: means over some seconds, its own slow power, and its neighbours."""

from __future__ import annotations

import numpy as np

from services.anomaly.domain.columns import COLUMN
from services.anomaly.domain.history import Doubles, Floats, Slots, View
from services.anomaly.domain.peers import median_of_others

OWN = (
    "gpu_util_pct", "mem_util_pct", "power_w", "temp_c", "temp_mem_c", "fan_pct", "clock_sm_mhz", "clock_mem_mhz",
    "memory_used_bytes",
)  # fmt: skip
NAMES = (*OWN, "power_slow_w", "peer_temp_c", "peer_power_w")
TEMP, POWER = OWN.index("temp_c"), OWN.index("power_w")
LEARN_S, TURNS = 10.0, 10
SLOW_S = 60.0  # heat follows power with a time constant of about a minute
MOST_PEERS = 16


class Channels:
    """Adds rows up until a learning tick is due."""

    def __init__(self) -> None:
        self._columns = [COLUMN[name] for name in OWN]
        self._sum = np.empty((0, len(OWN)))
        self._count = np.empty((0, len(OWN)))
        self._slow_w = np.empty(0)
        self._since_s = np.empty(0)

    def grow(self, slots: int) -> None:
        """Have at least this many slots."""
        more = slots - len(self._since_s)
        if more > 0:
            more = max(more, len(self._since_s))
            nothing = np.zeros((more, len(OWN)))
            self._sum, self._count = np.concatenate([self._sum, nothing]), np.concatenate([self._count, nothing])
            self._slow_w = np.concatenate([self._slow_w, np.full(more, np.nan)])
            self._since_s = np.concatenate([self._since_s, np.full(more, np.nan)])

    def add(self, view: View, node: Slots) -> Slots:
        """Take rows of these nodes in; returns the indices of rows whose slots are due."""
        slots = view.slots
        now = view.now[:, self._columns]
        there = ~np.isnan(now)
        self._sum[slots] += np.where(there, now, 0)
        self._count[slots] += there
        power = view.get("power_w")
        before = np.where(np.isnan(self._slow_w[slots]), power, self._slow_w[slots])
        self._slow_w[slots] = before + (1 - np.exp(-view.dt_s / SLOW_S)) * (np.nan_to_num(power) - before)
        # Nodes take turns, so that a fleet is not learnt from all at once; a node's devices stay together.
        begun_s = view.at_s - view.dt_s - LEARN_S * (node % TURNS) / TURNS
        since_s = np.where(np.isnan(self._since_s[slots]), begun_s, self._since_s[slots])
        self._since_s[slots] = np.minimum(since_s, view.at_s)
        return np.flatnonzero(view.at_s - self._since_s[slots] >= LEARN_S * 0.95)

    def take(self, view: View, due: Slots, node_of: Slots) -> tuple[Floats, Doubles]:
        """The channels [rows, NAMES] of the rows that are due and the seconds they cover; adding begins anew."""
        slots = view.slots[due]
        with np.errstate(invalid="ignore", divide="ignore"):
            own = self._sum[slots] / self._count[slots]
        period_s = view.at_s[due] - self._since_s[slots]
        self._sum[slots] = self._count[slots] = 0
        self._since_s[slots] = view.at_s[due]
        peers = np.stack([median_of_others(own[:, column], node_of[due]) for column in (TEMP, POWER)], 1)
        return np.concatenate([own, self._slow_w[slots, None], peers], 1).astype(np.float32), period_s
