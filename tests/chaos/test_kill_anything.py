"""Any one process killed with SIGKILL under load: nothing lost, nothing doubled, ready again within 10 s."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress
from pathlib import Path

import pytest

from accelerator_autopilot.client import AutopilotClient
from accelerator_autopilot.contracts.errors import AutopilotError
from tests.support.product import query, running_product
from tests.support.waiting import eventually

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]

VICTIMS = ("agent", "recorder", "anomaly", "scheduler", "notifier", "gateway", "pool", "worker", "nats", "postgres")
READY_WITHIN_S = 10.0


class Load:
    """Jobs submitted all the time; knows which were confirmed."""

    def __init__(self, client: AutopilotClient) -> None:
        self.confirmed: list[str] = []
        self._client = client

    async def run(self) -> None:
        number = 0
        while True:
            number += 1
            # The same id until it is confirmed: that is what a careful publisher does.
            job_id = f"chaos-{number}"
            while True:
                with suppress(AutopilotError, OSError):
                    await self._client.jobs.submit("echo", {"text": job_id, "work_s": 0.01}, job_id=job_id)
                    self.confirmed.append(job_id)
                    break
                await asyncio.sleep(0.1)
            await asyncio.sleep(0.03)


async def test_killing_any_process_loses_nothing(tmp_path: Path) -> None:
    async with running_product(tmp_path / "data") as (product, client):
        assert product.runtime is not None
        load = Load(client)
        submitting = asyncio.create_task(load.run())
        heals: dict[str, float] = {}
        try:
            for victim in VICTIMS:
                before = len(load.confirmed)
                await eventually(lambda b=before: len(load.confirmed) > b + 10, 20, f"load before killing {victim}")
                heals[victim] = await kill_and_wait(product, client, victim)
        finally:
            submitting.cancel()
        print("ready again after, in seconds:", {k: round(v, 1) for k, v in heals.items()})
        assert max(heals.values()) <= READY_WITHIN_S, heals

        for job_id in load.confirmed:
            result = await client.jobs.wait(job_id, 60)
            assert result.status == "succeeded", result
        results = (await client.js.stream_info("RESULTS", subjects_filter="results.*")).state.subjects or {}
        assert set(results.values()) == {1}, "a second result"
        await check_database(product.runtime.database_url, client, load.confirmed)


async def kill_and_wait(product, client: AutopilotClient, victim: str) -> float:
    if victim == "worker":
        pid = (await client.fleet.pools())[0].workers[0].pid
    else:
        pid = product.postgres.pid if victim == "postgres" else product.processes[victim].pid
    loop = asyncio.get_running_loop()
    os.kill(pid, signal.SIGKILL)
    killed_at = loop.time()

    def replaced() -> bool:
        if victim == "worker":
            return True
        now = product.postgres.pid if victim == "postgres" else product.processes[victim].pid
        return now not in (None, pid)

    await eventually(replaced, 15, f"{victim} started again")

    async def all_ready() -> bool:
        return not any((await product.readiness()).values())

    await eventually(all_ready, 30, f"ready after {victim}: {await product.readiness()}")
    return loop.time() - killed_at


async def check_database(dsn: str, client: AutopilotClient, confirmed: list[str]) -> None:
    async def counted() -> bool:
        rows = await query(dsn, "SELECT count(*) AS n FROM jobs WHERE id = ANY($1)", confirmed)
        return rows[0]["n"] == len(confirmed)

    await eventually(counted, 20, "every job once in the database")
    stream = await client.js.stream_info("TELEMETRY")
    assert stream.state.first_seq == 1

    async def frames_written() -> bool:
        info = await client.js.consumer_info("TELEMETRY", "recorder-frames")
        return info.ack_floor is not None and info.ack_floor.stream_seq >= stream.state.last_seq

    await eventually(frames_written, 40, "frames acknowledged by the recorder")
    rows = await query(dsn, "SELECT count(DISTINCT ts) AS n FROM samples")
    frames = stream.state.messages
    assert rows[0]["n"] >= frames, f"{frames} frames in the stream, {rows[0]['n']} in the database"
