"""up, down, status, key."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from accelerator_autopilot.cli.output import fail, progress, say, show
from accelerator_autopilot.cli.session import DEFAULT_FOLDER, DataDir, connected, run
from accelerator_autopilot.cli.table_layout import Column, Row, Table
from accelerator_autopilot.contracts.errors import AutopilotError
from accelerator_autopilot.contracts.exit_codes import ExitCode, exit_code
from accelerator_autopilot.contracts.projects import DEFAULT_PROJECT, check_project
from accelerator_autopilot.contracts.service_names import SERVICE_NAMES
from accelerator_autopilot.deploy.local.instance import Instance, Runtime, read_keys_file, replace_text
from accelerator_autopilot.deploy.local.product import EmbeddedProduct, Options, readiness
from accelerator_autopilot.runtime.api_keys import digest, new_key
from accelerator_autopilot.runtime.json_logs import setup_logging
from accelerator_autopilot.transport.consumer_listing import all_consumers

STREAMS = ("TELEMETRY", "EVENTS", "ALERTS", "COMMANDS", "OUTCOMES", "JOBS", "RESULTS", "AUDIT")
READY = "ready"
PROCESSES = Table(
    "processes",
    (
        Column("process"),
        Column("state", style=lambda row: "green" if row["state"] == READY else "red", prose=True),
        Column("pid", priority=2),
        Column("restarts", priority=1),
    ),
    "No processes found.",
)
BACKLOG = Table(
    "backlog", (Column("stream"), Column("consumer"), Column("messages", "messages behind")), "No consumer is behind."
)


def up(
    simulate: Annotated[
        int | None,
        typer.Option(min=0, max=1024, help="Number of simulated GPUs; if omitted, 4 where there is no real one."),
    ] = None,
    no_simulate: Annotated[bool, typer.Option("--no-simulate", help="Use real accelerators only.")] = False,
    nats_port: Annotated[int, typer.Option(min=0, max=65535, help="Port of NATS; 0 takes a free one.")] = 4222,
    gateway_port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of the HTTP API; 0 takes a free one.")
    ] = 8080,
    sync: Annotated[
        str,
        typer.Option(
            help="When NATS syncs messages to the disk: always (before it confirms them), or a time such as 2m."
        ),
    ] = "always",
    data_dir: DataDir = DEFAULT_FOLDER,
) -> None:
    """Start the whole product on this machine, and stop it at Ctrl-C.

    As root, with a data folder that other users cannot reach (below /root), the folders above it are opened for passing
    through (mode 711 instead of 700, say) until the product stops: PostgreSQL and the services run as other users.
    """
    setup_logging("up", "WARNING")
    options = Options(
        data_dir=data_dir,
        simulate=0 if no_simulate else simulate,
        nats_port=nats_port,
        gateway_port=gateway_port,
        sync=sync,
    )
    run(lambda: _serve(EmbeddedProduct(options)))


async def _serve(product: EmbeddedProduct) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    began = time.monotonic()
    starting = asyncio.create_task(product.start())
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait({starting, stopped}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
        with suppress(asyncio.CancelledError):
            await starting
        return
    _greet(product.instance.folder, await starting, time.monotonic() - began)
    running = asyncio.create_task(product.run())
    await stop.wait()
    progress("stopping")
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    await product.stop()


def _greet(folder: Path, runtime: Runtime, took_s: float) -> None:
    """Print where everything is and what to try next."""
    hint = "" if folder == DEFAULT_FOLDER.resolve() else f" --data-dir {folder}"
    text = f"""\
ready in {took_s:.1f} s
  manual    {runtime.gateway_url}/docs
  HTTP API  {runtime.gateway_url}/api/docs
  API key   {folder / "api-key.secret"}
  NATS      {runtime.nats_url}
  database  {runtime.database_url}
  logs      {folder / "logs"}
Next, in another terminal:
  autopilot watch{hint}
  autopilot status{hint}
Ctrl-C stops everything."""
    places = {"gateway_url": runtime.gateway_url, "nats_url": runtime.nats_url, "database_url": runtime.database_url}
    say(text, **places, data_dir=str(folder), ready_after_s=round(took_s, 1))


def down(data_dir: DataDir = DEFAULT_FOLDER) -> None:
    """Stop the product that runs on a data folder."""
    runtime = _running(data_dir)
    pid = runtime.pid
    try:
        os.kill(pid, signal.SIGTERM)
    except PermissionError:
        fail(f"process {pid} belongs to another user; stop it as that user")
    until = time.monotonic() + runtime.stop_within_s
    while time.monotonic() < until:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            say("stopped", pid=pid)
            return
        time.sleep(0.1)
    fail(f"process {pid} has not stopped within {runtime.stop_within_s:g} s", ExitCode.TIMED_OUT)


def _running(data_dir: Path) -> Runtime:
    try:
        return Instance(data_dir).load()
    except AutopilotError as error:
        fail(str(error), exit_code(error))


def status(data_dir: DataDir = DEFAULT_FOLDER) -> None:
    """Show whether each process is ready or why not, and which consumers are behind.

    Exits with 1 if a process is not ready.
    """

    async def work() -> tuple[list[Row], list[Row]]:
        instance = Instance(data_dir)
        found = process_rows(instance.load_processes(), await readiness(instance.load()))
        behind: list[Row] = []
        async with connected(data_dir) as autopilot:
            for stream in STREAMS:
                lags = {
                    info["name"]: info.get("num_pending", 0) + info.get("num_ack_pending", 0)
                    for info in await all_consumers(autopilot.nc, stream)
                }
                behind += [{"stream": stream, "consumer": name, "messages": lag} for name, lag in lags.items() if lag]
        return found, behind

    found, behind = run(work)
    show((PROCESSES, found), (BACKLOG, behind))
    if any(row["state"] != READY for row in found):
        raise typer.Exit(int(ExitCode.FAILED))


def process_rows(processes: Mapping[str, Any], problems: Mapping[str, str]) -> list[Row]:
    """Return processes by name, each ready or with the reason why not."""
    return [
        {
            "process": name,
            "state": problems.get(name) or (READY if process["pid"] else "not running"),
            "pid": process["pid"],
            "restarts": process["restarts"],
        }
        for name, process in sorted(processes.items())
    ]


class RoleName(StrEnum):
    """What a key may do."""

    viewer = "viewer"
    operator = "operator"
    admin = "admin"


def key(
    role: Annotated[RoleName, typer.Argument(help="viewer reads, operator also acts, admin also manages access.")],
    keys_file: Annotated[Path, typer.Option(help="File of keys that the gateway reads.")] = Path("api_keys.json"),
    user: Annotated[str | None, typer.Option(help="Owner of the key: the name in the audit log.")] = None,
    project: Annotated[str, typer.Option(help="Project whose jobs the key submits and reads.")] = DEFAULT_PROJECT,
) -> None:
    """Create an API key, add its digest to the gateway's file, and print the key, which is not shown again.

    A running gateway reloads the file within a second or two.
    """
    if user is not None and (user in SERVICE_NAMES or not user.isprintable() or not 1 <= len(user.encode()) <= 100):
        fail(f"--user {user!r}: must be 1 to 100 printable bytes, and not the name of a service", ExitCode.USAGE)
    try:
        check_project(project)
        keys = read_keys_file(keys_file)
        made = new_key()
        entry: str | dict[str, str] = role.value
        if user or project != DEFAULT_PROJECT:
            entry = {"role": role.value, "user": user or f"key-{digest(made)[:8]}", "project": project}
        replace_text(keys_file, json.dumps(keys | {digest(made): entry}, indent=1) + "\n")
    except (OSError, AutopilotError) as error:
        fail(f"{keys_file}: {error}", ExitCode.USAGE)
    say(made, key=made, role=role.value, user=user, project=project)
