"""Determine which readings are due: fast ones at every tick, the others on their own periods. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from accelerator_autopilot.contracts.metric_catalogue import PERIODS_S, Rate


@dataclass
class SamplingSchedule:
    """When each rate was last served."""

    _served: dict[Rate, float] = field(default_factory=dict)

    def rates(self, now_s: float) -> list[Rate]:
        """Return the rates that are due now; all of them the first time."""
        due: list[Rate] = []
        for rate, period_s in PERIODS_S.items():
            last = self._served.get(rate)
            # A tick that comes slightly early must not wait for the next one.
            if last is None or now_s - last >= period_s - 0.05:
                self._served[rate] = now_s
                due.append(rate)
        return due
