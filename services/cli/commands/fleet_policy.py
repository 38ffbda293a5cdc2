"""policy: what the scheduler may do."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError

from accelerator_autopilot.cli import name_completions as completions
from accelerator_autopilot.cli.output import fail, show_document
from accelerator_autopilot.cli.session import DEFAULT_FOLDER, DataDir, ask
from accelerator_autopilot.contracts.exit_codes import ExitCode
from accelerator_autopilot.contracts.messages.commands import FleetPolicy, PoolPolicy

if TYPE_CHECKING:
    from accelerator_autopilot.client import AutopilotClient


class AutonomyName(StrEnum):
    """How far the scheduler may go."""

    observe = "observe"
    advise = "advise"
    approve = "approve"
    act = "act"


class PowerName(StrEnum):
    """Which devices may be capped."""

    off = "off"
    simulated = "simulated"
    all = "all"


def policy(
    file: Annotated[
        Path | None, typer.Option(help="JSON file with a whole policy, which replaces the current one.")
    ] = None,
    mode: Annotated[
        AutonomyName | None, typer.Option(help="How far the scheduler may go, unless a pool overrides it.")
    ] = None,
    power: Annotated[PowerName | None, typer.Option(help="Which devices may be capped.")] = None,
    pool: Annotated[
        str | None, typer.Option(help="Pool that the options below are for.", autocompletion=completions.pools)
    ] = None,
    floor: Annotated[int | None, typer.Option(min=0, help="Smallest number of workers.")] = None,
    ceiling: Annotated[int | None, typer.Option(min=0, help="Largest number of workers.")] = None,
    autonomy: Annotated[AutonomyName | None, typer.Option(help="How far the scheduler may go with this pool.")] = None,
    scaling_policy: Annotated[str | None, typer.Option(help="Always decide by this scaling policy.")] = None,
    wait_s: Annotated[float | None, typer.Option(min=0.1, help="Seconds that a job may wait.")] = None,
    batch_delay_s: Annotated[
        float | None, typer.Option(min=0, max=60, help="Most seconds that a job waits for others to share its batch.")
    ] = None,
    share: Annotated[
        list[str] | None,
        typer.Option(help="Share of the workers on a kind of accelerator, such as gpu=0.9; repeatable."),
    ] = None,
    data_dir: DataDir = DEFAULT_FOLDER,
) -> None:
    """Show what the scheduler may do, or change it."""
    of_fleet = {"mode": mode, "power": power}
    of_pool = {
        "floor": floor, "ceiling": ceiling, "autonomy": autonomy, "policy": scaling_policy, "target_wait_s": wait_s,
        "batch_delay_max_s": batch_delay_s,
    }  # fmt: skip
    changes: dict[str, Any] = {name: str(value) for name, value in of_fleet.items() if value is not None}
    if share:
        changes["shares"] = {kind: value for kind, _, value in (part.partition("=") for part in share)}
    pool_changes = {
        name: str(value) if isinstance(value, StrEnum) else value
        for name, value in of_pool.items()
        if value is not None
    }
    if pool_changes and pool is None:
        option = {"policy": "scaling-policy", "target_wait_s": "wait-s", "batch_delay_max_s": "batch-delay-s"}
        name = next(iter(pool_changes))
        fail(f"--{option.get(name, name)} needs --pool", ExitCode.USAGE)

    async def work(autopilot: AutopilotClient) -> FleetPolicy:
        now = await autopilot.steering.policy()
        if file is None and not changes and not pool_changes:
            return now
        wanted = changed(now, file, changes, pool, pool_changes)
        await autopilot.steering.set_policy(wanted)
        return wanted

    show_document(ask(data_dir, work).model_dump(mode="json"))


def changed(
    now: FleetPolicy, file: Path | None, changes: dict[str, Any], pool: str | None, pool_changes: dict[str, Any]
) -> FleetPolicy:
    """Return the changed policy; exits with a message for input that is unreadable or invalid."""
    try:
        base = FleetPolicy.model_validate_json(file.read_bytes()) if file else now
        wanted = base.model_dump() | changes
        if pool is not None:
            wanted["pools"][pool] = PoolPolicy.model_validate(base.pool(pool).model_dump() | pool_changes)
        return FleetPolicy.model_validate(wanted)
    except OSError as error:
        fail(f"{file}: {error.strerror}", ExitCode.USAGE)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or str(file)
        fail(f"{where}: {first['msg']}", ExitCode.USAGE)
