"""No log line of pool, worker or gateway quotes a job, in whatever way it fails."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from nats.aio.client import Client

from accelerator_autopilot.client import AutopilotClient
from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.messages.telemetry import NodeInventory
from accelerator_autopilot.deploy.local.instance import take_port
from accelerator_autopilot.runtime.api_keys import digest
from tests.conftest import NatsServer
from tests.support.builders import T0, device
from tests.support.pools import EXTRA_KINDS_PATH, ready
from tests.support.waiting import eventually

pytestmark = [pytest.mark.nats, pytest.mark.timeout(120)]

SECRET = "hush-7d1f"


@asynccontextmanager
async def logged(folder: Path, environment: dict[str, str]) -> AsyncIterator[Path]:
    """Pool, its worker and gateway, which all write to one file."""
    path = folder / "all.log"
    with path.open("wb") as file:
        started = [
            await asyncio.create_subprocess_exec(
                sys.executable, "-m", *command, env=os.environ | environment, stdout=file, stderr=file
            )
            for command in (("accelerator_autopilot.inference", "pool"), ("accelerator_autopilot.gateway",))
        ]
    try:
        yield path
    finally:
        for process in started:
            process.terminate()
        await asyncio.gather(*(process.wait() for process in started))


async def test_no_log_line_quotes_a_job(
    nc: Client, client: AutopilotClient, nats_server: NatsServer, tmp_path: Path
) -> None:
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps({digest("a"): "admin"}))
    port = take_port(0, "gateway")
    environment = {
        "AUTOPILOT_NATS_URL": nats_server.url, "AUTOPILOT_NODE": "n1", "AUTOPILOT_HEALTH_PORT": "0",
        "AUTOPILOT_POOL_KINDS": json.dumps(["misbehave"]), "AUTOPILOT_INITIAL_WORKERS": "1",
        "AUTOPILOT_STOP_TIMEOUT_S": "3", "AUTOPILOT_RUN_TIMEOUT_S": "1", "AUTOPILOT_LOG_LEVEL": "DEBUG",
        "AUTOPILOT_GATEWAY_PORT": str(port), "AUTOPILOT_API_KEYS_FILE": str(keys),
        "PYTHONPATH": EXTRA_KINDS_PATH,
    }  # fmt: skip
    inventory = NodeInventory(node="n1", at=T0, period_s=1, devices=[device(device="gpu-0")])
    await (await nc.jetstream().key_value("inventory")).put(subjects.token("n1"), inventory.model_dump_json().encode())
    ways = ["quote", "quote_value", "quote_late", "hang", f"nothing called {SECRET}"]
    async with logged(tmp_path, environment) as log:
        await ready(client, 1)
        jobs = [await client.jobs.submit("misbehave", {"do": do, "marker": SECRET}, max_attempts=1) for do in ways]
        await client.js.publish("jobs.misbehave.normal.odd", f'{{"secret": "{SECRET}"'.encode())
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers={"X-API-Key": "a"}) as http:

            async def refused() -> bool:
                try:
                    answer = await http.post("/v1/jobs", content=f'{{"kind": "misbehave", "payload": "{SECRET}')
                except httpx.HTTPError:
                    return False
                return answer.status_code == 422

            await eventually(refused, 30, "the gateway refuses half a body")
            wrong = await http.post(
                "/v1/jobs", json={"kind": SECRET * 50, "payload": {"text": SECRET}, "priority": SECRET}
            )
            assert wrong.status_code == 422
        for job in jobs:
            assert (await job.wait(60)).status == "failed"
        assert (await client.jobs.wait("odd", 30)).status == "failed"
    lines = log.read_text()
    for told in ("attempt failed", "job dead-lettered", "unreadable job"):
        assert told in lines
    assert SECRET not in lines
