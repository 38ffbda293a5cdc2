"""Settings of the anomaly detector."""

from __future__ import annotations

from pydantic import Field

from accelerator_autopilot.runtime.settings import ServiceSettings


class AnomalySettings(ServiceSettings):
    """The anomaly detector."""

    xid_hold_s: float = Field(600.0, gt=0, description="time without another XID after which an XID alert is resolved")
    node_timeout_s: float = Field(10.0, gt=0, description="time without frames after which a node counts as silent")
    node_gone_after_s: float = Field(
        604_800.0,
        gt=0,
        description="silence after which a node counts as removed and its alerts, except those that need a reset, are "
        "resolved",
    )
    shadow_kinds: list[str] = Field([], description="alert kinds (shell patterns) to log without publishing")
    false_alarms_per_week: float = Field(
        0.1, gt=0, description="false alarms per healthy device and week that the learned detector is calibrated for"
    )
