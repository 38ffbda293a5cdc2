"""Which devices to drain and restore. Pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from services.scheduler.domain.observation import Reason
from shared.messages.commands import FleetPolicy

Device = tuple[str, str]


@dataclass(frozen=True)
class DrainDecision:
    """Take a device out of service, or back; `action` is None when policy or the breaker says no."""

    device: Device
    action: str | None
    reason: Reason


def drains(
    critical: Collection[Device],
    drained_by_us: Collection[Device],
    cordoned: Collection[Device],
    fleet: Collection[Device],
    policy: FleetPolicy,
) -> list[DrainDecision]:
    """Drain what has a critical alert, restore what we drained and has none.

    A breaker keeps the fleet in service when too large a share of it would be drained at once:
    then the fault is more likely in what we see than in every device.
    """
    decisions = []
    out = len(set(cordoned) & set(fleet))
    limit = max(1, int(policy.max_drained_fraction * len(fleet)))
    for device in sorted(set(critical) & set(fleet) - set(cordoned)):
        if out >= limit:
            decisions.append(DrainDecision(device, None, "too_many_drained"))
            continue
        out += 1
        decisions.append(DrainDecision(device, "drain", "critical_alert"))
    healthy = set(drained_by_us) & set(cordoned) - set(critical)
    return decisions + [DrainDecision(device, "restore", "alert_resolved") for device in sorted(healthy)]
