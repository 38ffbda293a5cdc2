"""The poison rule for parts that are tested without their service."""

from __future__ import annotations

from nats.js import JetStreamContext
from prometheus_client import CollectorRegistry

from accelerator_autopilot.runtime.poison_messages import PoisonRule


def poison_rule(js: JetStreamContext, registry: CollectorRegistry | None = None) -> PoisonRule:
    return PoisonRule(registry or CollectorRegistry(), lambda: js)
