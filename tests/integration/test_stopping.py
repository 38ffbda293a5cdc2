"""Every service ends on SIGTERM within seconds, also where no broker answers."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import httpx
import pytest

from deploy.embedded.instance import take_port
from tests.support.waiting import eventually

pytestmark = pytest.mark.timeout(90)
SERVICES = ("telemetry agent", "telemetry recorder", "anomaly", "scheduler", "inference pool", "notifier")


@pytest.mark.parametrize("name", SERVICES)
@pytest.mark.parametrize("frozen", [False, True], ids=["nothing listens", "never answers"])
async def test_a_service_ends_while_the_broker_is_away(name: str, frozen: bool, tmp_path: Path) -> None:
    silent = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    broker = silent.sockets[0].getsockname()[1]
    if not frozen:
        silent.close()
    health = take_port(0, "health")
    module, *role = name.split()
    environment = os.environ | {
        "AUTOPILOT_NATS_URL": f"nats://127.0.0.1:{broker}",
        "AUTOPILOT_HEALTH_PORT": str(health),
        "AUTOPILOT_DATA_DIR": str(tmp_path),
        "AUTOPILOT_SIMULATE": "1",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", f"services.{module}", *role, env=environment,
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        async with httpx.AsyncClient() as http:

            async def waits() -> bool:
                try:
                    told = (await http.get(f"http://127.0.0.1:{health}/readyz")).json()
                except httpx.HTTPError:
                    return False
                return "nats" in told["problems"]

            await eventually(waits, 60, "told that no broker answers")
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(10):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        silent.close()
