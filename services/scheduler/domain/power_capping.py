"""Decide which devices to cap, and at how many watts. Pure, over all devices at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from accelerator_autopilot.contracts.messages.commands import FleetPolicy
from accelerator_autopilot.scheduler.domain.drain_decisions import Device
from accelerator_autopilot.scheduler.domain.observation import Reason
from accelerator_autopilot.scheduler.domain.pool_arrays import Doubles
from accelerator_autopilot.scheduler.domain.power_budget import Limit, allocate_power
from accelerator_autopilot.scheduler.domain.time_of_day import budgets_at

CAP_TOLERANCE_W = 1.0
RESEND_AFTER_S = 5.0
RENEWED_FROM, RENEWED_BY = 0.25, 0.5  # shares of the lease
GOLDEN, MULTIPLES = 0.6180339887498949, 997.0


@dataclass(frozen=True)
class CapDecision:
    """A cap in watts, or None for the default."""

    device: Device
    cap_w: float | None
    reason: Reason


@dataclass
class DeviceCapState:
    """The state of every device that can be capped; [D] each. An unused row is all zeros."""

    devices: list[Device]
    rows: Mapping[Device, int]
    rows_of_node: Mapping[str, Sequence[int]]
    rows_of_model: Callable[[str], NDArray[np.intp]]
    simulated: NDArray[np.bool_]
    default_w: Doubles
    lowest_w: Doubles
    reported_w: Callable[[NDArray[np.intp]], Doubles]  # reported caps of some rows; NaN: not recent
    wanted_w: Doubles  # by the policy of the device's pool; NaN: no cap wanted
    ours_w: Doubles  # the cap that was last set; NaN: none
    ours_at_s: Doubles  # when it was set

    def __len__(self) -> int:
        """Return the number of devices."""
        return len(self.devices)


def caps(board: DeviceCapState, policy: FleetPolicy, now: datetime, lease_s: float) -> list[CapDecision]:
    """Return the commands: hold what is wanted within every limit, renew before leases end, lift unwanted caps.

    A cap that the scheduler did not set is an operator's and is left alone, but its watts count.
    """
    target, narrowed, limited, broken = _targets(board, policy, now)
    hold = target < board.default_w - CAP_TOLERANCE_W
    allowed = np.zeros(len(board), bool) if policy.power == "off" else board.simulated | (policy.power == "all")
    # Reported caps only matter where one is wanted or was set by the scheduler.
    rows = np.flatnonzero(allowed & (hold | ~np.isnan(board.ours_w)))
    now_w, ours_w, default_w = board.reported_w(rows), board.ours_w[rows], board.default_w[rows]
    hold, wanted_w, known = hold[rows], target[rows], ~np.isnan(now_w)
    mine, age_s = ~np.isnan(ours_w), now.timestamp() - board.ours_at_s[rows]
    with np.errstate(invalid="ignore"):
        capped = now_w < default_w - CAP_TOLERANCE_W
        as_ours = mine & (np.abs(ours_w - now_w) <= CAP_TOLERANCE_W)
        settled = capped & (np.abs(now_w - wanted_w) <= CAP_TOLERANCE_W)
        # A command on its way must not be resent in every round.
        rested = ~mine | (age_s > RESEND_AFTER_S)
        due = mine & (age_s > lease_s * renewed_at(rows, board.ours_at_s[rows]))
    free = known & rested & ~(capped & ~as_ours)
    lift = free & ~hold & capped
    again = known & hold & as_ours & settled & due
    decisions = [CapDecision(board.devices[i], None, "cap_lifted_for_backlog") for i in rows[lift].tolist()]
    renewed = set(rows[again].tolist())
    for i in rows[(free & hold & ~settled) | again].tolist():
        reason: Reason = "cap_cheapest"
        if i in renewed:
            reason = "cap_renewed"
        elif narrowed[i]:
            reason = "budget_below_minimum" if broken[i] else "cap_budget"
        elif limited[i]:
            reason = "cap_device_limit"
        decisions.append(CapDecision(board.devices[i], round(float(target[i]), 1), reason))
    return decisions


def renewed_at(rows: NDArray[np.intp], set_at_s: Doubles) -> Doubles:
    """Return [D] the share of its lease after which each cap is renewed: caps set together renew at different times.

    Multiples of the golden ratio spread evenly between the two bounds; each row takes a new one each time.
    """
    drawn = rows * GOLDEN * (1.0 + np.floor(set_at_s) % MULTIPLES) % 1.0
    between: Doubles = RENEWED_BY - (RENEWED_BY - RENEWED_FROM) * drawn
    return between


def _targets(
    board: DeviceCapState, policy: FleetPolicy, now: datetime
) -> tuple[Doubles, NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
    wanted = np.where(np.isnan(board.wanted_w), board.default_w, np.minimum(board.wanted_w, board.default_w))
    wanted = np.maximum(wanted, policy.power_floor_fraction * board.default_w)
    most = _device_limits(board, policy.device_max_w)
    limited = most < wanted
    wanted = np.maximum(np.minimum(wanted, most), board.lowest_w)
    limits = [Limit(b.watts, _members(board, b.nodes)) for b in budgets_at(policy.budgets, now)]
    shared = allocate_power(wanted, board.lowest_w, limits)
    return shared.cap_w, shared.narrowed, limited, shared.below_minimum


def _device_limits(board: DeviceCapState, limits: Mapping[str, float]) -> Doubles:
    """Return the limits of devices: of one, as `node/device`, or of all devices of a model."""
    most = np.full(len(board), np.inf)
    for name, watts in limits.items():
        rows = board.rows_of_model(name)
        most[rows] = np.minimum(most[rows], watts)
        # Either name may contain a slash.
        parts = name.split("/")
        for end in range(1, len(parts)):
            row = board.rows.get(("/".join(parts[:end]), "/".join(parts[end:])))
            if row is not None:
                most[row] = min(most[row], watts)
    return most


def _members(board: DeviceCapState, nodes: list[str] | None) -> NDArray[np.intp]:
    if nodes is None:
        return np.arange(len(board), dtype=np.intp)
    return np.array([row for node in dict.fromkeys(nodes) for row in board.rows_of_node.get(node, ())], np.intp)
