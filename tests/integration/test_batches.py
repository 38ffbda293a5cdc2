"""Many jobs under one handle: in order, once, cancelled together, and without a wait for what has expired."""

from __future__ import annotations

import asyncio

import pytest

from accelerator_autopilot.client import AutopilotClient
from accelerator_autopilot.contracts.messages.jobs import Batch
from tests.conftest import NatsServer
from tests.support.waiting import eventually
from tests.support.worker import worker_process

pytestmark = [pytest.mark.nats, pytest.mark.timeout(90)]

ECHO = {"AUTOPILOT_POOL_KINDS": '["echo"]'}


class TestBatches:
    async def test_results_come_in_the_order_of_the_inputs(
        self, client: AutopilotClient, nats_server: NatsServer
    ) -> None:
        async with worker_process(nats_server.url, **ECHO):
            handle = await client.batches.map("echo", ({"text": str(i)} for i in range(300)))
            outputs = await handle.outputs(20)
            view = await handle.progress()
        assert [o["text"] for o in outputs] == [str(i) for i in range(300)]
        assert (view.done, view.count, view.finished) == (300, 300, True)

    async def test_the_same_batch_twice_is_one_batch(self, client: AutopilotClient, nats_server: NatsServer) -> None:
        for _ in range(2):
            await client.batches.map("echo", [{"text": "a"}, {"text": "b"}], batch_id="once")
        assert (await client.js.stream_info("JOBS")).state.messages == 2

    async def test_cancelling_ends_what_has_no_result(self, client: AutopilotClient) -> None:
        handle = await client.batches.map("echo", [{}] * 50)
        assert await handle.cancel() == 50
        assert {r.status async for r in handle.results(5)} == {"cancelled"}

        async def empty() -> bool:
            return (await client.js.stream_info("JOBS")).state.messages == 0

        await eventually(empty, what="no job left in JOBS")

    async def test_results_that_have_expired_are_told_at_once(
        self, client: AutopilotClient, nats_server: NatsServer
    ) -> None:
        async with worker_process(nats_server.url, **ECHO):
            handle = await client.batches.map("echo", [{"text": str(i)} for i in range(300)], result_ttl_s=1)
            await client.jobs.wait(f"{handle.id}.299", 20)

            async def expired() -> bool:
                return (await handle.progress()).done == 0

            await eventually(expired, 20)
            view = await handle.progress()
            assert (view.expired, view.finished) == (300, True)
            async with asyncio.timeout(10):
                told = [r async for r in handle.results()]
        assert [r.job_id for r in told] == [f"{handle.id}.{i}" for i in range(300)]
        assert {(r.status, r.errors[0].type) for r in told} == {("failed", "ResultExpired")}

    async def test_a_job_that_is_not_published_or_still_queued_has_not_expired(self, client: AutopilotClient) -> None:
        handle = await client.batches.map("echo", [{}, {}])
        with pytest.raises(TimeoutError):
            await anext(handle.results(1.0))
        assert (await handle.progress()).expired == 0
        for stream in ("JOBS", "RESULTS"):
            await client.js.purge_stream(stream)
        bucket = await client.js.key_value("batches")
        kept = Batch.model_validate_json((await bucket.get(handle.id)).value or b"")
        await bucket.put(handle.id, kept.model_copy(update={"published": False}).model_dump_json().encode())
        with pytest.raises(TimeoutError):
            await anext(handle.results(1.0))
