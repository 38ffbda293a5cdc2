"""policy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from accelerator_autopilot.cli.session import DEFAULT_FOLDER, DataDir, connected, console, fail, run
from accelerator_autopilot.contracts.messages.commands import FleetPolicy, PoolPolicy


def policy(
    file: Annotated[Path | None, typer.Option(help="JSON of the whole policy, which replaces it")] = None,
    mode: Annotated[str | None, typer.Option(help="observe, advise, approve or act")] = None,
    power: Annotated[str | None, typer.Option(help="off, simulated or all: which devices may be capped")] = None,
    pool: Annotated[str | None, typer.Option(help="the pool that the options below are for")] = None,
    floor: Annotated[int | None, typer.Option(min=0)] = None,
    ceiling: Annotated[int | None, typer.Option(min=0)] = None,
    autonomy: Annotated[str | None, typer.Option(help="observe, advise, approve or act, for this pool")] = None,
    decides: Annotated[str | None, typer.Option(help="this scaling policy and no other")] = None,
    wait_s: Annotated[float | None, typer.Option(min=0.1, help="how long a job may wait")] = None,
    batch_delay_s: Annotated[
        float | None, typer.Option(min=0, max=60, help="how long of that for company in a batch, at most")
    ] = None,
    share: Annotated[
        list[str] | None, typer.Option(help="of a pool's workers, by kind of accelerator: gpu=0.9; again for another")
    ] = None,
    data_dir: DataDir = DEFAULT_FOLDER,
) -> None:
    """Show what the scheduler may do, or change it."""
    of_fleet = {"mode": mode, "power": power}
    of_pool = {
        "floor": floor, "ceiling": ceiling, "autonomy": autonomy, "policy": decides, "target_wait_s": wait_s,
        "batch_delay_max_s": batch_delay_s,
    }  # fmt: skip
    changes: dict[str, Any] = {name: value for name, value in of_fleet.items() if value is not None}
    if share:
        changes["shares"] = {kind: value for kind, _, value in (part.partition("=") for part in share)}
    pool_changes = {name: value for name, value in of_pool.items() if value is not None}
    if pool_changes and pool is None:
        fail(f"--{next(iter(pool_changes)).replace('_', '-')} needs --pool")

    async def work() -> FleetPolicy:
        async with connected(data_dir) as autopilot:
            now = await autopilot.steering.policy()
            if file is None and not changes and not pool_changes:
                return now
            wanted = _changed(now, file, changes, pool, pool_changes)
            await autopilot.steering.set_policy(wanted)
            return wanted

    console.print_json(run(work).model_dump_json())


def _changed(
    now: FleetPolicy, file: Path | None, changes: dict[str, Any], pool: str | None, pool_changes: dict[str, Any]
) -> FleetPolicy:
    try:
        base = FleetPolicy.model_validate_json(file.read_text(encoding="utf-8")) if file else now
        told = base.model_dump() | changes
        if pool is not None:
            told["pools"][pool] = PoolPolicy.model_validate(base.pool(pool).model_dump() | pool_changes)
        return FleetPolicy.model_validate(told)
    except (OSError, ValidationError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else None
        where = ".".join(map(str, first["loc"])) if first else str(file)
        fail(f"{where}: {first['msg'] if first else error}")
        raise
