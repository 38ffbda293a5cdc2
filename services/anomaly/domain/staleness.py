"""Detect devices and nodes whose samples stopped."""

from __future__ import annotations

import numpy as np

from accelerator_autopilot.anomaly.domain.last_values import Doubles, Slots
from accelerator_autopilot.anomaly.domain.rules.base import Kind, filled

PERIODS = 5.0
ALONE_S = 60.0  # the only device of its source: it is unknown whether the device or its source failed
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
    """Tracks when each device and node was last heard, on the listener's clock."""

    def __init__(self, after_s: float) -> None:
        self._after_s = after_s
        self.heard_s: Doubles = np.empty(0)
        self._period_s: Doubles = np.empty(0)
        self.node_heard_s: Doubles = np.empty(0)
        self._node_period_s: Doubles = np.empty(0)

    def grow(self, slots: int) -> None:
        """Grow to at least this many slots; there are never more nodes than slots."""
        self.heard_s = filled(self.heard_s, slots, np.nan)
        self._period_s = filled(self._period_s, slots, 1.0)
        self.node_heard_s = filled(self.node_heard_s, slots, np.nan)
        self._node_period_s = filled(self._node_period_s, slots, 1.0)

    def hear(self, slots: Slots, nodes: Slots, heard_s: Doubles, period_s: Doubles) -> None:
        """Record that devices of these slots were heard."""
        self.heard_s[slots], self._period_s[slots] = heard_s, period_s
        self.node_heard_s[nodes], self._node_period_s[nodes] = heard_s, period_s

    def silent_nodes(self, now_s: float) -> tuple[Slots, Doubles]:
        """Return nodes that are silent, and for how long."""
        silent_s = now_s - self.node_heard_s
        silent = np.flatnonzero(silent_s > np.maximum(self._after_s, PERIODS * self._node_period_s))
        return silent, silent_s[silent]

    def silent_devices(self, node_of: Slots) -> tuple[Slots, Doubles]:
        """Return devices that are silent while their nodes are not, and how far behind their nodes."""
        count = len(node_of)
        behind_s = self.node_heard_s[node_of] - self.heard_s[:count]
        # However long: silence alone does not prove that a device was removed; the inventory does.
        silent = np.flatnonzero(behind_s > np.maximum(self._after_s, PERIODS * self._period_s[:count]))
        return silent, behind_s[silent]

    def patience_s(self, period_s: float) -> float:
        """Return how long a device with this period may be silent."""
        return max(self._after_s, PERIODS * period_s)

    def forget(self, slot: int) -> None:
        """Forget a device that was removed."""
        self.heard_s[slot] = np.nan
