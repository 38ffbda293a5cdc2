"""decisions, explain, recommendations: what the scheduler did or recommends, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from accelerator_autopilot.cli import name_completions as completions
from accelerator_autopilot.cli.output import say, say_prose, show, writes_json
from accelerator_autopilot.cli.session import DEFAULT_FOLDER, DataDir, ask, facts
from accelerator_autopilot.cli.table_layout import Column, Row, Table
from accelerator_autopilot.contracts.errors import NotFoundError
from accelerator_autopilot.contracts.messages.commands import (
    AnyCommand,
    BatchCommand,
    DecisionRecord,
    DrainCommand,
    PowerCommand,
    ScaleCommand,
)

if TYPE_CHECKING:
    from accelerator_autopilot.client import AutopilotClient
    from accelerator_autopilot.client.fleet import Decision, Explanation

Limit = Annotated[int, typer.Option(min=1, max=1000, help="Maximum number to show, newest first.")]
KEPT = 1000  # decisions to search for one that changed something


def _outcome(row: Row) -> str:
    """Return the status, with the reason where it is not the desired one."""
    return f"{row['status']}: {row['detail']}" if row["status"] == "refused" else str(row["status"])


def _command(row: Row) -> str:
    """Return the command; for a drain command its action is enough."""
    return str(row["value"]) if row["command"] == "drain" else f"{row['command']} {row['value']}"


DECISIONS = Table(
    "decisions",
    (
        Column("at", "at (UTC)", priority=1),
        Column("issuer", "by", priority=2),
        Column("command", text=_command),
        Column("value", terminal=False),
        Column("target"),
        Column("reason", priority=1),
        Column(
            "status", "outcome", prose=True, text=_outcome, style=lambda r: "red" if r["status"] == "refused" else ""
        ),
        Column("read_back", "read back", priority=3, text=lambda row: _number(row["read_back"])),
        Column("detail", priority=4, prose=True),
        Column("id", priority=5),
    ),
    "No command has been given yet.",
)
CONSIDERED = Table(
    "considered",
    (
        Column("policy"),
        Column("replicas"),
        Column("power_level", "power level", text=lambda row: f"{row['power_level']:.2f}"),
        Column("batch_delay_s", "batch delay", priority=1, text=lambda row: f"{row['batch_delay_s']:g} s"),
        Column("chosen", text=lambda row: "yes" if row["chosen"] else ""),
    ),
    "No policy made a proposal.",
)
RECOMMENDATIONS = Table(
    "recommendations",
    (
        Column("id"),
        Column("at", "at (UTC)", priority=1),
        Column("scope"),
        Column("action", prose=True),
        Column("reason", priority=2),
        Column("expected_effect", "expected effect", priority=3, prose=True),
        Column("confidence", priority=4, text=lambda row: f"{row['confidence']:.0%}"),
        Column("can_be_approved", terminal=False),
    ),
    "Nothing is recommended at the moment.",
)


def decisions(limit: Limit = 30, data_dir: DataDir = DEFAULT_FOLDER) -> None:
    """List the newest commands with their reasons and outcomes."""
    show((DECISIONS, [decision_row(d) for d in ask(data_dir, lambda autopilot: autopilot.fleet.decisions(limit))]))


def decision_row(decision: Decision) -> Row:
    """Return a command with its outcome."""
    command, outcome = decision.command, decision.outcome
    return {
        "at": command.at,
        "issuer": command.issuer,
        "command": decision.kind,
        "value": _value(command),
        "target": decision.target,
        "reason": command.reason,
        "status": outcome.status if outcome else "pending",
        "read_back": outcome.read_back if outcome else None,
        "detail": outcome.detail if outcome else "",
        "id": command.id,
    }


def _value(command: AnyCommand) -> str:
    """Describe briefly what a command sets."""
    match command:
        case PowerCommand():
            parts = [f"{command.cap_w:g} W"] if command.cap_w else []
            parts += [f"{command.clock_mhz:g} MHz"] if command.clock_mhz else []
            return ", ".join(parts) or "default"
        case ScaleCommand():
            return str(command.replicas)
        case DrainCommand():
            return command.action
        case BatchCommand():
            return f"{command.delay_s:g} s"


def _number(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else ""


def explain(
    decision: Annotated[
        str | None,
        typer.Argument(
            help="ID of a decision or of its command; if omitted, the newest decision that changed something.",
            autocompletion=completions.decisions,
        ),
    ] = None,
    data_dir: DataDir = DEFAULT_FOLDER,
) -> None:
    """Explain a scheduling decision: what was observed, what each policy proposed, what was done and why."""

    async def work(autopilot: AutopilotClient) -> Explanation:
        wanted = decision or newest_change(await autopilot.fleet.decision_records(KEPT)).id
        return await autopilot.fleet.explain(wanted)

    _show_explanation(ask(data_dir, work))


def newest_change(records: list[DecisionRecord]) -> DecisionRecord:
    """Return the newest of some decisions, oldest first, that led to a command, else the newest.

    Raises NotFoundError.
    """
    if not records:
        raise NotFoundError("the scheduler has not decided anything yet; `autopilot status` shows whether it is ready")
    return next((r for r in reversed(records) if r.command_id is not None), records[-1])


def _show_explanation(found: Explanation) -> None:
    record, outcome = found.record, found.outcome
    considered = [c.model_dump() for c in sorted(record.considered, key=lambda c: not c.chosen)]
    if writes_json():
        document = facts(record, "considered")
        ended = facts(outcome) if outcome else None
        show((CONSIDERED, considered), **document, outcome=ended)
        return
    say_prose(
        f"Decision {record.id} about pool {record.pool} at {record.at:%Y-%m-%d %H:%M:%S} UTC\n{record.explanation}\n"
    )
    show((CONSIDERED, considered))
    say_prose("\nSeen: " + ", ".join(f"{name} {value:g}" for name, value in record.seen.items()))
    if record.command_id is None:
        say("Nothing was changed.")
    else:
        said = f"{outcome.status} {outcome.detail}".strip() if outcome else "no outcome yet"
        say(f"Command {record.command_id}: {said}")


def recommendations(limit: Limit = 30, data_dir: DataDir = DEFAULT_FOLDER) -> None:
    """List the scheduler's recommendations; `autopilot approve ID` applies one."""
    found = ask(data_dir, lambda autopilot: autopilot.fleet.recommendations(limit))
    rows: list[Row] = [
        {
            "id": r.id,
            "at": r.at,
            "scope": r.scope,
            "action": r.action,
            "reason": r.reason,
            "expected_effect": r.expected_effect,
            "confidence": r.confidence,
            "can_be_approved": r.command is not None,
        }
        for r in found
    ]
    show((RECOMMENDATIONS, rows))
