"""subscribe, unsubscribe, subscriptions, deliveries: who is notified of alerts, and the outcomes."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from accelerator_autopilot.cli import name_completions as completions
from accelerator_autopilot.cli.output import fail, progress, say, show
from accelerator_autopilot.cli.session import DEFAULT_FOLDER, DataDir, ask
from accelerator_autopilot.cli.table_layout import Column, Row, Table
from accelerator_autopilot.contracts.exit_codes import ExitCode

if TYPE_CHECKING:
    from accelerator_autopilot.client import AutopilotClient
    from accelerator_autopilot.contracts.messages.audit import AuditRecord
    from accelerator_autopilot.contracts.messages.notifications import DeliveryReply


class ChannelName(StrEnum):
    """The form of what is posted."""

    webhook = "webhook"
    cloudevents = "cloudevents"
    alertmanager = "alertmanager"
    slack = "slack"
    pagerduty = "pagerduty"
    template = "template"


SUBSCRIPTIONS = Table(
    "subscriptions",
    (
        Column("id"),
        Column("url"),
        Column("channel", priority=1),
        Column("severities", priority=2),
        Column("kinds", priority=3, prose=True),
        Column("nodes", priority=4, prose=True),
    ),
    "There are no subscriptions; `autopilot subscribe URL` adds one.",
)
DELIVERIES = Table(
    "deliveries",
    (
        Column("at", "at (UTC)", priority=1),
        Column("subscription"),
        Column("event"),
        Column("alert", priority=3),
        Column("state", priority=2),
        Column("attempt", priority=4),
        Column("detail", prose=True),
    ),
    "Nothing has been delivered yet.",
)


def subscribe(
    url: Annotated[str, typer.Argument(help="Where to post.")],
    severity: Annotated[list[str] | None, typer.Option(help="Only this severity; repeatable.")] = None,
    kind: Annotated[list[str] | None, typer.Option(help="Only this kind of alert; repeatable.")] = None,
    node: Annotated[
        list[str] | None, typer.Option(help="Only this node; repeatable.", autocompletion=completions.nodes)
    ] = None,
    channel: Annotated[ChannelName, typer.Option(help="Format of what is posted.")] = ChannelName.webhook,
    secret: Annotated[
        str | None, typer.Option(help="Signing secret, or PagerDuty's routing key; generated if omitted.")
    ] = None,
    template: Annotated[Path | None, typer.Option(help="File with the JSON body, for --channel template.")] = None,
    by_incident: Annotated[
        bool, typer.Option("--by-incident", help="Send only the first alert of an incident, and escalations.")
    ] = False,
    per_minute: Annotated[
        int | None, typer.Option(help="Maximum notifications per minute; more are sent later.")
    ] = None,
    quiet: Annotated[
        str | None, typer.Option(help="Hours, UTC, in which only critical alerts are sent, such as 22:00-07:00.")
    ] = None,
    escalate_after_s: Annotated[
        float, typer.Option(help="Send only alerts that are still open and unacknowledged after this many seconds.")
    ] = 0.0,
    data_dir: DataDir = DEFAULT_FOLDER,
) -> None:
    """Have alerts posted to a URL, signed as standardwebhooks.com describes.

    Prints the ID and the secret, which is not shown again.
    """
    quiet_from, _, quiet_to = (quiet or "").partition("-")
    body = _read(template) if template else None
    made = ask(
        data_dir,
        lambda autopilot: autopilot.alerts.subscribe(
            url,
            severities=severity,
            kinds=kind,
            nodes=node,
            channel=channel.value,
            secret=secret,
            template=body,
            by_incident=by_incident,
            per_minute=per_minute,
            quiet_from=quiet_from or None,
            quiet_to=quiet_to or None,
            escalate_after_s=escalate_after_s,
        ),
    )
    say(f"{made.id}\n{made.secret}", id=made.id, secret=made.secret)


def _read(template: Path) -> str:
    try:
        return template.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        fail(f"--template {template}: cannot be read as UTF-8 text ({type(error).__name__})", ExitCode.USAGE)


def unsubscribe(
    subscription_id: Annotated[
        str, typer.Argument(help="ID of the subscription.", autocompletion=completions.subscriptions)
    ],
    data_dir: DataDir = DEFAULT_FOLDER,
) -> None:
    """Remove a subscription."""
    ask(data_dir, lambda autopilot: autopilot.alerts.unsubscribe(subscription_id))
    say("removed", id=subscription_id)


def subscriptions(data_dir: DataDir = DEFAULT_FOLDER) -> None:
    """List subscriptions to alerts."""
    found = ask(data_dir, lambda autopilot: autopilot.alerts.subscriptions())
    rows: list[Row] = [
        {
            "id": s.id,
            "url": str(s.url),
            "channel": s.channel,
            "severities": s.severities,
            "kinds": s.kinds,
            "nodes": s.nodes,
        }
        for s in found
    ]
    show((SUBSCRIPTIONS, rows))


def deliveries(
    test: Annotated[
        str | None,
        typer.Option(help="Send a test alert to this subscription first.", autocompletion=completions.subscriptions),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Maximum number to show, newest first.")] = 20,
    data_dir: DataDir = DEFAULT_FOLDER,
) -> None:
    """List notifications, their recipients and their outcomes."""

    async def work(autopilot: AutopilotClient) -> tuple[DeliveryReply | None, list[AuditRecord]]:
        reply = await autopilot.alerts.deliver(test) if test is not None else None
        return reply, await autopilot.alerts.deliveries(limit)

    reply, found = ask(data_dir, work)
    if reply is not None:
        progress(f"test {'delivered' if reply.ok else 'not delivered'}: {reply.detail}")
    tested: dict[str, Any] = {"test": {"delivered": reply.ok, "detail": reply.detail}} if reply is not None else {}
    show((DELIVERIES, delivery_rows(found)), **tested)
    if reply is not None and not reply.ok:
        raise typer.Exit(int(ExitCode.FAILED))


def delivery_rows(found: Iterable[AuditRecord]) -> list[Row]:
    """Return deliveries from the delivery log."""
    return [
        {
            "at": d.at,
            "subscription": d.target,
            "event": d.action.removeprefix("webhook."),
            **{name: d.detail.get(name, "") for name in ("alert", "state", "attempt", "detail")},
        }
        for d in found
    ]
