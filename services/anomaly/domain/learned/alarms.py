"""Sparing alarms from surprise: a row alarms where surprise is high and was not as high lately.

After an alarm, rows alarm again within `REST_ROWS` only when they are clearly more surprising.
"""

from __future__ import annotations

import torch
from torch import Tensor

from services.anomaly.domain.learned.slots import Slots

LEAST_SURPRISE = 4.0
REST_ROWS = 100
GROWTH = 1.2


class Alarms:
    """Follows the last alarm of each slot."""

    def __init__(self) -> None:
        self.slots = Slots({"since": (), "strength": ()}, {"since": 1e9})

    def grow(self, slots: int) -> None:
        """Have at least this many slots."""
        self.slots.grow(slots)

    @torch.no_grad()
    def step(self, slots: Tensor, surprise: Tensor) -> Tensor:
        """Strength of each row's alarm, zero where there is none."""
        s = self.slots.read(slots)
        since = s["since"] + 1
        fires = (surprise > LEAST_SURPRISE) & ((since > REST_ROWS) | (surprise > GROWTH * s["strength"]))
        self.slots.write(
            slots,
            {
                "since": torch.where(fires, torch.zeros(()), since),
                "strength": torch.where(fires, surprise, s["strength"]),
            },
        )
        return torch.where(fires, surprise, torch.zeros(()))
