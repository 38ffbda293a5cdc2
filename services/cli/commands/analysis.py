"""whatif, analyse, report, replay: analyses of the past, run by programs of the scheduler and the detector."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from accelerator_autopilot.cli.output import fail, say, show
from accelerator_autopilot.cli.session import DEFAULT_FOLDER, DataDir, ask, moment
from accelerator_autopilot.cli.table_layout import Column, Row, Table
from accelerator_autopilot.contracts.errors import AutopilotError
from accelerator_autopilot.contracts.exit_codes import exit_code
from accelerator_autopilot.contracts.messages.commands import Recommendation
from accelerator_autopilot.deploy.local.instance import Instance

if TYPE_CHECKING:
    from accelerator_autopilot.client import AutopilotClient

SCHEDULER = "accelerator_autopilot.scheduler.commands"

Since = Annotated[
    str | None,
    typer.Option("--from", parser=moment, metavar="TIME", help="Start, ISO 8601; a day before --to if omitted."),
]
Until = Annotated[
    str | None, typer.Option("--to", parser=moment, metavar="TIME", help="End, ISO 8601; now if omitted.")
]

POLICIES = Table(
    "policies",
    (
        Column("policy"),
        Column("jobs"),
        Column("in_time", "in time", text=lambda row: f"{row['in_time']:.2%}"),
        Column("joules", text=lambda row: f"{row['joules']:,.0f}"),
        Column("ratio_to_bound", "times the bound", priority=1),
        Column("starts", priority=2),
        Column("blocks", terminal=False),
    ),
    "There were no jobs in this time span.",
)
SAVINGS = Table(
    "savings",
    (
        Column("scope"),
        Column("action", prose=True),
        Column("saving", text=lambda row: f"{row['saving']:.3g} {row['unit']} ({row['low']:.3g} to {row['high']:.3g})"),
        Column("unit", terminal=False),
        Column("low", terminal=False),
        Column("high", terminal=False),
        Column("kind", terminal=False),
        Column("value", terminal=False),
        Column("why", priority=2, prose=True),
        Column("command", "apply with", priority=1, prose=True),
        Column("query", "evidence", priority=3, prose=True),
    ),
    "Nothing to advise: no idle device, and no cap, floor or batch worth changing.",
)
EFFECTS = Table(
    "effects",
    (
        Column("measure"),
        Column("change", text=lambda row: f"{row['change']:+.4g}"),
        Column("low", "90 % from", text=lambda row: f"{row['low']:+.4g}"),
        Column("high", "to", text=lambda row: f"{row['high']:+.4g}"),
    ),
    "There is too little data before or after this moment.",
)
ALERTS = Table(
    "replayed_alerts",
    (
        Column("opened_s", "from", text=lambda row: f"{row['opened_s']:.0f} s"),
        Column("resolved_s", "to", text=lambda row: "" if row["resolved_s"] is None else f"{row['resolved_s']:.0f} s"),
        Column("severity"),
        Column("device"),
        Column("kind"),
        Column("score", priority=2),
        Column("summary", priority=1, prose=True),
        Column("action", "what to do", priority=3, prose=True),
        Column("evidence", terminal=False),
    ),
    "No alert.",
)


def whatif(
    policy: Annotated[list[str] | None, typer.Option(help="Scaling policy to try; repeatable. All if omitted.")] = None,
    since: Since = None,
    until: Until = None,
    ceiling: Annotated[
        int | None, typer.Option(min=1, help="Largest number of workers, instead of the policy's.")
    ] = None,
    slack_s: Annotated[float | None, typer.Option(min=0.1, help="Seconds that a job may wait.")] = None,
    data_dir: DataDir = DEFAULT_FOLDER,
) -> None:
    """Compare scaling policies on a simulation of the fleet's history: jobs in time, energy, starts of workers."""
    given = {"--from": since, "--to": until, "--ceiling": ceiling, "--slack-s": slack_s}
    more = [part for name in policy or [] for part in ("--policy", name)]
    lines = _run(f"{SCHEDULER}.whatif", given, [*more, "--json", *_fleet_policy(data_dir)], data_dir)
    show((POLICIES, _rows(lines)))


def analyse(
    since: Since = None,
    until: Until = None,
    applied: Annotated[
        str | None,
        typer.Option(
            parser=moment, metavar="TIME", help="Show instead the measured effect of a change at this time, ISO 8601."
        ),
    ] = None,
    publish: Annotated[
        bool, typer.Option("--publish", help="Publish as recommendations, which `autopilot approve` applies.")
    ] = False,
    data_dir: DataDir = DEFAULT_FOLDER,
) -> None:
    """Find idle devices, caps worth setting, oversized pools and kinds to batch, with the savings of each."""
    given = {"--from": since, "--to": until, "--applied": applied}
    form = "--recommendations" if publish else "--json"
    lines = _run(f"{SCHEDULER}.advisor", given, [form, *_fleet_policy(data_dir)], data_dir)
    if applied:
        show((EFFECTS, [row for line in _rows(lines) for row in _effects(line)]))
    elif not publish:
        show((SAVINGS, _rows(lines)))
    else:
        found = [Recommendation.model_validate_json(line) for line in lines]

        async def work(autopilot: AutopilotClient) -> None:
            for each in found:
                await autopilot.steering.recommend(each)

        ask(data_dir, work)
        say(f"{len(found)} published; `autopilot recommendations` lists them", published=[r.id for r in found])


def report(
    out: Annotated[Path, typer.Option(help="HTML file to write.")] = Path("report.html"),
    since: Annotated[
        str | None,
        typer.Option("--from", parser=moment, metavar="TIME", help="Start; a week before --to if omitted."),
    ] = None,
    until: Until = None,
    week: Annotated[str | None, typer.Option(help="Fetch the report of a past week instead, such as 2026-W47.")] = None,
    data_dir: DataDir = DEFAULT_FOLDER,
) -> None:
    """Write a report of energy and service as one HTML file, with plots."""
    if week is None:
        given = {"--from": since, "--to": until, "--out": out}
        _run(f"{SCHEDULER}.report_page", given, _fleet_policy(data_dir), data_dir)
    else:
        name = week
        page = ask(data_dir, lambda autopilot: autopilot.fleet.report(name))
        try:
            out.write_bytes(page)
        except OSError as error:
            fail(f"{out}: {error.strerror}")
    say(str(out), file=str(out))


def replay(
    input_file: Annotated[
        Path | None, typer.Option("--input", help="CSV, CSV.gz, Parquet, Arrow or JSON lines with telemetry.")
    ] = None,
    since: Annotated[
        str | None,
        typer.Option("--from", parser=moment, metavar="TIME", help="Start of a database span instead, ISO 8601."),
    ] = None,
    until: Annotated[str | None, typer.Option("--to", parser=moment, metavar="TIME", help="End of the span.")] = None,
    out: Annotated[Path | None, typer.Option(help="File for the alerts, as JSON lines.")] = None,
    detector: Annotated[list[str] | None, typer.Option(help="Only alerts of this kind; repeatable.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Plot of the devices with alerts, PNG or SVG.")] = None,
    data_dir: DataDir = DEFAULT_FOLDER,
) -> None:
    """Show what the detectors would have found in past telemetry, from a file or from the database."""
    given = {"--input": input_file, "--from": since, "--to": until, "--out": out, "--plot": plot}
    more = [part for kind in detector or [] for part in ("--detector", kind)]
    program = "accelerator_autopilot.anomaly.replay"
    lines = _run(program, given, more, data_dir, needs_database=input_file is None)
    if out is None:
        show((ALERTS, _rows(lines)))


def _rows(lines: list[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines]


def _effects(found: Row) -> list[Row]:
    """Return a row per measure, from a mapping that holds each with its interval."""
    names = [name for name in found if not name.endswith(("_low", "_high"))]
    return [{"measure": n, "change": found[n], "low": found[f"{n}_low"], "high": found[f"{n}_high"]} for n in names]


def _fleet_policy(data_dir: Path) -> list[str]:
    return ["--fleet-policy", ask(data_dir, lambda autopilot: autopilot.steering.policy()).model_dump_json()]


def _run(
    program: str, given: Mapping[str, object], more: list[str], data_dir: Path, *, needs_database: bool = True
) -> list[str]:
    """Yield the lines that a program writes; it reports its own errors."""
    arguments = [part for name, value in given.items() if value is not None for part in (name, str(value))]
    environment = dict(os.environ)
    if needs_database and "AUTOPILOT_DATABASE_URL" not in environment:
        try:
            environment["AUTOPILOT_DATABASE_URL"] = Instance(data_dir).load().database_url
        except AutopilotError as error:
            fail(str(error), exit_code(error))
    command = [sys.executable, "-P", "-m", program, *arguments, *more]
    ended = subprocess.run(command, env=environment, check=False, stdout=subprocess.PIPE, text=True)  # noqa: S603  ours
    if ended.returncode:
        raise typer.Exit(ended.returncode)
    return ended.stdout.splitlines()
