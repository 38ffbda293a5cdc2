"""What is observed of one pool, and what a policy proposes for it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from accelerator_autopilot.contracts.messages.commands import PoolPolicy
from accelerator_autopilot.scheduler.domain.power_curves import PowerCurve

Reason = Literal[
    "backlog",
    "demand_forecast",
    "idle",
    "no_change",
    "missing_data",
    "stale_data",
    "absurd_data",
    "at_ceiling",
    "at_floor",
    "step_limited",
    "rate_limited",
    "manual_change",
    "breaker_open",
    "waiting_to_settle",
    "waiting_to_scale_down",
    "mode_observe",
    "mode_advise",
    "mode_approve",
    "critical_alert",
    "alert_resolved",
    "too_many_drained",
    "cap_cheapest",
    "cap_lifted_for_backlog",
    "cap_renewed",
    "batch_delay",
    "cap_budget",
    "cap_device_limit",
    "cap_held_by_operator",
    "budget_below_minimum",
    "failed",
    "restored_by_operator",
    "not_heard",
]


@dataclass(frozen=True)
class PoolObservation:
    """A pool at one moment. Counts are since the previous observation."""

    pool: str
    at: datetime
    desired: int
    ready: int
    starting: int
    busy: int
    waiting: int
    oldest_wait_s: float
    arrivals: int
    completions: int
    service_s: float | None
    load_time_s: float
    power_w: float
    bounds: PoolPolicy
    curve: PowerCurve
    power_level: float = 1.0  # 0: the cheapest cap of its devices; 1: full power
    slots: int = 1  # jobs that a worker runs together
    devices: list[tuple[str, str]] = field(default_factory=list)

    @property
    def absurd(self) -> bool:
        """Whether numbers are impossible: nothing is decided on them."""
        values = (
            self.desired, self.ready, self.starting, self.busy, self.waiting, self.oldest_wait_s, self.arrivals,
            self.completions, self.service_s or 0.0, self.load_time_s, self.power_w,
        )  # fmt: skip
        # A sum with non-finite terms is not finite.
        return not (min(values) >= 0 and sum(values) < math.inf)

    @property
    def numbers(self) -> dict[str, float]:
        """Return the numbers as evidence for a command."""
        values = {
            "desired": self.desired,
            "ready": self.ready,
            "starting": self.starting,
            "busy": self.busy,
            "waiting": self.waiting,
            "oldest_wait_s": round(self.oldest_wait_s, 3),
            "arrivals": self.arrivals,
            "completions": self.completions,
            "service_s": round(self.service_s or 0.0, 4),
            "load_time_s": round(self.load_time_s, 2),
            "power_level": round(self.power_level, 3),
        }
        return {name: value for name, value in values.items() if math.isfinite(value)}


@dataclass(frozen=True)
class Proposal:
    """What a policy would do with a pool, and why."""

    policy: str
    replicas: int
    power_level: float
    reason: Reason
    batch_delay_s: float = 0.0


def reason_for(seen: PoolObservation, replicas: int) -> Reason:
    """Return the reason for a change in plain words."""
    if replicas > seen.desired:
        return "backlog" if seen.waiting else "demand_forecast"
    return "idle" if replicas < seen.desired else "no_change"
