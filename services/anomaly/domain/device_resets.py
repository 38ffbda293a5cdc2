"""What proves that a device was reset: nothing else ends a fault that only a reset mends. Pure."""

from __future__ import annotations

import re

from accelerator_autopilot.contracts.messages.alerts import Alert
from accelerator_autopilot.contracts.messages.telemetry import DeviceEvent, NodeInventory

RECOVERY_CHANGED = 154
# As in: GPU recovery action changed from 0x1 (GPU Reset Required) to 0x0 (None).
_TO_NONE = re.compile(r"\bto\s+(0x0+\b|0\b|none\b|\(none\))", re.IGNORECASE)


def asks_for_nothing(event: DeviceEvent) -> bool:
    """Whether the driver takes back what it asked for: it does so only after a reset."""
    if event.kind == "recovery_action":
        return event.code == 0
    return event.kind == "xid" and event.code == RECOVERY_CHANGED and bool(_TO_NONE.search(event.message))


def reset_reason(event: DeviceEvent) -> str:
    """Why an event proves a reset of its device; empty when it does not."""
    if event.kind == "reset" or (event.kind == "appeared" and event.cause == "reset"):
        return "the device was reset"
    return "the driver asks for no recovery any more" if asks_for_nothing(event) else ""


def reset_since(alert: Alert, boot_id: str, driver_epoch: str) -> str:
    """Why what is told now proves a reset since the alert's fault; empty when it does not."""
    if alert.boot_id and boot_id and alert.boot_id != boot_id:
        return "the node was booted"
    if alert.driver_epoch and driver_epoch and alert.driver_epoch != driver_epoch:
        return "the driver was loaded anew"
    return ""


def reset_in(alert: Alert, inventory: NodeInventory) -> str:
    """Why an inventory proves a reset since the alert's fault; empty when it does not."""
    loads = (info.driver_epoch for info in inventory.devices if info.device == alert.device)
    return reset_since(alert, inventory.boot_id, next(loads, ""))
