"""What is delivered to whom, and when it is tried again. Pure: randomness is handed in."""

from __future__ import annotations

from shared.messages.alerts import Alert
from shared.messages.audit import Subscription

FIRST_RETRY_S, LONGEST_RETRY_S = 1.0, 600.0


def wants(subscription: Subscription, alert: Alert) -> bool:
    """Whether a subscription's filters take an alert; an empty filter takes all."""
    return (
        subscription.active
        and (not subscription.severities or alert.severity in subscription.severities)
        and (not subscription.kinds or alert.kind in subscription.kinds)
        and (not subscription.nodes or alert.node in subscription.nodes)
        and alert.at >= subscription.created_at
    )


def retry_delay_s(attempt: int, jitter: float) -> float:
    """Exponential backoff with full jitter in its upper half; `jitter` is from 0 to 1."""
    ceiling = min(LONGEST_RETRY_S, FIRST_RETRY_S * 2.0 ** min(attempt - 1, 30))
    return ceiling * (0.5 + 0.5 * jitter)


def payload(alert: Alert) -> dict[str, object]:
    """The body of a webhook, in the form that Standard Webhooks recommends."""
    return {
        "type": f"alert.{alert.state}",
        "timestamp": alert.at.isoformat(),
        "data": alert.model_dump(mode="json"),
    }
