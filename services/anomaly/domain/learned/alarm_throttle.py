"""Throttle alarms from surprise: a row alarms where surprise is high and was not as high recently.

After an alarm, rows alarm again within `REST_ROWS` only when they are clearly more surprising.
"""

from __future__ import annotations

import numpy as np

from accelerator_autopilot.anomaly.domain.last_values import Slots as Indices
from accelerator_autopilot.anomaly.domain.learned.slot_tensors import Floats, Slots

MIN_SURPRISE = 4.0
REST_ROWS = 100
GROWTH = 1.2


class AlarmThrottle:
    """Tracks the last alarm of each slot."""

    def __init__(self) -> None:
        self.slots = Slots({"since": (), "strength": ()}, {"since": 1e9})

    def grow(self, slots: int) -> None:
        """Grow to at least this many slots."""
        self.slots.grow(slots)

    def step(self, slots: Indices, surprise: Floats) -> Floats:
        """Return the strength of each row's alarm, zero where there is none."""
        s = self.slots.read(slots)
        since = s["since"] + 1
        fires = (surprise > MIN_SURPRISE) & ((since > REST_ROWS) | (surprise > GROWTH * s["strength"]))
        self.slots.write(
            slots,
            {
                "since": np.where(fires, np.float32(0), since),
                "strength": np.where(fires, surprise, s["strength"]),
            },
        )
        return np.where(fires, surprise, np.float32(0))
