"""Detect nodes with wrong clocks, by comparison with the broker's. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from accelerator_autopilot.contracts.frames import TelemetryFrame

AHEAD_S = 30.0
BEHIND_S = 600.0  # an agent that was disconnected sends frames this late even with a correct clock


@dataclass
class ClockWatch:
    """`off` holds the seconds by which each wrong clock is ahead (positive) or behind.

    A frame that is behind the broker's clock may have waited for the broker; a run that waited catches up, a wrong
    clock never does. So a node counts as behind only when its newest frame is.
    """

    off: dict[str, float] = field(default_factory=dict)
    _newest_us: dict[str, int] = field(default_factory=dict)

    def observe(self, frame: TelemetryFrame, stored_us: int) -> bool:
        """Compare a frame's time with when the broker stored it; returns whether the node's status changed."""
        if frame.end_us <= self._newest_us.get(frame.node, 0):
            return False
        self._newest_us[frame.node] = frame.end_us
        ahead_s = (frame.end_us - stored_us) / 1e6
        wrong = ahead_s > AHEAD_S or ahead_s < -BEHIND_S
        changed = wrong != (frame.node in self.off)
        if wrong:
            self.off[frame.node] = ahead_s
        else:
            self.off.pop(frame.node, None)
        return changed

    def is_off(self, frame: TelemetryFrame) -> bool:
        """Whether the frame's node has a wrong clock."""
        return frame.node in self.off
