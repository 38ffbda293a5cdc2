"""What a policy sees of a pool, and what it proposes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from shared.messages.commands import PoolPolicy

Reason = Literal[
    "backlog",
    "demand_forecast",
    "idle",
    "no_change",
    "missing_data",
    "stale_data",
    "at_ceiling",
    "at_floor",
    "step_limited",
    "waiting_to_settle",
    "waiting_to_scale_down",
    "mode_observe",
    "critical_alert",
    "alert_resolved",
    "too_many_drained",
    "cap_no_backlog",
    "cap_lifted_for_backlog",
    "cap_renewed",
    "cap_held_by_operator",
]


@dataclass(frozen=True)
class PoolObservation:
    """A pool at one moment. `backlog` counts jobs waiting and running; rates are per second."""

    pool: str
    at: datetime
    desired: int
    ready: int
    starting: int
    backlog: int
    arrival_rate: float
    service_s: float | None
    bounds: PoolPolicy

    @property
    def numbers(self) -> dict[str, float]:
        """The same as evidence for a command."""
        return {
            "desired": self.desired,
            "ready": self.ready,
            "starting": self.starting,
            "backlog": self.backlog,
            "arrival_rate": round(self.arrival_rate, 4),
            "service_s": round(self.service_s or 0.0, 4),
        }


@dataclass(frozen=True)
class Proposal:
    """What a policy would do, why, and the numbers it was decided on."""

    replicas: int
    reason: Reason
    evidence: dict[str, float]
    full_power: bool
