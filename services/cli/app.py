"""The command line: every command with its place in the help page, its summary and an example."""

from __future__ import annotations

import os
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import typer

from accelerator_autopilot.cli.registration import CONTEXT, Command, LazyGroup

MACHINE, FLEET, JOBS, ALERTS = "This machine", "Fleet", "Jobs", "Alerts"
SCHEDULING, HISTORY = "Scheduling", "Past telemetry and jobs"

COMMANDS = (
    Command("up", "product", MACHINE, "Start the whole product on this machine.", "autopilot up --simulate 8"),
    Command("down", "product", MACHINE, "Stop the product that runs on a data folder.", "autopilot down"),
    Command("status", "product", MACHINE, "Show whether each process is ready, or why not.", "autopilot status"),
    Command("doctor", "doctor", MACHINE, "Check what this machine has and what is missing.", "autopilot doctor"),
    Command("tour", "tour", MACHINE, "Show the product at work, on a temporary instance.", "autopilot tour"),
    Command("key", "product", MACHINE, "Create an API key.", "autopilot key operator --user ada"),
    Command(
        "driver", "steering", MACHINE, "Close GPU drivers for an upgrade.", "autopilot driver release --minutes 15"
    ),
    Command("devices", "fleet", FLEET, "List devices with their newest readings.", "autopilot devices"),
    Command("pools", "fleet", FLEET, "List pools of workers, and the queue.", "autopilot pools"),
    Command("watch", "fleet", FLEET, "Show devices and pools live.", "autopilot watch --every-s 2"),
    Command("cap", "steering", FLEET, "Limit the power or clock of a device.", "autopilot cap gpu-0 250 --lease-s 600"),
    Command("drain", "steering", FLEET, "Take a device out of service, or put it back.", "autopilot drain gpu-0"),
    Command("scale", "steering", FLEET, "Set the number of workers of a pool.", "autopilot scale default 4"),
    Command("submit", "jobs", JOBS, "Submit a job.", "autopilot submit summarize README.md --wait"),
    Command("map", "jobs", JOBS, "Submit a batch, one job for each input.", "autopilot map embed a.md b.md --wait"),
    Command("batch", "jobs", JOBS, "Show the progress of a batch, or its results.", "autopilot batch 3f2a9c --results"),
    Command("jobs", "jobs", JOBS, "List jobs that wait, run or have ended.", "autopilot jobs --limit 10"),
    Command("result", "jobs", JOBS, "Print the output of a job.", "autopilot result 3f2a9c"),
    Command("cancel", "jobs", JOBS, "Cancel a job that has not ended yet.", "autopilot cancel 3f2a9c"),
    Command("dead", "jobs", JOBS, "List jobs that failed permanently, or retry one.", "autopilot dead --kind embed"),
    Command("alerts", "alerts", ALERTS, "List open alerts and what to do about them.", "autopilot alerts --history"),
    Command("incidents", "alerts", ALERTS, "Group alerts by their most likely cause.", "autopilot incidents"),
    Command("risk", "alerts", ALERTS, "Rank devices by how likely they are to fail.", "autopilot risk"),
    Command(
        "acknowledge",
        "alerts",
        ALERTS,
        "Acknowledge an alert.",
        "autopilot acknowledge 3f2a9c --note 'fan ordered'",
    ),
    Command(
        "silence",
        "alerts",
        ALERTS,
        "Mute notifications of some alerts for a while.",
        "autopilot silence --kind thermal --node 'rack7-*' --minutes 90",
    ),
    Command("silences", "alerts", ALERTS, "List silences.", "autopilot silences"),
    Command("unsilence", "alerts", ALERTS, "End a silence.", "autopilot unsilence 3f2a9c"),
    Command(
        "subscribe",
        "subscriptions",
        ALERTS,
        "Post alerts to a URL.",
        "autopilot subscribe https://example.com/hook --severity critical",
    ),
    Command("subscriptions", "subscriptions", ALERTS, "List subscriptions to alerts.", "autopilot subscriptions"),
    Command("unsubscribe", "subscriptions", ALERTS, "Remove a subscription.", "autopilot unsubscribe 3f2a9c"),
    Command(
        "deliveries",
        "subscriptions",
        ALERTS,
        "List notifications and their outcomes.",
        "autopilot deliveries --test 3f2a9c",
    ),
    Command(
        "decisions",
        "scheduling",
        SCHEDULING,
        "List commands with reason and outcome.",
        "autopilot decisions --limit 10",
    ),
    Command("explain", "scheduling", SCHEDULING, "Explain a decision of the scheduler.", "autopilot explain"),
    Command(
        "policy",
        "fleet_policy",
        SCHEDULING,
        "Show or change what the scheduler may do.",
        "autopilot policy --pool default --ceiling 8 --autonomy approve",
    ),
    Command(
        "recommendations", "scheduling", SCHEDULING, "List what the scheduler recommends.", "autopilot recommendations"
    ),
    Command("approve", "steering", SCHEDULING, "Apply a recommendation.", "autopilot approve 3f2a9c"),
    Command(
        "whatif",
        "analysis",
        HISTORY,
        "Compare scaling policies on the fleet's history.",
        "autopilot whatif --policy reserve --policy queue_lag --ceiling 8",
    ),
    Command("analyse", "analysis", HISTORY, "Find what would save energy.", "autopilot analyse --from 2026-11-20"),
    Command("report", "analysis", HISTORY, "Write a report of energy and service.", "autopilot report --out week.html"),
    Command(
        "replay",
        "analysis",
        HISTORY,
        "Run the detectors over past telemetry.",
        "autopilot replay --input telemetry.csv.gz --out alerts.jsonl",
    ),
)


class Autopilot(LazyGroup):
    """All commands of the product."""

    known = COMMANDS


app = typer.Typer(
    name="autopilot",
    cls=Autopilot,
    no_args_is_help=True,
    # Plain help pages: they fit any width, and boxes get in the way of `autopilot --help | less`.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings=CONTEXT,
)


def _print_version(wanted: bool) -> None:
    if not wanted:
        return
    try:
        print(f"autopilot {version('accelerator-autopilot')}")
    except PackageNotFoundError:
        print("autopilot, not installed as a package")
    raise typer.Exit


@app.callback()
def shared_options(
    no_color: Annotated[bool, typer.Option("--no-color", help="Print without colour, as NO_COLOR=1 does.")] = False,
    show_version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Run and steer a fleet of accelerators: telemetry, jobs, alerts, scaling and power.

    Tables fit the terminal. In a pipe they are lines with tabs, and --json prints a document. The manual describes
    both, and the exit codes: docs/reference/command-line.md.
    """
    from accelerator_autopilot.cli import output  # noqa: PLC0415  help and completion do without

    del show_version  # its callback has already exited
    output.use(json=False, color=not no_color)


def main() -> None:
    """Entry point of `autopilot`."""
    from accelerator_autopilot.runtime.import_exclusions import leave_out_websockets  # noqa: PLC0415

    leave_out_websockets(os.environ.get("AUTOPILOT_NATS_URL", ""))
    for stream in (sys.stdout, sys.stderr):
        # A terminal without a degree sign is no reason to fail.
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    app(prog_name="autopilot")


if __name__ == "__main__":
    main()
