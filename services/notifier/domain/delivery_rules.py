"""What is delivered to whom, and when: filters, silences, quiet hours, rates, retries.

Pure: randomness is an argument.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Literal

from accelerator_autopilot.contracts.messages.alerts import Alert
from accelerator_autopilot.contracts.messages.notifications import Silence, Subscription

FIRST_RETRY_S, MAX_RETRY_S = 1.0, 600.0
MINUTE_S = 60.0


def wants(subscription: Subscription, alert: Alert, *, any_state: bool = False) -> bool:
    """Whether a subscription's filters accept an alert, in `any_state` if set; an empty filter accepts all."""
    return (
        subscription.active
        and (not subscription.severities or alert.severity in subscription.severities)
        and (not subscription.kinds or alert.kind in subscription.kinds)
        and (not subscription.nodes or alert.node in subscription.nodes)
        and (not subscription.devices or alert.device in subscription.devices)
        and (any_state or not subscription.states or alert.state in subscription.states)
        and alert.at >= subscription.created_at
    )


def silenced(silences: Iterable[Silence], alert: Alert, now: datetime) -> Silence | None:
    """Return the silence that covers an alert now, if there is one."""
    return next((silence for silence in silences if silence.covers(alert, now)), None)


def quiet_s(subscription: Subscription, alert: Alert, now: datetime) -> float:
    """Return how long quiet hours still last for an alert; critical alerts ignore them."""
    if subscription.quiet_from is None or subscription.quiet_to is None or alert.severity == "critical":
        return 0.0
    now = now.astimezone(UTC)
    start, end = (datetime.combine(now.date(), t, UTC) for t in (subscription.quiet_from, subscription.quiet_to))
    if end <= start:
        # Across midnight: either it began yesterday or it ends tomorrow.
        if now < end:
            start -= timedelta(days=1)
        else:
            end += timedelta(days=1)
    return (end - now).total_seconds() if start <= now < end else 0.0


@dataclass(frozen=True)
class Hold:
    """Why an alert is on hold, and until when."""

    reason: Literal["silenced", "escalating", "quiet"]
    until: datetime


def hold(subscription: Subscription, silences: Iterable[Silence], alert: Alert, now: datetime) -> Hold | None:
    """Return what keeps an alert on hold; a resolution waits only for quiet hours."""
    if alert.state != "resolved":
        silence = silenced(silences, alert, now)
        if silence is not None:
            return Hold("silenced", silence.ends_at)
        escalates_at = alert.opened_at + timedelta(seconds=subscription.escalate_after_s)
        if subscription.escalate_after_s and escalates_at > now:
            return Hold("escalating", escalates_at)
    quiet = quiet_s(subscription, alert, now)
    return Hold("quiet", now + timedelta(seconds=quiet)) if quiet > 0 else None


@dataclass
class Rate:
    """At most this many per minute."""

    _sent_s: deque[float] = field(default_factory=deque)

    def wait_s(self, per_minute: int | None, now_s: float) -> float:
        """Return zero when one may go now, which then counts; else how long to wait."""
        if per_minute is None:
            return 0.0
        while self._sent_s and now_s - self._sent_s[0] >= MINUTE_S:
            self._sent_s.popleft()
        if len(self._sent_s) < per_minute:
            self._sent_s.append(now_s)
            return 0.0
        return self._sent_s[0] + MINUTE_S - now_s


def retry_delay_s(attempt: int, jitter: float) -> float:
    """Return an exponential backoff with full jitter in its upper half; `jitter` is from 0 to 1."""
    ceiling = min(MAX_RETRY_S, FIRST_RETRY_S * 2.0 ** min(attempt - 1, 30))
    return ceiling * (0.5 + 0.5 * jitter)
