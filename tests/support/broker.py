"""A broker of its own for a benchmark."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import nats
from nats.aio.client import Client

from accelerator_autopilot.deploy.local.instance import take_port
from accelerator_autopilot.deploy.local.servers import nats_binary, wait_for_port, write_nats_config
from accelerator_autopilot.deploy.local.supervised_process import ManagedProcess
from accelerator_autopilot.transport import stream_setup


@dataclass(frozen=True)
class BenchBroker:
    """A connection, and what a service needs in its environment to have one too."""

    nc: Client
    environment: Mapping[str, str]


@asynccontextmanager
async def bench_broker(folder: Path, sync: str = "always") -> AsyncIterator[BenchBroker]:
    """A nats-server with all streams, until the end."""
    port = take_port(0, "nats")
    config = write_nats_config(folder, port, "bench", "bench", sync=sync)
    server = ManagedProcess("nats", [nats_binary(), "-c", str(config)], os.environ, folder / "nats.log")
    await server.start()
    await wait_for_port(port)
    nc = await nats.connect(f"nats://bench:bench@127.0.0.1:{port}")
    try:
        await stream_setup.ensure(nc.jetstream(timeout=60))
        own = {
            "AUTOPILOT_NATS_URL": f"nats://127.0.0.1:{port}",
            "AUTOPILOT_NATS_USER": "bench",
            "AUTOPILOT_NATS_PASSWORD": "bench",
        }
        yield BenchBroker(nc, os.environ | own)
    finally:
        await nc.close()
        await server.stop()
