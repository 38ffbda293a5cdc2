"""cap, drain, scale, approve, driver: operator commands, and their outcomes."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from accelerator_autopilot.cli import name_completions as completions
from accelerator_autopilot.cli.output import fail, say
from accelerator_autopilot.cli.session import DEFAULT_FOLDER, DataDir, ask, facts
from accelerator_autopilot.contracts.errors import NotFoundError, UnavailableError
from accelerator_autopilot.contracts.exit_codes import ExitCode
from accelerator_autopilot.runtime.driver_release_request import release, take_back
from accelerator_autopilot.transport.clock import utc_now

if TYPE_CHECKING:
    from accelerator_autopilot.client import AutopilotClient
    from accelerator_autopilot.contracts.messages.commands import AnyCommand, CommandOutcome

Device = Annotated[
    str, typer.Argument(help="Name of the device, as in `autopilot devices`.", autocompletion=completions.devices)
]


class DrainAction(StrEnum):
    """What to do with a device."""

    cordon = "cordon"
    drain = "drain"
    restore = "restore"


class DriverAction(StrEnum):
    """What an agent does with its drivers."""

    release = "release"
    take = "take"


def cap(
    device: Device,
    cap_w: Annotated[
        float | None, typer.Argument(min=1, help="Power limit in watts; if omitted, the default is restored.")
    ] = None,
    lease_s: Annotated[
        float, typer.Option(min=1, max=86_400, help="Seconds after which the limit ends by itself.")
    ] = 60.0,
    clock_mhz: Annotated[
        float | None, typer.Option(min=1, help="Keep the clock at or below this frequency as well.")
    ] = None,
    data_dir: DataDir = DEFAULT_FOLDER,
) -> None:
    """Limit the power of a device, or its clock, for a limited time."""

    async def work(autopilot: AutopilotClient) -> CommandOutcome:
        node = (await autopilot.fleet.find(device)).node
        command = await autopilot.steering.cap_power(node, device, cap_w, clock_mhz=clock_mhz, lease_s=lease_s)
        return await _outcome(autopilot, command)

    _report(ask(data_dir, work))


def drain(
    device: Device,
    action: Annotated[
        DrainAction,
        typer.Argument(
            help="drain: finish what runs, then stop; cordon: take no new work; restore: back into service."
        ),
    ] = DrainAction.drain,
    data_dir: DataDir = DEFAULT_FOLDER,
) -> None:
    """Take a device out of service, or put it back."""

    async def work(autopilot: AutopilotClient) -> CommandOutcome:
        node = (await autopilot.fleet.find(device)).node
        return await _outcome(autopilot, await autopilot.steering.drain(node, device, action.value))

    _report(ask(data_dir, work))


def scale(
    pool: Annotated[str, typer.Argument(help="Name of the pool.", autocompletion=completions.pools)],
    replicas: Annotated[
        int, typer.Argument(min=0, max=10_000, help="Number of workers, on all nodes of the pool together.")
    ],
    data_dir: DataDir = DEFAULT_FOLDER,
) -> None:
    """Set the number of workers of a pool.

    The scheduler then leaves the pool alone for `manual_hold_s` of its policy.
    """

    async def work(autopilot: AutopilotClient) -> CommandOutcome:
        if pool not in (known := sorted({p.pool for p in await autopilot.fleet.pools()})):
            raise NotFoundError(f"no pool {pool!r}; available: {', '.join(known) or 'none'}")
        return await _outcome(autopilot, await autopilot.steering.scale(pool, replicas))

    _report(ask(data_dir, work))


def approve(
    recommendation: Annotated[
        str, typer.Argument(help="ID of the recommendation.", autocompletion=completions.recommendations)
    ],
    data_dir: DataDir = DEFAULT_FOLDER,
) -> None:
    """Apply a recommendation of the scheduler."""

    async def work(autopilot: AutopilotClient) -> CommandOutcome:
        found = [r for r in await autopilot.fleet.recommendations(1000) if r.id == recommendation]
        if not found:
            raise NotFoundError(f"no recommendation {recommendation!r}; `autopilot recommendations` lists them")
        return await _outcome(autopilot, await autopilot.steering.approve(found[0]))

    _report(ask(data_dir, work))


async def _outcome(autopilot: AutopilotClient, command: AnyCommand) -> CommandOutcome:
    try:
        return await autopilot.steering.outcome(command.id)
    except TimeoutError:
        text = f"the command for {command.target} has no outcome yet; `autopilot decisions` shows its outcome"
        fail(text, ExitCode.TIMED_OUT)


def _report(outcome: CommandOutcome) -> None:
    if outcome.status != "applied":
        fail(f"{outcome.target}: {outcome.status}: {outcome.detail}")
    read_back = f", now {outcome.read_back:g}" if outcome.read_back is not None else ""
    detail = f" ({outcome.detail})" if outcome.detail else ""
    say(f"{outcome.target}: {outcome.status}{read_back}{detail}", **facts(outcome))


def driver(
    action: Annotated[DriverAction, typer.Argument(help="release: close the drivers; take: open them again.")],
    minutes: Annotated[
        float, typer.Option(min=1, max=1440, help="Minutes after which the agent opens them again by itself.")
    ] = 60.0,
    data_dir: DataDir = DEFAULT_FOLDER,
) -> None:
    """Have this machine's agent close its GPU drivers, so that they can be upgraded, or open them again."""
    try:
        if action is DriverAction.release:
            release(data_dir, utc_now().timestamp() + 60 * minutes)
            text = f"the agent closes its drivers within seconds, for {minutes:g} min or until `autopilot driver take`"
        else:
            take_back(data_dir)
            text = "the agent opens its drivers again within ten seconds"
    except UnavailableError as error:
        fail(str(error), ExitCode.USAGE)
    say(text, action=action.value, minutes=minutes if action is DriverAction.release else None)
