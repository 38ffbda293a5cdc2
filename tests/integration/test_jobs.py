"""Jobs through a real nats-server and real worker processes."""

from __future__ import annotations

import asyncio
import json
import signal
from datetime import timedelta
from typing import Any

import pytest
from nats.aio.client import Client
from nats.js.errors import NotFoundError

from accelerator_autopilot.client import AutopilotClient
from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.errors import ConflictError, InvalidInputError, JobFailedError
from accelerator_autopilot.contracts.errors import NotFoundError as Missing
from accelerator_autopilot.contracts.messages.jobs import DeadJob, JobResult
from accelerator_autopilot.transport.clock import utc_now
from accelerator_autopilot.transport.object_store import object_names
from accelerator_autopilot.transport.payload_store import store_payload
from tests.conftest import NatsServer
from tests.support.waiting import eventually
from tests.support.worker import worker_process

pytestmark = [pytest.mark.nats, pytest.mark.timeout(90)]


async def dead_job(client: AutopilotClient, kind: str = "echo") -> DeadJob:
    async def read() -> Any:
        try:
            return await client.js.get_last_msg("DEAD", f"dead.{kind}")
        except NotFoundError:
            return None

    return DeadJob.model_validate_json((await eventually(read)).data)


async def empty(client: AutopilotClient) -> bool:
    return await client.fleet.queue_depth() == 0


async def test_a_job_has_one_result_and_leaves_the_queue(client: AutopilotClient, nats_server: NatsServer) -> None:
    async with worker_process(nats_server.url):
        handle = await client.jobs.submit("echo", {"text": "hello"})
        result = await handle.wait(15)
        assert (result.status, result.output, result.worker, result.attempt) == (
            "succeeded",
            {"text": "hello"},
            "w1",
            1,
        )
        await eventually(lambda: empty(client))
        assert (await client.jobs.finished())[0].id == handle.id


async def test_submitting_twice_is_the_same_job(client: AutopilotClient, nats_server: NatsServer) -> None:
    first = await client.jobs.submit("echo", {"text": "x"}, idempotency_key="k")
    again = await client.jobs.submit("echo", {"text": "x"}, idempotency_key="k")
    assert (again.id, again.duplicate) == (first.id, True)
    async with worker_process(nats_server.url):
        await first.wait(15)
        late = await client.jobs.submit("echo", {"text": "x"}, idempotency_key="k")
        assert late.duplicate
        await eventually(lambda: empty(client))


async def test_a_failure_that_passes_is_tried_again(client: AutopilotClient, nats_server: NatsServer) -> None:
    async with worker_process(nats_server.url):
        result = await (await client.jobs.submit("echo", {"text": "x", "fail": "first_attempt"})).wait(20)
    assert result.status == "succeeded"
    assert result.attempt == 2
    assert [e.attempt for e in result.errors] == [1]


async def test_a_job_that_cannot_succeed_is_buried_with_every_error(
    client: AutopilotClient, nats_server: NatsServer
) -> None:
    async with worker_process(nats_server.url):
        handle = await client.jobs.submit("echo", {"fail": "always"}, max_attempts=2)
        with pytest.raises(JobFailedError, match="attempt 2"):
            await client.jobs.output(handle.id, 20)
        dead = await dead_job(client)
        assert (dead.id, dead.reason, [e.attempt for e in dead.errors]) == (handle.id, "attempts_exhausted", [1, 2])
        after = await client.jobs.submit("echo", {"text": "others go on"})
        assert (await after.wait(10)).status == "succeeded"


async def test_input_that_breaks_a_rule_names_the_field_and_does_not_quote_the_job(
    client: AutopilotClient, nats_server: NatsServer
) -> None:
    async with worker_process(nats_server.url):
        handle = await client.jobs.submit("echo", {"work_s": "SECRET", "colour": "red"})
        result = await handle.wait(15)
    assert result.status == "failed"
    assert "work_s" in result.errors[0].message
    assert "colour" in result.errors[0].message
    assert "SECRET" not in result.errors[0].message
    assert (await dead_job(client)).reason == "invalid"


async def test_bare_publishers_are_served_and_rubbish_is_kept_aside(
    client: AutopilotClient, nats_server: NatsServer, nc: Client
) -> None:
    js = nc.jetstream()
    await js.publish("jobs.echo.low", b"\x00\xffnot json")
    await js.publish("jobs.echo.high", json.dumps({"id": "bare", "payload": {"text": "hi"}}).encode())
    async with worker_process(nats_server.url):
        assert (await client.jobs.wait("bare", 15)).output == {"text": "hi"}
        dead = await dead_job(client)
        assert dead.reason == "invalid"
        assert dead.job is None
        assert "not json" in dead.raw


async def test_an_expired_job_is_not_run(client: AutopilotClient, nats_server: NatsServer) -> None:
    handle = await client.jobs.submit("echo", {"text": "late"}, ttl_s=0.001)
    async with worker_process(nats_server.url):
        assert (await handle.wait(15)).status == "failed"
    assert (await dead_job(client)).reason == "expired"


async def test_cancelling_before_and_during_a_run(client: AutopilotClient, nats_server: NatsServer) -> None:
    waiting = await client.jobs.submit("echo", {"text": "never"})
    assert (await client.jobs.cancel(waiting.id)).status == "cancelled"
    assert await client.fleet.queue_depth() == 0
    async with worker_process(nats_server.url):
        running = await client.jobs.submit("echo", {"text": "long", "work_s": 30})
        subscription = await client.nc.subscribe(f"progress.{running.id}")
        await subscription.next_msg(timeout=10)
        await client.jobs.cancel(running.id)
        after = await client.jobs.submit("echo", {"text": "next"})
        assert (await after.wait(10)).status == "succeeded", "the worker is free again at once"
        assert (await client.jobs.wait(running.id, 5)).status == "cancelled"
        with pytest.raises(ConflictError):
            await client.jobs.cancel(after.id)
    with pytest.raises(Missing):
        await client.jobs.view("nobody-knows-it")


async def test_large_payloads_and_results_travel_by_object_store(
    client: AutopilotClient, nats_server: NatsServer
) -> None:
    text = "x" * 700_000
    handle = await client.jobs.submit("echo", {"text": text})
    assert len((await client.js.get_last_msg("JOBS", f"jobs.echo.normal.{handle.id}")).data or b"") < 1000
    async with worker_process(nats_server.url):
        assert (await client.jobs.output(handle.id, 20))["text"] == text


async def test_a_job_deletes_only_a_payload_that_is_its_own(client: AutopilotClient, nats_server: NatsServer) -> None:
    expires_at = utc_now() + timedelta(hours=1)
    shared = await store_payload(client.js, "of-several", {"text": "shared"}, expires_at)
    waits = await client.jobs.submit("echo", {"text": "y" * 700_000}, delay_s=3600)
    message = await client.js.get_last_msg("LATER", subjects.later(waits.id))
    others = json.loads(message.data or b"")["payload_ref"]
    large = await client.jobs.submit("echo", {"text": "x" * 700_000})
    for job_id, reference in (("one", shared), ("two", shared), ("thief", others)):
        body = json.dumps({"payload_ref": reference}).encode()
        await client.js.publish(subjects.job("echo", "normal", job_id), body)
    async with worker_process(nats_server.url):
        assert [(await client.jobs.output(name, 20))["text"] for name in ("one", "two")] == ["shared", "shared"]
        await client.jobs.wait("thief", 20)
        await client.jobs.wait(large.id, 20)

        async def deleted() -> bool:
            return not any(name.endswith(f"job-{large.id}") for name in await object_names(client.js, "payloads"))

        await eventually(deleted, 20, "the large job's own payload deleted")
    assert {shared, others} <= set(await object_names(client.js, "payloads"))


async def test_urgent_jobs_go_first(client: AutopilotClient, nats_server: NatsServer) -> None:
    low = [await client.jobs.submit("echo", {"work_s": 0.2}, priority="low") for _ in range(6)]
    async with worker_process(nats_server.url):
        high = await client.jobs.submit("echo", {"text": "now"}, priority="high")
        done = await high.wait(20)
        others = [await h.wait(20) for h in low]
    assert sum(r.finished_at < done.finished_at for r in others) <= 4


async def test_a_draining_worker_finishes_what_runs_and_gives_the_rest_back(
    client: AutopilotClient, nats_server: NatsServer
) -> None:
    handles = [await client.jobs.submit("echo", {"text": str(i), "work_s": 1.0}) for i in range(3)]
    async with worker_process(nats_server.url, "first") as first:
        subscription = await client.nc.subscribe("progress.*")
        await subscription.next_msg(timeout=10)
        first.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(first.wait(), 10) == 0
    async with worker_process(nats_server.url, "second"):
        results = [await h.wait(20) for h in handles]
    assert {r.status for r in results} == {"succeeded"}
    assert {r.worker for r in results} == {"first", "second"}
    assert all(not r.errors for r in results)


async def test_two_workers_share_and_double_nothing(client: AutopilotClient, nats_server: NatsServer) -> None:
    async with worker_process(nats_server.url, "a"), worker_process(nats_server.url, "b"):
        handles = await asyncio.gather(*(client.jobs.submit("echo", {"work_s": 0.02}) for _ in range(60)))
        results: list[JobResult] = [await h.wait(30) for h in handles]
    assert {r.worker for r in results} == {"a", "b"}
    assert (await client.js.stream_info("RESULTS")).state.messages == 60


async def test_a_deleted_consumer_comes_back(client: AutopilotClient, nats_server: NatsServer) -> None:
    async with worker_process(nats_server.url):
        await (await client.jobs.submit("echo", {})).wait(15)
        await client.js.delete_consumer("JOBS", "pool-echo-normal")
        assert (await (await client.jobs.submit("echo", {})).wait(20)).status == "succeeded"


async def test_bad_arguments_are_refused_before_anything_is_sent(client: AutopilotClient) -> None:
    with pytest.raises(InvalidInputError, match="priority"):
        await client.jobs.submit("echo", {}, priority="urgent")  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="ttl_s"):
        await client.jobs.submit("echo", {}, ttl_s=-1)
    assert await client.fleet.queue_depth() == 0


async def test_jobs_that_wait_behind_a_long_one_run_once(client: AutopilotClient, nats_server: NatsServer) -> None:
    long = await client.jobs.submit("echo", {"work_s": 14})
    async with worker_process(nats_server.url):
        subscription = await client.nc.subscribe(f"progress.{long.id}")
        await subscription.next_msg(timeout=10)
        behind = [await client.jobs.submit("echo", {"work_s": 0.1}, priority=p) for p in ("high", "normal", "low")]
        assert [(await h.wait(40)).status for h in [long, *behind]] == ["succeeded"] * 4
        infos = [await client.js.consumer_info("JOBS", f"pool-echo-{p}") for p in ("high", "normal", "low")]
        assert sum(i.delivered.consumer_seq for i in infos) == 4, "a job was delivered twice"


async def test_a_job_waits_for_company_when_the_pool_says_so(client: AutopilotClient, nats_server: NatsServer) -> None:
    async with worker_process(nats_server.url) as worker:
        warm = [await client.jobs.submit("echo", {"text": "warm"}) for _ in range(40)]
        for handle in warm:
            await handle.wait(15)
        assert worker.stdin is not None
        worker.stdin.write(b'{"share": 1.0, "batch_delay_s": 1.5}\n')
        await worker.stdin.drain()

        async def together() -> bool:
            first, second = await client.jobs.submit("echo", {"text": "1"}), await client.jobs.submit("echo", {})
            results = [await handle.wait(15) for handle in (first, second)]
            assert all(r.status == "succeeded" for r in results)
            return results[0].started_at == results[1].started_at

        await eventually(together, 30)
        alone = await (await client.jobs.submit("echo", {"text": "alone"})).wait(15)
        assert alone.started_at is not None
        assert (alone.started_at - alone.submitted_at).total_seconds() >= 1.4
