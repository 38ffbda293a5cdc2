"""Settings of the scheduler."""

from __future__ import annotations

from pydantic import Field

from shared.settings import ServiceSettings


class SchedulerSettings(ServiceSettings):
    """The scheduler."""

    decide_period_s: float = Field(1.0, ge=0.2, le=60, description="time between decisions")
    policy_name: str = Field("forecasting", description="the policy that decides")
    stale_after_s: float = Field(10.0, gt=0, description="pools and frames older than this count as missing")
    cap_lease_s: float = Field(60.0, ge=5, description="a power cap of ours ends after this time unless renewed")
