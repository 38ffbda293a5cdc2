"""Settings of the anomaly detector."""

from __future__ import annotations

from pydantic import Field

from accelerator_autopilot.runtime.settings import ServiceSettings


class AnomalySettings(ServiceSettings):
    """The anomaly detector."""

    xid_hold_s: float = Field(600.0, gt=0, description="an XID alert ends after this time without another")
    node_timeout_s: float = Field(10.0, gt=0, description="a node without frames for this time is silent")
    node_gone_after_s: float = Field(
        604_800.0, gt=0, description="a node that is silent for this time is gone: its alerts end, but those that hold"
    )
    shadow_kinds: list[str] = Field(
        [], description="kinds, as patterns of the shell, that are only logged: to see what they would say"
    )
    false_alarms_per_week: float = Field(
        0.1, gt=0, description="alerts of the learned detector that a healthy device may cause in a week"
    )
