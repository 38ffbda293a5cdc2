"""Which devices to drain, restore and cap. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from services.scheduler.domain.observation import Reason
from shared.messages.commands import FleetPolicy
from shared.messages.telemetry import DeviceInfo

Device = tuple[str, str]
CAP_TOLERANCE_W = 1.0


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


@dataclass(frozen=True)
class CapDecision:
    """A cap in watts, or None for the default."""

    device: Device
    cap_w: float | None
    reason: Reason


def caps(
    devices: Mapping[Device, DeviceInfo],
    caps_now_w: Mapping[Device, float],
    ours: Mapping[Device, tuple[float, datetime]],
    policy: FleetPolicy,
    *,
    full_power: bool,
    now: datetime,
    lease_s: float,
) -> list[CapDecision]:
    """Hold the policy's cap while no jobs wait, lift it when they do, renew it before it ends.

    `ours` maps devices to the cap that we set last and when. A cap that we did not set is an
    operator's and is left alone.
    """
    decisions = []
    for device, info in devices.items():
        default, low, now_w = info.power_default_w, info.power_min_w, caps_now_w.get(device)
        allowed = policy.power == "all" or (policy.power == "simulated" and info.simulated)
        if default is None or low is None or now_w is None or not allowed:
            continue
        mine = ours.get(device)
        capped = now_w < default - CAP_TOLERANCE_W
        if capped and (mine is None or abs(mine[0] - now_w) > CAP_TOLERANCE_W):
            continue
        target = None if full_power or policy.cap_fraction is None else max(low, policy.cap_fraction * default)
        if target is None or target >= default - CAP_TOLERANCE_W:
            if capped:
                decisions.append(CapDecision(device, None, "cap_lifted_for_backlog"))
        elif mine is None or not capped or abs(mine[0] - target) > CAP_TOLERANCE_W:
            # A command on its way must not be sent again at every look.
            if mine is None or now - mine[1] > timedelta(seconds=5):
                decisions.append(CapDecision(device, target, "cap_no_backlog"))
        elif now - mine[1] > timedelta(seconds=lease_s / 2):
            decisions.append(CapDecision(device, target, "cap_renewed"))
    return decisions
