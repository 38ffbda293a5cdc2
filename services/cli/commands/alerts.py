"""alerts, subscribe, unsubscribe, subscriptions."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from services.cli.session import DEFAULT_FOLDER, DataDir, connected, console, run
from shared.messages.audit import Subscription


def alerts(
    data_dir: DataDir = DEFAULT_FOLDER,
    history: Annotated[bool, typer.Option("--history", help="the newest changes instead of what is open")] = False,
) -> None:
    """Alerts with their evidence."""

    async def work() -> None:
        table = Table("at", "state", "severity", "device", "what", "evidence", "do")
        async with connected(data_dir) as autopilot:
            for a in await (autopilot.alerts.history() if history else autopilot.alerts.open()):
                evidence = "; ".join(
                    f"{e.metric}={e.value:g}{f' ({e.expected})' if e.expected else ''}"
                    for e in a.evidence
                    if e.value is not None
                )
                device = f"{a.node}/{a.device}" + (" (simulated)" if a.simulated else "")
                table.add_row(a.at.strftime("%H:%M:%S"), a.state, a.severity, device, a.summary, evidence, a.action)
        console.print(table)

    run(work)


def subscribe(
    url: str,
    severity: Annotated[list[str] | None, typer.Option(help="only these; may be given several times")] = None,
    kind: Annotated[list[str] | None, typer.Option()] = None,
    node: Annotated[list[str] | None, typer.Option()] = None,
    data_dir: DataDir = DEFAULT_FOLDER,
) -> None:
    """Have alerts posted to a URL, signed (standardwebhooks.com); prints the secret once."""

    async def work() -> Subscription:
        async with connected(data_dir) as autopilot:
            return await autopilot.alerts.subscribe(url, severities=severity, kinds=kind, nodes=node)

    made = run(work)
    console.print(f"{made.id}\n{made.secret}", highlight=False, soft_wrap=True)


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
