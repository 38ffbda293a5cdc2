"""The operator's policy in the KV bucket `policy`."""

from __future__ import annotations

from accelerator_autopilot.contracts.messages.commands import FleetPolicy
from accelerator_autopilot.transport.unreadable_values import parse_value

POLICY_BUCKET, POLICY_KEY = "policy", "fleet"
OBSERVE_ONLY = FleetPolicy(mode="observe", power="off")


def parse_policy(value: bytes | None) -> FleetPolicy:
    """Return the policy of a stored value, or the defaults without one; an unreadable one allows only observation."""
    if value is None:
        return FleetPolicy()
    return parse_value(POLICY_BUCKET, POLICY_KEY, value, FleetPolicy) or OBSERVE_ONLY.model_copy()
