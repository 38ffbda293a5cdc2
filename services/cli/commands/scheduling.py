"""explain, recommendations, approve, and what is computed from the past: whatif, analyse, report."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from accelerator_autopilot.cli.session import DEFAULT_FOLDER, DataDir, connected, console, fail, run
from accelerator_autopilot.client.fleet import Explanation
from accelerator_autopilot.contracts.errors import AutopilotError
from accelerator_autopilot.contracts.messages.commands import CommandOutcome, Recommendation
from accelerator_autopilot.deploy.local.instance import Instance

Since = Annotated[str | None, typer.Option("--from", help="start, ISO 8601; a day before --to when left out")]
Until = Annotated[str | None, typer.Option("--to", help="end, ISO 8601; now when left out")]


def explain(
    decision: Annotated[str | None, typer.Argument(help="its id or its command's; the newest when left out")] = None,
    data_dir: DataDir = DEFAULT_FOLDER,
) -> None:
    """What the scheduler saw, what it considered, what it did, and why."""

    async def work() -> Explanation:
        async with connected(data_dir) as autopilot:
            wanted = decision
            if wanted is None:
                records = await autopilot.fleet.decision_records(1)
                if not records:
                    fail("there is no decision yet")
                wanted = records[-1].id
            return await autopilot.fleet.explain(wanted)

    told = run(work)
    record = told.record
    console.print(
        f"decision {record.id} about pool {record.pool} at {record.at:%Y-%m-%d %H:%M:%S} UTC", highlight=False
    )
    console.print(record.explanation, highlight=False)
    table = Table("policy", "replicas", "power level", "")
    for each in sorted(record.considered, key=lambda c: not c.chosen):
        table.add_row(each.policy, str(each.replicas), f"{each.power_level:.2f}", "decides" if each.chosen else "")
    console.print(table)
    console.print("seen: " + ", ".join(f"{name} {value:g}" for name, value in record.seen.items()), highlight=False)
    if record.command_id:
        outcome = f"{told.outcome.status} {told.outcome.detail}" if told.outcome else "no outcome yet"
        console.print(f"command {record.command_id}: {outcome}", highlight=False)


def recommendations(
    data_dir: DataDir = DEFAULT_FOLDER, limit: Annotated[int, typer.Option(min=1, max=1000)] = 30
) -> None:
    """What the scheduler advises; `autopilot approve ID` carries one out."""

    async def work() -> None:
        table = Table("id", "at", "scope", "action", "reason", "expected", "sure")
        async with connected(data_dir) as autopilot:
            for r in await autopilot.fleet.recommendations(limit):
                at = r.at.strftime("%m-%d %H:%M:%S")
                table.add_row(r.id, at, r.scope, r.action, r.reason, r.expected_effect, f"{r.confidence:.0%}")
        console.print(table)

    run(work)


def approve(recommendation: str, data_dir: DataDir = DEFAULT_FOLDER) -> None:
    """Carry out what the scheduler recommended."""

    async def work() -> CommandOutcome:
        async with connected(data_dir) as autopilot:
            found = [r for r in await autopilot.fleet.recommendations(1000) if r.id == recommendation]
            if not found:
                fail(f"no recommendation {recommendation!r}: `autopilot recommendations` lists them")
            command = await autopilot.steering.approve(found[0])
            return await autopilot.steering.outcome(command.id)

    outcome = run(work)
    console.print(f"{outcome.target}: {outcome.status} {outcome.detail}", highlight=False)


def whatif(
    policy: Annotated[list[str] | None, typer.Option(help="a policy; several are compared; all when left out")] = None,
    since: Since = None,
    until: Until = None,
    ceiling: Annotated[int | None, typer.Option(min=1, help="replicas at most instead of the operator's")] = None,
    slack_s: Annotated[float | None, typer.Option(min=0.1, help="how long a job may wait")] = None,
    data_dir: DataDir = DEFAULT_FOLDER,
) -> None:
    """Play policies on the twin over a past day of this fleet: jobs in time, joules, starts."""
    given = {"--from": since, "--to": until, "--ceiling": ceiling, "--slack-s": slack_s}
    more = [part for name in policy or [] for part in ("--policy", name)]
    _past("whatif", given, [*more, "--fleet-policy", _fleet_policy(data_dir)], data_dir)


def analyse(
    since: Since = None,
    until: Until = None,
    applied: Annotated[str | None, typer.Option(help="what a change at this moment really did, ISO 8601")] = None,
    publish: Annotated[bool, typer.Option("--publish", help="as recommendations, which can be approved")] = False,
    data_dir: DataDir = DEFAULT_FOLDER,
) -> None:
    """Idle devices, caps worth setting, pools too large, kinds that should batch: what each would save."""
    given = {"--from": since, "--to": until, "--applied": applied}
    more = ["--fleet-policy", _fleet_policy(data_dir)]
    if not publish:
        _past("advisor", given, more, data_dir)
    told = _run_past("advisor", given, [*more, "--recommendations"], data_dir, capture=True)
    if told.returncode:
        raise typer.Exit(told.returncode)
    found = [Recommendation.model_validate_json(line) for line in told.stdout.splitlines()]

    async def work() -> None:
        async with connected(data_dir) as autopilot:
            for each in found:
                await autopilot.steering.recommend(each)

    run(work)
    console.print(f"{len(found)} published: `autopilot recommendations` shows them")


def report(
    out: Annotated[Path, typer.Option(help="the HTML file")] = Path("report.html"),
    since: Annotated[str | None, typer.Option("--from", help="start; a week before --to when left out")] = None,
    until: Until = None,
    week: Annotated[str | None, typer.Option(help="one that was made by itself, 2026-W47")] = None,
    data_dir: DataDir = DEFAULT_FOLDER,
) -> None:
    """Energy and service of a week, with plots."""
    if week is None:
        more = ["--fleet-policy", _fleet_policy(data_dir)]
        _past("report_page", {"--from": since, "--to": until, "--out": out}, more, data_dir)

    async def work() -> None:
        async with connected(data_dir) as autopilot:
            out.write_bytes(await autopilot.fleet.report(week or ""))

    run(work)
    console.print(str(out), highlight=False)


def _fleet_policy(data_dir: Path) -> str:
    async def work() -> str:
        async with connected(data_dir) as autopilot:
            return (await autopilot.steering.policy()).model_dump_json()

    return run(work)


def _past(program: str, given: Mapping[str, object], more: list[str], data_dir: Path) -> None:
    raise typer.Exit(_run_past(program, given, more, data_dir).returncode)


def _run_past(
    program: str, given: Mapping[str, object], more: list[str], data_dir: Path, *, capture: bool = False
) -> subprocess.CompletedProcess[str]:
    arguments = [part for name, value in given.items() if value is not None for part in (name, str(value))]
    environment = dict(os.environ)
    if "AUTOPILOT_DATABASE_URL" not in environment:
        try:
            environment["AUTOPILOT_DATABASE_URL"] = Instance(data_dir).load().database_url
        except AutopilotError as error:
            fail(str(error))
    command = [sys.executable, "-m", f"accelerator_autopilot.scheduler.commands.{program}", *arguments, *more]
    out = subprocess.PIPE if capture else None
    return subprocess.run(command, env=environment, check=False, stdout=out, text=True)  # noqa: S603
