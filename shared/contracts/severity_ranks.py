"""The order of alert severities."""

from __future__ import annotations

from accelerator_autopilot.contracts.messages.alerts import Severity

SEVERITY_RANK: dict[Severity, int] = {"info": 0, "warning": 1, "critical": 2}
