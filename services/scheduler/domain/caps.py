"""Which devices to cap, and at how many watts. Pure, over all devices at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from services.scheduler.domain.drains import Device
from services.scheduler.domain.observation import Reason
from services.scheduler.domain.pool import Doubles
from services.scheduler.domain.power_budget import Limit, share_out
from services.scheduler.domain.timetable import budgets_at
from shared.messages.commands import FleetPolicy

CAP_TOLERANCE_W = 1.0
SENT_AGAIN_AFTER_S = 5.0


@dataclass(frozen=True)
class CapDecision:
    """A cap in watts, or None for the default."""

    device: Device
    cap_w: float | None
    reason: Reason


@dataclass
class DeviceBoard:
    """What is known of every device that can be capped; [D] each, D in the order of `devices`."""

    devices: list[Device]
    models: list[str]
    simulated: NDArray[np.bool_]
    default_w: Doubles
    lowest_w: Doubles
    now_w: Doubles  # NaN: not told lately
    wanted_w: Doubles  # by the policy of the device's pool; NaN: nobody wants anything
    ours_w: Doubles  # the cap that we set last; NaN: none
    ours_at_s: Doubles  # and when

    def __len__(self) -> int:
        """How many devices."""
        return len(self.devices)


def caps(board: DeviceBoard, policy: FleetPolicy, now: datetime, lease_s: float) -> list[CapDecision]:
    """What to command: hold what is wanted under every limit, renew before the lease ends, lift what is not wanted.

    A cap that we did not set is an operator's and is left alone, but its watts count.
    """
    at_s = now.timestamp()
    target, narrowed, limited, broken = _targets(board, policy, now)
    capped = board.now_w < board.default_w - CAP_TOLERANCE_W
    mine = ~np.isnan(board.ours_w)
    foreign = capped & ~(mine & (np.abs(board.ours_w - board.now_w) <= CAP_TOLERANCE_W))
    allowed = np.zeros(len(board), bool) if policy.power == "off" else board.simulated | (policy.power == "all")
    able = allowed & ~np.isnan(board.now_w)
    # A command on its way must not be sent again at every look.
    with np.errstate(invalid="ignore"):
        rested = ~mine | (at_s - board.ours_at_s > SENT_AGAIN_AFTER_S)
        renew = mine & (at_s - board.ours_at_s > lease_s / 2)
    foreign &= rested
    hold = target < board.default_w - CAP_TOLERANCE_W
    lift = able & ~hold & capped & ~foreign & rested
    settled = capped & (np.abs(board.now_w - target) <= CAP_TOLERANCE_W)
    change = able & hold & ~foreign & ~settled & rested
    again = able & hold & ~foreign & settled & renew
    decisions = [CapDecision(board.devices[i], None, "cap_lifted_for_backlog") for i in np.flatnonzero(lift)]
    for i in np.flatnonzero(change | again):
        reason: Reason = "cap_cheapest"
        if again[i]:
            reason = "cap_renewed"
        elif narrowed[i]:
            reason = "budget_below_minimum" if broken[i] else "cap_budget"
        elif limited[i]:
            reason = "cap_device_limit"
        decisions.append(CapDecision(board.devices[i], float(np.round(target[i], 1)), reason))
    return decisions


def _targets(
    board: DeviceBoard, policy: FleetPolicy, now: datetime
) -> tuple[Doubles, NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
    wanted = np.where(np.isnan(board.wanted_w), board.default_w, np.minimum(board.wanted_w, board.default_w))
    wanted = np.maximum(wanted, policy.power_floor_fraction * board.default_w)
    most = _device_limits(board, policy.device_max_w)
    limited = most < wanted
    wanted = np.maximum(np.minimum(wanted, most), board.lowest_w)
    limits = [Limit(b.watts, _members(board, b.nodes)) for b in budgets_at(policy.budgets, now)]
    shared = share_out(wanted, board.lowest_w, limits)
    return shared.cap_w, shared.narrowed, limited, shared.below_minimum


def _device_limits(board: DeviceBoard, limits: Mapping[str, float]) -> Doubles:
    if not limits:
        return np.full(len(board), np.inf)
    return np.array(
        [
            min(limits.get(f"{node}/{device}", np.inf), limits.get(model, np.inf))
            for (node, device), model in zip(board.devices, board.models, strict=True)
        ]
    )


def _members(board: DeviceBoard, nodes: list[str] | None) -> NDArray[np.bool_]:
    if nodes is None:
        return np.ones(len(board), bool)
    chosen = set(nodes)
    return np.array([node in chosen for node, _ in board.devices], bool)
