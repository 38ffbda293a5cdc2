"""Convert an alert to the message format of each kind of receiver. Pure.

Sources: Standard Webhooks (standardwebhooks.com), CloudEvents 1.0 JSON format, Alertmanager's API v2 (postableAlerts),
Slack incoming webhooks (blocks), PagerDuty Events API v2.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from string import Template

from accelerator_autopilot.contracts.errors import InvalidInputError
from accelerator_autopilot.contracts.messages.alerts import Alert, Severity
from accelerator_autopilot.contracts.messages.notifications import Channel, Subscription

Body = dict[str, object] | list[object]
ALERTMANAGER_AHEAD = timedelta(minutes=4)
_PAGERDUTY_SEVERITY = {"info": "info", "warning": "warning", "critical": "critical"}
_SLACK_MARK = {"info": ":information_source:", "warning": ":warning:", "critical": ":rotating_light:"}


def webhook(_: Subscription, alert: Alert, __: str) -> Body:
    """Return the body that Standard Webhooks recommends."""
    return {
        "type": f"alert.{alert.state}",
        "timestamp": alert.at.isoformat(),
        "data": alert.model_dump(mode="json"),
    }


def cloudevents(_: Subscription, alert: Alert, message_id: str) -> Body:
    """Return a CloudEvents 1.0 event in structured mode."""
    return {
        "specversion": "1.0",
        "id": message_id,
        "source": f"/accelerator-autopilot/{alert.node}/{alert.device}",
        "type": f"accelerator-autopilot.alert.{alert.state}",
        "subject": alert.id,
        "time": alert.at.isoformat(),
        "datacontenttype": "application/json",
        "data": alert.model_dump(mode="json"),
    }


def alertmanager(_: Subscription, alert: Alert, __: str) -> Body:
    """Return the body of POST /api/v2/alerts.

    Equal labels identify an alert; it is resolved at `endsAt` unless reposted.
    """
    labels = {"alertname": alert.kind, "severity": alert.severity, "node": alert.node, "device": alert.device}
    if alert.simulated:
        labels["simulated"] = "true"
    # Alertmanager resolves alerts without an end after its resolve_timeout: open ones end slightly later, and are
    # reposted before that for as long as they are open.
    ends_at = alert.at if alert.state == "resolved" else alert.at + ALERTMANAGER_AHEAD
    body: dict[str, object] = {
        "labels": labels,
        "annotations": {"summary": alert.summary, "action": alert.action, "evidence": _evidence(alert)},
        # A clock that was set back must not put the end before the start: Alertmanager rejects that.
        "startsAt": min(alert.opened_at, ends_at).isoformat(),
        "endsAt": ends_at.isoformat(),
    }
    return [body]


def alertmanager_end(subscription: Subscription, alert: Alert, severity: Severity) -> Body:
    """Resolve an alert under its previous severity, since the severity is one of its labels."""
    ended = alert.model_copy(update={"severity": severity, "state": "resolved"})
    return alertmanager(subscription, ended, "")


def slack(_: Subscription, alert: Alert, __: str) -> Body:
    """Return an incoming webhook's message: one line for notifications, blocks for the channel."""
    where = f"{alert.node}/{alert.device}" + (" (simulated)" if alert.simulated else "")
    mark = ":white_check_mark:" if alert.state == "resolved" else _SLACK_MARK[alert.severity]
    text = f"{mark} {alert.state}: {alert.kind} on {where}: {alert.summary}"
    fields = [{"type": "mrkdwn", "text": f"*{e.metric}* {e.value:g} ({e.expected})"} for e in alert.evidence if e.value]
    blocks: list[object] = [{"type": "section", "text": {"type": "mrkdwn", "text": text[:3000]}}]
    if fields:
        blocks.append({"type": "section", "fields": fields[:10]})
    if alert.action:
        blocks.append({"type": "context", "elements": [{"type": "mrkdwn", "text": f"Action: {alert.action}"[:3000]}]})
    return {"text": text[:3000], "blocks": blocks}


def pagerduty(subscription: Subscription, alert: Alert, _: str) -> Body:
    """Return an Events API v2 event: trigger and resolve with one key per alert."""
    return {
        "routing_key": subscription.secret,
        "event_action": "resolve" if alert.state == "resolved" else "trigger",
        "dedup_key": alert.id,
        "payload": {
            "summary": f"{alert.kind} on {alert.node}/{alert.device}: {alert.summary}"[:1024],
            "source": f"{alert.node}/{alert.device}",
            "severity": _PAGERDUTY_SEVERITY[alert.severity],
            "timestamp": alert.at.isoformat(),
            "component": alert.device,
            "class": alert.kind,
            "custom_details": {"action": alert.action, "evidence": _evidence(alert), "simulated": alert.simulated},
        },
    }


def template(subscription: Subscription, alert: Alert, message_id: str) -> Body:
    """Fill the subscription's own JSON template, with $names of the alert's fields. Raises InvalidInputError."""
    fields = {name: json.dumps(str(value))[1:-1] for name, value in alert.model_dump(mode="json").items()}
    fields |= {"evidence": json.dumps(_evidence(alert))[1:-1], "message_id": message_id}
    try:
        text = Template(subscription.template).substitute(fields)
        body: Body = json.loads(text)
    except KeyError as error:
        raise InvalidInputError(
            "template", str(error), f"is not a field of an alert; use one of {sorted(fields)}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise InvalidInputError("template", subscription.id, f"does not produce valid JSON: {error}") from error
    if not isinstance(body, dict | list):
        raise InvalidInputError("template", subscription.id, "must produce a JSON object or list")
    return body


def _evidence(alert: Alert) -> str:
    return "; ".join(f"{e.metric} {e.value:g} ({e.expected})" for e in alert.evidence if e.value is not None)


FORMATS: dict[Channel, Callable[[Subscription, Alert, str], Body]] = {
    "webhook": webhook,
    "cloudevents": cloudevents,
    "alertmanager": alertmanager,
    "slack": slack,
    "pagerduty": pagerduty,
    "template": template,
}
CONTENT_TYPES: dict[Channel, str] = {"cloudevents": "application/cloudevents+json"}
# Only formats whose receivers verify signatures are signed.
SIGNED: frozenset[Channel] = frozenset({"webhook", "cloudevents", "template"})


def body_of(subscription: Subscription, alert: Alert, message_id: str) -> Body:
    """Return the body to post. Raises InvalidInputError when the subscription's template fails."""
    return FORMATS[subscription.channel](subscription, alert, message_id)
