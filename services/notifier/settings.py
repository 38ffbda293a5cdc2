"""Settings of the notifier."""

from __future__ import annotations

from pydantic import Field

from accelerator_autopilot.runtime.settings import ServiceSettings


class NotifierSettings(ServiceSettings):
    """The notifier."""

    webhook_timeout_s: float = Field(10.0, gt=0, description="a receiver that takes longer has failed")
    webhook_give_up_s: float = Field(86_400.0, gt=0, description="a delivery is abandoned after this time")
    webhook_private_targets: bool = Field(
        False, description="allow receivers on private, loopback and link-local addresses"
    )
    webhook_concurrency: int = Field(8, ge=1, description="deliveries under way at once per receiver")
