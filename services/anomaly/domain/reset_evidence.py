"""Evidence that a device was reset; nothing else resolves a fault that only a reset fixes. Pure."""

from __future__ import annotations

import re

from accelerator_autopilot.contracts.messages.alerts import Alert
from accelerator_autopilot.contracts.messages.telemetry import DeviceEvent, NodeInventory

RECOVERY_CHANGED = 154
# As in: GPU recovery action changed from 0x1 (GPU Reset Required) to 0x0 (None).
_TO_NONE = re.compile(r"\bto\s+(0x0+\b|0\b|none\b|\(none\))", re.IGNORECASE)


def asks_for_nothing(event: DeviceEvent) -> bool:
    """Whether the driver clears its recovery request, which it does only after a reset."""
    if event.kind == "recovery_action":
        return event.code == 0
    return event.kind == "xid" and event.code == RECOVERY_CHANGED and bool(_TO_NONE.search(event.message))


def reset_reason(event: DeviceEvent) -> str:
    """Return why an event proves a reset of its device; empty when it does not."""
    if event.kind == "reset" or (event.kind == "appeared" and event.cause == "reset"):
        return "the device was reset"
    return "the driver no longer requests recovery" if asks_for_nothing(event) else ""


def reset_since(alert: Alert, boot_id: str, driver_epoch: str) -> str:
    """Return why the current epochs prove a reset since the alert's fault; empty when they do not."""
    if alert.boot_id and boot_id and alert.boot_id != boot_id:
        return "the node was booted"
    if alert.driver_epoch and driver_epoch and alert.driver_epoch != driver_epoch:
        return "the driver was reloaded"
    return ""


def reset_in(alert: Alert, inventory: NodeInventory) -> str:
    """Return why an inventory proves a reset since the alert's fault; empty when it does not."""
    loads = (info.driver_epoch for info in inventory.devices if info.device == alert.device)
    return reset_since(alert, inventory.boot_id, next(loads, ""))
