"""One kind whose jobs take long does not hold up the others on the only worker."""

from __future__ import annotations

import asyncio

import pytest

from accelerator_autopilot.client import AutopilotClient
from tests.conftest import NatsServer
from tests.support.pools import EXTRA_KINDS_PATH
from tests.support.worker import worker_process

pytestmark = [pytest.mark.nats, pytest.mark.timeout(150)]


async def test_jobs_of_another_kind_pass_a_long_one_and_a_queue_of_them(
    nats_server: NatsServer, client: AutopilotClient
) -> None:
    slow = [await client.jobs.submit("echo", {"text": "slow", "work_s": 100}, submitter="a") for _ in range(5)]
    kinds = {"AUTOPILOT_POOL_KINDS": '["echo", "misbehave"]', "PYTHONPATH": EXTRA_KINDS_PATH}
    async with worker_process(nats_server.url, **kinds, AUTOPILOT_EXCLUSIVE_RUN_S="0.5"):
        await asyncio.sleep(1)
        quick = [await client.jobs.submit("misbehave", {}, submitter="b") for _ in range(10)]
        results = await asyncio.gather(*(job.wait(60) for job in quick))
        assert {result.status for result in results} == {"succeeded"}
        # They ran beside the long one, which is still running, and once each.
        assert {result.attempt for result in results} == {1}
        assert await client.jobs.find_result(slow[0].id) is None
