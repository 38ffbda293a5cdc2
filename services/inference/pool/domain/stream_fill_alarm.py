"""When a filling stream raises an alert, and how severe. Pure."""

from __future__ import annotations

from accelerator_autopilot.contracts.messages.alerts import Severity

WARNING_AT, CRITICAL_AT = 0.80, 0.95
# The fill must drop this far below a level to clear it.
MARGIN = 0.05


def severity_of(ratio: float, current: Severity | None) -> Severity | None:
    """Return the severity of a stream filled to `ratio`; `current` is the severity of its open alert, if any."""
    if ratio >= CRITICAL_AT or (current == "critical" and ratio >= CRITICAL_AT - MARGIN):
        return "critical"
    if ratio >= WARNING_AT or (current is not None and ratio >= WARNING_AT - MARGIN):
        return "warning"
    return None
