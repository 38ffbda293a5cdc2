"""Outcomes of power commands and of leases that ended."""

from __future__ import annotations

from datetime import datetime

from accelerator_autopilot.contracts.ids import new_id
from accelerator_autopilot.contracts.messages.commands import CommandOutcome, PowerCommand
from accelerator_autopilot.telemetry.agent.domain.power_lease import Lease


def outcome_of(
    command: PowerCommand,
    status: str,
    detail: str,
    at: datetime,
    *,
    applied: float | None = None,
    read_back: float | None = None,
) -> CommandOutcome:
    """Return the outcome of a command; `applied` and `read_back` are caps in W."""
    return CommandOutcome.model_validate(
        {
            "id": new_id(),
            "command_id": command.id,
            "command": "power",
            "status": status,
            "detail": detail,
            "target": command.target,
            "requested": command.cap_w,
            "applied": applied,
            "read_back": read_back,
            "at": at,
            **command.owner,
            "executor": "agent",
        }
    )


def lease_ended(node: str, lease: Lease, restored: tuple[float, float], now: datetime) -> CommandOutcome:
    """Return the outcome of an expired lease whose default was restored: as applied, and as read back."""
    return CommandOutcome(
        id=new_id(),
        command_id=lease.command_id,
        command="power",
        status="expired",
        target=f"{node}/{lease.device}",
        detail="lease ended, default restored",
        requested=lease.cap_w,
        applied=restored[0],
        read_back=restored[1],
        at=now,
        executor="agent",
    )
