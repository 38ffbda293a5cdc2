"""Alerts, incidents and risk; silences; subscriptions and deliveries."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from accelerator_autopilot.cli.session import DEFAULT_FOLDER, DataDir, connected, console, run
from accelerator_autopilot.contracts.incidents import incidents as grouped
from accelerator_autopilot.contracts.messages.notices import Silence, Subscription
from accelerator_autopilot.transport.clock import utc_now


def alerts(
    data_dir: DataDir = DEFAULT_FOLDER,
    history: Annotated[bool, typer.Option("--history", help="the newest changes instead of what is open")] = False,
) -> None:
    """Alerts with their evidence."""

    async def work() -> None:
        table = Table("at", "id", "state", "severity", "device", "what", "evidence", "do")
        async with connected(data_dir) as autopilot:
            taken = await autopilot.alerts.acknowledgements()
            for a in await (autopilot.alerts.history() if history else autopilot.alerts.open()):
                evidence = "; ".join(
                    f"{e.metric}={e.value:g}{f' ({e.expected})' if e.expected else ''}"
                    for e in a.evidence
                    if e.value is not None
                )
                device = f"{a.node}/{a.device}" + (" (simulated)" if a.simulated else "")
                state = f"{a.state}, {taken[a.id].by} is on it" if a.id in taken else a.state
                at = a.at.strftime("%H:%M:%S")
                table.add_row(at, a.id, state, a.severity, device, a.summary, evidence, a.action)
        console.print(table)

    run(work)


def incidents(data_dir: DataDir = DEFAULT_FOLDER) -> None:
    """Open alerts that belong together, with the likeliest cause of each."""

    async def work() -> None:
        table = Table("id", "severity", "devices", "alerts", "likeliest cause", "do")
        async with connected(data_dir) as autopilot:
            for i in grouped(await autopilot.alerts.open()):
                shown = ", ".join(i.devices[:4]) + (f" and {len(i.devices) - 4} more" if len(i.devices) > 4 else "")
                cause = f"{i.root.kind}: {i.root.summary}"
                table.add_row(i.id, i.severity, shown, str(len(i.alerts)), cause, i.root.action)
        console.print(table)

    run(work)


def risk(data_dir: DataDir = DEFAULT_FOLDER) -> None:
    """Devices by how likely they are to fail again, and why."""

    async def work() -> None:
        table = Table("device", "risk", "because of")
        async with connected(data_dir) as autopilot:
            for r in await autopilot.alerts.risks():
                table.add_row(f"{r.node}/{r.device}", f"{r.score:.2f}", r.explained)
        console.print(table)

    run(work)


def subscribe(
    url: str,
    severity: Annotated[list[str] | None, typer.Option(help="only these; may be given several times")] = None,
    kind: Annotated[list[str] | None, typer.Option()] = None,
    node: Annotated[list[str] | None, typer.Option()] = None,
    channel: Annotated[
        str, typer.Option(help="webhook, cloudevents, alertmanager, slack, pagerduty, template")
    ] = "webhook",
    secret: Annotated[str | None, typer.Option(help="PagerDuty's routing key; else one is made")] = None,
    template: Annotated[Path | None, typer.Option(help="file with the JSON of a template channel")] = None,
    by_incident: Annotated[bool, typer.Option("--by-incident", help="only the first alert and what is worse")] = False,
    per_minute: Annotated[int | None, typer.Option(help="more wait their turn")] = None,
    quiet: Annotated[str | None, typer.Option(help="22:00-07:00 UTC: only critical alerts are told")] = None,
    escalate_after_s: Annotated[float, typer.Option(help="tell only what is still open and not taken on")] = 0.0,
    data_dir: DataDir = DEFAULT_FOLDER,
) -> None:
    """Have alerts posted to a URL, signed (standardwebhooks.com); prints the secret once."""
    quiet_from, _, quiet_to = (quiet or "").partition("-")

    async def work() -> Subscription:
        async with connected(data_dir) as autopilot:
            return await autopilot.alerts.subscribe(
                url,
                severities=severity,
                kinds=kind,
                nodes=node,
                channel=channel,
                secret=secret,
                template=template.read_text(encoding="utf-8") if template else None,
                by_incident=by_incident,
                per_minute=per_minute,
                quiet_from=quiet_from or None,
                quiet_to=quiet_to or None,
                escalate_after_s=escalate_after_s,
            )

    made = run(work)
    console.print(f"{made.id}\n{made.secret}", highlight=False, soft_wrap=True)


def acknowledge(alert_id: str, note: Annotated[str, typer.Option()] = "", data_dir: DataDir = DEFAULT_FOLDER) -> None:
    """Take an open alert on: it escalates no further."""

    async def work() -> None:
        async with connected(data_dir) as autopilot:
            await autopilot.alerts.acknowledge(alert_id, note)

    run(work)
    console.print("acknowledged")


def silence(
    minutes: Annotated[float, typer.Option(min=1, help="for how long")] = 60.0,
    node: Annotated[str, typer.Option(help="pattern of the shell")] = "*",
    device: Annotated[str, typer.Option()] = "*",
    kind: Annotated[str, typer.Option()] = "*",
    severity: Annotated[str, typer.Option()] = "*",
    start: Annotated[datetime | None, typer.Option(help="UTC; now when left out")] = None,
    reason: Annotated[str, typer.Option()] = "",
    data_dir: DataDir = DEFAULT_FOLDER,
) -> None:
    """Do not tell of alerts that match for a while, now or in a planned window."""
    begins = start.replace(tzinfo=UTC) if start else utc_now()

    async def work() -> Silence:
        async with connected(data_dir) as autopilot:
            return await autopilot.alerts.silence(
                begins + timedelta(minutes=minutes),
                starts_at=begins,
                node=node,
                device=device,
                kind=kind,
                severity=severity,
                reason=reason,
            )

    console.print(run(work).id, highlight=False)


def silences(data_dir: DataDir = DEFAULT_FOLDER) -> None:
    """Silences that are not over."""

    async def work() -> None:
        table = Table("id", "from", "until", "node", "device", "kind", "severity", "reason", "by")
        async with connected(data_dir) as autopilot:
            for s in await autopilot.alerts.silences():
                times = (s.starts_at.strftime("%d %H:%M"), s.ends_at.strftime("%d %H:%M"))
                table.add_row(s.id, *times, s.node, s.device, s.kind, s.severity, s.reason, s.created_by)
        console.print(table)

    run(work)


def unsilence(silence_id: str, data_dir: DataDir = DEFAULT_FOLDER) -> None:
    """End a silence."""

    async def work() -> None:
        async with connected(data_dir) as autopilot:
            await autopilot.alerts.unsilence(silence_id)

    run(work)
    console.print("ended")


def deliveries(
    test: Annotated[str | None, typer.Option(help="send a test alert to this subscription first")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 20,
    data_dir: DataDir = DEFAULT_FOLDER,
) -> None:
    """What was told to whom, and what became of it."""

    async def work() -> None:
        table = Table("at", "subscription", "what", "alert", "state", "attempt", "detail")
        async with connected(data_dir) as autopilot:
            if test is not None:
                reply = await autopilot.alerts.deliver(test)
                console.print("taken" if reply.ok else "not taken", reply.detail, highlight=False)
            for d in await autopilot.alerts.deliveries(limit):
                what = d.action.removeprefix("webhook.")
                told = (d.detail.get(name, "") for name in ("alert", "state", "attempt", "detail"))
                table.add_row(d.at.strftime("%H:%M:%S"), d.target, what, *told)
        console.print(table)

    run(work)


def unsubscribe(subscription_id: str, data_dir: DataDir = DEFAULT_FOLDER) -> None:
    """Remove a subscription."""

    async def work() -> None:
        async with connected(data_dir) as autopilot:
            await autopilot.alerts.unsubscribe(subscription_id)

    run(work)
    console.print("removed")


def subscriptions(data_dir: DataDir = DEFAULT_FOLDER) -> None:
    """All subscriptions."""

    async def work() -> None:
        table = Table("id", "url", "severities", "kinds", "nodes")
        async with connected(data_dir) as autopilot:
            for s in await autopilot.alerts.subscriptions():
                table.add_row(s.id, str(s.url), ", ".join(s.severities), ", ".join(s.kinds), ", ".join(s.nodes))
        console.print(table)

    run(work)
