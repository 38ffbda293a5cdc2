"""alerts, incidents, risk, acknowledge, and the silences that keep alerts from being sent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from accelerator_autopilot.cli import name_completions as completions
from accelerator_autopilot.cli.output import say, show
from accelerator_autopilot.cli.session import DEFAULT_FOLDER, DataDir, ask, facts, moment
from accelerator_autopilot.cli.table_layout import Column, Row, Table
from accelerator_autopilot.contracts.incident_root_cause import incidents as grouped
from accelerator_autopilot.transport.clock import utc_now

if TYPE_CHECKING:
    from accelerator_autopilot.client import AutopilotClient
    from accelerator_autopilot.contracts.messages.alerts import Alert
    from accelerator_autopilot.contracts.messages.notifications import Acknowledgement, Silence

STYLES = {"critical": "red", "warning": "yellow"}
SHOWN_DEVICES = 4


def _severity(row: Row) -> str:
    return STYLES.get(str(row["severity"]), "")


def _shown_devices(row: Row) -> str:
    devices = row["devices"]
    names = list(map(str, devices)) if isinstance(devices, list) else []
    more = f" and {len(names) - SHOWN_DEVICES} more" if len(names) > SHOWN_DEVICES else ""
    return ", ".join(names[:SHOWN_DEVICES]) + more


ALERTS = Table(
    "alerts",
    (
        Column("id"),
        Column("at", "at (UTC)", priority=2),
        Column("severity", style=_severity),
        Column("state", priority=3),
        Column("device", text=lambda row: f"{row['device']} (simulated)" if row["simulated"] else str(row["device"])),
        Column("simulated", terminal=False),
        Column("kind", terminal=False),
        Column("summary", prose=True),
        Column("acknowledged_by", "acknowledged by", priority=1),
        Column("action", "what to do", priority=4, prose=True),
        Column("evidence", priority=5, prose=True),
        Column("incident", terminal=False),
    ),
    "No alert is open.",
)
INCIDENTS = Table(
    "incidents",
    (
        Column("id"),
        Column("severity", style=_severity),
        Column("devices", text=_shown_devices, prose=True),
        Column("alerts", priority=2),
        Column("cause", "most likely cause", prose=True),
        Column("action", "what to do", priority=1, prose=True),
    ),
    "No alert is open.",
)
RISKS = Table(
    "risks",
    (Column("device"), Column("risk", text=lambda row: f"{row['risk']:.2f}"), Column("reasons", prose=True)),
    "No device has had an alert that indicates a failure.",
)
SILENCES = Table(
    "silences",
    (
        Column("id"),
        Column("starts_at", "from (UTC)"),
        Column("ends_at", "until (UTC)"),
        Column("node", priority=1),
        Column("device", priority=1),
        Column("kind", priority=1),
        Column("severity", priority=2),
        Column("reason", priority=3, prose=True),
        Column("created_by", "by", priority=4),
    ),
    "No silence is active or planned.",
)


def alerts(
    history: Annotated[
        bool, typer.Option("--history", help="List the newest changes instead, including resolved alerts.")
    ] = False,
    data_dir: DataDir = DEFAULT_FOLDER,
) -> None:
    """List open alerts with their evidence and what to do."""

    async def work(autopilot: AutopilotClient) -> tuple[list[Alert], dict[str, Acknowledgement]]:
        found = await (autopilot.alerts.history() if history else autopilot.alerts.open())
        return found, await autopilot.alerts.acknowledgements()

    show((ALERTS, alert_rows(*ask(data_dir, work))))


def alert_rows(found: Iterable[Alert], acknowledged: Mapping[str, Acknowledgement]) -> list[Row]:
    """Return alerts with who acknowledged them."""
    return [
        {
            "id": a.id,
            "at": a.at,
            "severity": a.severity,
            "state": a.state,
            "device": f"{a.node}/{a.device}",
            "simulated": a.simulated,
            "kind": a.kind,
            "summary": a.summary,
            "acknowledged_by": acknowledged[a.id].by if a.id in acknowledged else "",
            "action": a.action,
            "evidence": _evidence(a),
            "incident": a.incident,
        }
        for a in found
    ]


def _evidence(alert: Alert) -> str:
    return "; ".join(
        f"{e.metric}={e.value:g}{f' (expected: {e.expected})' if e.expected else ''}"
        for e in alert.evidence
        if e.value is not None
    )


def incidents(data_dir: DataDir = DEFAULT_FOLDER) -> None:
    """Group open alerts that belong together, with the most likely cause of each group."""
    found = grouped(ask(data_dir, lambda autopilot: autopilot.alerts.open()))
    rows: list[Row] = [
        {
            "id": i.id,
            "severity": i.severity,
            "devices": i.devices,
            "alerts": len(i.alerts),
            "cause": f"{i.root.kind}: {i.root.summary}",
            "action": i.root.action,
        }
        for i in found
    ]
    show((INCIDENTS, rows))


def risk(data_dir: DataDir = DEFAULT_FOLDER) -> None:
    """Rank devices by how likely they are to fail again, and say why."""
    found = ask(data_dir, lambda autopilot: autopilot.alerts.risks())
    show((RISKS, [{"device": f"{r.node}/{r.device}", "risk": r.score, "reasons": r.explained} for r in found]))


def acknowledge(
    alert_id: Annotated[str, typer.Argument(help="ID of an open alert.", autocompletion=completions.open_alerts)],
    note: Annotated[str, typer.Option(help="What others should know.")] = "",
    data_dir: DataDir = DEFAULT_FOLDER,
) -> None:
    """Acknowledge an open alert, so that it is not escalated any further."""
    taken = ask(data_dir, lambda autopilot: autopilot.alerts.acknowledge(alert_id, note))
    say("acknowledged", **facts(taken))


def silence(
    minutes: Annotated[float, typer.Option(min=1, help="How long it lasts.")] = 60.0,
    node: Annotated[
        str, typer.Option(help="Node, or a pattern such as 'rack7-*'.", autocompletion=completions.nodes)
    ] = "*",
    device: Annotated[str, typer.Option(help="Device, or a pattern.", autocompletion=completions.devices)] = "*",
    kind: Annotated[str, typer.Option(help="Kind of alert, or a pattern such as 'xid_*'.")] = "*",
    severity: Annotated[str, typer.Option(help="info, warning or critical.")] = "*",
    start: Annotated[
        str | None,
        typer.Option(parser=moment, metavar="TIME", help="Start of a planned window, UTC; now if omitted."),
    ] = None,
    reason: Annotated[str, typer.Option(help="Why, for others to read.")] = "",
    data_dir: DataDir = DEFAULT_FOLDER,
) -> None:
    """Mute notifications of matching alerts for a while, now or in a planned window, and print the silence's ID."""
    begins = datetime.fromisoformat(start) if start else utc_now()
    begins = begins if begins.tzinfo else begins.replace(tzinfo=UTC)
    made = ask(
        data_dir,
        lambda autopilot: autopilot.alerts.silence(
            begins + timedelta(minutes=minutes),
            starts_at=begins,
            node=node,
            device=device,
            kind=kind,
            severity=severity,
            reason=reason,
        ),
    )
    say(made.id, **_silence_row(made))


def _silence_row(s: Silence) -> dict[str, object]:
    return {c.key: getattr(s, c.key) for c in SILENCES.columns}


def silences(data_dir: DataDir = DEFAULT_FOLDER) -> None:
    """List silences that are active or planned."""
    found: Sequence[Silence] = ask(data_dir, lambda autopilot: autopilot.alerts.silences())
    show((SILENCES, [_silence_row(s) for s in found]))


def unsilence(
    silence_id: Annotated[str, typer.Argument(help="ID of the silence.", autocompletion=completions.silences)],
    data_dir: DataDir = DEFAULT_FOLDER,
) -> None:
    """End a silence."""
    ask(data_dir, lambda autopilot: autopilot.alerts.unsilence(silence_id))
    say("ended", id=silence_id)
