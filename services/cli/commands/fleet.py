"""devices, watch, decisions, cap, drain, scale, driver."""

from __future__ import annotations

import asyncio
from enum import StrEnum
from typing import Annotated

import typer
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from accelerator_autopilot.cli.session import DEFAULT_FOLDER, DataDir, connected, console, fail, run
from accelerator_autopilot.client import AutopilotClient
from accelerator_autopilot.client.fleet import DeviceView
from accelerator_autopilot.contracts.errors import UnavailableError
from accelerator_autopilot.contracts.messages.alerts import Alert
from accelerator_autopilot.contracts.messages.commands import CommandOutcome
from accelerator_autopilot.runtime.driver_release import release, take_back
from accelerator_autopilot.transport.clock import utc_now


class DrainAction(StrEnum):
    """What to do with a device."""

    cordon = "cordon"
    drain = "drain"
    restore = "restore"


def _number(sample: dict[str, float], name: str, unit: str, scale: float = 1.0) -> str:
    return f"{sample[name] * scale:.0f} {unit}" if name in sample else "-"


def device_table(views: list[DeviceView], alerts: list[Alert], cordoned: set[str]) -> Table:
    """Devices as a table."""
    table = Table("node", "device", "model", "util", "memory", "temp", "power", "cap", "alerts")
    for view in views:
        s = view.sample
        open_kinds = [a.kind for a in alerts if (a.node, a.device) == (view.node, view.info.device)]
        state = ", ".join(open_kinds + (["drained"] if view.info.device in cordoned else []))
        table.add_row(
            view.node,
            view.info.device + (" (simulated)" if view.info.simulated else ""),
            view.info.model,
            _number(s, "gpu_util_pct", "%"),
            _number(s, "memory_used_bytes", "GiB", 2**-30),
            _number(s, "temp_c", "°C"),
            _number(s, "power_w", "W"),
            _number(s, "power_enforced_w", "W"),
            Text(state, style="red" if state else ""),
        )
    return table


async def _fleet(autopilot: AutopilotClient) -> Group:
    pools = await autopilot.fleet.pools()
    cordoned = {device for pool in pools for device in pool.cordoned}
    table = device_table(await autopilot.fleet.devices(), await autopilot.alerts.open(), cordoned)
    lines = []
    for pool in pools:
        ready = sum(w.state == "ready" for w in pool.workers)
        lines.append(
            f"pool {pool.pool} on {pool.node}: {ready} of {pool.desired} workers ready, {pool.restarts} restarts"
        )
    lines.append(f"queue: {await autopilot.fleet.queue_depth()} jobs waiting or running")
    return Group(table, Text("\n".join(lines)))


def devices(data_dir: DataDir = DEFAULT_FOLDER) -> None:
    """Every device with its newest sample."""

    async def work() -> None:
        async with connected(data_dir) as autopilot:
            console.print(await _fleet(autopilot))

    run(work)


def watch(
    data_dir: DataDir = DEFAULT_FOLDER,
    seconds: Annotated[float | None, typer.Option(min=0, help="stop after this time")] = None,
) -> None:
    """The fleet, live."""

    async def work() -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds if seconds is not None else float("inf")
        async with connected(data_dir) as autopilot:
            with Live(await _fleet(autopilot), console=console, auto_refresh=False) as live:
                while loop.time() < until:
                    live.update(await _fleet(autopilot), refresh=True)
                    await asyncio.sleep(1.0)

    run(work)


def decisions(data_dir: DataDir = DEFAULT_FOLDER, limit: Annotated[int, typer.Option(min=1, max=1000)] = 30) -> None:
    """Every command with its reason and its outcome."""

    async def work() -> None:
        table = Table("at", "by", "command", "target", "reason", "outcome", "read back")
        async with connected(data_dir) as autopilot:
            for decision in await autopilot.fleet.decisions(limit):
                c, o = decision.command, decision.outcome
                asked = getattr(c, "replicas", None) or getattr(c, "cap_w", None) or getattr(c, "action", "")
                table.add_row(
                    c.at.strftime("%H:%M:%S"),
                    c.issuer,
                    f"{decision.kind} {asked or 'default'}",
                    decision.target,
                    c.reason,
                    f"{o.status} {o.detail}" if o else "-",
                    f"{o.read_back:g}" if o and o.read_back is not None else "-",
                )
        console.print(table)

    run(work)


def cap(
    device: str,
    cap_w: Annotated[float | None, typer.Argument(min=1, help="watts; none restores the default")] = None,
    lease_s: Annotated[float, typer.Option(min=1, max=86_400)] = 60.0,
    clock_mhz: Annotated[float | None, typer.Option(min=1, help="hold the clock at or below this")] = None,
    data_dir: DataDir = DEFAULT_FOLDER,
) -> None:
    """Cap a device's power, or hold its clock, for a while."""

    async def work() -> CommandOutcome:
        async with connected(data_dir) as autopilot:
            node = (await autopilot.fleet.find(device)).node
            command = await autopilot.steering.cap_power(node, device, cap_w, clock_mhz=clock_mhz, lease_s=lease_s)
            return await autopilot.steering.outcome(command.id)

    _tell(run(work))


def drain(device: str, action: DrainAction, data_dir: DataDir = DEFAULT_FOLDER) -> None:
    """Take a device out of service or back."""

    async def work() -> CommandOutcome:
        async with connected(data_dir) as autopilot:
            node = (await autopilot.fleet.find(device)).node
            command = await autopilot.steering.drain(node, device, action.value)
            return await autopilot.steering.outcome(command.id)

    _tell(run(work))


def scale(
    pool: str, replicas: Annotated[int, typer.Argument(min=0, max=10_000)], data_dir: DataDir = DEFAULT_FOLDER
) -> None:
    """Set the number of workers of a pool; the scheduler goes on from there."""

    async def work() -> CommandOutcome:
        async with connected(data_dir) as autopilot:
            command = await autopilot.steering.scale(pool, replicas)
            return await autopilot.steering.outcome(command.id)

    _tell(run(work))


def _tell(outcome: CommandOutcome) -> None:
    read_back = f", read back {outcome.read_back:g}" if outcome.read_back is not None else ""
    if outcome.status != "applied":
        fail(f"{outcome.status}: {outcome.detail}")
    console.print(f"{outcome.target}: {outcome.status} {outcome.detail}{read_back}", highlight=False)


class DriverAction(StrEnum):
    """What an agent does with its drivers."""

    release = "release"
    take = "take"


def driver(
    action: DriverAction,
    minutes: Annotated[float, typer.Option(min=1, max=1440, help="how long to let go at most")] = 60.0,
    data_dir: DataDir = DEFAULT_FOLDER,
) -> None:
    """Let this machine's agent let go of its GPU drivers, so that they can be replaced, or take them again."""
    try:
        if action is DriverAction.release:
            release(data_dir, utc_now().timestamp() + 60 * minutes)
            console.print(f"drivers are let go of within seconds, for {minutes:g} min or until `autopilot driver take`")
        else:
            take_back(data_dir)
            console.print("drivers are opened again within ten seconds")
    except UnavailableError as error:
        fail(str(error))
