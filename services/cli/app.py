"""The command line: which command goes to which function."""

from __future__ import annotations

import typer

from accelerator_autopilot.cli.commands import alerts, fleet, jobs, policy, product, replay, scheduling, tour

app = typer.Typer(
    name="autopilot",
    help="Accelerator Autopilot: telemetry, jobs, alerts, scaling and power.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

for function in (
    product.up,
    product.down,
    product.status,
    product.doctor,
    product.key,
    tour.tour,
    fleet.devices,
    fleet.watch,
    fleet.decisions,
    fleet.cap,
    fleet.drain,
    fleet.scale,
    fleet.driver,
    jobs.submit,
    jobs.jobs,
    jobs.result,
    jobs.cancel,
    jobs.batch,
    jobs.dead,
    alerts.alerts,
    alerts.subscribe,
    alerts.unsubscribe,
    alerts.subscriptions,
    alerts.incidents,
    alerts.risk,
    alerts.acknowledge,
    alerts.silence,
    alerts.silences,
    alerts.unsilence,
    alerts.deliveries,
    replay.replay,
    policy.policy,
    scheduling.explain,
    scheduling.recommendations,
    scheduling.approve,
    scheduling.whatif,
    scheduling.analyse,
    scheduling.report,
):
    app.command()(function)
app.command("map")(jobs.map_)


def main() -> None:
    """Entry point of `autopilot`."""
    app()


if __name__ == "__main__":
    main()
