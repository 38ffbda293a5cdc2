"""Devices and nodes whose samples stopped."""

from __future__ import annotations

import numpy as np

from accelerator_autopilot.anomaly.domain.last_values import Doubles, Slots
from accelerator_autopilot.anomaly.domain.rules.base import Kind, filled

PERIODS = 5.0
ALONE_S = 60.0  # the only device of its source: nothing tells whether it or what reads it has failed
AGENT = Kind(
    "agent_silent",
    "warning",
    "no frames for {silent_s:.0f} s",
    "check the node and its agent",
    (),
    "one per period",
)
DEVICE = Kind(
    "samples_stopped",
    "critical",
    "no samples for {silent_s:.0f} s while its node still reports",
    "drain; check for an XID; reboot or replace the GPU",
    (),
    "one per tick",
)


class StalenessTracker:
    """Keeps when each device and node was last heard, on the clock of whoever listens."""

    def __init__(self, after_s: float) -> None:
        self._after_s = after_s
        self.heard_s: Doubles = np.empty(0)
        self._period_s: Doubles = np.empty(0)
        self.node_heard_s: Doubles = np.empty(0)
        self._node_period_s: Doubles = np.empty(0)

    def grow(self, slots: int) -> None:
        """Have at least this many slots; there are no more nodes than slots."""
        self.heard_s = filled(self.heard_s, slots, np.nan)
        self._period_s = filled(self._period_s, slots, 1.0)
        self.node_heard_s = filled(self.node_heard_s, slots, np.nan)
        self._node_period_s = filled(self._node_period_s, slots, 1.0)

    def hear(self, slots: Slots, nodes: Slots, heard_s: Doubles, period_s: Doubles) -> None:
        """Devices of these slots were heard."""
        self.heard_s[slots], self._period_s[slots] = heard_s, period_s
        self.node_heard_s[nodes], self._node_period_s[nodes] = heard_s, period_s

    def silent_nodes(self, now_s: float) -> tuple[Slots, Doubles]:
        """Nodes that are silent, and for how long."""
        silent_s = now_s - self.node_heard_s
        silent = np.flatnonzero(silent_s > np.maximum(self._after_s, PERIODS * self._node_period_s))
        return silent, silent_s[silent]

    def silent_devices(self, node_of: Slots) -> tuple[Slots, Doubles]:
        """Devices that are silent while their nodes are not, and for how long behind their nodes."""
        count = len(node_of)
        behind_s = self.node_heard_s[node_of] - self.heard_s[:count]
        # However long: silence alone is no proof that a device was taken out, the inventory says that.
        silent = np.flatnonzero(behind_s > np.maximum(self._after_s, PERIODS * self._period_s[:count]))
        return silent, behind_s[silent]

    def patience_s(self, period_s: float) -> float:
        """For how long a device with this period may say nothing."""
        return max(self._after_s, PERIODS * period_s)

    def forget(self, slot: int) -> None:
        """A device that was taken out is not silent."""
        self.heard_s[slot] = np.nan
