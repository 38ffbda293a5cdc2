"""Runs that do not end, workers that stand still or die, devices that fail whatever they are given."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path

import pytest
from nats.aio.client import Client

from accelerator_autopilot.client import AutopilotClient
from accelerator_autopilot.contracts.messages.alerts import Alert
from accelerator_autopilot.contracts.messages.jobs import JobResult
from accelerator_autopilot.inference.jobs.retry_records import RetryRecords
from accelerator_autopilot.inference.pool.application.pool_state import killed
from tests.conftest import NatsServer
from tests.support.pools import EXTRA_KINDS_PATH, pool_status, ready, running_pool
from tests.support.waiting import eventually
from tests.support.worker import worker_process

pytestmark = [pytest.mark.nats, pytest.mark.timeout(150)]
FAST = "3"


async def alerts(client: AutopilotClient) -> dict[str, Alert]:
    return {alert.kind: alert for alert in await client.alerts.open()}


async def results(client: AutopilotClient, ids: list[str], within_s: float) -> list[JobResult]:
    async with asyncio.timeout(within_s):
        return [await client.jobs.wait(job_id, within_s) for job_id in ids]


async def test_a_run_that_does_not_end_fails_its_attempt_and_a_new_worker_goes_on(
    nc: Client, client: AutopilotClient, nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with running_pool(nc, nats_server.url, monkeypatch):
        once = {"do": "hang_once", "marker": str(tmp_path / "hung")}
        slow = await client.jobs.submit("misbehave", once, timeout_s=1)
        endless = await client.jobs.submit("misbehave", {"do": "hang"}, timeout_s=1, max_attempts=1)
        after, dead = await results(client, [slow.id, endless.id], 60)
        assert (after.status, after.attempt) == ("succeeded", 2)
        assert [(e.type, e.message) for e in after.errors] == [("timeout", "did not finish within 1 s")]
        assert (dead.status, [e.type for e in dead.errors]) == ("failed", ["timeout"])
        status = await pool_status(client)
        assert (status.suspected, status.cordoned) == ([], [])


async def test_of_a_batch_that_does_not_end_only_the_job_that_hangs_is_counted(
    nc: Client, client: AutopilotClient, nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = [await client.jobs.submit("misbehave", {}) for _ in range(3)]
    bad = await client.jobs.submit("misbehave", {"do": "hang"}, max_attempts=1)
    async with running_pool(nc, nats_server.url, monkeypatch, AUTOPILOT_RUN_TIMEOUT_S="2", MISBEHAVE_BATCH="8"):
        *well, dead = await results(client, [*(job.id for job in good), bad.id], 90)
    assert [(r.status, r.errors) for r in well] == [("succeeded", [])] * 3
    assert (dead.status, [e.type for e in dead.errors]) == ("failed", ["timeout"])


async def test_a_worker_that_stands_still_is_killed_and_told_and_its_job_ends_elsewhere(
    nc: Client, client: AutopilotClient, nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with running_pool(nc, nats_server.url, monkeypatch, devices=2, AUTOPILOT_WORKER_TIMEOUT_S=FAST):
        await ready(client, 2)
        frozen = await client.jobs.submit("misbehave", {"do": "freeze_once", "marker": str(tmp_path / "froze")})
        told = await eventually(lambda: alerts(client), 20)
        assert (told["worker_stuck"].severity, told["worker_stuck"].node) == ("warning", "n1")
        assert (await results(client, [frozen.id], 40))[0].status == "succeeded"
        await ready(client, 2)
        assert (await pool_status(client)).stuck == [told["worker_stuck"].device]
        # One that stands still with nothing to do is no job's fault.
        worker = (await pool_status(client)).workers[0]
        os.kill(worker.pid, signal.SIGSTOP)

        async def replaced() -> bool:
            return worker.worker not in {w.worker for w in (await pool_status(client)).workers}

        await eventually(replaced, 20)


@pytest.mark.parametrize("how", ["die", "freeze"])
async def test_a_job_that_kills_its_workers_is_buried_after_three(
    nc: Client, client: AutopilotClient, nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    async with running_pool(nc, nats_server.url, monkeypatch, AUTOPILOT_WORKER_TIMEOUT_S=FAST):
        await ready(client, 1)
        deadly = await client.jobs.submit("misbehave", {"do": how}, max_attempts=20)
        (dead,) = await results(client, [deadly.id], 100)
        assert dead.status == "failed"
        assert "killed its worker 3 times" in dead.errors[-1].message
        after = await client.jobs.submit("misbehave", {})
        assert (await results(client, [after.id], 40))[0].status == "succeeded"


async def test_a_broken_device_buries_nothing_and_is_set_aside(
    nc: Client, client: AutopilotClient, nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_pool(nc, nats_server.url, monkeypatch, devices=3, MISBEHAVE_BROKEN_DEVICE="gpu-1"):
        await ready(client, 3)
        batches = [await client.batches.map("misbehave", [{} for _ in range(100)])]

        async def set_aside() -> bool:
            # However long a fresh worker takes to start, there is work for it.
            if await client.fleet.queue_depth() < 20:
                batches.append(await client.batches.map("misbehave", [{} for _ in range(50)]))
            return (await pool_status(client)).set_aside == {"gpu-1": "jobs fail on it"}

        await eventually(set_aside, 90)
        told = await eventually(lambda: alerts(client), 10)
        assert (told["worker_failing"].severity, told["worker_failing"].device) == ("critical", "gpu-1")
        ended = await results(client, [f"{b.id}.{i}" for b in batches for i in range(b.count)], 90)
        assert {r.status for r in ended} == {"succeeded"}
        assert (await pool_status(client)).cordoned == ["gpu-1"]
    # A pool that starts anew remembers it.
    async with running_pool(nc, nats_server.url, monkeypatch, devices=3):
        await ready(client, 2)
        assert (await pool_status(client)).set_aside == {"gpu-1": "jobs fail on it"}
        assert "worker_failing" in await alerts(client)


async def test_jobs_that_fail_on_every_device_are_buried_and_no_device_is_set_aside(
    nc: Client, client: AutopilotClient, nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_pool(nc, nats_server.url, monkeypatch, devices=2):
        await ready(client, 2)
        batch = await client.batches.map("misbehave", [{"do": "fail"} for _ in range(12)])
        ended = await results(client, [f"{batch.id}.{i}" for i in range(12)], 120)
        assert {r.status for r in ended} == {"failed"}
        status = await pool_status(client)
        assert (status.set_aside, status.cordoned) == ({}, [])
        after = await client.jobs.submit("misbehave", {})
        assert (await results(client, [after.id], 30))[0].status == "succeeded"


async def test_jobs_that_fail_by_themselves_make_no_device_suspected_however_many_submit_them(
    nc: Client, client: AutopilotClient, nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_pool(nc, nats_server.url, monkeypatch):
        await ready(client, 1)
        (worker,) = (await pool_status(client)).workers
        failing: list[str] = []
        for number in range(12):
            body = {"payload": {"fail": "always"}, "submitter": f"s{number}", "max_attempts": 2}
            await client.js.publish(f"jobs.echo.normal.f{number}", json.dumps(body).encode())
            failing.append(f"f{number}")
        odd = [
            await client.jobs.submit("misbehave", {"do": do}, max_attempts=2)
            for do in ("quote_value", "miscount", "quote_value", "miscount", "quote_value")
        ]
        ended = await results(client, [*failing, *(job.id for job in odd)], 60)
        assert {(r.status, len(r.errors)) for r in ended} == {("failed", 2)}
        assert {e.type for e in ended[-1].errors} == {"ValueError"}
        assert ended[-2].errors[-1].message == "misbehave failed: it returned 2 outputs for 1 inputs"
        status = await pool_status(client)
        assert (status.suspected, status.set_aside, status.restarts) == ([], {}, 0)
        assert [w.worker for w in status.workers] == [worker.worker]


async def test_what_is_kept_of_a_job_survives_writers_that_come_at_the_same_time(nc: Client) -> None:
    records = RetryRecords(await nc.jetstream().key_value("jobs"))
    await records.change("j", lambda state: state.model_copy(update={"cancelled": True}))
    await asyncio.gather(*(records.change("j", killed) for _ in range(5)))
    kept = await records.read("j")
    assert (kept.cancelled, kept.kills, kept.alone) == (True, 5, True)


async def test_a_worker_whose_pool_is_gone_ends_although_its_thread_hangs(
    client: AutopilotClient, nats_server: NatsServer
) -> None:
    environment = {
        "PYTHONPATH": EXTRA_KINDS_PATH, "AUTOPILOT_POOL_KINDS": '["misbehave"]', "AUTOPILOT_STOP_TIMEOUT_S": "1",
    }  # fmt: skip
    async with worker_process(nats_server.url, "w1", **environment) as process:
        await client.jobs.submit("misbehave", {"do": "hang"})
        await asyncio.sleep(1)
        assert process.stdin is not None
        process.stdin.close()
        assert await asyncio.wait_for(process.wait(), 20) == 1
