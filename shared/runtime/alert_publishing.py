"""Publish an alert, and keep the bucket of open alerts in step."""

from __future__ import annotations

from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.messages.alerts import Alert
from accelerator_autopilot.runtime.bus import Bus

BUCKET = "open_alerts"


async def tell(bus: Bus, alert: Alert, message_id: str) -> None:
    """Publish an alert's state, then store it as open or remove it. Raises UnavailableError; then call it again."""
    await bus.publish(subjects.alert(alert.severity, alert.node, alert.device), alert, message_id)
    key = subjects.alert_key(alert.node, alert.device, alert.kind)
    if alert.state == "resolved":
        await bus.delete(BUCKET, key)
    else:
        await bus.write(BUCKET, key, alert)
