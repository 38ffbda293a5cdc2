"""A pool in this process, with worker processes of its own."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from nats.aio.client import Client

from accelerator_autopilot.client import AutopilotClient
from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.messages.jobs import PoolStatus
from accelerator_autopilot.contracts.messages.telemetry import NodeInventory
from accelerator_autopilot.inference.pool.app import create_app
from accelerator_autopilot.inference.settings import PoolSettings
from accelerator_autopilot.runtime.settings import load
from tests.support.apps import running
from tests.support.builders import T0, device
from tests.support.waiting import eventually

EXTRA_KINDS = Path(__file__).parent / "extra_kinds"
EXTRA_KINDS_PATH = os.pathsep.join(filter(None, (str(EXTRA_KINDS), os.environ.get("PYTHONPATH"))))


@asynccontextmanager
async def running_pool(
    nc: Client, url: str, patch: pytest.MonkeyPatch, *, devices: int = 1, **environment: str
) -> AsyncIterator[None]:
    """A pool of one worker a device that runs `misbehave` and `echo`; its devices are gpu-0, gpu-1, ...

    Its workers stay who they are: `misbehave` writes into folders of the test.
    """
    settings = {
        "AUTOPILOT_NATS_URL": url, "AUTOPILOT_NODE": "n1", "AUTOPILOT_HEALTH_PORT": "0",
        "AUTOPILOT_POOL_KINDS": json.dumps(["misbehave", "echo"]), "AUTOPILOT_INITIAL_WORKERS": str(devices),
        "AUTOPILOT_STOP_TIMEOUT_S": "3", "AUTOPILOT_RUN_AS": "root", "PYTHONPATH": EXTRA_KINDS_PATH,
    }  # fmt: skip
    for name, value in (settings | environment).items():
        patch.setenv(name, value)
    known = [device(device=f"gpu-{i}") for i in range(devices)]
    inventory = NodeInventory(node="n1", at=T0, period_s=1, devices=known)
    kv = await nc.jetstream().key_value("inventory")
    await kv.put(subjects.token("n1"), inventory.model_dump_json().encode())
    async with running(create_app(load(PoolSettings))):
        yield


async def pool_status(client: AutopilotClient) -> PoolStatus:
    """What the pool tells of itself."""

    async def read() -> PoolStatus | None:
        pools = await client.fleet.pools()
        return pools[0] if pools else None

    found = await eventually(read, 20)
    assert isinstance(found, PoolStatus)
    return found


async def ready(client: AutopilotClient, count: int) -> None:
    """Wait until so many workers are."""

    async def read() -> bool:
        return sum(w.state == "ready" for w in (await pool_status(client)).workers) >= count

    await eventually(read, 60, f"{count} workers ready")
