"""When a stream that fills up is an alert, and how bad. Pure."""

from __future__ import annotations

from accelerator_autopilot.contracts.messages.alerts import Severity

WARNING_AT, CRITICAL_AT = 0.80, 0.95
# It has to fall this far below a level before that level is over.
MARGIN = 0.05


def severity_of(ratio: float, current: Severity | None) -> Severity | None:
    """The severity of a stream filled to `ratio`, where an alert of the severity `current` may be open."""
    if ratio >= CRITICAL_AT or (current == "critical" and ratio >= CRITICAL_AT - MARGIN):
        return "critical"
    if ratio >= WARNING_AT or (current is not None and ratio >= WARNING_AT - MARGIN):
        return "warning"
    return None
