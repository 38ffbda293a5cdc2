"""devices, pools, watch: the present state of the fleet."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group
from rich.live import Live
from rich.text import Text

from accelerator_autopilot.cli.output import (
    Listing,
    console,
    drawn,
    on_terminal,
    show,
    tab_separated,
    writes_json,
)
from accelerator_autopilot.cli.session import DEFAULT_FOLDER, DataDir, ask
from accelerator_autopilot.cli.table_layout import Column, Row, Table
from accelerator_autopilot.cli.text_sanitizing import json_text
from accelerator_autopilot.transport.clock import utc_now

if TYPE_CHECKING:
    from accelerator_autopilot.client import AutopilotClient
    from accelerator_autopilot.client.fleet import DeviceView
    from accelerator_autopilot.contracts.messages.alerts import Alert
    from accelerator_autopilot.contracts.messages.jobs import PoolStatus


def _with_unit(key: str, unit: str, scale: float = 1.0) -> Callable[[Row], str]:
    def text(row: Row) -> str:
        value = row.get(key)
        return f"{value * scale:.0f} {unit}" if isinstance(value, float) and math.isfinite(value) else ""

    return text


def _device(row: Row) -> str:
    return f"{row['device']} (simulated)" if row["simulated"] else str(row["device"])


def _troubles(row: Row) -> str:
    alerts = row["alerts"]
    names = list(alerts) if isinstance(alerts, list) else []
    return ", ".join([*map(str, names), *(["drained"] if row["drained"] else [])])


DEVICES = Table(
    "devices",
    (
        Column("node", priority=3),
        Column("device", text=_device),
        Column("simulated", terminal=False),
        Column("model", priority=5),
        Column("util_pct", "util", text=_with_unit("util_pct", "%")),
        Column("memory_used_bytes", "memory", priority=4, text=_with_unit("memory_used_bytes", "GiB", 2**-30)),
        Column("temp_c", "temp", priority=1, text=_with_unit("temp_c", "°C")),
        Column("power_w", "power", text=_with_unit("power_w", "W")),
        Column("power_limit_w", "limit", priority=2, text=_with_unit("power_limit_w", "W")),
        Column("alerts", "trouble", text=_troubles, style=lambda row: "red" if _troubles(row) else "", prose=True),
        Column("drained", terminal=False),
    ),
    "No device has reported yet; `autopilot status` shows whether the agent runs.",
)
POOLS = Table(
    "pools",
    (
        Column("pool"),
        Column("node", priority=1),
        Column("ready", text=lambda row: f"{row['ready']} of {row['desired']}"),
        Column("desired", terminal=False),
        Column("restarts", priority=1),
        Column("running", "jobs running", priority=1),
        Column("cordoned", "drained devices", priority=2, prose=True),
        Column("kinds", "job kinds", priority=3, prose=True),
    ),
    "No pool has reported yet; `autopilot status` shows whether it runs.",
)


def device_rows(views: Iterable[DeviceView], alerts: Sequence[Alert], cordoned: set[str]) -> list[Row]:
    """Return devices with their newest samples and problems."""
    return [
        {
            "node": view.node,
            "device": view.info.device,
            "simulated": view.info.simulated,
            "model": view.info.model,
            "util_pct": view.sample.get("gpu_util_pct"),
            "memory_used_bytes": view.sample.get("memory_used_bytes"),
            "temp_c": view.sample.get("temp_c"),
            "power_w": view.sample.get("power_w"),
            "power_limit_w": view.sample.get("power_enforced_w"),
            "alerts": [a.kind for a in alerts if (a.node, a.device) == (view.node, view.info.device)],
            "drained": view.info.device in cordoned,
        }
        for view in views
    ]


def pool_rows(pools: Iterable[PoolStatus]) -> list[Row]:
    """Return pools, with a row for each of their nodes."""
    return [
        {
            "pool": p.pool,
            "node": p.node,
            "ready": sum(w.state == "ready" for w in p.workers),
            "desired": p.desired,
            "restarts": p.restarts,
            "running": sum(len(w.running) for w in p.workers),
            "cordoned": p.cordoned,
            "kinds": p.kinds,
        }
        for p in pools
    ]


async def _fleet(autopilot: AutopilotClient) -> tuple[Listing, Listing, int]:
    pools = await autopilot.fleet.pools()
    cordoned = {device for pool in pools for device in pool.cordoned}
    found = device_rows(await autopilot.fleet.devices(), await autopilot.alerts.open(), cordoned)
    return (DEVICES, found), (POOLS, pool_rows(pools)), await autopilot.fleet.queue_depth()


def _queue(jobs: int) -> str:
    return f"{jobs} job{'' if jobs == 1 else 's'} waiting or running"


def devices(data_dir: DataDir = DEFAULT_FOLDER) -> None:
    """List all devices with their newest readings."""
    found, _, _ = ask(data_dir, _fleet)
    show(found)


def pools(data_dir: DataDir = DEFAULT_FOLDER) -> None:
    """List pools of workers and the length of the queue."""
    _, found, jobs = ask(data_dir, _fleet)
    show(found, note=_queue(jobs), queue={"jobs": jobs})


def watch(
    data_dir: DataDir = DEFAULT_FOLDER,
    seconds: Annotated[float | None, typer.Option(min=0, help="Stop after this time; never if omitted.")] = None,
    every_s: Annotated[float, typer.Option(min=0.1, help="Seconds between updates.")] = 1.0,
) -> None:
    """Show devices and pools live; Ctrl-C ends it.

    In a pipe it writes one line per device and update, with the time; with --json, one document per line.
    """

    async def work(autopilot: AutopilotClient) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds if seconds is not None else math.inf
        if on_terminal():
            screen = console()
            with Live(console=screen, auto_refresh=False) as live:
                while True:
                    found, pooled, jobs = await _fleet(autopilot)
                    width = screen.width
                    live.update(Group(drawn(found, width), "", drawn(pooled, width), Text(_queue(jobs))), refresh=True)
                    if not await _pause(until, every_s):
                        return
        first = True
        while True:
            print(_lines(*await _fleet(autopilot), heading=first), flush=True)
            first = False
            if not await _pause(until, every_s):
                return

    ask(data_dir, work)


async def _pause(until: float, every_s: float) -> bool:
    """Wait for the next update; False when it would be too late."""
    left = until - asyncio.get_running_loop().time()
    await asyncio.sleep(min(every_s, max(0.0, left)))
    return left > every_s


def _lines(found: Listing, pooled: Listing, jobs: int, *, heading: bool) -> str:
    """Format one update for programs."""
    now = utc_now()
    if writes_json():
        parts = {
            table.name: [{c.key: row.get(c.key) for c in table.columns} for row in rows]
            for table, rows in (found, pooled)
        }
        return json_text({"at": now, **parts, "queue": {"jobs": jobs}}, indent=None)
    table, rows = found
    timed = Table(table.name, (Column("at"), *table.columns), table.empty)
    text = tab_separated(timed, [{"at": now, **row} for row in rows])
    return text if heading else text.partition("\n")[2]
