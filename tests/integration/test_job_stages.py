"""Looking at and ending jobs in every stage of theirs: what was confirmed is always somewhere, and ends once."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta

import pytest
from nats.aio.client import Client
from nats.js import JetStreamContext

from accelerator_autopilot.client import AutopilotClient
from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.errors import BusyError
from accelerator_autopilot.contracts.job_building import make_job, make_options
from accelerator_autopilot.transport.clock import utc_now
from accelerator_autopilot.transport.payload_store import sweep_payloads
from tests.conftest import NatsServer
from tests.integration.test_queue import keeper
from tests.integration.test_queue_limits import ECHO, messages, resize
from tests.integration.test_same_job import forget_message_ids
from tests.support.waiting import eventually
from tests.support.worker import worker_process

pytestmark = [pytest.mark.nats, pytest.mark.timeout(90)]


async def fill(js: JetStreamContext, stream: str = "RESULTS") -> None:
    """Leave no room in a stream."""
    await resize(js, stream, 4096)
    with pytest.raises(Exception, match="maximum bytes"):
        for i in range(20):
            await js.publish(f"results.filler-{i}", b"x" * 700)


class TestDue:
    """A job whose time has come while no pool is there to let it go."""

    async def due(self, client: AutopilotClient, job_id: str) -> bool:
        info = await client.js.stream_info("LATER", subjects_filter="due.>")
        return subjects.due(job_id) in (info.state.subjects or {})

    async def test_it_is_still_known_and_listed(self, client: AutopilotClient) -> None:
        await client.jobs.submit("echo", {"text": "x"}, job_id="soon", delay_s=0.1)
        await eventually(lambda: self.due(client, "soon"))
        assert (await client.jobs.view("soon")).state == "scheduled"
        assert [v.id for v in await client.jobs.queued()] == ["soon"]

    async def test_it_can_be_cancelled_and_is_gone_then(self, client: AutopilotClient) -> None:
        await client.jobs.submit("echo", {"text": "x"}, job_id="soon", delay_s=0.1)
        await client.batches.map("echo", [{"text": "y"}], batch_id="b", delay_s=0.1)
        await eventually(lambda: self.due(client, "soon"))
        await eventually(lambda: self.due(client, "b.0"))
        assert (await client.jobs.cancel("soon")).status == "cancelled"
        assert await client.batches.cancel("b") == 1
        assert await messages(client.js, "LATER") == 0


class TestCancelledBatch:
    async def test_without_room_for_results_no_job_leaves_the_queue(
        self, client: AutopilotClient, nats_server: NatsServer
    ) -> None:
        await client.batches.map("echo", [{"text": str(i)} for i in range(5)], batch_id="b")
        await fill(client.js)
        with pytest.raises(BusyError):
            await client.batches.cancel("b")
        assert await messages(client.js, "JOBS") == 5, "each is still there to be ended"
        await resize(client.js, "RESULTS", 2**20)
        assert await client.batches.cancel("b") == 5
        assert {r.status async for r in client.batches.results("b", 10)} == {"cancelled"}
        assert await messages(client.js, "JOBS") == 0

    async def test_a_thousand_jobs_end_with_a_result_each(self, client: AutopilotClient) -> None:
        await client.batches.map("echo", [{"text": str(i)} for i in range(1200)], batch_id="b")
        assert await client.batches.cancel("b") == 1200
        assert (await client.batches.view("b")).finished
        assert await messages(client.js, "JOBS") == 0


class TestFrozenBroker:
    async def test_who_waits_for_a_result_waits_through_it(
        self, client: AutopilotClient, nats_server: NatsServer
    ) -> None:
        async def follow() -> list[object]:
            return [told async for told in client.jobs.stream("echo", {"text": "f", "work_s": 1.0}, job_id="f")]

        async with worker_process(nats_server.url, **ECHO):
            handle = await client.jobs.submit("echo", {"text": "x", "work_s": 1.0})
            batch = await client.batches.map("echo", [{"text": "y"}])
            waits = asyncio.create_task(handle.wait(60))
            gathers = asyncio.create_task(batch.outputs(60))
            followed = asyncio.create_task(follow())
            await asyncio.sleep(0.4)
            nats_server.freeze()
            await asyncio.sleep(7)
            nats_server.thaw()
            result, outputs, told = await waits, await gathers, await followed
        assert result.status == "succeeded"
        assert outputs == [{"text": "y"}]
        assert getattr(told[-1], "status", "") == "succeeded"


async def test_a_large_input_is_kept_until_its_job_may_have_begun(client: AutopilotClient) -> None:
    await client.jobs.submit("echo", {"text": "x" * 300_000}, job_id="later", delay_s=3600, ttl_s=60)
    await sweep_payloads(client.js, utc_now() + timedelta(minutes=30))
    message = await client.js.get_last_msg("LATER", "later.later")
    reference = json.loads(message.data or b"{}")["payload_ref"]
    names = [e.name for e in await (await client.js.object_store("payloads")).list(ignore_deletes=True)]
    assert reference in names


class TestPassingOn:
    """Bare publishers may give a message id; the server remembers it for longer than the message is there."""

    @pytest.mark.parametrize("wish", [{"after": ["dep"]}, {"not_before": "soon"}])
    async def test_a_job_with_a_message_id_of_its_own_is_not_taken_for_its_repetition(
        self, client: AutopilotClient, nc: Client, nats_server: NatsServer, wish: dict[str, object]
    ) -> None:
        if "not_before" in wish:
            wish = {"not_before": (utc_now() + timedelta(seconds=3)).isoformat()}
        body = json.dumps({"payload": {"text": "x"}} | wish).encode()
        async with keeper(nc), worker_process(nats_server.url, **ECHO):
            await client.js.publish("jobs.echo.normal.one", body, headers={"Nats-Msg-Id": "one"})
            await eventually(lambda: self.queued(client, 0), 20, what="handed on")
            await client.jobs.submit("echo", {"text": "dep"}, job_id="dep")
            assert await client.jobs.output("one", 30) == {"text": "x"}
            await eventually(lambda: self.queued(client, 0), 30, what="nothing left")

    async def queued(self, client: AutopilotClient, count: int) -> bool:
        info = await client.js.stream_info("JOBS", subjects_filter="jobs.>")
        return len(info.state.subjects or {}) == count

    async def test_what_is_queued_already_is_neither_queued_again_nor_lost(
        self, client: AutopilotClient, nc: Client, nats_server: NatsServer
    ) -> None:
        await forget_message_ids(client.js)
        job = make_job("one", "echo", {"text": "x"}, make_options(), submitter="t", now=utc_now())
        body = job.model_dump_json(exclude_none=True).encode()
        await client.js.publish("jobs.echo.normal.one", body)
        await client.js.publish("waiting.one", body)
        async with keeper(nc):
            await asyncio.sleep(1.5)
            assert await messages(client.js, "JOBS") == 2, "as a worker that has handed it on just now"
            await client.js.purge_stream("JOBS", subject="jobs.*.*.one")
            await eventually(lambda: self.queued(client, 1), 30, what="let go once the other one has gone")
            async with worker_process(nats_server.url, **ECHO):
                assert await client.jobs.output("one", 20) == {"text": "x"}
