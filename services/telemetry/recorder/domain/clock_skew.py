"""Nodes whose clocks are wrong, by comparison with the broker's. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from accelerator_autopilot.contracts.frames import TelemetryFrame

AHEAD_S = 30.0
BEHIND_S = 600.0  # an agent that was cut off sends frames this late with a clock that is right


@dataclass
class ClockWatch:
    """`off` holds the seconds by which each wrong clock is ahead (positive) or behind.

    A frame behind the broker's clock may have waited for the broker; one of a run that waited
    catches up, a wrong clock never does. So a node is behind only when its newest frame is.
    """

    off: dict[str, float] = field(default_factory=dict)
    _newest_us: dict[str, int] = field(default_factory=dict)

    def observe(self, frame: TelemetryFrame, stored_us: int) -> bool:
        """Take note of a frame and of when the broker had it; whether the node's standing changed."""
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
