"""Settings of the notifier."""

from __future__ import annotations

from pydantic import Field

from accelerator_autopilot.runtime.settings import ServiceSettings


class NotifierSettings(ServiceSettings):
    """The notifier."""

    webhook_timeout_s: float = Field(10.0, gt=0, description="time within which a receiver must answer")
    webhook_give_up_s: float = Field(86_400.0, gt=0, description="time after which a delivery is abandoned")
    webhook_private_targets: bool = Field(
        False, description="allow receivers on private, loopback and link-local addresses"
    )
    webhook_concurrency: int = Field(8, ge=1, description="concurrent deliveries per receiver")
